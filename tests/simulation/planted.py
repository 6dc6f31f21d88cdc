"""Bugs to plant: each is what a careless change would do to one guarantee. The simulation has to catch them all."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from unittest import mock

from attrs import frozen

from murmur import tally, task_queue
from murmur.broker_queue import BrokerQueue
from murmur.runtime import manifest
from murmur.runtime.engine import Engine
from murmur.store import Burial, Claim, Completion, Failure, Grant, GrantRequest, State, Written
from murmur.stores.memory_tables import MemoryTables
from murmur.stores.rows import LEASED, QUEUED, Lessee, TaskRow
from murmur.task_queue import TaskQueue, Work
from murmur.transport import Delivery, Outgoing, Settled
from murmur.worker import attempt
from murmur.worker.attempt import Attempt, Stop, Stopped
from murmur.worker.crew import Crew
from tests.simulation.plan import LEASE


@frozen
class Bug:
    """One planted bug: what it does, the method it replaces, and a seed that found it, which is tried first."""

    name: str
    where: Any
    method: str
    instead: Any
    seed: int = 0

    def planted(self) -> Any:
        """Return a context in which the bug is there."""
        return mock.patch.object(self.where, self.method, self.instead)


_complete, _bury, _fail, _grant = MemoryTables.complete, MemoryTables.bury, MemoryTables.fail, MemoryTables._grant
_stopped = Crew._stopped


def _settle_without_token(self: MemoryTables, claim: Claim, verb: str) -> tuple[TaskRow | None, Written]:
    row = self._rows.get(claim.task_id)
    if row is None or row.state is not LEASED:
        return None, Written.STALE if row is None or row.settled_as != verb else Written.REPEATED
    row.settled_as = verb
    return row, Written.STORED


def _renew_whatever_is(self: MemoryTables, claims: Sequence[Claim], lessee: Lessee) -> list[bool]:
    for claim in claims:
        if row := self._rows.get(claim.task_id):
            row.state, row.token, row.owner = LEASED, claim.token, lessee.owner
            row.leased_until = self.clock() + (lessee.lease or 0.0)
            self._keep(row, is_active=True)
    return [True] * len(claims)


def _renew_nothing(self: MemoryTables, claims: Sequence[Claim], lessee: Lessee) -> list[bool]:
    return [True] * len(claims)


def _grant_uncounted(self: MemoryTables, request: GrantRequest, owner: str, *, until: float, now: float) -> Grant:
    grant = _grant(self, request, owner, until=until, now=now)
    self._rows[request.task_id].attempts = min(self._rows[request.task_id].attempts, 1)
    return grant


def _grant_what_is_leased(self: MemoryTables, request: GrantRequest, owner: str, *, until: float, now: float) -> Grant:
    row = self._rows.get(request.task_id)
    if row is not None and row.state is LEASED:
        row.leased_until = now
    return _grant(self, request, owner, until=until, now=now)


def _grant_what_ended(self: MemoryTables, request: GrantRequest, owner: str, *, until: float, now: float) -> Grant:
    row = self._rows.get(request.task_id)
    if row is not None and row.state.is_terminal:
        row.state = QUEUED
    return _grant(self, request, owner, until=until, now=now)


def _grant_under_one_token(self: MemoryTables, request: GrantRequest, owner: str, *, until: float, now: float) -> Grant:
    if row := self._rows.get(request.task_id):
        row.token = 0
    return _grant(self, request, owner, until=until, now=now)


def _fail_twice(self: MemoryTables, failures: Sequence[Failure]) -> list[Written]:
    written = _fail(self, failures)
    for failure, answer in zip(failures, written, strict=True):
        if answer is Written.REPEATED:
            self._rows[failure.claim.task_id].failures += 1
    return written


def _bury_twice(self: MemoryTables, burials: Sequence[Burial], *, retention: float) -> list[Written]:
    written = _bury(self, burials, retention=retention)
    for burial, answer in zip(burials, written, strict=True):
        if answer is Written.REPEATED:
            self._letters[self._rows[burial.claim.task_id].agent].append(burial.letter)
    return written


def _record_the_last(self: MemoryTables, claim: Claim, name: str, value: bytes) -> bytes:
    journal = self._rows[claim.task_id].journal = self._rows[claim.task_id].journal or {}
    journal[name] = value
    return value


def _complete_what_ended(self: MemoryTables, completions: Sequence[Completion], *, retention: float) -> list[Written]:
    for completion in completions:
        row = self._rows.get(completion.claim.task_id)
        if row is not None and row.token == completion.claim.token and row.state is State.DONE:
            row.result = completion.result
    return _complete(self, completions, retention=retention)


async def _ack_before_store(self: TaskQueue, completions: Sequence[Completion]) -> Sequence[Written]:
    await self.transport.ack([completion.claim.delivery for completion in completions])
    written = await self.store.complete(completions)
    await self._ring([(completion.claim, completion.result) for completion in completions], written)
    return written


async def _ring_what_is_stale(
    self: TaskQueue, results: Sequence[tuple[Claim, bytes]], written: Sequence[Written]
) -> None:
    for claim, result in results:
        if claim.reply_to is not None:
            await self.transport.publish([Outgoing(topic=claim.reply_to, body=result, id=f"{claim.token}")])
        await self.transport.ack([claim.delivery])


async def _settle_once(settle: Callable[[], Awaitable[Sequence[Settled]]]) -> bool:
    return all(answer.ok for answer in await settle())


async def _keep(self: TaskQueue, claim: Claim) -> None:
    """Hold on to the message."""


async def _ack_at_drain(self: Crew, attempt: Attempt, end: Stopped) -> None:
    if end.why is Stop.DRAIN:
        await self.queue.transport.ack([attempt.claim.delivery])
    else:
        await _stopped(self, attempt, end)


async def _never_ask(self: Engine, now: float) -> None:
    """Trust the inbox."""


async def _impatient(call: Callable[[], Awaitable[Any]], **_: Any) -> Any:
    await asyncio.sleep(0)
    return await call()


async def _settle_without_sending_again(self: BrokerQueue, failures: Sequence[Failure]) -> list[Written]:
    await self.transport.ack([failure.claim.delivery for failure in failures])
    return [Written.STORED] * len(failures)


async def _bury_without_answering(self: BrokerQueue, burials: Sequence[Burial]) -> list[Written]:
    for burial in burials:
        await self.transport.dead(burial.claim.delivery, burial.letter)
    return [Written.STORED] * len(burials)


async def _bury_at_leisure(self: BrokerQueue, burials: Sequence[Burial]) -> Sequence[Written]:
    for burial in burials:
        await self.transport.dead(burial.claim.delivery, burial.letter)
    await asyncio.sleep(5 * LEASE)
    return await _bury_alone(self, burials)


async def _settle_what_is_received(self: BrokerQueue, deliveries: Sequence[Delivery]) -> Sequence[Work]:
    work = await _grant_alone(self, deliveries)
    await self.transport.ack([one.claim.delivery for one in work])
    return work


def _forget_counters(failure: Failure) -> dict[str, str]:
    return dict(failure.claim.delivery.headers)


_bury_alone, _grant_alone = BrokerQueue._bury, BrokerQueue.grant

BUGS: Final = (
    Bug("a verb is not checked against its token", MemoryTables, "_settle", _settle_without_token, seed=84),
    Bug("a renewal brings back what was lost", MemoryTables, "renew", _renew_whatever_is),
    Bug("nothing is renewed", MemoryTables, "renew", _renew_nothing),
    Bug("attempts are not counted", MemoryTables, "_grant", _grant_uncounted),
    Bug("a leased task is granted again", MemoryTables, "_grant", _grant_what_is_leased, seed=32),
    Bug("what ended runs again", MemoryTables, "_grant", _grant_what_ended, seed=9),
    Bug("tokens do not grow", MemoryTables, "_grant", _grant_under_one_token),
    Bug("a repeated failure counts twice", MemoryTables, "fail", _fail_twice, seed=126),
    Bug("a repeated burial writes two letters", MemoryTables, "bury", _bury_twice, seed=63),
    Bug("a step is journalled by whoever comes last", MemoryTables, "record", _record_the_last, seed=8),
    Bug("the message is settled before the result is stored", TaskQueue, "_complete", _ack_before_store),
    Bug("a stale result is sent", TaskQueue, "_ring", _ring_what_is_stale, seed=192),
    Bug("a settle in doubt is forgotten", task_queue, "known", _settle_once, seed=44),
    Bug("the message of a lost attempt is kept", TaskQueue, "disown", _keep, seed=9),
    Bug("a drain settles what it gives back", Crew, "_stopped", _ack_at_drain),
    Bug("a publisher never asks", Engine, "_ask", _never_ask),
    Bug("a manifest in doubt fails its batch", manifest, "patiently", _impatient),
    Bug("a step in doubt fails its attempt", attempt, "patiently", _impatient, seed=17),
)

# For a broker without a store.
BUGS_ALONE: Final = (
    Bug("a failed task is not sent again", BrokerQueue, "_fail", _settle_without_sending_again),
    Bug("the counters do not go with the message", tally, "headers_after", _forget_counters),
    Bug("a buried task is not answered", BrokerQueue, "_bury", _bury_without_answering),
    Bug("a task is buried before it is answered", BrokerQueue, "_bury", _bury_at_leisure, seed=75),
    Bug("a message is settled when it is received", BrokerQueue, "grant", _settle_what_is_received),
    Bug("a drain settles what it gives back", Crew, "_stopped", _ack_at_drain),
)
