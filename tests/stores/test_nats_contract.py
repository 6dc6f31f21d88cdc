"""The NATS store under the contract, on a real server."""

from collections.abc import AsyncIterator

import pytest

from murmur.stores import nats as stores
from tests.brokers.nats_operator import wipe
from tests.brokers.nats_server import NatsServer
from tests.contracts.store import StoreContract
from tests.contracts.store_harness import Party, StoreHarness


class NatsStoreHarness(StoreHarness):
    lease = 1.0

    def __init__(self, server: NatsServer) -> None:
        super().__init__()
        self.server = server

    async def make(self, owner: str, *, lease: float | None, retention: float) -> Party:
        store = stores.connect(self.server.url, namespace="", retention=retention, mailbox=None)
        await store.open(owner=owner, lease=lease)
        return Party(store, self)

    async def wipe(self) -> None:
        await wipe(self.server.url)


@pytest.mark.anyio
class TestNats(StoreContract):
    @pytest.fixture
    async def harness(self, nats_server: NatsServer) -> AsyncIterator[StoreHarness]:
        harness = NatsStoreHarness(nats_server)
        yield harness
        await harness.close()
