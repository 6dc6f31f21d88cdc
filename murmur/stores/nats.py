"""The coordination store on NATS: rows in a key-value bucket, each change guarded by the revision it was decided on.

It moves no messages; beside `NatsTransport` on the same server it shares its connection. Two
buckets: `…murmur-rows` for rows, journalled steps and results, `…murmur` for everything small
that is listed. Leases run on the server's clock.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, TypeVar

from murmur.bell import Feed
from murmur.errors import WrongForm
from murmur.names import Topics
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
from murmur.stores.nats_bucket import Bucket, Entry, Write, token
from murmur.stores.nats_rows import RowBook, Scratch, key_of
from murmur.stores.nats_upkeep import Upkeep
from murmur.stores.nats_values import Values
from murmur.stores.rows import Lessee, TaskRow, shown
from murmur.transport import Transport
from murmur.transports.nats import NatsTransport, check_options
from murmur.transports.nats_link import NatsLink
from murmur.transports.nats_streams import Streams
from murmur.transports.nats_wire import Message

T = TypeVar("T")
_NO_ROW: Final = "0"  # the mark of a task without a row: the revision of nothing
_IS_REVISION: Final = re.compile(r"[0-9]{1,18}").fullmatch


class NatsStore:
    """The store port on one NATS server or cluster. A lease lapses unless its owner renews it."""

    moves_messages: Final = False
    keeps_rows: Final = True
    keeps_leases: Final = False

    def __init__(
        self, url: str, *, namespace: str = "", retention: float = 86_400.0, mailbox: NatsTransport | None = None
    ) -> None:
        self._is_shared = mailbox is not None
        self._link = mailbox.link if mailbox else NatsLink(url, name=f"murmur:store {secrets.token_hex(4)}")
        streams = Streams(self._link, namespace=namespace)
        name = f"{namespace}-murmur" if namespace else "murmur"
        self._rows, self._beside = (Bucket(self._link, streams, one) for one in (f"{name}-rows", name))
        self._book = RowBook(self._rows, self._beside, tell_cancelled=self._tell_cancelled)
        self._values = Values(self._beside)
        self._upkeep = Upkeep(self._rows, self._beside, self._book, retention=retention)
        self._retention = retention
        self._news = f"{Topics(namespace).prefix}murmur.cancelled"
        self._lessee: Lessee | None = None
        self._feeds: list[Feed[str]] = []
        self._is_open = False

    async def open(self, *, owner: str, lease: float | None) -> None:
        """Connect, and make the buckets. Raises `BrokerUnreachable`, `BrokerRefused`."""
        self._lessee = Lessee(owner, lease)
        if self._is_open:
            return
        await self._link.open()
        await asyncio.gather(self._rows.make(), self._beside.make())
        await self._upkeep.set_clock()
        self._link.listen(self._news, self._heard)
        self._is_open = True

    # -- the life of a row ------------------------------------------------------------------------------------------

    async def admit(self, tasks: Sequence[NewTask]) -> Sequence[Admission]:
        """Make rows, but for new tasks: theirs are made by their first grants, which find none."""
        known = [one for one in tasks if not one.is_new]
        rows = iter(
            await self._book.apply(
                [one.task_id for one in known],
                lambda rows, places: rows.admit(_at(places, known)),
                is_new=True,
                told=lambda one, revision: Admission(one.task_id, one.fresh, one.state, mark=str(revision)),
            )
        )
        return [Admission(one.task_id, True, State.QUEUED, mark=_NO_ROW) if one.is_new else next(rows) for one in tasks]

    def granted(self, requests: Sequence[GrantRequest]) -> None:
        """No claim comes with a delivery here."""

    async def grant(self, requests: Sequence[GrantRequest]) -> Sequence[Grant]:
        """Lease tasks to the owner that was given to `open`."""
        lessee = self._opened()
        grants = await self._book.apply(
            [one.task_id for one in requests],
            lambda rows, places: rows.grant(_at(places, requests), lessee),
            assumed={one.task_id: made for one in requests if (made := _as_admitted(one)) is not None},
        )
        self._upkeep.granted(grants, lease=lessee.lease)
        return grants

    async def renew(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """Lengthen leases."""
        lessee = self._opened()
        return await self._book.apply(_tasks_of(claims), lambda rows, at: rows.renew(_at(at, claims), lessee))

    async def complete(self, completions: Sequence[Completion]) -> Sequence[Written]:
        """Write terminal results, each once."""
        kept = self._retention
        ids = _tasks_of([one.claim for one in completions])
        return await self._book.apply(ids, lambda rows, at: rows.complete(_at(at, completions), retention=kept))

    async def fail(self, failures: Sequence[Failure]) -> Sequence[Written]:
        """Queue again what failed; not granted before its delay is over."""
        ids = _tasks_of([one.claim for one in failures])
        return await self._book.apply(ids, lambda rows, at: rows.fail(_at(at, failures)))

    async def release(self, claims: Sequence[Claim], *, delay: float = 0.0) -> Sequence[Written]:
        """Queue again, uncounted."""
        return await self._book.apply(_tasks_of(claims), lambda rows, at: rows.release(_at(at, claims), delay=delay))

    async def bury(self, burials: Sequence[Burial]) -> Sequence[Written]:
        """Give tasks up."""
        kept = self._retention
        ids = _tasks_of([one.claim for one in burials])
        return await self._book.apply(ids, lambda rows, at: rows.bury(_at(at, burials), retention=kept))

    async def sweep(self, topics: Sequence[str]) -> float | None:
        """Queue again what lapsed; its message comes back by the transport's own lease."""
        self._opened()
        await self._upkeep.collect()
        return await self._book.sweep(topics)

    async def cancel(self, results: Mapping[str, bytes]) -> Mapping[str, State]:
        """Cancel what is not over yet."""
        kept = self._retention
        ids = list(results)

        def cancel(rows: Scratch, places: Sequence[int]) -> list[State | None]:
            states = rows.cancel({ids[at]: results[ids[at]] for at in places}, retention=kept)
            return [states.get(ids[at]) for at in places]

        states = zip(ids, await self._book.apply(ids, cancel), strict=True)
        return {task_id: state for task_id, state in states if state is not None}

    def cancelled(self) -> AsyncIterator[str]:
        """Yield what any process cancels from now on while it is leased; ends at `close`."""
        feed: Feed[str] = Feed()
        self._feeds.append(feed)
        return feed

    async def read(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        """Return the rows as they stand."""
        self._opened()
        return [None if row is None else shown(row) for row in await self._book.read(task_ids)]

    # -- beside the rows --------------------------------------------------------------------------------------------

    async def dead_letters(self, agent: str, *, limit: int = 100) -> Sequence[bytes]:
        """Return the newest dead letters."""
        entries = await self._beside.scan(f"letter.{token(agent)}.*", headers_only=True)
        newest = [entry.key for entry in reversed(entries)][:limit]
        return [entry.value for entry in await self._beside.get(newest) if entry is not None]

    async def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Forget dead letters."""
        gone = set(letters)
        entries = await self._beside.scan(f"letter.{token(agent)}.*")
        return await self._beside.drop([entry for entry in entries if entry.value in gone])

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """Journal a step once. Raises `LeaseLost`.

        The value stands under a key of the token, and counts once the row, still leased under that token, names it.
        """
        ref = str(claim.token).encode()

        def enter(rows: Scratch, _: Sequence[int]) -> list[bytes]:
            row = rows.held(claim)
            journal = row.journal or {}
            if name not in journal:
                row.journal = {**journal, name: ref}
                rows.keep(row)
            return [(row.journal or {})[name]]

        if await self.recorded(claim.task_id, name) is None:
            await self._rows.put([Write(_step(claim.task_id, name, ref), value, expected=0)])
        (stands,) = await self._book.apply([claim.task_id], enter)
        (entry,) = await self._rows.get([_step(claim.task_id, name, stands)])
        return entry.value if entry is not None else value

    async def recorded(self, task_id: str, name: str) -> bytes | None:
        """Return a journalled step, until its row is forgotten."""
        (row,) = await self._book.read([task_id])
        if row is None or row.journal is None or name not in row.journal:
            return None
        (entry,) = await self._rows.get([_step(task_id, name, row.journal[name])])
        return None if entry is None else entry.value

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep a value."""
        await self._values.put(key, value, ttl=self._retention if ttl is None else ttl)

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return values."""
        return await self._values.get(keys)

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """Return all values under a prefix."""
        return await self._values.listed(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget values."""
        await self._values.delete(keys)

    async def swap(
        self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None = None
    ) -> bytes | None:
        """Keep a value in place of another."""
        return await self._values.swap(key, expected, value, ttl=ttl)

    async def close(self) -> None:
        """End the iterators of `cancelled`; disconnect, unless that is the transport's. Leases are left to lapse."""
        for feed in self._feeds:
            feed.close()
        self._feeds.clear()
        await self._upkeep.close()
        if not self._is_shared:
            await self._link.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _opened(self) -> Lessee:
        if self._lessee is None:
            raise WrongForm(used="a NatsStore before open()", instead="await store.open(owner=…, lease=…)")
        return self._lessee

    def _tell_cancelled(self, task_id: str) -> None:
        self._link.say(self._news, task_id.encode())

    def _heard(self, message: Message) -> None:
        for feed in self._feeds:
            feed.give(message.body.decode("utf-8", "replace"))


def connect(url: str, *, namespace: str, retention: float, mailbox: Transport | None) -> NatsStore:
    """Return a store, on the connection of `mailbox` if that is a NATS transport of this URL. Raises `BadURL`."""
    check_options(url)
    shared = mailbox if isinstance(mailbox, NatsTransport) and mailbox.link.raw == url else None
    return NatsStore(url, namespace=namespace, retention=retention, mailbox=shared)


def _as_admitted(request: GrantRequest) -> tuple[Entry, TaskRow] | None:
    """Return the row of a message that comes for the first time, as it was made; if it stands otherwise by now, its
    revision is another one and nothing is written."""
    if request.delivery.deliveries > 1 or not _IS_REVISION(request.mark):
        return None
    row = TaskRow(request.task_id, request.agent, request.delivery.topic)
    return Entry(key_of(request.task_id), b"", int(request.mark)), row


def _tasks_of(claims: Sequence[Claim]) -> list[str]:
    return [one.task_id for one in claims]


def _at(places: Sequence[int], items: Sequence[T]) -> list[T]:
    return [items[at] for at in places]


def _step(task_id: str, name: str, ref: bytes) -> str:
    return f"step.{token(task_id)}.{token(name)}.{ref.decode()}"
