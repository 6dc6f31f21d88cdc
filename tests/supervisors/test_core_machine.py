"""Whatever happens to a supervisor, in whatever order: its invariants hold. The core alone, on the test's clock."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from supervisors import AutoShutdown, ChildSpec, Intensity, Restart, State, Strategy, SupervisorSpec
from supervisors.child import Failed, Ignored, Started
from supervisors.core import Core
from supervisors.effects import Reply, Retry, Start, Stop
from supervisors.errors import SupervisorError
from supervisors.inputs import DeleteChild, Exited, Input, RestartChild, RetryDue, ShutDown, StartChild, TerminateChild
from supervisors.reasons import Crashed, Escalated, ExitReason, Killed, Normal, Stopped
from supervisors.testing import Boom

REASONS: dict[str, ExitReason] = {"normal": Normal(), "asked": Stopped(), "crash": Crashed(Boom()), "killed": Killed()}
OUTCOMES = {"ok": Started(), "ignore": Ignored(), "error": Failed(Crashed(Boom()))}
IDS = ("a", "b", "c", "d")
MAX_RESTARTS, PERIOD = 2, 5.0
ANSWERED_WITHIN = 60  # effects of one decision; four children, each stopped and started a few times


def child(name: str, restart: Restart, *, is_significant: bool) -> ChildSpec:
    return ChildSpec(id=name, start=anyio.sleep_forever, restart=restart, significant=is_significant)


class CoreMachine(RuleBasedStateMachine):
    """The shell in miniature: carries out what the core asks for, and looks at every effect."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.live: dict[str, int] = {}  # incarnation by key
        self.gone: list[tuple[str, int]] = []  # incarnations that have ended, for stale exits
        self.retries: list[str] = []
        self.attempts: list[float] = []
        self.is_retry = False

    @initialize(
        strategy=st.sampled_from([Strategy.ONE_FOR_ONE, Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE]),
        auto_shutdown=st.sampled_from(AutoShutdown),
        restarts=st.lists(st.sampled_from(Restart), min_size=3, max_size=3),
        significant=st.lists(st.booleans(), min_size=3, max_size=3),
    )
    def start(
        self, strategy: Strategy, auto_shutdown: AutoShutdown, restarts: list[Restart], significant: list[bool]
    ) -> None:
        self.auto_shutdown = auto_shutdown
        children = [
            child(name, how, is_significant=self.may_matter(how) and matters)
            for name, how, matters in zip(IDS, restarts, significant, strict=False)
        ]
        self.core = Core(
            SupervisorSpec(
                strategy=strategy,
                auto_shutdown=auto_shutdown,
                intensity=Intensity(MAX_RESTARTS, period=PERIOD),
                children=children,
            ),
            random=float,
        )
        self.perform(self.core.boot(), plan=[])

    def may_matter(self, restart: Restart) -> bool:
        return restart is not Restart.PERMANENT and self.auto_shutdown is not AutoShutdown.NEVER

    @property
    def is_up(self) -> bool:
        return self.core.ended is None

    # ---- what happens

    @precondition(lambda self: self.is_up and self.live)
    @rule(data=st.data(), reason=st.sampled_from(sorted(REASONS)))
    def a_child_ends(self, data: st.DataObject, reason: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.live)))
        slot = self.core.slots[key]
        is_significant, incarnation = slot.spec.significant, self.live.pop(key)
        self.gone.append((key, incarnation))
        self.decide(Exited(key, incarnation, REASONS[reason]), data)
        if self.core.ended is not None and not isinstance(self.core.ended, Escalated):
            assert is_significant, f"{key} was not significant, yet its end ended the supervisor"

    @precondition(lambda self: self.is_up and self.gone)
    @rule(data=st.data())
    def an_old_exit_comes_late(self, data: st.DataObject) -> None:
        key, incarnation = data.draw(st.sampled_from(self.gone))
        if self.core.is_current(key, incarnation):
            raise AssertionError(f"the exit of incarnation {incarnation} of {key} is taken for news")

    @precondition(lambda self: self.is_up and self.retries)
    @rule(data=st.data())
    def a_retry_is_due(self, data: st.DataObject) -> None:
        self.decide(RetryDue(self.retries.pop(0)), data)

    @precondition(lambda self: self.is_up)
    @rule(
        data=st.data(),
        key=st.sampled_from(IDS),
        request=st.sampled_from([TerminateChild, RestartChild, DeleteChild]),
    )
    def an_operator_asks(self, data: st.DataObject, key: str, request: Callable[[str], Any]) -> None:
        self.decide(request(key), data)
        assert self.core.ended is None, f"{request} ended the supervisor"

    @precondition(lambda self: self.is_up)
    @rule(data=st.data(), key=st.sampled_from(IDS), restart=st.sampled_from(Restart), matters=st.booleans())
    def a_child_is_added(self, data: st.DataObject, key: str, restart: Restart, matters: bool) -> None:
        self.decide(StartChild(child(key, restart, is_significant=matters and self.may_matter(restart))), data)

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.is_up)
    @rule(data=st.data())
    def it_is_asked_to_end(self, data: st.DataObject) -> None:
        self.decide(ShutDown(Stopped()), data)
        assert self.core.ended is not None

    # ---- carrying out, and looking on

    def decide(self, told: Input, data: st.DataObject) -> None:
        plan = data.draw(st.lists(st.sampled_from(sorted(OUTCOMES)), max_size=4))
        known = set(self.core.slots)
        self.is_retry = isinstance(told, Exited | RetryDue)
        try:
            self.perform(self.core.decide(told, now=self.now), plan)
        except SupervisorError:
            assert not self.is_retry
        if isinstance(told, Exited) and told.key in known and told.key not in self.live:
            slot = self.core.slots.get(told.key)
            assert slot is None or not slot.is_temporary, "a temporary child is kept after its end"

    def perform(self, decision: Any, plan: list[str]) -> None:
        order = list(self.core.slots)
        stopped: list[int] = []
        started: list[int] = []
        reply: Reply | None = None
        for _ in range(ANSWERED_WITHIN):
            try:
                effect = next(decision) if reply is None else decision.send(reply)
            except StopIteration:
                self.look_at_orders(stopped, started)
                return
            outcome: Any = None
            order = list(self.core.slots)
            match effect:
                case Start(key, spec, incarnation):
                    outcome = self.begin(key, spec, incarnation, plan)
                    started.append(order.index(key) if key in order else len(order))
                case Stop(children):
                    for one in children:
                        assert self.live.pop(one.key) == one.incarnation
                        self.gone.append((one.key, one.incarnation))
                        stopped.append(order.index(one.key))
                    outcome = tuple(Stopped() for _ in children)
                case Retry(key):
                    self.retries.append(key)
            reply = Reply(outcome, self.now)
        raise AssertionError(f"one decision took more than {ANSWERED_WITHIN} effects")

    def begin(self, key: str, spec: ChildSpec, incarnation: int, plan: list[str]) -> Any:
        assert key not in self.live, f"a second {key} is started beside the first"
        if self.is_retry:
            assert spec.restart is not Restart.TEMPORARY, f"temporary {key} is restarted"
        outcome = OUTCOMES[plan.pop(0) if plan else "ok"]
        if isinstance(outcome, Started):
            self.live[key] = incarnation
        return outcome

    def look_at_orders(self, stopped: list[int], started: list[int]) -> None:
        assert stopped == sorted(stopped, reverse=True), "not stopped in reverse order"
        assert started == sorted(started), "not started in order"
        if started and self.is_retry:
            self.attempts = [*(at for at in self.attempts if self.now - at <= PERIOD), self.now]
            assert len(self.attempts) <= MAX_RESTARTS, "more restarts than the intensity allows"

    @invariant()
    def what_is_shown_is_what_is(self) -> None:
        if not hasattr(self, "core"):
            return
        up = {key: slot.incarnation for key, slot in self.core.slots.items() if slot.state is State.UP}
        assert up == self.live
        if self.core.ended is not None:
            assert not self.live, "it has ended, and children live"


