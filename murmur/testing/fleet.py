"""A simulated fleet: real workers and a real publisher over one memory broker, in virtual time.

Workers are killed, frozen and replaced by a test in one line, leases lapse in no real time,
and the same scenario takes the same course every time: a failing seed can be replayed. What
runs is the production code, on the memory adapters; only processes and sockets are missing.

    async def scenario(fleet: SimulatedFleet) -> None:
        await fleet.start("w1", agents=[Researcher])
        ...

    SimulatedFleet.run(scenario)
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Self, TypeVar

from murmur.runtime.runtime import AgentRuntime
from murmur.testing.loop import VirtualLoop
from murmur.transports.memory import MemoryTransport
from murmur.transports.memory_broker import MemoryBroker
from murmur.worker import Worker

T = TypeVar("T")


class SimulatedFleet:
    """One broker, one publisher (`runtime`), and workers by name. Made by `run`."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(clock=asyncio.get_running_loop().time)
        self.runtime = AgentRuntime(broker=self.transport("publisher"))
        self._workers: dict[str, Worker] = {}

    @classmethod
    def run(cls, scenario: Callable[[Self], Coroutine[Any, Any, T]]) -> T:
        """Play a scenario on a loop of its own, and return what it returns. Must not be called from a running loop."""
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(cls._play(scenario))

    async def start(self, name: str, *, agents: Iterable[Any], lease: float = 30.0, **settings: Any) -> Worker:
        """Start a worker under a name, or its next boot after a kill; `settings` are those of `Worker`."""
        worker = Worker(
            agents=agents,
            broker=self.transport(name),
            consumer_id=name,
            reclaim_min_idle_ms=round(lease * 1000),
            **settings,
        )
        await worker.start()
        self._workers[name] = worker
        return worker

    def kill(self, name: str) -> None:
        """End a worker as `kill -9` of its host: nothing it says arrives any more, and its leases lapse.

        Its coroutines live on unheard, as what user code did just before a death is not undone either.
        """
        self.broker.kill(name)
        self._workers.pop(name, None)

    def stall(self, name: str) -> None:
        """Freeze a worker's host, as a long pause does: it comes back to a world that went on."""
        self.broker.stall(name)

    def resume(self, name: str) -> None:
        """Let a stalled worker go on."""
        self.broker.resume(name)

    async def stop(self, name: str) -> None:
        """Drain a worker and end it in order."""
        await self._workers.pop(name).stop()

    def transport(self, name: str) -> MemoryTransport:
        """Return a new transport on the fleet's broker."""
        return MemoryTransport(self.broker, consumer_id=name)

    @classmethod
    async def _play(cls, scenario: Callable[[Self], Coroutine[Any, Any, T]]) -> T:
        fleet = cls()
        async with fleet.runtime:
            result = await scenario(fleet)
        for name in list(fleet._workers):
            fleet.resume(name)
            await fleet.stop(name)
        return result
