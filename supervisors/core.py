"""The decision core: told what happened, it answers what to start and stop, in which order.

It reproduces Erlang/OTP's supervisor (stdlib 4.2, supervisor.erl), as far as decisions go. `boot` and
`decide` each make one decision, a generator of effects (see `effects`). A supervisor makes one decision
at a time. No task, no clock, no I/O: the time comes in with each call and each reply, random numbers from
the callable it is built with.

Between two attempts of a failing restart the core does not loop. It yields `Retry`, which asks to be told
`RetryDue` after everything that has arrived meanwhile: so requests are served in between.
"""

from collections.abc import Callable, Iterable, Mapping

from attrs import define, evolve, field

from supervisors.child import Failed, Ignored, Started, StartOutcome
from supervisors.effects import Decision, Retry, Start, Stop, Stopping
from supervisors.errors import (
    AlreadyPresent,
    AlreadyStarted,
    IntensityExceeded,
    MaxChildren,
    NotFound,
    Restarting,
    Running,
    SimpleOneForOne,
    SpecError,
    StartFailed,
)
from supervisors.inputs import (
    DeleteChild,
    Exited,
    Input,
    Look,
    RestartChild,
    RetryDue,
    ShutDown,
    StartChild,
    StartDynamic,
    TerminateChild,
)
from supervisors.reasons import Escalated, ExitReason, Stopped, Stuck, is_clean, is_doom
from supervisors.slot import Slot, State
from supervisors.spec import AutoShutdown, ChildSpec, Exceeded, Restart, Strategy, SupervisorSpec


