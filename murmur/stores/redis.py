"""The coordination store on Redis: a hash per task, every arrow of its life one script for many tasks.

Beside `RedisTransport` on the same server it is fused with it (`moves_messages`): reading a
message is its grant, the group's pending list is the lease table, and completing writes the row,
settles the message and rings the publisher in one step. A task that is over is never handed
out again: the read settles its message and rings once more. Beside any other broker the same
rows carry leases and delays as times of the server's clock. Keys: `{namespace.}murmur:…`.
"""

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final, TypeVar, cast

from murmur.broker_url import BrokerURL
from murmur.errors import LeaseLost, WrongForm
from murmur.limits import MAX_ERRORS_KEPT
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
from murmur.stores.redis_ledger import Keys, Ledger
from murmur.stores.redis_news import CancelNews
from murmur.stores.redis_rows import Ending, Return, claim_of, grant_of, hold_of, returned, row_of, state_of
from murmur.stores.redis_values import Values
from murmur.transport import Transport
from murmur.transports.redis import RedisTransport
from murmur.transports.redis_entries import encoded_notes, milliseconds, unpacked
from murmur.transports.redis_link import RedisLink
from murmur.transports.redis_scripts import load
from murmur.transports.redis_session import CHUNK, Rows
from murmur.transports.redis_wire import Argument, Reply

_GRANT: Final = load("murmur.stores", "grant")
_CANCEL: Final = load("murmur.stores", "cancel")
_READ: Final = load("murmur.stores", "read")
_RECORD: Final = load("murmur.stores", "record")
_RENEW: Final = load("murmur.stores", "renew_rows")
_SWEEP: Final = load("murmur.stores", "sweep_rows")

T = TypeVar("T")