QUICK = settings(max_examples=250, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
TestCore = CoreMachine.TestCase
TestCore.settings = QUICK


def plant(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    stop_all, admit = Core._stop_all, Intensity.admit
    match bug:
        case "stops in start order":
            monkeypatch.setattr(Core, "_stop_all", lambda self, slots: stop_all(self, slots[::-1]))
        case "counts a failed start as none":
            monkeypatch.setattr(Intensity, "admit", lambda self, past, *, now: admit(self, past[2:], now=now))
        case "restarts what is temporary":
            monkeypatch.setattr(Core, "_is_restarted", lambda self, slot, reason: True)
        case "takes old exits for news":
            monkeypatch.setattr(Core, "is_current", lambda self, key, incarnation: key in self.slots)
        case "ends with anybody":
            monkeypatch.setattr(Core, "_fires_auto_shutdown", lambda self, slot: True)
        case "leaves children behind":
            monkeypatch.setattr(Core, "_stop_all", lambda self, slots: stop_all(self, slots[1:]))


@pytest.mark.parametrize(
    "bug",
    [
        "stops in start order",
        "counts a failed start as none",
        "restarts what is temporary",
        "takes old exits for news",
        "ends with anybody",
        "leaves children behind",
    ],
)
def test_a_planted_bug_breaks_an_invariant(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, bug)
    with pytest.raises((AssertionError, LookupError)):  # of ours, or of a core that lost its way
        run_state_machine_as_test(
            CoreMachine, settings=settings(QUICK, database=None, print_blob=False, phases=[Phase.generate])
        )
