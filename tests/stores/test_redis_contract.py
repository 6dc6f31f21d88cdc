"""The Redis store under the contract, on a real server: beside another broker, and fused with the transport."""

from collections.abc import AsyncIterator

import pytest

from murmur.stores import redis as stores
from murmur.transport import TopicSpec
from murmur.transports import redis as transports
from murmur.transports.redis import RedisTransport
from tests.brokers.redis_server import RedisServer
from tests.contracts.store import FusedStoreContract, StoreContract
from tests.contracts.store_harness import Party, StoreHarness


class BesideHarness(StoreHarness):
    """Rows alone: messages are carried by some other broker."""

    lease = 1.0

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server

    async def make(self, owner: str, *, lease: float | None, retention: float) -> Party:
        store = stores.connect(self.server.url, namespace="", retention=retention, mailbox=None)
        await store.open(owner=owner, lease=lease)
        return Party(store, self)

    async def wipe(self) -> None:
        self.server.flush()


class FusedHarness(BesideHarness):
    """Rows and messages on one server."""

    async def make(self, owner: str, *, lease: float | None, retention: float) -> Party:
        transport = transports.connect(self.server.url, consumer_id=owner, namespace="", lease=lease)
        store = stores.connect(self.server.url, namespace="", retention=retention, mailbox=transport)
        await transport.open([TopicSpec(f"{self.agent}.tasks", lease=lease, dead_topic=f"{self.agent}.dead")])
        await store.open(owner=owner, lease=lease)
        return Party(store, self, transport=transport)

    async def silence(self, party: Party) -> None:
        # Its process is this one, so only the thread that renews can be taken from it.
        assert isinstance(party.transport, RedisTransport)
        if party.transport._keeper is not None:
            await party.transport._keeper.stop()


@pytest.mark.anyio
class TestRedisBeside(StoreContract):
    @pytest.fixture
    async def harness(self, redis_server: RedisServer) -> AsyncIterator[StoreHarness]:
        harness = BesideHarness(redis_server)
        yield harness
        await harness.close()


@pytest.mark.anyio
class TestRedisFused(FusedStoreContract):
    @pytest.fixture
    async def harness(self, redis_server: RedisServer) -> AsyncIterator[StoreHarness]:
        harness = FusedHarness(redis_server)
        yield harness
        await harness.close()
