"""A supervisor on the event loop: one inbox, one decision at a time, carried out on children.

The decisions are `core`'s; this is the thin loop that feeds it with what happened and does what it
answers. A supervisor runs in one task and holds no lock: requests wait in its inbox, as in OTP.
"""

from collections import deque
from collections.abc import Callable
from random import random as draw
from typing import Generic, TypeVar

import anyio
from anyio import CancelScope, Event
from anyio.abc import TaskGroup
from attrs import define, field, frozen

from supervisors.child import Child, Launch, Started, StartOutcome
from supervisors.clock import Clock, sleep
from supervisors.core import Core, Decision, Reply, Retry, Slot, Start, State, Stop
from supervisors.errors import NotAlive, SupervisorError
from supervisors.reasons import ExitReason, Killed, Stopped
from supervisors.spec import ChildSpec, ChildType, SupervisorSpec

T = TypeVar("T")
_SHUTDOWN = Stopped("shutdown")


@frozen
class ChildRef:
    """A child that was started: its key, which incarnation, and what it said when it was ready."""

    id: str
    incarnation: int
    info: object = None


@frozen
class ChildInfo:
    """One line of `which_children`. `supervisor` is the supervisor below, if the child is one and is up."""

    id: str
    state: State
    type: ChildType
    info: object = None
    supervisor: "Supervisor | None" = field(default=None, repr=False)


@frozen
class ChildCounts:
    """What `count_children` answers: specs known, children running, and of all how many are of which type."""

    specs: int
    active: int
    supervisors: int
    workers: int


@frozen(eq=False)
class Tree:
    """What all supervisors of one tree share. `supervisors` holds those that are up, by path."""

    tasks: TaskGroup
    clock: Clock
    make_child: "Callable[[Launch, Tree], Child]"
    random: Callable[[], float] = draw
    supervisors: "dict[str, Supervisor]" = field(factory=dict)


@define(eq=False)
class _Call(Generic[T]):
    """A request in the inbox, and its answer."""

    decide: Callable[[], Decision[T]]
    done: Event = field(factory=Event)
    answer: T | None = None
    error: SupervisorError | None = None
    is_served: bool = False


@frozen
class _Exited:
    key: str
    incarnation: int
    reason: ExitReason


@frozen
class _RetryDue:
    key: str


@frozen
class _Stop:
    reason: ExitReason