@define(eq=False)
class Core:
    """State of one supervisor. `slots` is in start order; `ended` says why, once it has ended."""

    spec: SupervisorSpec
    random: Callable[[], float]
    slots: dict[str, Slot] = field(factory=dict, init=False)
    ended: ExitReason | None = field(default=None, init=False)
    _restarts: tuple[float, ...] = field(default=(), init=False)
    _incarnations: int = field(default=0, init=False)
    _started: int = field(default=0, init=False)  # dynamic children, for their keys
    _doom: ExitReason | None = field(default=None, init=False)

    # ---- what happens to a supervisor

    def boot(self) -> Decision[None]:
        """Start the children, in order. Raises StartFailed after stopping those that had started."""
        if self.spec.is_simple:
            return
        self.slots = {child.id: Slot(child, child.id) for child in self.spec.children}
        failed = yield from self._start_all(list(self.slots.values()))
        if failed is not None:
            assert failed.cause is not None
            yield from self._end(failed.cause)
            raise StartFailed(failed.key, failed.cause)

    def decide(self, told: Input, *, now: float) -> Decision[Slot | None]:
        """Answer one input. Returns the child that a request started, if any; raises the refusal of a request."""
        slot: Slot | None = None
        match told:
            case Exited(key, incarnation, reason):
                yield from self._exited(key, incarnation, reason, now=now)
            case RetryDue(key):
                yield from self._retry(key, now=now)
            case ShutDown(reason):
                yield from self._end(reason)
            case StartChild(spec):
                slot = yield from self._start_child(spec)
            case StartDynamic(args, kwargs):
                slot = yield from self._start_dynamic(args, kwargs)
            case TerminateChild(key):
                yield from self._terminate_child(key)
            case RestartChild(key):
                slot = yield from self._restart_child(key)
            case DeleteChild(key):
                del self.slots[self._idle(key).key]
            case Look():
                pass
        yield from self._end_if_doomed()
        return slot if slot is not None and slot.state is State.UP else None

    def is_current(self, key: str, incarnation: int) -> bool:
        """Whether this incarnation is the one that runs; the exit of any other is none of our business any more."""
        slot = self.slots.get(key)
        return slot is not None and slot.incarnation == incarnation and slot.state is State.UP

    def _exited(self, key: str, incarnation: int, reason: ExitReason, *, now: float) -> Decision[None]:
        if not self.is_current(key, incarnation):
            return
        slot = self.slots[key]
        self._consider(reason)
        slot.cause = reason
        if self._is_restarted(slot, reason):
            yield from self._failed(slot, now=now)
        else:
            self._drop(slot)
            if self._fires_auto_shutdown(slot):
                yield from self._end(Stopped("auto_shutdown"))

    def _retry(self, key: str, *, now: float) -> Decision[None]:
        """The time of another attempt has come. Void if the child came up, or was stopped, in the meantime."""
        slot = self.slots.get(key)
        if slot is not None and slot.state in (State.RESTARTING, State.PAUSED) and now >= slot.retry_at:
            yield from self._restart(slot, now=now)

    # ---- requests

    def _start_child(self, spec: ChildSpec) -> Decision[Slot]:
        if self.spec.is_simple:
            raise SimpleOneForOne(spec.id)
        self.spec.check_child(spec)
        known = self.slots.get(spec.id)
        if known is not None:
            raise AlreadyStarted(spec.id) if known.is_alive else AlreadyPresent(spec.id)
        return (yield from self._add(Slot(spec, spec.id)))

    def _start_dynamic(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Decision[Slot]:
        if not self.spec.is_simple:
            allowed = "Strategy.SIMPLE_ONE_FOR_ONE for start_dynamic(); use start_child()"
            raise SpecError(field="strategy", value=self.spec.strategy, allowed=allowed)
        template = self.template
        spec = evolve(template, args=template.args + args, kwargs={**template.kwargs, **kwargs})
        self._started += 1
        return (yield from self._add(Slot(spec, f"{template.id}#{self._started}")))

    def _add(self, slot: Slot) -> Decision[Slot]:
        if self.spec.max_children is not None and len(self.slots) >= self.spec.max_children:
            raise MaxChildren(self.spec.max_children)
        self.slots[slot.key] = slot
        outcome = yield from self._start(slot)
        if isinstance(outcome, Failed):
            if slot.state is not State.STUCK:
                del self.slots[slot.key]
            yield from self._end_if_doomed()
            raise StartFailed(slot.key, outcome.reason)
        return slot

    def _terminate_child(self, key: str) -> Decision[None]:
        """Repeating it is no error."""
        slot = self.slots.get(key)
        if slot is None:
            if self.spec.is_simple and self._was_ours(key):
                return
            raise SimpleOneForOne(key) if self.spec.is_simple and key == self.template.id else NotFound(key)
        yield from self._stop_all([slot])
        slot.is_held = True

    def _restart_child(self, key: str) -> Decision[Slot]:
        """A failure changes nothing and counts for nothing."""
        slot = self._idle(key)
        slot.failures = 0
        outcome = yield from self._start(slot)
        if isinstance(outcome, Failed):
            yield from self._end_if_doomed()
            raise StartFailed(key, outcome.reason)
        return slot

    def _idle(self, key: str) -> Slot:
        """The slot of a child that is known and does not run."""
        if self.spec.is_simple:
            raise SimpleOneForOne(key)
        slot = self.slots.get(key)
        if slot is None:
            raise NotFound(key)
        if slot.is_alive:
            raise Running(key)
        if slot.state is State.RESTARTING:
            raise Restarting(key)
        return slot

    def _was_ours(self, key: str) -> bool:
        name, _, number = key.rpartition("#")
        return name == self.template.id and number.isdecimal() and 1 <= int(number) <= self._started

    def child_spec(self, key: str) -> ChildSpec:
        """The spec of a child; of a dynamic one the template, also when it has ended."""
        if self.spec.is_simple:
            if key in self.slots or self._was_ours(key):
                return self.template
            raise NotFound(key)
        if key not in self.slots:
            raise NotFound(key)
        return self.slots[key].spec

    @property
    def template(self) -> ChildSpec:
        """The spec that all dynamic children share."""
        return self.spec.children[0]

    # ---- restarting

    def _is_restarted(self, slot: Slot, reason: ExitReason) -> bool:
        if is_doom(reason) or slot.spec.restart is Restart.TEMPORARY:
            return False
        if slot.spec.restart is Restart.PERMANENT:
            return True
        return not is_clean(reason, escalation_is_clean=self.spec.escalation_is_clean)

    def _failed(self, slot: Slot, *, now: float) -> Decision[None]:
        """A child that is to be restarted ended: do it at once, or after its backoff."""
        backoff = slot.spec.backoff
        if backoff is not None and now - slot.up_since >= backoff.reset_after:
            slot.failures = 0
        slot.state = State.UNDEFINED
        delay = self._delay(slot)
        if delay > 0:
            yield from self._stop_all([s for s in self._group(slot) if s is not slot])
            yield from self._try_later(slot, delay=delay, now=now)
        else:
            yield from self._restart(slot, now=now)

    def _restart(self, slot: Slot, *, now: float) -> Decision[None]:
        """One attempt: count it, stop what goes down with the child, start what comes up with it."""
        try:
            self._restarts = self.spec.intensity.admit(self._restarts, now=now)
        except IntensityExceeded:
            yield from self._exceeded(slot, now=now)
            return
        slot.state = State.UNDEFINED
        slot.failures += 1
        slot.restarts += 1
        group = self._group(slot)
        yield from self._stop_all([s for s in group if s is not slot])
        failed = yield from self._start_all([s for s in group if s.key in self.slots and self._takes_part(s, slot)])
        if failed is not None and self._doom is None:
            if failed is not slot:
                failed.failures += 1
            yield from self._try_later(failed, delay=self._delay(failed), now=now)

    def _group(self, slot: Slot) -> list[Slot]:
        slots = list(self.slots.values())
        if self.spec.strategy is Strategy.ONE_FOR_ALL:
            return slots
        if self.spec.strategy is Strategy.REST_FOR_ONE:
            return slots[slots.index(slot) :]
        return [slot]

    def _takes_part(self, slot: Slot, failed: Slot) -> bool:
        return slot is failed or self.spec.revive or not slot.is_held

    def _delay(self, slot: Slot) -> float:
        """The first restart in a row is immediate, the n-th after it waits the n-th delay."""
        if slot.spec.backoff is None or slot.failures == 0:
            return 0.0
        return slot.spec.backoff.delay(slot.failures - 1, random=self.random())

    def _try_later(self, slot: Slot, *, delay: float, now: float, is_pause: bool = False) -> Decision[None]:
        slot.state = State.PAUSED if is_pause else State.RESTARTING
        slot.retry_at = now + delay
        yield Retry(slot.key, delay, is_pause)

    def _exceeded(self, slot: Slot, *, now: float) -> Decision[None]:
        intensity = self.spec.intensity
        if self.spec.exceeded is Exceeded.PAUSE:
            self._restarts = ()
            yield from self._stop_all([s for s in self._group(slot) if s is not slot])
            yield from self._try_later(slot, delay=self.spec.pause, now=now, is_pause=True)
            return
        self._drop(slot)
        assert slot.cause is not None
        yield from self._end(Escalated(slot.key, slot.cause, intensity.max_restarts, intensity.period))

    def _fires_auto_shutdown(self, slot: Slot) -> bool:
        if not slot.spec.significant or self.spec.auto_shutdown is AutoShutdown.NEVER:
            return False
        if self.spec.auto_shutdown is AutoShutdown.ANY_SIGNIFICANT:
            return True
        return not any(s.spec.significant and s.state is not State.UNDEFINED for s in self.slots.values())

    # ---- starting and stopping

    def _start_all(self, slots: Iterable[Slot]) -> Decision[Slot | None]:
        """Start one after another. Returns the first that fails; those after it are not tried."""
        for slot in slots:
            if self._doom is not None:
                return slot
            outcome = yield from self._start(slot)
            if isinstance(outcome, Failed):
                return slot
        return None

    def _start(self, slot: Slot) -> Decision[StartOutcome]:
        self._incarnations += 1
        slot.incarnation = self._incarnations
        slot.state = State.STARTING
        slot.is_held = False
        reply = yield Start(slot.key, slot.spec, slot.incarnation)
        outcome = reply.outcome
        match outcome:
            case Started(info):
                slot.state, slot.info, slot.up_since = State.UP, info, reply.now
            case Ignored():
                self._drop(slot)
            case Failed(reason):
                slot.cause = reason
                slot.state = State.UNDEFINED
                self._consider(reason, slot)
            case _:
                raise TypeError(f"Start was answered {outcome!r}, not with Started, Ignored or Failed")
        return outcome

    def _stop_all(self, slots: list[Slot]) -> Decision[None]:
        """Stop those of `slots` that run, last one first, dynamic ones at once; forget the temporary ones."""
        running = [slot for slot in reversed(slots) if slot.state is State.UP]
        batches = [running] if self.spec.is_simple else [[slot] for slot in running]
        for batch in batches:
            if not batch:
                continue
            for slot in batch:
                slot.state = State.STOPPING
            stopping = tuple(Stopping(slot.key, slot.incarnation, slot.spec.grace) for slot in batch)
            reply = yield Stop(stopping, at_once=self.spec.is_simple)
            if not isinstance(reply.outcome, tuple):
                raise TypeError(f"Stop was answered {reply.outcome!r}, not with a tuple of reasons")
            for slot, reason in zip(batch, reply.outcome, strict=True):
                self._drop(slot)
                self._consider(reason, slot)
        for slot in slots:
            if slot.state is not State.STUCK:
                self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        """The child does not run any more. What is temporary or dynamic is forgotten, spec and arguments too."""
        slot.state = State.UNDEFINED
        slot.info = None
        if slot.is_temporary or self.spec.is_simple:
            self.slots.pop(slot.key, None)

    def _consider(self, reason: ExitReason, slot: Slot | None = None) -> None:
        """Remember what no restart can mend; the decision in progress ends the supervisor at its end."""
        if is_doom(reason):
            self._doom = self._doom or reason
        if slot is not None and isinstance(reason, Stuck):
            slot.state = State.STUCK
            self.slots[slot.key] = slot

    def _end_if_doomed(self) -> Decision[None]:
        if self._doom is not None:
            yield from self._end(self._doom)

    def _end(self, reason: ExitReason) -> Decision[None]:
        if self.ended is None:
            yield from self._stop_all(list(self.slots.values()))
            self.ended = self._doom or reason
