"""The SQLite store under the contract, on a real file; each party has a connection and a thread of its own."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from murmur.stores import sqlite as stores
from tests.contracts.store import StoreContract
from tests.contracts.store_harness import Party, StoreHarness


class SqliteStoreHarness(StoreHarness):
    lease = 1.0

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    async def make(self, owner: str, *, lease: float | None, retention: float) -> Party:
        store = stores.connect(f"sqlite:///{self._path}", namespace="", retention=retention, mailbox=None)
        await store.open(owner=owner, lease=lease)
        return Party(store, self)

    async def wipe(self) -> None:
        with sqlite3.connect(self._path) as sql:
            for table in ("tasks", "journal", "letters", "keys", "cancelled"):
                sql.execute(f"DELETE FROM {table}")
        sql.close()


@pytest.mark.anyio
class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[StoreHarness]:
        harness = SqliteStoreHarness(tmp_path / "rows.db")
        yield harness
        await harness.close()
