"""A supervisor on the event loop: one inbox, one decision at a time, carried out on children.

The decisions are `core`'s; this is the thin loop that feeds it with what happened and does what it
answers. A supervisor runs in one task and holds no lock: requests wait in its inbox, as in OTP.
"""

from collections import deque
from collections.abc import Callable
from random import random as draw
from typing import Final

import anyio
from anyio import CancelScope, Event
from anyio.abc import TaskGroup
from attrs import define, field, frozen

from supervisors.child import Child, Failed, HasStacks, Launch, Started, StartOutcome
from supervisors.clock import Clock, sleep
from supervisors.core import Core
from supervisors.effects import Decision, Outcome, Reply, Retry, Start, Stop, Stopping, T
from supervisors.errors import NotAlive, SupervisorError
from supervisors.events import (
    ChildExited,
    ChildFailed,
    ChildIgnored,
    ChildStarted,
    ChildStopped,
    EventHub,
    EventStream,
    Requested,
    RetryBegun,
    RetryPlanned,
    SupervisorEnded,
    SupervisorEnding,
    SupervisorStarting,
    SupervisorUp,
    TreeEvent,
)
from supervisors.inputs import (
    DeleteChild,
    Exited,
    Look,
    Request,
    RestartChild,
    RetryDue,
    ShutDown,
    StartChild,
    StartDynamic,
    TerminateChild,
)
from supervisors.reasons import ExitReason, Killed, Stopped
from supervisors.render import text_tree
from supervisors.slot import Slot
from supervisors.spec import ChildSpec, SupervisorSpec
from supervisors.views import ChildCounts, ChildInfo, ChildRef, Snapshot, counts_of, info_of

ASKED: Final = Stopped("shutdown")


@frozen(eq=False)
class Tree:
    """What all supervisors of one tree share. `supervisors` holds those that are up, by path."""

    tasks: TaskGroup
    clock: Clock
    make_child: "Callable[[Launch, Tree], Child]"
    random: Callable[[], float] = draw
    supervisors: "dict[str, Supervisor]" = field(factory=dict)
    events: EventHub = field(factory=EventHub)


@define(eq=False)
class Call:
    """A request in the inbox, and its answer."""

    request: Request
    done: Event = field(factory=Event)
    answer: ChildRef | Snapshot | None = None
    error: SupervisorError | None = None


_Message = Call | Exited | RetryDue | ShutDown


