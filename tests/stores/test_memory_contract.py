"""The memory store under the contract, on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from murmur.stores.memory import MemoryStore
from murmur.stores.memory_tables import MemoryTables
from murmur.testing import VirtualLoop
from tests.contracts.store import StoreContract
from tests.contracts.store_harness import Party, StoreHarness


class MemoryStoreHarness(StoreHarness):
    slack = 0.1  # the contract polls

    def __init__(self) -> None:
        super().__init__()
        self._tables = MemoryTables(clock=asyncio.get_running_loop().time)

    async def make(self, owner: str, *, lease: float | None, retention: float) -> Party:
        store = MemoryStore(self._tables, retention=retention)
        await store.open(owner=owner, lease=lease)
        return Party(store, self)

    async def wipe(self) -> None:
        self._tables.wipe()


@pytest.mark.anyio
class TestMemoryStore(StoreContract):
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]:
        return "asyncio", {"loop_factory": VirtualLoop}

    @pytest.fixture
    async def harness(self) -> AsyncIterator[StoreHarness]:
        harness = MemoryStoreHarness()
        yield harness
        await harness.close()
