"""Random histories of the memory store against a model that is small enough to be believed.

The model of a task: how many grants it had, who may write (the last claim, or nobody), and
how it ended. Whatever workers, publishers and clocks do, the store must agree with it.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from murmur.envelope import ErrorNote
from murmur.store import (
    Burial,
    Busy,
    Claim,
    Completion,
    Failure,
    Finished,
    GrantRequest,
    NewTask,
    Row,
    State,
    Written,
)
from murmur.stores.memory import MemoryStore
from murmur.stores.memory_tables import MemoryTables
from murmur.testing import VirtualClock
from murmur.transport import Delivery

T = TypeVar("T")
TASKS = ("a", "b", "c")
TOPIC = "echo.tasks"
LEASE = 10.0


@define
class Model:
    """What a task must look like."""

    state: State = State.QUEUED
    grants: int = 0
    failures: int = 0
    crashes: int = 0
    lapses: int = 0
    leased_until: float = 0.0
    not_before: float = 0.0
    result: bytes | None = None
    letters: int = 0
    last: tuple[int, str] | None = None  # the token and verb that ended the last lease


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine that never waits returns."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # typed by the coroutine
    raise AssertionError("a verb of the memory store waited")


def requested(task_id: str) -> GrantRequest:
    return GrantRequest(Delivery(TOPIC, b"{}", {}, task_id, 1, None), task_id, "echo", None)


class MemoryStoreMachine(RuleBasedStateMachine):
    """Two workers and a publisher, a clock, and every verb in any order."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        tables = MemoryTables(clock=self.clock)
        self.stores = [MemoryStore(tables) for _ in range(2)]
        for number, store in enumerate(self.stores):
            run(store.open(owner=f"w{number}", lease=LEASE))
        self.models: dict[str, Model] = {}
        self.seen: dict[str, Row] = {}
        self.results = 0

    # -- what parties do --------------------------------------------------------------------------------------------

    @rule(task_id=st.sampled_from(TASKS))
    def admit(self, task_id: str) -> None:
        fresh = task_id not in self.models
        model = self.models.setdefault(task_id, Model())
        (admission,) = run(self.stores[0].admit([NewTask(task_id, "echo", TOPIC, b"{}")]))
        assert (admission.fresh, admission.state, admission.result) == (fresh, model.state, model.result)

    @rule(target=claims, task_id=st.sampled_from(TASKS), worker=st.integers(0, 1))
    def grant(self, task_id: str, worker: int) -> object:
        model, now = self.models.setdefault(task_id, Model()), self.clock()
        (grant,) = run(self.stores[worker].grant([requested(task_id)]))
        if model.state.is_terminal:
            assert isinstance(grant, Finished)
            assert (grant.state, grant.result) == (model.state, model.result)
            return multiple()
        if (model.leased_until if model.state is State.LEASED else model.not_before) > now:
            assert isinstance(grant, Busy)
            assert grant.retry_after > 0
            return multiple()
        assert isinstance(grant, Claim)
        model.lapses += model.state is State.LEASED
        model.state, model.grants, model.last = State.LEASED, model.grants + 1, None
        model.leased_until = now + LEASE
        counts = (model.grants, model.grants, model.failures, model.crashes, model.lapses)
        assert (grant.token, grant.attempts, grant.failures, grant.crashes, grant.lapses) == counts
        return grant

    @rule(claim=claims, worker=st.integers(0, 1))
    def renew(self, claim: Claim, worker: int) -> None:
        holds = self.may_write(claim)
        assert list(run(self.stores[worker].renew([claim]))) == [holds]
        if holds:
            self.models[claim.task_id].leased_until = self.clock() + LEASE

    @rule(claim=claims, expired=st.booleans())
    def complete(self, claim: Claim, expired: bool) -> None:
        state = State.EXPIRED if expired else State.DONE
        result = self.next_result()
        if self.settles(claim, state.value, run(self.stores[0].complete([Completion(claim, result, state)]))):
            self.end(claim, state, result)

    @rule(claim=claims, crashed=st.booleans(), delay=st.sampled_from((0.0, 3.0)))
    def fail(self, claim: Claim, crashed: bool, delay: float) -> None:
        note = ErrorNote(attempt=claim.attempts, error_type="E", message="m", at=0.0)
        if self.settles(claim, "fail", run(self.stores[0].fail([Failure(claim, delay, note, crashed)]))):
            model = self.models[claim.task_id]
            model.failures, model.crashes = model.failures + (not crashed), model.crashes + crashed
            model.lapses = 0
            self.requeue(model, delay)

    @rule(claim=claims, delay=st.sampled_from((0.0, 3.0)))
    def release(self, claim: Claim, delay: float) -> None:
        if self.settles(claim, "release", run(self.stores[1].release([claim], delay=delay))):
            self.requeue(self.models[claim.task_id], delay)

    @rule(claim=consumes(claims))
    def bury(self, claim: Claim) -> None:
        result = self.next_result()
        burial = Burial(claim, "reason", claim.task_id.encode(), result)
        if self.settles(claim, State.DEAD.value, run(self.stores[0].bury([burial]))):
            self.models[claim.task_id].letters += 1
            self.end(claim, State.DEAD, result)

    @rule(task_id=st.sampled_from(TASKS))
    def cancel(self, task_id: str) -> None:
        result = self.next_result()
        states = dict(run(self.stores[0].cancel({task_id: result})))
        model = self.models.get(task_id)
        if model is None:
            assert states == {}
            return
        if not model.state.is_terminal:
            model.state, model.result, model.last = State.CANCELLED, result, None
        assert states == {task_id: model.state}

    @rule(seconds=st.sampled_from((0.5, 3.0, LEASE, 2 * LEASE)))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        now = self.clock()
        due = run(self.stores[0].sweep([TOPIC]))
        waits = [
            model.not_before - now
            for model in self.models.values()
            if model.state is State.QUEUED and model.not_before > now
        ]
        for model in self.models.values():
            if model.state is State.LEASED and model.leased_until <= now:
                model.state, model.lapses = State.QUEUED, model.lapses + 1
        assert due == (min(waits) if waits else None)

    # -- what must always hold --------------------------------------------------------------------------------------

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        rows = dict(zip(TASKS, run(self.stores[0].read(TASKS)), strict=True))
        for task_id, row in rows.items():
            model = self.models.get(task_id)
            assert (row is None) == (model is None)
            if row is not None and model is not None:
                assert (row.state, row.result) == (model.state, model.result)
                assert (row.token, row.attempts) == (model.grants, model.grants)
                assert (row.failures, row.crashes, row.lapses) == (model.failures, model.crashes, model.lapses)
                assert (row.owner is not None) == (row.state is State.LEASED)

    @invariant()
    def nothing_ever_falls_and_what_is_over_is_over(self) -> None:
        for row in run(self.stores[1].read(TASKS)):
            if row is None:
                continue
            before = self.seen.get(row.task_id, row)
            assert row.token >= before.token
            assert row.attempts >= before.attempts
            assert row.failures >= before.failures
            assert row.crashes >= before.crashes
            assert not before.state.is_terminal or row == before
            self.seen[row.task_id] = row

    @invariant()
    def a_buried_task_has_one_letter(self) -> None:
        letters = list(run(self.stores[0].dead_letters("echo")))
        buried = [task_id.encode() for task_id, model in self.models.items() if model.state is State.DEAD]
        assert sorted(letters) == sorted(buried)
        assert all(model.letters <= 1 for model in self.models.values())

    # -- the model's own steps --------------------------------------------------------------------------------------

    def may_write(self, claim: Claim) -> bool:
        model = self.models[claim.task_id]
        return model.state is State.LEASED and model.grants == claim.token

    def settles(self, claim: Claim, verb: str, written: Any) -> bool:
        """Check the answer to a guarded write; return whether it was the one that counts."""
        model, (answer,) = self.models[claim.task_id], written
        if self.may_write(claim):
            assert answer is Written.STORED
            model.last = (claim.token, verb)
            return True
        assert answer is (Written.REPEATED if model.last == (claim.token, verb) else Written.STALE)
        return False

    def requeue(self, model: Model, delay: float) -> None:
        model.state = State.QUEUED
        if delay:
            model.not_before = self.clock() + delay

    def end(self, claim: Claim, state: State, result: bytes) -> None:
        model = self.models[claim.task_id]
        model.state, model.result = state, result

    def next_result(self) -> bytes:
        self.results += 1
        return str(self.results).encode()


MemoryStoreMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestMemoryStoreMachine = MemoryStoreMachine.TestCase