class Supervisor:
    """A running supervisor. Made by `open_supervisor`, or by a supervisor above it."""

    def __init__(self, spec: SupervisorSpec, *, path: str, tree: Tree) -> None:
        self.spec = spec
        self.path = path
        self.is_asked = False  # to end
        self._tree = tree
        self._core = Core(spec, tree.random)
        self._children: dict[str, Child] = {}
        self._inbox: deque[_Message] = deque()
        self._bell = Event()
        self._finished = Event()
        self._starting: Child | None = None

    # ---- requests

    async def start_child(self, child: ChildSpec) -> ChildRef | None:
        """Add a child at the end and start it. None: it declined.

        Raises: AlreadyStarted, AlreadyPresent, MaxChildren, SimpleOneForOne, SpecError, StartFailed, NotAlive.
        """
        return await self._ask_for_child(StartChild(child))

    async def start_dynamic(self, *args: object, **kwargs: object) -> ChildRef | None:
        """Start a child of a simple_one_for_one supervisor, with more arguments for its template. None: it declined.

        Raises: MaxChildren, StartFailed, NotAlive.
        """
        return await self._ask_for_child(StartDynamic(args, kwargs))

    async def terminate_child(self, child: str | ChildRef) -> None:
        """Stop a child and keep its spec, unless it is temporary or dynamic. Raises: NotFound, SimpleOneForOne."""
        await self._ask(TerminateChild(_key(child)))

    async def restart_child(self, child: str | ChildRef) -> ChildRef | None:
        """Start a child that does not run. None: it declined.

        Raises: NotFound, Running, Restarting, StartFailed, SimpleOneForOne, NotAlive.
        """
        return await self._ask_for_child(RestartChild(_key(child)))

    async def delete_child(self, child: str | ChildRef) -> None:
        """Forget a child that does not run. Raises: NotFound, Running, Restarting, SimpleOneForOne, NotAlive."""
        await self._ask(DeleteChild(_key(child)))

    async def snapshot(self) -> Snapshot:
        """Children and counts as they are when this request's turn has come, between two decisions."""
        answer = await self._ask(Look())
        assert isinstance(answer, Snapshot)
        return answer

    async def shutdown(self) -> ExitReason:
        """Stop all children in reverse order and end. Returns why the supervisor ended."""
        self.request_shutdown()
        return await self.wait()

    def request_shutdown(self, reason: ExitReason = ASKED) -> None:
        """Ask the supervisor to end, and go on without waiting. A start in progress is given up."""
        if self._core.ended is None:
            self.is_asked = True
            self._post(ShutDown(reason))
            if self._starting is not None:
                self._tree.tasks.start_soon(self._starting.stop, 0)

    async def wait(self) -> ExitReason:
        """Wait until the supervisor has ended; returns why."""
        await self._finished.wait()
        return self._core.ended or Killed()

    def submit(self, request: Request) -> Call:
        """Put a request into the inbox and go on; the methods above wait for `done` as well. Raises NotAlive."""
        if self._finished.is_set():
            raise NotAlive(self.path)
        call = Call(request)
        self._post(call)
        return call

    async def dump_stacks(self, *, patience: float = 1.0) -> dict[str, str]:
        """What the threads of each process child are at, here and below, by path. See `child.HasStacks.stacks`."""
        stacks: dict[str, str] = {}

        async def ask(path: str, child: HasStacks) -> None:
            stacks[path] = await child.stacks(patience)

        async with anyio.create_task_group() as tasks:
            for one in {self, *self._tree.supervisors.values()}:
                for key, child in one._children.items() if f"{one.path}/".startswith(f"{self.path}/") else ():
                    if isinstance(child, HasStacks):
                        tasks.start_soon(ask, f"{one.path}/{key}", child)
        return stacks

    # ---- questions, answered at once

    @property
    def ended(self) -> ExitReason | None:
        """Why it ended, or None while it lives."""
        return self._core.ended

    @property
    def backlog(self) -> int:
        """How many exits and requests wait in the inbox."""
        return len(self._inbox)

    def which_children(self) -> list[ChildInfo]:
        """The children in start order, with those of the supervisors below."""
        return [info_of(slot, self._below(slot)) for slot in self._core.slots.values()]

    def count_children(self) -> ChildCounts:
        """How many there are."""
        return counts_of(list(self._core.slots.values()), is_simple=self.spec.is_simple)

    def get_child_spec(self, child: str | ChildRef) -> ChildSpec:
        """The spec of a child. Raises NotFound."""
        return self._core.child_spec(_key(child))

    def render_tree(self) -> str:
        """The tree as it stands, one line a child, as text. `supervisors.render.rich_tree` draws it in colour."""
        return text_tree(self.path, self.which_children())

    def supervisor(self, child: str) -> "Supervisor":
        """The supervisor that is a child of this one. Raises NotFound, NotAlive."""
        self._core.child_spec(child)
        below = self._tree.supervisors.get(f"{self.path}/{child}")
        if below is None:
            raise NotAlive(f"{self.path}/{child}")
        return below

    def events(self, *, capacity: int = 1_024) -> EventStream:
        """Everything that happens from now on, here and below. Keep reading: beyond `capacity` the oldest are lost."""
        return self._tree.events.stream(self.path, capacity)

    def _below(self, slot: Slot) -> tuple[ChildInfo, ...] | None:
        below = self._tree.supervisors.get(f"{self.path}/{slot.key}")
        return None if below is None else tuple(below.which_children())

    # ---- the loop

    async def run(self, on_up: Callable[[], None]) -> None:
        """Start the children, call `on_up`, serve to the end. Raises StartFailed. Cancelling it kills the children."""
        self._tell(SupervisorStarting, spec=self.spec)
        try:
            await self._perform(self._core.boot())
            self._tree.supervisors[self.path] = self
            self._tell(SupervisorUp)
            on_up()
            while self._core.ended is None:
                await self._handle(await self._next())
        finally:
            with CancelScope(shield=True):
                for child in reversed(list(self._children.values())):  # none are left, unless we are being killed
                    await child.stop(0)
            self._children.clear()
            self._tree.supervisors.pop(self.path, None)
            self._refuse_waiting()
            self._tell(SupervisorEnded, reason=self._core.ended or Killed())
            self._finished.set()

    async def _handle(self, message: _Message) -> None:
        match message:
            case Call():
                await self._serve(message)
                return
            case Exited(key, incarnation, reason):
                if not self._core.is_current(key, incarnation):
                    return
                del self._children[key]
                self._tell(ChildExited, child=key, incarnation=incarnation, reason=reason)
            case RetryDue(key):
                self._tell(RetryBegun, child=key)
            case ShutDown(reason):
                self._tell(SupervisorEnding, reason=reason)
        await self._perform(self._core.decide(message, now=self._tree.clock.now()))

    async def _serve(self, call: Call) -> None:
        self._tell(Requested, request=call.request)
        try:
            slot = await self._perform(self._core.decide(call.request, now=self._tree.clock.now()))
        except SupervisorError as error:
            call.error = error
        else:
            call.answer = None if slot is None else ChildRef(slot.key, slot.incarnation, slot.info)
            if isinstance(call.request, Look):
                call.answer = Snapshot(tuple(self.which_children()), self.count_children())
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
            outcome: Outcome = None
            match effect:
                case Start():
                    outcome = await self._start(effect)
                case Stop():
                    outcome = await self._stop(effect)
                case Retry():
                    self._retry_later(effect)
            reply = Reply(outcome, self._tree.clock.now())

    async def _start(self, start: Start) -> StartOutcome:
        key, incarnation = start.key, start.incarnation
        launch = Launch(
            spec=start.spec,
            path=f"{self.path}/{key}",
            incarnation=incarnation,
            on_exit=lambda reason: self._post(Exited(key, incarnation, reason)),
            clock=self._tree.clock,
            on_info=lambda info: self._show(key, incarnation, info),
        )
        child = self._tree.make_child(launch, self._tree)
        self._children[key] = self._starting = child
        try:
            outcome = await child.start()
        finally:
            self._starting = None
        if isinstance(outcome, Started):
            self._tell(ChildStarted, child=key, incarnation=incarnation, info=outcome.info)
            return outcome
        del self._children[key]
        if isinstance(outcome, Failed):
            self._tell(ChildFailed, child=key, incarnation=incarnation, reason=outcome.reason)
        else:
            self._tell(ChildIgnored, child=key, incarnation=incarnation)
        return outcome

    async def _stop(self, stop: Stop) -> tuple[ExitReason, ...]:
        reasons: dict[str, ExitReason] = {}

        async def stop_one(one: Stopping) -> None:
            reasons[one.key] = await self._children[one.key].stop(one.grace)
            del self._children[one.key]
            self._tell(ChildStopped, child=one.key, incarnation=one.incarnation, reason=reasons[one.key])

        if stop.at_once:
            async with anyio.create_task_group() as group:
                for one in stop.children:
                    group.start_soon(stop_one, one)
        else:
            for one in stop.children:
                await stop_one(one)
        return tuple(reasons[one.key] for one in stop.children)

    def _retry_later(self, retry: Retry) -> None:
        self._tell(RetryPlanned, child=retry.key, delay=retry.delay, is_pause=retry.is_pause)

        async def wait() -> None:
            await sleep(self._tree.clock, retry.delay)
            self._post(RetryDue(retry.key))

        if retry.delay > 0:
            self._tree.tasks.start_soon(wait)
        else:
            self._post(RetryDue(retry.key))

    def _tell(self, kind: type[TreeEvent], **fields: object) -> None:
        if self._tree.events.is_heard:
            self._tree.events.put(kind(at=self._tree.clock.now(), supervisor=self.path, **fields))

    def _show(self, key: str, incarnation: int, info: object) -> None:
        if self._core.is_current(key, incarnation):
            self._core.slots[key].info = info

    # ---- the inbox

    def _post(self, message: _Message) -> None:
        self._inbox.append(message)
        self._bell.set()

    async def _next(self) -> _Message:
        while not self._inbox:
            self._bell = Event()
            await self._bell.wait()
        return self._inbox.popleft()

    async def _ask(self, request: Request) -> ChildRef | Snapshot | None:
        call = self.submit(request)
        await call.done.wait()
        if call.error is not None:
            raise call.error
        return call.answer

    async def _ask_for_child(self, request: Request) -> ChildRef | None:
        answer = await self._ask(request)
        return answer if isinstance(answer, ChildRef) else None

    def _refuse_waiting(self) -> None:
        for message in self._inbox:
            if isinstance(message, Call):
                message.error = NotAlive(self.path)
                message.done.set()
        self._inbox.clear()


def _key(child: str | ChildRef) -> str:
    return child.id if isinstance(child, ChildRef) else child