class RedisStore:
    """The store port on one Redis server, fused with `mailbox` where that is given: it must be on the same server."""

    keeps_rows: Final = True

    def __init__(
        self, url: str, *, namespace: str = "", retention: float = 86_400.0, mailbox: RedisTransport | None = None
    ) -> None:
        topics = Topics(namespace)
        base = f"{topics.prefix}murmur:"
        self._keys = Keys(topics, f"{base}task:", f"{base}journal:", max(1, round(retention)))
        self._channel = BrokerURL.parse(url).channel(f"{base}cancelled")
        self._mailbox = mailbox
        self._link = mailbox.session.link if mailbox else RedisLink(url, name=f"murmur:store#{secrets.token_hex(4)}")
        self._ledger = Ledger(self._link, self._keys, mailbox.session if mailbox else None)
        self._values = Values(self._link, f"{base}kv:")
        self._news = CancelNews(self._link, self._channel, missed=mailbox.watch if mailbox else _nothing)
        self._lessee: tuple[str, float | None] | None = None
        if mailbox:
            mailbox.session.rows = Rows(self._keys.rows, "", self._keys.retention)

    @property
    def moves_messages(self) -> bool:
        """Whether it is fused with a transport."""
        return self._mailbox is not None

    @property
    def keeps_leases(self) -> bool:
        """Fused, the transport's thread renews what was granted; else whoever was granted a task does."""
        return self._mailbox is not None

    async def open(self, *, owner: str, lease: float | None) -> None:
        """Connect. Fused, the lease of a task is that of the topic it came from."""
        self._lessee = (owner, lease)
        if self._mailbox:
            self._mailbox.session.rows = Rows(self._keys.rows, owner, self._keys.retention)
        await self._link.open()

    # -- the life of a row ------------------------------------------------------------------------------------------

    async def admit(self, tasks: Sequence[NewTask]) -> Sequence[Admission]:
        """Make rows and enqueue messages. A row that stands and is not over rings its newest publisher from now on."""
        return await self._ledger.admit(tasks)

    def granted(self, requests: Sequence[GrantRequest]) -> Sequence[Claim] | None:
        """Return the claims of requests whose deliveries the fused transport granted when it read them."""
        if not all(_came_granted(one) for one in requests):
            return None
        return [claim_of(one, hold_of(one.delivery)) for one in requests]

    async def grant(self, requests: Sequence[GrantRequest]) -> Sequence[Grant]:
        """Return the claims that came with their deliveries, without a word to the server; lease the others."""
        came_granted = [_came_granted(one) for one in requests]  # before the others are leased: then they look alike
        unclaimed = [one for one, has_claim in zip(requests, came_granted, strict=True) if not has_claim]
        leased = iter(await self._lease(unclaimed) if unclaimed else ())
        return [
            claim_of(one, hold_of(one.delivery)) if has_claim else next(leased)
            for one, has_claim in zip(requests, came_granted, strict=True)
        ]

    async def renew(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """Lengthen leases; fused, they are also lengthened without being asked."""
        if self._mailbox:
            return await self._mailbox.renew([claim.delivery for claim in claims])
        lease = self._opened()[1]
        arguments: list[Argument] = [self._keys.rows, "" if lease is None else milliseconds(lease)]
        for claim in claims:
            arguments += (claim.delivery.topic, claim.task_id, claim.token)
        codes = cast(bytes, await self._link.run(_RENEW, (), arguments, is_repeatable=True))
        return [code == ord("1") for code in codes]

    async def complete(self, completions: Sequence[Completion]) -> Sequence[Written]:
        """Write terminal results, joined with what others complete in this loop turn."""
        return await self._ledger.end([Ending(one.claim, one.state.value, one.result) for one in completions])

    async def bury(self, burials: Sequence[Burial]) -> Sequence[Written]:
        """Give tasks up."""
        return await self._ledger.end(
            [Ending(one.claim, State.DEAD.value, one.result, one.letter) for one in burials],
        )

    async def fail(self, failures: Sequence[Failure]) -> Sequence[Written]:
        """Queue again what failed: at the end of its topic, or for later."""
        returns: list[Return] = []
        for one in failures:
            claim = one.claim
            errors = encoded_notes((*claim.errors, one.error)[-MAX_ERRORS_KEPT:])
            failures_now, crashes_now = claim.failures + one.is_failure, claim.crashes + one.crashed
            returns.append(Return(claim, "fail", one.delay, failures_now, crashes_now, 0, errors))
        return await self._ledger.put_back(returns)

    async def release(self, claims: Sequence[Claim], *, delay: float = 0.0) -> Sequence[Written]:
        """Queue again, uncounted; without a delay it is read before all that waits."""
        return await self._ledger.put_back([returned(claim, verb="release", delay=delay) for claim in claims])

    async def sweep(self, topics: Sequence[str]) -> float | None:
        """Queue again what lapsed; fused, also what is due and what an earlier boot of this consumer held."""
        if self._mailbox:
            return await self._mailbox.sweep(topics)
        while True:
            reply = await self._link.run(_SWEEP, topics, (self._keys.rows, CHUNK), is_repeatable=True)
            next_due, more = cast(list[int], reply)
            if not more:
                return None if next_due < 0 else next_due / 1000

    async def cancel(self, results: Mapping[str, bytes]) -> Mapping[str, State]:
        """Cancel what is not over; fused, a message that waits is taken away and the publisher rung."""
        keys, ids = self._keys, list(results)
        head = (keys.rows, int(self.moves_messages), keys.retention, keys.journals, self._channel)
        states: dict[str, State] = {}
        for part in _parts(ids):
            arguments: list[Argument] = [*head, *(text for one in part for text in (one, results[one]))]
            reply = await self._link.run(_CANCEL, (), arguments, is_repeatable=True)
            answers = cast(list[bytes | None], reply)
            states |= {task_id: state_of(value) for task_id, value in zip(part, answers, strict=True) if value}
        return states

    def cancelled(self) -> AsyncIterator[str]:
        """Yield what any process cancels from now on while it is leased; ends at `close`."""
        return self._news.feed()

    async def read(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        """Return rows as they stand."""
        rows: list[Row | None] = []
        for part in _parts(task_ids):
            reply = await self._link.run(_READ, (), (self._keys.rows, *part), is_repeatable=True)
            rows += [
                row_of(one, values, self._keys.topics)
                for one, values in zip(part, cast(list[Reply], reply), strict=True)
            ]
        return rows

    # -- beside the rows --------------------------------------------------------------------------------------------

    async def dead_letters(self, agent: str, *, limit: int = 100) -> Sequence[bytes]:
        """Return the newest letters of the dead topic."""
        topic = self._keys.topics.dead(agent)
        reply = await self._link.ask("XREVRANGE", topic, "+", "-", "COUNT", limit, is_repeatable=True)
        return [unpacked(values)[1] for _, values in cast(list[tuple[bytes, list[bytes]]], reply)]

    async def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Delete letters from the dead topic."""
        topic, gone, last, found = self._keys.topics.dead(agent), set(letters), b"+", 0
        while True:
            reply = await self._link.ask("XREVRANGE", topic, last, "-", "COUNT", CHUNK, is_repeatable=True)
            entries = cast(list[tuple[bytes, list[bytes]]], reply)
            ids = [entry_id for entry_id, values in entries if unpacked(values)[1] in gone]
            if ids:
                found += cast(int, await self._link.ask("XDEL", topic, *ids, is_repeatable=True))
            if len(entries) < CHUNK:
                return found
            last = b"(" + entries[-1][0]

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """Journal a step once. Raises `LeaseLost`."""
        keys, ref = self._keys, hold_of(claim.delivery).ref
        arguments = (keys.rows, keys.journals, claim.task_id, claim.token, ref, name, value)
        stands = await self._link.run(_RECORD, (), arguments, is_repeatable=True)
        if not isinstance(stands, bytes):
            raise LeaseLost(task_id=claim.task_id, token=claim.token)
        return stands

    async def recorded(self, task_id: str, name: str) -> bytes | None:
        """Return a journalled step, until its row is forgotten."""
        reply = await self._link.ask("HGET", self._keys.journals + task_id, name, is_repeatable=True)
        return cast(bytes | None, reply)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep a value."""
        await self._values.put(key, value, ttl=self._keys.retention if ttl is None else ttl)

    async def swap(
        self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None = None
    ) -> bytes | None:
        """Keep a value in place of another."""
        return await self._values.swap(key, expected, value, ttl=ttl)

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return values."""
        return await self._values.get(keys)

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """Return all values under a prefix."""
        return await self._values.listed(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget values."""
        await self._values.delete(keys)

    async def close(self) -> None:
        """End the iterators of `cancelled`; disconnect, unless that is the transport's. Leases are left to lapse."""
        await self._news.close()
        if self._mailbox is None:
            await self._link.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _opened(self) -> tuple[str, float | None]:
        if self._lessee is None:
            raise WrongForm(used="a RedisStore before open()", instead="await store.open(owner=…, lease=…)")
        return self._lessee

    async def _lease(self, requests: Sequence[GrantRequest]) -> list[Grant]:
        """Lease tasks whose messages came without a grant. Each call is told from all others, so it may be repeated."""
        owner, lease = self._opened()
        keys = self._keys
        head = (
            keys.rows,
            int(self.moves_messages),
            keys.retention,
            owner,
            "" if lease is None else milliseconds(lease),
        )
        grants: list[Grant] = []
        for part in _parts(requests):
            arguments: list[Argument] = [*head, secrets.token_hex(8)]
            for one in part:
                hold = hold_of(one.delivery)
                arguments += (one.delivery.topic, hold.consumer, hold.ref, one.task_id, one.reply_to or "")
            reply = await self._link.run(_GRANT, (), arguments, is_repeatable=True)
            grants += map(grant_of, part, cast(list[Reply], reply))
        return grants


def connect(url: str, *, namespace: str, retention: float, mailbox: Transport | None) -> RedisStore:
    """Return a store, fused with `mailbox` if that is a Redis transport of this URL; not connected before `open`."""
    fused = mailbox if isinstance(mailbox, RedisTransport) and mailbox.session.link.url == url else None
    return RedisStore(url, namespace=namespace, retention=retention, mailbox=fused)


def _came_granted(request: GrantRequest) -> bool:
    """Whether the read granted the very task that the envelope names."""
    return hold_of(request.delivery).token > 0 and request.task_id == request.delivery.id


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), CHUNK):
        yield items[first : first + CHUNK]


def _nothing() -> None:
    """Beside another broker nobody else knows who holds what."""
