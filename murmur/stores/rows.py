"""The life of a task's row, arrow by arrow, each with its guard, over whatever keeps the rows.

The row state machine of docs/explanation/guarantees.md, for stores that run it in this process: memory and
SQLite. Synchronous; where rows lie, and what makes a verb one atomic step, is the subclass's.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from attrs import frozen
from msgspec import Struct

from murmur.envelope import ErrorNote
from murmur.errors import LeaseLost
from murmur.limits import MAX_ERRORS_KEPT
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


class TaskRow(Struct, eq=False, omit_defaults=True):
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


class Rows(ABC):
    """The verbs of the store port that concern rows. `clock` tells seconds; only differences mean anything."""

    clock: Callable[[], float]

    # -- where rows lie ---------------------------------------------------------------------------

    @abstractmethod
    def _atomic(self) -> AbstractContextManager[object]:
        """Return what makes everything done inside one step that nobody sees half done."""

    @abstractmethod
    def _find(self, task_id: str) -> TaskRow | None:
        """Return a row to read or change."""

    @abstractmethod
    def _keep(self, row: TaskRow, *, is_active: bool) -> None:
        """Keep a row that is new or was changed; a sweep looks at the active ones."""

    @abstractmethod
    def _active_rows(self, topics: Sequence[str]) -> Iterable[TaskRow]:
        """Return the active rows of topics; they may be changed while this is iterated."""

    @abstractmethod
    def _keep_letter(self, agent: str, letter: bytes) -> None:
        """Keep a dead letter."""

    @abstractmethod
    def _tell_cancelled(self, task_id: str) -> None:
        """Let whoever may be running a task hear that it is cancelled."""

    @abstractmethod
    def _forget(self, now: float) -> None:
        """Drop finished rows whose retention is over."""

    # -- the life of a row ------------------------------------------------------------------------

    def admit(self, tasks: Sequence[NewTask]) -> list[Admission]:
        """(none) → QUEUED."""
        answers: list[Admission] = []
        with self._atomic():
            self._forget(self.clock())
            for task in tasks:
                row = self._find(task.task_id)
                if row is None:
                    self._keep(TaskRow(task.task_id, task.agent, task.topic, task.keep), is_active=False)
                    answers.append(Admission(task.task_id, True, QUEUED))
                else:
                    answers.append(Admission(task.task_id, False, row.state, row.result))
        return answers

    def grant(self, requests: Sequence[GrantRequest], lessee: Lessee) -> list[Grant]:
        """QUEUED, or LEASED and lapsed → LEASED under the next token."""
        with self._atomic():
            now = self.clock()
            until = math.inf if lessee.lease is None else now + lessee.lease
            return [self._grant(request, lessee.owner, until=until, now=now) for request in requests]

    def renew(self, claims: Sequence[Claim], lessee: Lessee) -> list[bool]:
        """LEASED → LEASED, for one lease from now."""
        until = math.inf if lessee.lease is None else self.clock() + lessee.lease
        answers: list[bool] = []
        with self._atomic():
            for claim in claims:
                row = self._find(claim.task_id)
                holds = row is not None and row.state is LEASED and row.token == claim.token
                if row is not None and holds:
                    row.leased_until = until
                    self._keep(row, is_active=True)
                answers.append(holds)
        return answers

    def complete(self, completions: Sequence[Completion], *, retention: float) -> list[Written]:
        """LEASED → terminal, with its result."""
        answers: list[Written] = []
        with self._atomic():
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
        with self._atomic():
            for failure in failures:
                row, written = self._settle(failure.claim, "fail")
                if row is not None:
                    row.crashes += failure.crashed
                    row.failures += failure.is_failure
                    row.lapses = 0
                    row.errors = (*row.errors, failure.error)[-MAX_ERRORS_KEPT:]
                    self._requeue(row, failure.delay)
                answers.append(written)
        return answers

    def release(self, claims: Sequence[Claim], *, delay: float) -> list[Written]:
        """LEASED → QUEUED, nothing counted."""
        answers: list[Written] = []
        with self._atomic():
            for claim in claims:
                row, written = self._settle(claim, "release")
                if row is not None:
                    self._requeue(row, delay)
                answers.append(written)
        return answers

    def bury(self, burials: Sequence[Burial], *, retention: float) -> list[Written]:
        """LEASED → DEAD, with dead letter and result."""
        answers: list[Written] = []
        with self._atomic():
            forgotten_at = self.clock() + retention
            for burial in burials:
                row, written = self._settle(burial.claim, DEAD.value)
                if row is not None:
                    self._keep_letter(row.agent, burial.letter)
                    self._end(row, DEAD, burial.result, forgotten_at)
                answers.append(written)
        return answers

    def sweep(self, topics: Sequence[str]) -> float | None:
        """LEASED and lapsed → QUEUED; return the seconds until the next delayed row is due."""
        with self._atomic():
            now = self.clock()
            next_due = math.inf
            for row in self._active_rows(topics):
                if row.state is LEASED:
                    if row.leased_until <= now:
                        row.lapses += 1
                        self._requeue(row, 0.0)
                elif row.not_before <= now:
                    self._keep(row, is_active=False)
                else:
                    next_due = min(next_due, row.not_before - now)
            return None if next_due == math.inf else next_due

    def cancel(self, results: Mapping[str, bytes], *, retention: float) -> dict[str, State]:
        """QUEUED or LEASED → CANCELLED; whoever listens hears of those that may be running."""
        states: dict[str, State] = {}
        with self._atomic():
            forgotten_at = self.clock() + retention
            for task_id, result in results.items():
                row = self._find(task_id)
                if row is not None:
                    if row.state is LEASED:
                        self._tell_cancelled(task_id)
                    if not row.state.is_terminal:
                        row.settled_as = None
                        self._end(row, CANCELLED, result, forgotten_at)
                    states[task_id] = row.state
        return states

    def read(self, task_ids: Sequence[str]) -> list[Row | None]:
        """Copy rows out."""
        with self._atomic():
            self._forget(self.clock())
            rows = [self._find(task_id) for task_id in task_ids]
            return [None if row is None else shown(row) for row in rows]

    def _held(self, claim: Claim) -> TaskRow:
        """Return the row that is leased under this very claim. Raises `LeaseLost`."""
        row = self._find(claim.task_id)
        if row is None or row.state is not LEASED or row.token != claim.token:
            raise LeaseLost(task_id=claim.task_id, token=claim.token)
        return row

    # -- inside one atomic step -------------------------------------------------------------------

    def _grant(self, request: GrantRequest, owner: str, *, until: float, now: float) -> Grant:
        task_id, delivery = request.task_id, request.delivery
        row = self._find(task_id)
        if row is None:
            row = TaskRow(task_id, request.agent, delivery.topic)
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
        self._keep(row, is_active=True)
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
        row = self._find(claim.task_id)
        if row is None:
            row = _rebuilt(claim)
        elif row.token != claim.token:
            return None, Written.STALE
        elif row.state is not LEASED:
            return None, Written.REPEATED if row.settled_as == verb else Written.STALE
        row.settled_as = verb
        return row, Written.STORED

    def _requeue(self, row: TaskRow, delay: float) -> None:
        row.state = QUEUED
        row.owner = None
        if delay > 0:
            row.not_before = self.clock() + delay
        self._keep(row, is_active=delay > 0)

    def _end(self, row: TaskRow, state: State, result: bytes, forgotten_at: float) -> None:
        row.state = state
        row.result = result
        row.owner = None
        row.forgotten_at = forgotten_at
        self._keep(row, is_active=False)


def _rebuilt(claim: Claim) -> TaskRow:
    """Return a row that was lost, as its claim remembers it."""
    topic = claim.delivery.topic
    row = TaskRow(claim.task_id, topic.rpartition(".")[0].rpartition(".")[2], topic, state=LEASED, token=claim.token)
    row.attempts, row.failures, row.crashes = claim.attempts, claim.failures, claim.crashes
    row.lapses, row.errors = claim.lapses, tuple(claim.errors)
    return row


def shown(row: TaskRow) -> Row:
    """Return a row for those who ask."""
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