class Supervisor:
    """A running supervisor. Made by `open_supervisor`, or by a supervisor above it."""

    def __init__(self, spec: SupervisorSpec, *, path: str, tree: Tree) -> None:
        self.spec = spec
        self.path = path
        self._tree = tree
        self.is_asked = False  # to end
        self._core = Core(spec, tree.random)
        self._children: dict[str, Child] = {}
        self._inbox: deque[_Call[object] | _Exited | _RetryDue | _Stop] = deque()
        self._bell = Event()
        self._finished = Event()
        self._starting: Child | None = None

    # ---- requests

    async def start_child(self, child: ChildSpec) -> ChildRef | None:
        """Add a child at the end and start it. None: it declined.

        Raises: AlreadyStarted, AlreadyPresent, MaxChildren, SimpleOneForOne, SpecError, StartFailed, NotAlive.
        """
        return _ref(await self._ask(lambda: self._core.start_child(child)))

    async def start_dynamic(self, *args: object, **kwargs: object) -> ChildRef | None:
        """Start a child of a simple_one_for_one supervisor, with more arguments for its template. None: it declined.

        Raises: MaxChildren, StartFailed, NotAlive.
        """
        return _ref(await self._ask(lambda: self._core.start_dynamic(args, kwargs)))

    async def terminate_child(self, child: str | ChildRef) -> None:
        """Stop a child and keep its spec, unless it is temporary or dynamic. Raises: NotFound, SimpleOneForOne."""
        await self._ask(lambda: self._core.terminate_child(_key(child)))

    async def restart_child(self, child: str | ChildRef) -> ChildRef | None:
        """Start a child that does not run. None: it declined.

        Raises: NotFound, Running, Restarting, StartFailed, SimpleOneForOne.
        """
        return _ref(await self._ask(lambda: self._core.restart_child(_key(child))))

    async def delete_child(self, child: str | ChildRef) -> None:
        """Forget a child that does not run. Raises: NotFound, Running, Restarting, SimpleOneForOne."""
        await self._ask(lambda: self._core.delete_child(_key(child)))

    async def shutdown(self) -> ExitReason:
        """Stop all children in reverse order and end. Returns why the supervisor ended."""
        self.request_shutdown()
        return await self.wait()

    def request_shutdown(self, reason: ExitReason = _SHUTDOWN) -> None:
        """Ask the supervisor to end, and go on without waiting. A start in progress is given up."""
        if self._core.ended is None:
            self.is_asked = True
            self._post(_Stop(reason))
            if self._starting is not None:
                self._tree.tasks.start_soon(self._starting.stop, 0)

    async def wait(self) -> ExitReason:
        """Wait until the supervisor has ended; returns why."""
        await self._finished.wait()
        return self._core.ended or Killed()

    # ---- questions, answered at once

    @property
    def ended(self) -> ExitReason | None:
        """Why it ended, or None while it lives."""
        return self._core.ended

    def which_children(self) -> list[ChildInfo]:
        """The children in start order."""
        return [self._info(slot) for slot in self._core.slots.values()]

    def count_children(self) -> ChildCounts:
        """How many there are. A child between two attempts counts in `specs`, not in `active`."""
        slots = list(self._core.slots.values())
        supervisors = sum(slot.spec.type is ChildType.SUPERVISOR for slot in slots)
        return ChildCounts(
            specs=1 if self.spec.is_simple else len(slots),
            active=sum(slot.state is State.UP for slot in slots),
            supervisors=supervisors,
            workers=len(slots) - supervisors,
        )

    def get_child_spec(self, child: str | ChildRef) -> ChildSpec:
        """The spec of a child. Raises NotFound."""
        return self._core.child_spec(_key(child))

    def supervisor(self, child: str) -> "Supervisor":
        """The supervisor that is a child of this one. Raises NotFound, NotAlive."""
        self._core.child_spec(child)
        below = self._tree.supervisors.get(f"{self.path}/{child}")
        if below is None:
            raise NotAlive(f"{self.path}/{child}")
        return below

    def _info(self, slot: Slot) -> ChildInfo:
        below = self._tree.supervisors.get(f"{self.path}/{slot.key}")
        return ChildInfo(slot.key, slot.state, slot.spec.type, slot.info, below)

    # ---- the loop

    async def run(self, on_up: Callable[[], None]) -> None:
        """Start the children, call `on_up`, serve to the end. Raises StartFailed. Cancelling it kills the children."""
        try:
            await self._perform(self._core.boot())
            self._tree.supervisors[self.path] = self
            on_up()
            while self._core.ended is None:
                await self._perform(self._decision(await self._next()))
        finally:
            with CancelScope(shield=True):
                for child in reversed(list(self._children.values())):  # none are left, unless we are being killed
                    await child.stop(0)
            self._children.clear()
            self._tree.supervisors.pop(self.path, None)
            self._refuse_waiting()
            self._finished.set()

    def _decision(self, message: "_Call[object] | _Exited | _RetryDue | _Stop") -> Decision[None]:
        now = self._tree.clock.now()
        match message:
            case _Exited(key, incarnation, reason):
                slot = self._core.slots.get(key)
                if slot is not None and slot.incarnation == incarnation:
                    self._children.pop(key, None)
                return self._core.exited(key, incarnation, reason, now=now)
            case _RetryDue(key):
                return self._core.retry(key, now=now)
            case _Stop(reason):
                return self._core.shutdown(reason)
            case _:
                return self._serve(message)

    def _serve(self, call: "_Call[object]") -> Decision[None]:
        try:
            call.answer = yield from call.decide()
        except SupervisorError as error:
            call.error = error
        finally:
            call.done.set()

    async def _perform(self, decision: Decision[T]) -> T:
        """Carry out a decision: do each effect, tell what came of it."""
        reply: Reply | None = None
        while True:
            try:
                effect = next(decision) if reply is None else decision.send(reply)
            except StopIteration as stop:
                result: T = stop.value
                return result
            match effect:
                case Start():
                    outcome: StartOutcome | tuple[ExitReason, ...] | None = await self._start(effect)
                case Stop(keys, at_once):
                    outcome = await self._stop(keys, at_once=at_once)
                case Retry(key, delay):
                    outcome = None
                    self._retry_later(key, delay)
            reply = Reply(outcome, self._tree.clock.now())

    async def _start(self, start: Start) -> StartOutcome:
        launch = Launch(
            spec=start.spec,
            path=f"{self.path}/{start.key}",
            incarnation=start.incarnation,
            on_exit=lambda reason: self._on_exit(start.key, start.incarnation, reason),
            clock=self._tree.clock,
        )
        child = self._tree.make_child(launch, self._tree)
        self._children[start.key] = self._starting = child
        try:
            outcome = await child.start()
        finally:
            self._starting = None
        if not isinstance(outcome, Started):
            del self._children[start.key]
        return outcome

    async def _stop(self, keys: tuple[str, ...], *, at_once: bool) -> tuple[ExitReason, ...]:
        reasons: dict[str, ExitReason] = {}

        async def stop(key: str) -> None:
            child = self._children[key]
            reasons[key] = await child.stop(self._core.slots[key].spec.grace)
            self._children.pop(key, None)

        if at_once:
            async with anyio.create_task_group() as group:
                for key in keys:
                    group.start_soon(stop, key)
        else:
            for key in keys:
                await stop(key)
        return tuple(reasons[key] for key in keys)

    def _retry_later(self, key: str, delay: float) -> None:
        async def wait() -> None:
            await sleep(self._tree.clock, delay)
            self._post(_RetryDue(key))

        if delay > 0:
            self._tree.tasks.start_soon(wait)
        else:
            self._post(_RetryDue(key))

    def _on_exit(self, key: str, incarnation: int, reason: ExitReason) -> None:
        self._post(_Exited(key, incarnation, reason))

    # ---- the inbox

    def _post(self, message: "_Call[object] | _Exited | _RetryDue | _Stop") -> None:
        self._inbox.append(message)
        self._bell.set()

    async def _next(self) -> "_Call[object] | _Exited | _RetryDue | _Stop":
        while not self._inbox:
            self._bell = Event()
            await self._bell.wait()
        return self._inbox.popleft()

    async def _ask(self, decide: Callable[[], Decision[T]]) -> T:
        if self._finished.is_set():
            raise NotAlive(self.path)
        call: _Call[T] = _Call(decide)
        self._post(call)  # type: ignore[arg-type]  # the inbox does not look at answers
        await call.done.wait()
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value]  # decided: an answer or an error

    def _refuse_waiting(self) -> None:
        for message in self._inbox:
            if isinstance(message, _Call):
                message.error = NotAlive(self.path)
                message.done.set()
        self._inbox.clear()


def _key(child: str | ChildRef) -> str:
    return child.id if isinstance(child, ChildRef) else child


def _ref(slot: Slot | None) -> ChildRef | None:
    if slot is None or slot.state is not State.UP:
        return None
    return ChildRef(slot.key, slot.incarnation, slot.info)
