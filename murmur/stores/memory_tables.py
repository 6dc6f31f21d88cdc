"""The tables behind a memory store: rows, journal, dead letters and keys of one process.

The row state machine of docs/guarantees.md, arrow by arrow, each with its guard; it is the
oracle the other stores are measured against. Synchronous, under one lock, with the time as
an argument. What is finished is kept within bounds: the newest rows up to a count and a
size, those of named batches until their retention is over.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen
from msgspec import Struct

from murmur.bell import Feed
from murmur.envelope import ErrorNote
from murmur.errors import LeaseLost
from murmur.limits import MAX_ERRORS_KEPT, MEMORY_BYTES_KEPT, MEMORY_LETTERS_KEPT, MEMORY_ROWS_KEPT
from murmur.store import (
    Admission,
    Burial,
    Busy,
    Claim,
    Completion,
    Failure,
    Finished,
    Grant,
    GrantRequest,
    NewTask,
    Row,
    State,
    Written,
)

QUEUED, LEASED, DONE, DEAD, CANCELLED = State.QUEUED, State.LEASED, State.DONE, State.DEAD, State.CANCELLED


@frozen
class Lessee:
    """Who is granted a lease, and how long it runs unrenewed; None: for ever."""

    owner: str
    lease: float | None


class TaskRow(Struct, eq=False):
    """One task. `settled_as` names the verb that ended the lease of the present token, so that it may be repeated."""

    task_id: str
    agent: str
    topic: str
    keep: bool = False
    state: State = QUEUED
    token: int = 0
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    lapses: int = 0
    owner: str | None = None
    leased_until: float = 0.0
    not_before: float = 0.0
    settled_as: str | None = None
    result: bytes | None = None
    errors: tuple[ErrorNote, ...] = ()
    journal: dict[str, bytes] | None = None
    forgotten_at: float = 0.0


class MemoryTables:
    """What the memory stores of one process share. `clock` tells seconds; only differences mean anything."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.listeners: set[Feed[str]] = set()  # who wants to hear of cancelled tasks
        self._lock = threading.Lock()
        self._rows: dict[str, TaskRow] = {}
        self._active: dict[str, dict[str, TaskRow]] = {}  # topic -> leased or delayed rows: what a sweep looks at
        self._finished: deque[TaskRow] = deque()  # oldest first
        self._kept: deque[TaskRow] = deque()  # of named batches, oldest first
        self._bytes = 0  # of the results in `_finished`
        self._letters: dict[str, deque[bytes]] = {}
        self._values: dict[str, tuple[bytes, float]] = {}  # with when it is forgotten
        self._purge_at = 1_000  # values

    # -- the life of a row ------------------------------------------------------------------------

    def admit(self, tasks: Sequence[NewTask]) -> list[Admission]:
        """(none) → QUEUED."""
        answers: list[Admission] = []
        with self._lock:
            self._forget(self.clock())
            for task in tasks:
                row = self._rows.get(task.task_id)
                if row is None:
                    self._rows[task.task_id] = TaskRow(task.task_id, task.agent, task.topic, task.keep)
                    answers.append(Admission(task.task_id, True, QUEUED))
                else:
                    answers.append(Admission(task.task_id, False, row.state, row.result))
        return answers

    def grant(self, requests: Sequence[GrantRequest], lessee: Lessee) -> list[Grant]:
        """QUEUED, or LEASED and lapsed → LEASED under the next token."""
        with self._lock:
            now = self.clock()
            until = math.inf if lessee.lease is None else now + lessee.lease
            return [self._grant(request, lessee.owner, until=until, now=now) for request in requests]

    def renew(self, claims: Sequence[Claim], lessee: Lessee) -> list[bool]:
        """LEASED → LEASED, for one lease from now."""
        until = math.inf if lessee.lease is None else self.clock() + lessee.lease
        answers: list[bool] = []
        with self._lock:
            for claim in claims:
                row = self._rows.get(claim.task_id)
                holds = row is not None and row.state is LEASED and row.token == claim.token
                if row is not None and holds:
                    row.leased_until = until
                answers.append(holds)
        return answers

    def complete(self, completions: Sequence[Completion], *, retention: float) -> list[Written]:
        """LEASED → terminal, with its result."""
        answers: list[Written] = []
        with self._lock:
            forgotten_at = self.clock() + retention
            for completion in completions:
                row, written = self._settle(completion.claim, completion.state.value)
                if row is not None:
                    self._end(row, completion.state, completion.result, forgotten_at)
                answers.append(written)
            self._forget(self.clock())
        return answers

    def fail(self, failures: Sequence[Failure]) -> list[Written]:
        """LEASED → QUEUED, counted against the task."""
        answers: list[Written] = []
        with self._lock:
            for failure in failures:
                row, written = self._settle(failure.claim, "fail")
                if row is not None:
                    if failure.crashed:
                        row.crashes += 1
                    else:
                        row.failures += 1
                    row.lapses = 0
                    row.errors = (*row.errors, failure.error)[-MAX_ERRORS_KEPT:]
                    self._requeue(row, failure.delay)
                answers.append(written)
        return answers

    def release(self, claims: Sequence[Claim], *, delay: float) -> list[Written]:
        """LEASED → QUEUED, nothing counted."""
        answers: list[Written] = []
        with self._lock:
            for claim in claims:
                row, written = self._settle(claim, "release")
                if row is not None:
                    self._requeue(row, delay)
                answers.append(written)
        return answers

    def bury(self, burials: Sequence[Burial], *, retention: float) -> list[Written]:
        """LEASED → DEAD, with dead letter and result."""
        answers: list[Written] = []
        with self._lock:
            forgotten_at = self.clock() + retention
            for burial in burials:
                row, written = self._settle(burial.claim, DEAD.value)
                if row is not None:
                    letters = self._letters.setdefault(row.agent, deque(maxlen=MEMORY_LETTERS_KEPT))
                    letters.append(burial.letter)
                    self._end(row, DEAD, burial.result, forgotten_at)
                answers.append(written)
        return answers

    def sweep(self, topics: Sequence[str]) -> float | None:
        """LEASED and lapsed → QUEUED; return the seconds until the next delayed row is due."""
        with self._lock:
            now = self.clock()
            next_due = math.inf
            for topic in topics:
                active = self._active.get(topic, {})
                for row in list(active.values()):
                    if row.state is LEASED:
                        if row.leased_until <= now:
                            row.lapses += 1
                            self._requeue(row, 0.0)
                    elif row.not_before <= now:
                        del active[row.task_id]
                    else:
                        next_due = min(next_due, row.not_before - now)
            return None if next_due == math.inf else next_due

    def cancel(self, results: Mapping[str, bytes], *, retention: float) -> dict[str, State]:
        """QUEUED or LEASED → CANCELLED; whoever listens hears of those that may be running."""
        states: dict[str, State] = {}
        with self._lock:
            forgotten_at = self.clock() + retention
            for task_id, result in results.items():
                row = self._rows.get(task_id)
                if row is not None:
                    if row.state is LEASED:
                        for listener in self.listeners:
                            listener.give(task_id)
                    if not row.state.is_terminal:
                        row.settled_as = None
                        self._end(row, CANCELLED, result, forgotten_at)
                    states[task_id] = row.state
        return states

    def read(self, task_ids: Sequence[str]) -> list[Row | None]:
        """Copy rows out."""
        with self._lock:
            self._forget(self.clock())
            rows = [self._rows.get(task_id) for task_id in task_ids]
            return [None if row is None else _shown(row) for row in rows]

    def wipe(self) -> None:
        """Forget everything, as a server that lost its data would."""
        with self._lock:
            self._bytes = 0
            for table in (self._rows, self._active, self._finished, self._kept, self._letters, self._values):
                table.clear()

    # -- beside the rows --------------------------------------------------------------------------

    def dead_letters(self, agent: str, limit: int) -> list[bytes]:
        """Return the newest letters, newest first."""
        with self._lock:
            return list(reversed(self._letters.get(agent, ())))[:limit]

    def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """Journal a step unless it stands there already."""
        with self._lock:
            row = self._rows.get(claim.task_id)
            if row is None or row.state is not LEASED or row.token != claim.token:
                raise LeaseLost(task_id=claim.task_id, token=claim.token)
            if row.journal is None:
                row.journal = {}
            return row.journal.setdefault(name, value)

    def recorded(self, task_id: str, name: str) -> bytes | None:
        """Return a journalled step."""
        with self._lock:
            row = self._rows.get(task_id)
            return None if row is None or row.journal is None else row.journal.get(name)

    def put(self, key: str, value: bytes, *, ttl: float) -> None:
        """Keep a value for `ttl` seconds."""
        with self._lock:
            now = self.clock()
            self._values[key] = (value, now + ttl)
            if len(self._values) > self._purge_at:
                self._values = {key: kept for key, kept in self._values.items() if kept[1] > now}
                self._purge_at = 2 * len(self._values) + 1_000

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values that are still kept."""
        with self._lock:
            now = self.clock()
            found = [self._values.get(key) for key in keys]
            return [None if kept is None or kept[1] <= now else kept[0] for kept in found]

    def listed(self, prefix: str) -> dict[str, bytes]:
        """Return what is still kept under a prefix."""
        with self._lock:
            now = self.clock()
            return {
                key: value for key, (value, until) in self._values.items() if until > now and key.startswith(prefix)
            }

    def delete(self, keys: Sequence[str]) -> None:
        """Forget keys."""
        with self._lock:
            for key in keys:
                self._values.pop(key, None)

    # -- inside, under the lock -------------------------------------------------------------------

    def _grant(self, request: GrantRequest, owner: str, *, until: float, now: float) -> Grant:
        task_id, delivery = request.task_id, request.delivery
        row = self._rows.get(task_id)
        if row is None:
            row = self._rows[task_id] = TaskRow(task_id, request.agent, delivery.topic)
        elif row.state is LEASED:
            if row.leased_until > now:
                return Busy(task_id, delivery, row.leased_until - now)
            row.lapses += 1
        elif row.state is not QUEUED:
            return Finished(task_id, delivery, row.state, row.result)
        elif row.not_before > now:
            return Busy(task_id, delivery, row.not_before - now)
        row.state = LEASED
        row.token += 1
        row.attempts += 1
        row.owner = owner
        row.leased_until = until
        row.settled_as = None
        self._activate(row)
        return Claim(
            task_id,
            row.token,
            delivery,
            request.reply_to,
            row.attempts,
            row.failures,
            row.crashes,
            row.lapses,
            row.errors,
        )

    def _settle(self, claim: Claim, verb: str) -> tuple[TaskRow | None, Written]:
        """Return the row to change, its lease ended, or None and why nothing is to be changed."""
        row = self._rows.get(claim.task_id)
        if row is None:
            row = self._rows[claim.task_id] = _rebuilt(claim)
        elif row.token != claim.token:
            return None, Written.STALE
        elif row.state is not LEASED:
            return None, Written.REPEATED if row.settled_as == verb else Written.STALE
        row.settled_as = verb
        return row, Written.STORED

    def _activate(self, row: TaskRow) -> None:
        active = self._active.get(row.topic)
        if active is None:
            active = self._active[row.topic] = {}
        active[row.task_id] = row

    def _requeue(self, row: TaskRow, delay: float) -> None:
        row.state = QUEUED
        row.owner = None
        if delay > 0:
            row.not_before = self.clock() + delay
            self._activate(row)
        else:
            self._active.get(row.topic, {}).pop(row.task_id, None)

    def _end(self, row: TaskRow, state: State, result: bytes, forgotten_at: float) -> None:
        self._active.get(row.topic, {}).pop(row.task_id, None)
        row.state = state
        row.result = result
        row.owner = None
        row.forgotten_at = forgotten_at
        if row.keep:
            self._kept.append(row)
        else:
            self._finished.append(row)
            self._bytes += len(result)

    def _forget(self, now: float) -> None:
        """Drop finished rows whose retention is over, and the oldest beyond the bounds."""
        finished, kept = self._finished, self._kept
        while kept and kept[0].forgotten_at <= now:
            self._drop(kept.popleft())
        while finished and (
            len(finished) > MEMORY_ROWS_KEPT or self._bytes > MEMORY_BYTES_KEPT or finished[0].forgotten_at <= now
        ):
            row = finished.popleft()
            self._bytes -= len(row.result or b"")
            self._drop(row)

    def _drop(self, row: TaskRow) -> None:
        if self._rows.get(row.task_id) is row:
            del self._rows[row.task_id]


def _rebuilt(claim: Claim) -> TaskRow:
    """Return a row that was lost, as its claim remembers it."""
    topic = claim.delivery.topic
    row = TaskRow(claim.task_id, topic.rpartition(".")[0].rpartition(".")[2], topic, state=LEASED, token=claim.token)
    row.attempts, row.failures, row.crashes = claim.attempts, claim.failures, claim.crashes
    row.lapses, row.errors = claim.lapses, tuple(claim.errors)
    return row


def _shown(row: TaskRow) -> Row:
    return Row(
        task_id=row.task_id,
        agent=row.agent,
        state=row.state,
        token=row.token,
        attempts=row.attempts,
        failures=row.failures,
        crashes=row.crashes,
        lapses=row.lapses,
        owner=row.owner,
        result=row.result,
        errors=row.errors,
    )
