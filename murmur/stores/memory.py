"""`memory://`: the coordination store within one process.

It guards rows and moves no messages (`moves_messages` is false): its arrows are the plain
protocol, and whoever works on it does the steps between row and message in the order that
the protocol wants. A name is shared by everybody in the process and namespace while
somebody holds it; without one the store belongs to the transport beside it, or to nobody.
"""

import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from murmur.bell import Feed
from murmur.errors import WrongForm
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
from murmur.stores.memory_tables import MemoryTables
from murmur.stores.rows import Lessee
from murmur.transport import Transport
from murmur.transports.memory import MemoryTransport, broker_name
from murmur.transports.memory_broker import MemoryBroker


class MemoryStore:
    """The store port on `MemoryTables`. A lease lapses unless its owner renews it."""

    keeps_rows: Final = True
    moves_messages: Final = False
    keeps_leases: Final = False

    def __init__(
        self, tables: MemoryTables, *, retention: float = 86_400.0, beside: MemoryTransport | None = None
    ) -> None:
        self.tables = tables
        self._retention = retention
        self._beside = beside  # the transport of the same consumer: stalled or killed, both wait
        self._lessee: Lessee | None = None
        self._feeds: list[Feed[str]] = []

    async def open(self, *, owner: str, lease: float | None) -> None:
        """Say who leases here, and for how long."""
        self._lessee = Lessee(owner, lease)

    async def admit(self, tasks: Sequence[NewTask]) -> Sequence[Admission]:
        """Make rows for new tasks."""
        await self._running()
        return self.tables.admit(tasks)

    def granted(self, requests: Sequence[GrantRequest]) -> None:
        """No claim comes with a delivery here."""

    async def grant(self, requests: Sequence[GrantRequest]) -> Sequence[Grant]:
        """Lease tasks to the owner that was given to `open`."""
        await self._running()
        return self.tables.grant(requests, self._opened())

    async def renew(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """Lengthen leases."""
        await self._running()
        return self.tables.renew(claims, self._opened())

    async def complete(self, completions: Sequence[Completion]) -> Sequence[Written]:
        """Write terminal results, each once."""
        await self._running()
        return self.tables.complete(completions, retention=self._retention)

    async def fail(self, failures: Sequence[Failure]) -> Sequence[Written]:
        """Queue again what failed; not granted before its delay is over."""
        await self._running()
        return self.tables.fail(failures)

    async def release(self, claims: Sequence[Claim], *, delay: float = 0.0) -> Sequence[Written]:
        """Queue again, uncounted."""
        await self._running()
        return self.tables.release(claims, delay=delay)

    async def bury(self, burials: Sequence[Burial]) -> Sequence[Written]:
        """Give tasks up."""
        await self._running()
        return self.tables.bury(burials, retention=self._retention)

    async def sweep(self, topics: Sequence[str]) -> float | None:
        """Queue again what lapsed; its message comes back by the transport's own lease."""
        await self._running()
        return self.tables.sweep(topics)

    async def cancel(self, results: Mapping[str, bytes]) -> Mapping[str, State]:
        """Cancel what is not over yet."""
        await self._running()
        return self.tables.cancel(results, retention=self._retention)

    def cancelled(self) -> AsyncIterator[str]:
        """Yield what any store of these tables cancels from now on while it is leased; ends at `close`."""
        feed: Feed[str] = Feed()
        self._feeds.append(feed)
        self.tables.listeners[feed] = None
        return feed

    async def read(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        """Return the rows as they stand."""
        await self._running()
        return self.tables.read(task_ids)

    async def dead_letters(self, agent: str, *, limit: int = 100) -> Sequence[bytes]:
        """Return the newest dead letters; a bounded number of each agent's is kept."""
        await self._running()
        return self.tables.dead_letters(agent, limit)

    async def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Forget dead letters."""
        await self._running()
        return self.tables.forget_letters(agent, letters)

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """Journal a step once. Raises `LeaseLost`."""
        await self._running()
        return self.tables.record(claim, name, value)

    async def recorded(self, task_id: str, name: str) -> bytes | None:
        """Return a journalled step, until its row is forgotten."""
        await self._running()
        return self.tables.recorded(task_id, name)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep a value."""
        await self._running()
        self.tables.put(key, value, ttl=self._retention if ttl is None else ttl)

    async def swap(
        self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None = None
    ) -> bytes | None:
        """Keep a value in place of another."""
        await self._running()
        return self.tables.swap(key, expected, value, ttl=ttl)

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return values."""
        await self._running()
        return self.tables.get(keys)

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """Return all values under a prefix."""
        await self._running()
        return self.tables.listed(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget values."""
        await self._running()
        self.tables.delete(keys)

    async def close(self) -> None:
        """End the iterators of `cancelled`. Leases are left to lapse."""
        for feed in self._feeds:
            self.tables.listeners.pop(feed, None)
            feed.close()
        self._feeds.clear()

    async def _running(self) -> None:
        if self._beside is not None:
            await self._beside.running()

    def _opened(self) -> Lessee:
        if self._lessee is None:
            raise WrongForm(used="a MemoryStore before open()", instead="await store.open(owner=…, lease=…)")
        return self._lessee


def connect(url: str, *, namespace: str, retention: float, mailbox: Transport | None) -> MemoryStore:
    """Return a store on the tables of `memory://name`, or for `memory://` on those of the memory broker beside it."""
    beside = mailbox if isinstance(mailbox, MemoryTransport) else None
    broker = beside.broker if beside else None
    tables = _tables.named(namespace, broker_name(url)) if broker_name(url) else _tables.beside(namespace, broker)
    return MemoryStore(tables, retention=retention, beside=beside)


class _Tables:
    """The shared tables of this process, each for as long as somebody uses it, or its broker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._named: WeakValueDictionary[tuple[str, str], MemoryTables] = WeakValueDictionary()
        self._beside: WeakKeyDictionary[MemoryBroker, dict[str, MemoryTables]] = WeakKeyDictionary()

    def named(self, namespace: str, name: str) -> MemoryTables:
        """Return the tables of this name."""
        with self._lock:
            tables = self._named.get((namespace, name))
            if tables is None:
                tables = self._named[namespace, name] = MemoryTables(clock=time.monotonic)
            return tables

    def beside(self, namespace: str, broker: MemoryBroker | None) -> MemoryTables:
        """Return the tables that go with a broker, on its clock; new ones without a broker."""
        if broker is None:
            return MemoryTables(clock=time.monotonic)
        with self._lock:
            tables = self._beside.setdefault(broker, {})
            if namespace not in tables:
                tables[namespace] = MemoryTables(clock=broker.clock)
            return tables[namespace]


# The one mutable module state of this adapter, as in `murmur.transports.memory`.
_tables: Final = _Tables()
