"""The decisions of a supervisor, as generators that do no I/O and know no clock.

Told what happened, a generator yields what is to be done, one effect at a time, and is
sent how it went: `StartChild` → `Outcome`, `StopChild` → nothing, `Checkpoint` → nothing (requests
are served there, between two attempts of a failing restart). A shell carries the effects
out: see `supervisors.tasks`. Rules and their order are those of OTP's supervisor.
Source: lib/stdlib/src/supervisor.erl, and scenarios recorded from it.
"""

import enum
from collections.abc import Callable, Generator, Iterable

from attrs import define, field, frozen

from supervisors.spec import AutoShutdown, ChildSpec, IntensityExceeded, Restart, Strategy, SupervisorSpec


class Outcome(enum.Enum):
    """How a start went."""

    UP = "up"
    IGNORED = "ignored"  # the child declined to run; its specification is kept
    FAILED = "failed"


class Status(enum.Enum):
    """Where a child stands."""

    UP = "up"
    UNDEFINED = "undefined"  # not running, and nobody is about to start it
    RESTARTING = "restarting"  # an attempt failed; the next one is due


class Answer(enum.Enum):
    """What an administrative request is answered with."""

    OK = "ok"
    IGNORED = "ignored"
    START_FAILED = "start_failed"
    ALREADY_STARTED = "already_started"
    ALREADY_PRESENT = "already_present"
    NOT_FOUND = "not_found"
    RUNNING = "running"
    RESTARTING = "restarting"


@define(eq=False)
class Child:
    """A child's specification and where it stands. `terminated`: by an operator, who alone brings it back."""

    spec: ChildSpec
    status: Status = Status.UNDEFINED
    terminated: bool = False


@frozen
class StartChild:
    """Start it, and send how that went."""

    child: Child


@frozen
class StopChild:
    """Stop it, and come back when it has ended."""

    child: Child


@frozen
class Checkpoint:
    """An attempt to restart this child failed: serve requests and other exits before the next."""

    child: Child


Effect = StartChild | StopChild | Checkpoint
Steps = Generator[Effect, Outcome | None, None]
Asked = Generator[Effect, Outcome | None, Answer]


