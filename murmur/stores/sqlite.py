"""`sqlite:///path`: the coordination store in one file, for brokers that keep no rows, and for one host.

Every change is on disk (`synchronous=FULL`) before anybody hears of it. All processes of a host may
use one file; a network file system does not lock as SQLite needs it.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from loguru import logger

from murmur.bell import Feed
from murmur.broker_url import BrokerURL
from murmur.errors import BadURL, BrokerRefused, OutcomeUnknown, WrongForm
from murmur.store import (
    Admission,
    Burial,
    Claim,
    Completion,
    Failure,
    Grant,
    GrantRequest,
    NewTask,
    Row,
    State,
    Written,
)
from murmur.stores.rows import Lessee
from murmur.stores.sqlite_tables import NotOurs, SqliteTables
from murmur.stores.sqlite_writer import Writer
from murmur.transport import Transport

T = TypeVar("T")

_NEWS_EVERY: Final = 0.5  # seconds between two looks for cancelled tasks


class SqliteStore:
    """The store port on `SqliteTables`. A lease lapses unless its owner renews it."""

    keeps_rows: Final = True
    moves_messages: Final = False
    keeps_leases: Final = False

    def __init__(self, path: str, *, namespace: str, retention: float) -> None:
        self._path = path
        self._namespace = namespace
        self._retention = retention
        self._lessee: Lessee | None = None
        self._writer: Writer | None = None
        self._tables: SqliteTables | None = None
        self._feeds: list[Feed[str]] = []
        self._listening: asyncio.Task[None] | None = None

    async def open(self, *, owner: str, lease: float | None) -> None:
        """Open the file, or make it. Raises `BrokerRefused` when it cannot be a store."""
        self._lessee = Lessee(owner, lease)
        if self._writer is not None:
            return
        writer = self._writer = Writer(self._path)
        writer.start()
        try:
            self._tables = await writer.run_in(self._set_up)
        except (sqlite3.Error, NotOurs) as error:
            writer.stop()
            self._writer = None
            raise BrokerRefused(url=f"sqlite:///{self._path}", problem=str(error)) from error

    async def admit(self, tasks: Sequence[NewTask]) -> Sequence[Admission]:
        """Make rows for new tasks."""
        return await self._do("admit", lambda tables: tables.admit(tasks))

    def granted(self, requests: Sequence[GrantRequest]) -> None:
        """No claim comes with a delivery here."""

    async def grant(self, requests: Sequence[GrantRequest]) -> Sequence[Grant]:
        """Lease tasks to the owner that was given to `open`."""
        lessee = self._opened()
        return await self._do("grant", lambda tables: tables.grant(requests, lessee))

    async def renew(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """Lengthen leases."""
        lessee = self._opened()
        return await self._do("renew", lambda tables: tables.renew(claims, lessee))

    async def complete(self, completions: Sequence[Completion]) -> Sequence[Written]:
        """Write terminal results, each once."""
        return await self._do("complete", lambda tables: tables.complete(completions, retention=self._retention))

    async def fail(self, failures: Sequence[Failure]) -> Sequence[Written]:
        """Queue again what failed; not granted before its delay is over."""
        return await self._do("fail", lambda tables: tables.fail(failures))

    async def release(self, claims: Sequence[Claim], *, delay: float = 0.0) -> Sequence[Written]:
        """Queue again, uncounted."""
        return await self._do("release", lambda tables: tables.release(claims, delay=delay))

    async def bury(self, burials: Sequence[Burial]) -> Sequence[Written]:
        """Give tasks up."""
        return await self._do("bury", lambda tables: tables.bury(burials, retention=self._retention))

    async def sweep(self, topics: Sequence[str]) -> float | None:
        """Queue again what lapsed; its message comes back by the transport's own lease."""
        return await self._do("sweep", lambda tables: tables.sweep(topics))

    async def cancel(self, results: Mapping[str, bytes]) -> Mapping[str, State]:
        """Cancel what is not over yet."""
        return await self._do("cancel", lambda tables: tables.cancel(results, retention=self._retention))

    def cancelled(self) -> AsyncIterator[str]:
        """Yield what any process cancels from now on while it is leased; ends at `close`."""
        feed: Feed[str] = Feed()
        self._feeds.append(feed)
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        return feed

    async def read(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        """Return the rows as they stand."""
        return await self._do("read", lambda tables: tables.read(task_ids))

    async def dead_letters(self, agent: str, *, limit: int = 100) -> Sequence[bytes]:
        """Return the newest dead letters."""
        return await self._do("dead_letters", lambda tables: tables.dead_letters(agent, limit))

    async def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Forget dead letters."""
        return await self._do("forget_letters", lambda tables: tables.forget_letters(agent, letters))

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """Journal a step once. Raises `LeaseLost`."""
        return await self._do("record", lambda tables: tables.record(claim, name, value))

    async def recorded(self, task_id: str, name: str) -> bytes | None:
        """Return a journalled step, until its row is forgotten."""
        return await self._do("recorded", lambda tables: tables.recorded(task_id, name))

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep a value."""
        await self._do("put", lambda tables: tables.put(key, value, ttl=ttl))

    async def swap(
        self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None = None
    ) -> bytes | None:
        """Keep a value in place of another."""
        return await self._do("swap", lambda tables: tables.swap(key, expected, value, ttl=ttl))

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return values."""
        return await self._do("get", lambda tables: tables.get(keys))

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """Return all values under a prefix."""
        return await self._do("listed", lambda tables: tables.listed(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget values."""
        await self._do("delete", lambda tables: tables.delete(keys))

    async def close(self) -> None:
        """End the iterators of `cancelled`, and close the file after what was asked for. Leases are left to lapse."""
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
        for feed in self._feeds:
            feed.close()
        self._feeds.clear()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.stop()
            await asyncio.to_thread(writer.join, 5.0)

    def _set_up(self) -> SqliteTables:
        assert self._writer is not None
        assert self._writer.connection is not None
        tables = SqliteTables(self._writer.connection, namespace=self._namespace, retention=self._retention)
        tables.set_up()
        return tables

    async def _do(self, call: str, do: Callable[[SqliteTables], T]) -> T:
        tables = self._tables
        if self._writer is None or tables is None:
            raise WrongForm(used="a SqliteStore before open()", instead="await store.open(owner=…, lease=…)")
        try:
            return await self._writer.run_in(lambda: do(tables))
        except sqlite3.Error as error:
            raise OutcomeUnknown(call=call, problem=f"{self._path}: {error}") from error

    async def _listen(self) -> None:
        while True:
            await asyncio.sleep(_NEWS_EVERY)
            try:
                news = await self._do("cancelled", lambda tables: tables.cancelled())
            except OutcomeUnknown as error:
                logger.info("cancelled tasks cannot be looked for: {}", error)
                continue
            for task_id in news:
                for feed in self._feeds:
                    feed.give(task_id)

    def _opened(self) -> Lessee:
        if self._lessee is None:
            raise WrongForm(used="a SqliteStore before open()", instead="await store.open(owner=…, lease=…)")
        return self._lessee


def connect(url: str, *, namespace: str, retention: float, mailbox: Transport | None) -> SqliteStore:  # noqa: ARG001
    """Return a store on the file of `sqlite:///relative/path` or `sqlite:////absolute/path`. Raises `BadURL`."""
    parsed = BrokerURL.parse(url)
    path = parsed.path.removeprefix("/")
    if parsed.hosts or not path:
        raise BadURL(url=str(parsed), problem="write sqlite:///relative/path or sqlite:////absolute/path")
    parent = Path(path).absolute().parent
    if not parent.is_dir():
        raise BadURL(url=str(parsed), problem=f"there is no directory {parent}")
    return SqliteStore(str(Path(path).absolute()), namespace=namespace, retention=retention)
