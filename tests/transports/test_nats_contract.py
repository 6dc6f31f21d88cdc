"""The NATS transport under the contract, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from murmur.transport import TopicSpec
from murmur.transports import nats
from murmur.transports.nats import CAPS, NatsTransport
from tests.brokers.fixtures import NatsStarter
from tests.brokers.nats_operator import operator, wipe
from tests.brokers.nats_server import NatsServer
from tests.contracts.harness import TransportHarness
from tests.contracts.member import ChildMember, Member
from tests.contracts.transport import TransportContract


class NatsHarness(TransportHarness):
    caps = CAPS
    can_restart = True

    def __init__(self, server: NatsServer) -> None:
        super().__init__()
        self.server = server

    def make(self, consumer_id: str) -> NatsTransport:
        return nats.connect(self.server.url, consumer_id=consumer_id, namespace="", lease=self.lease)

    async def start_member(self, consumer_id: str, specs: list[TopicSpec]) -> Member:
        return await ChildMember.start("murmur.transports.nats:connect", self.server.url, consumer_id, specs)

    async def wipe(self) -> None:
        await wipe(self.server.url)

    async def stop_server(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start_server(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def leftovers(self) -> Mapping[str, int]:
        async with operator(self.server.url) as link:
            info = await link.api("INFO")
        return {"streams": info["streams"], "consumers": info["consumers"], "storage": info["storage"]}


@pytest.mark.anyio
class TestNats(TransportContract):
    @pytest.fixture
    async def harness(self, start_nats: NatsStarter) -> AsyncIterator[TransportHarness]:
        harness = NatsHarness(start_nats())
        yield harness
        await harness.close()