@define(eq=False)
class Core:
    """One supervisor's children and what is done about them. `clock` gives seconds, for the intensity only."""

    spec: SupervisorSpec
    clock: Callable[[], float]
    children: list[Child] = field(factory=list)
    is_over: bool = False  # it gave up or shut itself down: all children are stopped
    exceeded: IntensityExceeded | None = None
    _window: tuple[float, ...] = ()

    def start(self) -> Generator[Effect, Outcome | None, Child | None]:
        """Start all children in order. Returns the one that failed, after stopping those before it; else None."""
        self.children = [Child(spec) for spec in self.spec.children]
        failed = yield from self._start_all(list(self.children))
        if failed is not None:
            yield from self.stop()
        return failed

    def stop(self) -> Steps:
        """Stop all children in reverse order."""
        self.is_over = True
        yield from self._stop_all(list(self.children))

    def exited(self, child: Child, *, is_clean: bool) -> Steps:
        """A running child ended by itself."""
        restart = child.spec.restart
        if restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and not is_clean):
            yield from self.restart(child)
            return
        self._end(child)
        if child.spec.significant and self._is_auto_shutdown():
            yield from self.stop()

    def restart(self, child: Child) -> Steps:
        """Restart a child and its group, again while that fails, until the intensity is exceeded."""
        while True:
            try:
                self._window = self.spec.intensity.admit(self._window, now=self.clock())
            except IntensityExceeded as error:
                self.exceeded = error
                self._end(child)
                yield from self.stop()
                return
            group = self._group(child)
            child.status = Status.UNDEFINED
            yield from self._stop_all([other for other in group if other is not child])
            failed = yield from self._start_all([c for c in group if c is child or self._revives(c)])
            if failed is None:
                return
            failed.status = Status.RESTARTING
            child = failed
            yield Checkpoint(child)
            if self.is_over or child.status is not Status.RESTARTING or child not in self.children:
                return

    # -- requests ------------------------------------------------------------------------------------------

    def find(self, child_id: str) -> Child | None:
        """Return the child of this id."""
        return next((child for child in self.children if child.spec.id == child_id), None)

    def start_child(self, spec: ChildSpec) -> Asked:
        """Add a child and start it. One that fails is not kept."""
        self.spec.check(spec)
        known = self.find(spec.id)
        if known is not None:
            return Answer.ALREADY_STARTED if known.status is Status.UP else Answer.ALREADY_PRESENT
        child = Child(spec)
        self.children.append(child)
        outcome = yield from self._start(child)
        if outcome is Outcome.FAILED:
            self.children.remove(child)
        return _answer(outcome)

    def terminate_child(self, child_id: str) -> Asked:
        """Stop a child and keep its specification, unless it is temporary. Again is fine."""
        child = self.find(child_id)
        if child is None:
            return Answer.NOT_FOUND
        if child.status is Status.UP:
            yield StopChild(child)
        self._end(child)
        child.terminated = True
        return Answer.OK

    def restart_child(self, child_id: str) -> Asked:
        """Start a child again that is not running."""
        child = self.find(child_id)
        if child is None:
            return Answer.NOT_FOUND
        if child.status is not Status.UNDEFINED:
            return Answer.RUNNING if child.status is Status.UP else Answer.RESTARTING
        return _answer((yield from self._start(child)))

    def delete_child(self, child_id: str) -> Asked:
        """Forget a child that is not running."""
        child = self.find(child_id)
        if child is None:
            return Answer.NOT_FOUND
        if child.status is not Status.UNDEFINED:
            return Answer.RUNNING if child.status is Status.UP else Answer.RESTARTING
        self.children.remove(child)
        yield from ()
        return Answer.OK

    # -- inside --------------------------------------------------------------------------------------------

    def _start(self, child: Child) -> Generator[Effect, Outcome | None, Outcome]:
        outcome = yield StartChild(child)
        assert outcome is not None
        if outcome is Outcome.UP:
            child.status, child.terminated = Status.UP, False
        elif outcome is Outcome.IGNORED:
            self._end(child)
        return outcome

    def _start_all(self, children: Iterable[Child]) -> Generator[Effect, Outcome | None, Child | None]:
        for child in children:
            if (yield from self._start(child)) is Outcome.FAILED:
                return child
        return None

    def _stop_all(self, children: list[Child]) -> Steps:
        for child in reversed(children):
            if child.status is Status.UP:
                yield StopChild(child)
            self._end(child)

    def _end(self, child: Child) -> None:
        """The child is not running and will not be restarted by itself: a temporary one is forgotten."""
        child.status = Status.UNDEFINED
        if child.spec.restart is Restart.TEMPORARY and child in self.children:
            self.children.remove(child)

    def _group(self, child: Child) -> list[Child]:
        if self.spec.strategy is Strategy.ONE_FOR_ONE:
            return [child]
        if self.spec.strategy is Strategy.REST_FOR_ONE:
            return self.children[self.children.index(child) :]
        return list(self.children)

    def _revives(self, child: Child) -> bool:
        return child in self.children and (self.spec.revive or not child.terminated)

    def _is_auto_shutdown(self) -> bool:
        if self.spec.auto_shutdown is AutoShutdown.ANY_SIGNIFICANT:
            return True
        return self.spec.auto_shutdown is AutoShutdown.ALL_SIGNIFICANT and not any(
            child.spec.significant and child.status is not Status.UNDEFINED for child in self.children
        )


def _answer(outcome: Outcome) -> Answer:
    return {Outcome.UP: Answer.OK, Outcome.IGNORED: Answer.IGNORED, Outcome.FAILED: Answer.START_FAILED}[outcome]
