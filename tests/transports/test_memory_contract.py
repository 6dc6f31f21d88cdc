"""The memory transport under the contract, on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from murmur.testing import VirtualLoop
from murmur.transport import TopicSpec
from murmur.transports.memory import CAPS, MemoryTransport
from murmur.transports.memory_broker import MemoryBroker
from tests.contracts.harness import TransportHarness
from tests.contracts.member import LocalMember, Member
from tests.contracts.transport import TransportContract


class MemoryMember(LocalMember):
    """A consumer whose process is played by the broker's hooks."""

    def __init__(self, transport: MemoryTransport, consumer_id: str) -> None:
        super().__init__(transport)
        self._broker, self._consumer_id = transport.broker, consumer_id

    async def block(self, seconds: float) -> None:
        """Nothing to do: the lease of this broker is not renewed by the event loop."""

    async def kill(self) -> None:
        self._broker.kill(self._consumer_id)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def pause(self) -> None:
        self._broker.stall(self._consumer_id)

    async def resume(self) -> None:
        self._broker.resume(self._consumer_id)


class MemoryHarness(TransportHarness):
    caps = CAPS
    slack = 0.001

    def __init__(self) -> None:
        super().__init__()
        self._broker = MemoryBroker(clock=asyncio.get_running_loop().time)

    def make(self, consumer_id: str) -> MemoryTransport:
        return MemoryTransport(self._broker, consumer_id=consumer_id)

    async def start_member(self, consumer_id: str, specs: list[TopicSpec]) -> Member:
        transport = self.make(consumer_id)
        await transport.open(specs)
        return MemoryMember(transport, consumer_id)

    async def wipe(self) -> None:
        self._broker.wipe()


@pytest.mark.anyio
class TestMemory(TransportContract):
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]:
        return "asyncio", {"loop_factory": VirtualLoop}

    @pytest.fixture
    async def harness(self) -> AsyncIterator[TransportHarness]:
        harness = MemoryHarness()
        yield harness
        await harness.close()
