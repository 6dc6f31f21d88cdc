"""Idempotency records in a SQLite file, for all workers of one host."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from murmur.idempotency import Busy, Claimed, Conflict, Duplicate, Kept, Run, Stale, Stored, Token
from murmur.stores.sqlite_file import opened

T = TypeVar("T")

_SCHEMA = """CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY, digest TEXT NOT NULL, task_id TEXT NOT NULL, number INTEGER NOT NULL,
    until REAL NOT NULL, output BLOB, kept_until REAL NOT NULL
) WITHOUT ROWID"""


class SqliteIdempotency:
    """The hook on a file. Times are of the wall clock: a jump of it can let a second attempt begin early.

    The table is named `idempotency`, in a file that may be your own: an effect written in the same transaction
    as `INSERT INTO effects` under `context.idempotency_key` is then exactly once.
    """

    def __init__(self, path: str | Path, *, retention: float = 86_400.0) -> None:
        """Keep records in the file `path` for `retention` seconds after they were last touched."""
        self._path = str(path)
        self._retention = retention
        self._lock = threading.Lock()
        self._sql: sqlite3.Connection | None = None

    async def claim(self, key: str, token: Token, digest: str, lease: float) -> Claimed:
        """See `IdempotencyHook`."""
        return await self._do(lambda sql, now: self._claim(sql, now, key, token, digest, lease))

    async def renew(self, key: str, token: Token, lease: float) -> bool:
        """See `IdempotencyHook`."""

        def renew(sql: sqlite3.Connection, now: float) -> bool:
            changed = sql.execute(
                "UPDATE idempotency SET until = ?, kept_until = ?"
                " WHERE key = ? AND task_id = ? AND number = ? AND output IS NULL",
                (now + lease, now + lease + self._retention, key, token.task_id, token.number),
            )
            return changed.rowcount == 1

        return await self._do(renew)

    async def complete(self, key: str, token: Token, output: bytes) -> Kept:
        """See `IdempotencyHook`."""

        def complete(sql: sqlite3.Connection, now: float) -> Kept:
            found = _found(sql, key)
            if found is None:
                return Stale()
            _, holder, _, kept = found
            if kept is not None:
                return Duplicate(kept)
            if holder != token:
                return Stale()
            sql.execute(
                "UPDATE idempotency SET output = ?, kept_until = ? WHERE key = ?", (output, now + self._retention, key)
            )
            return Stored()

        return await self._do(complete)

    async def abandon(self, key: str, token: Token) -> None:
        """See `IdempotencyHook`."""
        mine = (key, token.task_id, token.number)
        await self._do(
            lambda sql, _: sql.execute(
                "DELETE FROM idempotency WHERE key = ? AND task_id = ? AND number = ? AND output IS NULL", mine
            )
        )

    async def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._sql is not None:
                self._sql.close()
                self._sql = None

    def _claim(self, sql: sqlite3.Connection, now: float, key: str, token: Token, digest: str, lease: float) -> Claimed:
        sql.execute("DELETE FROM idempotency WHERE kept_until <= ?", (now,))
        found = _found(sql, key)
        if found is not None:
            known, holder, until, output = found
            if known != digest:
                return Conflict()
            if output is not None:
                return Duplicate(output)
            if until > now and not token.overtakes(holder):
                return Busy(until - now)
        sql.execute(
            "REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?, NULL, ?)",
            (key, digest, token.task_id, token.number, now + lease, now + lease + self._retention),
        )
        return Run()

    async def _do(self, do: Callable[[sqlite3.Connection, float], T]) -> T:
        return await asyncio.to_thread(self._atomically, do)

    def _atomically(self, do: Callable[[sqlite3.Connection, float], T]) -> T:
        with self._lock:
            sql = self._sql
            if sql is None:
                sql = opened(self._path, check_same_thread=False)
                sql.execute(_SCHEMA)
                self._sql = sql
            sql.execute("BEGIN IMMEDIATE")
            try:
                answer = do(sql, time.time())
            except BaseException:
                sql.execute("ROLLBACK")
                raise
            sql.execute("COMMIT")
            return answer


def _found(sql: sqlite3.Connection, key: str) -> tuple[str, Token, float, bytes | None] | None:
    asked = "SELECT digest, task_id, number, until, output FROM idempotency WHERE key = ?"
    found: Any = sql.execute(asked, (key,)).fetchone()
    return None if found is None else (found[0], Token(found[1], found[2]), found[3], found[4])
