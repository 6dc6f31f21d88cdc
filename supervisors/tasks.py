"""The task shell: carries a core's decisions out with anyio tasks, on asyncio, uvloop and trio.

One loop takes exits and requests in the order they came and drives one decision at a time.
Every incarnation of a child has its own cancel scope and converter: whatever it raises, a
stray cancellation included, becomes a value and reaches nobody else.
"""

import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import anyio
from anyio.abc import TaskGroup
from attrs import define, field, frozen

from supervisors.core import (
    Answer,
    Asked,
    Child,
    Core,
    Effect,
    Outcome,
    StartChild,
    Status,
    StopChild,
)
from supervisors.reasons import (
    Crashed,
    Normal,
    Reason,
    StartFailed,
    Stopped,
    StrayCancellation,
    Stuck,
    SupervisorGaveUp,
)
from supervisors.spec import ChildSpec, Shutdown, SupervisorSpec

T = TypeVar("T")

_KILL_WITHIN: Final = 1.0  # seconds a brutally killed task gets to notice


class ChildContext:
    """What a child is called with."""

    def __init__(self, child_id: str) -> None:
        self.child_id = child_id
        self.info: object = None
        self.is_ignored = self.is_ready = False
        self.came_up = anyio.Event()

    def ready(self, info: object = None) -> None:
        """I am up: the next child may start. `info` is kept for whoever asks."""
        self.info = info
        self.is_ready = True
        self.came_up.set()

    def ignore(self) -> None:
        """There is nothing to do for me: keep my specification, do not run me. Return after it."""
        self.is_ignored = True
        self.came_up.set()


@define(eq=False)
class _Incarnation:
    """One life of a child."""

    child: Child
    context: ChildContext
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    ended: anyio.Event = field(factory=anyio.Event)
    reason: Reason | None = None
    is_stopping: bool = False


@define(eq=False)
class _Request:
    ask: Callable[[], Asked]
    answered: anyio.Event = field(factory=anyio.Event)
    answer: Answer | None = None
    error: Exception | None = None


@frozen
class _Close:
    """Stop everything: the body of `open_supervisor` was left."""


@frozen
class ChildInfo:
    """A child as `which_children` shows it."""

    id: str
    status: Status
    info: object = None


@define(eq=False)
class Supervisor:
    """A running supervisor. Made by `open_supervisor`."""

    spec: SupervisorSpec
    stuck: list[str] = field(factory=list, init=False)  # ids of children that ignored their cancellation
    _core: Core = field(init=False)
    _group: TaskGroup | None = field(default=None, init=False)
    _body: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _living: dict[Child, _Incarnation] = field(factory=dict, init=False)
    _inbox: deque[_Incarnation | _Request | _Close] = field(factory=deque, init=False)
    _mail: anyio.Event = field(factory=anyio.Event, init=False)
    _opened: anyio.Event = field(factory=anyio.Event, init=False)
    _closed: anyio.Event = field(factory=anyio.Event, init=False)
    _unstarted: StartFailed | None = field(default=None, init=False)
    _starting: anyio.CancelScope | None = field(default=None, init=False)
    _is_closing: bool = field(default=False, init=False)
    _last: _Incarnation | None = field(default=None, init=False)
    failure: SupervisorGaveUp | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._core = Core(self.spec, anyio.current_time)

    # -- requests ------------------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Answer:
        """Add a child and start it. Raises `InvalidSpec`; answers OK, IGNORED, START_FAILED, ALREADY_…"""
        return await self._ask(lambda: self._core.start_child(spec))

    async def terminate_child(self, child_id: str) -> Answer:
        """Stop a child and keep its specification. Answers OK or NOT_FOUND."""
        return await self._ask(lambda: self._core.terminate_child(child_id))

    async def restart_child(self, child_id: str) -> Answer:
        """Start a child that is not running. Answers OK, RUNNING, RESTARTING, NOT_FOUND, START_FAILED."""
        return await self._ask(lambda: self._core.restart_child(child_id))

    async def delete_child(self, child_id: str) -> Answer:
        """Forget a child that is not running. Answers OK, RUNNING, RESTARTING, NOT_FOUND."""
        return await self._ask(lambda: self._core.delete_child(child_id))

    def which_children(self) -> list[ChildInfo]:
        """Return the children in start order."""
        return [
            ChildInfo(c.spec.id, c.status, self._living[c].context.info if c in self._living else None)
            for c in self._core.children
        ]

    def count_children(self) -> dict[str, int]:
        """Return how many specifications there are and how many children are up."""
        active = sum(child.status is Status.UP for child in self._core.children)
        return {"specs": len(self._core.children), "active": active}

    def render_tree(self) -> str:
        """Return the children as text, one a line."""
        lines = [f"{self.spec.strategy.value}"]
        lines += [f"├─ {child.id}: {child.status.value}" for child in self.which_children()]
        return "\n".join(lines)

    async def _ask(self, ask: Callable[[], Asked]) -> Answer:
        request = _Request(ask)
        if self._core.is_over:
            return Answer.NOT_FOUND
        self._put(request)
        await request.answered.wait()
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        return request.answer

    # -- the loop ------------------------------------------------------------------------------------------

    def _put(self, item: _Incarnation | _Request | _Close) -> None:
        self._inbox.append(item)
        self._mail.set()

    async def _run(self) -> None:
        """Start the children, serve until it is over. Shielded: a cancelled block must not stop them out of order."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as self._group:
                failed = await self._drive(self._core.start())
                if failed is not None:
                    reason = self._last.reason if self._last is not None else None
                    self._unstarted = StartFailed(failed.spec.id, str(reason))
                self._opened.set()
                while not self._core.is_over:
                    while not self._inbox:
                        self._mail = anyio.Event()
                        await self._mail.wait()
                    await self._handle(self._inbox.popleft())
                self._dismiss()
                self._group.cancel_scope.cancel()

    def _dismiss(self) -> None:
        """It is over: whoever still asks hears so, and the block ends."""
        for item in self._inbox:
            if isinstance(item, _Request):
                item.answer = Answer.NOT_FOUND
                item.answered.set()
        if self._core.exceeded is not None and self._last is not None:
            problem = str(self._last.reason)
            self.failure = SupervisorGaveUp(self._last.child.spec.id, problem, str(self._core.exceeded))
        self._body.cancel()
        self._closed.set()

    async def _close(self) -> None:
        """Have everything stopped, a start in progress included."""
        self._is_closing = True
        if self._starting is not None:
            self._starting.cancel()
        self._put(_Close())
        await self._closed.wait()

    async def _handle(self, item: _Incarnation | _Request | _Close) -> None:
        if isinstance(item, _Close):
            await self._drive(self._core.stop())
        elif isinstance(item, _Request):
            try:
                item.answer = await self._drive(item.ask())
            except Exception as error:  # noqa: BLE001  a refused request is its caller's
                item.error = error
            item.answered.set()
        elif self._living.get(item.child) is item:
            del self._living[item.child]
            self._last = item
            await self._drive(self._core.exited(item.child, is_clean=isinstance(item.reason, Normal)))

    async def _drive(self, steps: Generator[Effect, Outcome | None, T]) -> T:
        """Carry out one decision, effect by effect."""
        reply: Outcome | None = None
        try:
            while True:
                effect = steps.send(reply)
                reply = None
                if isinstance(effect, StartChild):
                    reply = await self._start(effect.child)
                elif isinstance(effect, StopChild):
                    await self._stop(effect.child)
                else:
                    await self._between()
        except StopIteration as done:
            value: T = done.value
            return value

    async def _between(self) -> None:
        """Between two attempts of a failing restart: whoever waits is served."""
        await anyio.lowlevel.checkpoint()
        for _ in range(len(self._inbox)):
            if self._inbox and not self._core.is_over:
                await self._handle(self._inbox.popleft())

    # -- children ------------------------------------------------------------------------------------------

    async def _start(self, child: Child) -> Outcome:
        assert self._group is not None
        life = _Incarnation(child, ChildContext(child.spec.id))
        self._group.start_soon(self._live, life, name=child.spec.id)
        with anyio.move_on_after(child.spec.start_timeout) as self._starting:
            if self._is_closing:
                self._starting.cancel()
            await life.context.came_up.wait()
        if life.context.is_ignored or not life.context.is_ready:
            await self._end(life)
            if life.context.is_ignored:
                return Outcome.IGNORED
            if life.reason is None or isinstance(life.reason, Stopped):
                life.reason = Crashed(TimeoutError(f"not ready within {child.spec.start_timeout:g} s"))
            elif isinstance(life.reason, Normal):
                life.reason = Crashed(RuntimeError("it returned before it was ready"))
            self._last = life
            return Outcome.FAILED
        self._living[child] = life
        return Outcome.UP

    async def _stop(self, child: Child) -> None:
        life = self._living.pop(child, None)
        if life is not None:
            await self._end(life)

    async def _end(self, life: _Incarnation) -> None:
        """Cancel a life and wait for its end, as long as its specification allows."""
        life.is_stopping = True
        life.scope.cancel()
        allowed = life.child.spec.shutdown
        if allowed is Shutdown.INFINITY:
            await life.ended.wait()
            return
        seconds = _KILL_WITHIN if isinstance(allowed, Shutdown) else max(allowed, 0.0)
        with anyio.move_on_after(seconds):
            await life.ended.wait()
        if not life.ended.is_set():
            life.reason = Stuck(seconds)
            self.stuck.append(life.child.spec.id)

    async def _live(self, life: _Incarnation) -> None:
        """Run one incarnation and turn however it ends into a value. Never raises but for cancellation from outside."""
        spec = life.child.spec
        reason: Reason = Normal()
        with life.scope:
            try:
                await spec.start(life.context, *spec.args, **spec.kwargs)
            except anyio.get_cancelled_exc_class():
                if life.scope.cancel_called:
                    raise
                _forget_cancellation()
                reason = Crashed(StrayCancellation())
            except BaseException as error:  # noqa: BLE001  whatever a child raises becomes a value
                reason = Crashed(error)
        life.reason = Stopped() if life.is_stopping else reason
        life.ended.set()
        life.context.came_up.set()
        if life.context.is_ready and not life.is_stopping:
            self._put(life)


@asynccontextmanager
async def open_supervisor(spec: SupervisorSpec) -> AsyncIterator[Supervisor]:
    """Run a supervisor around a block. Enters when all children are ready; leaving stops them, last first.

    Raises: StartFailed, when a child did not come up; SupervisorGaveUp, when children kept ending: the block is
    cancelled then. What the block raises comes out as it is.
    """
    supervisor = Supervisor(spec)
    error: BaseException | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(supervisor._run)
        try:
            await supervisor._opened.wait()
            if supervisor._unstarted is None:
                with supervisor._body:
                    yield supervisor
        except BaseException as raised:  # noqa: BLE001  raised again below, when the children have stopped
            error = raised
        with anyio.CancelScope(shield=True):
            await supervisor._close()
    for problem in (supervisor._unstarted, supervisor.failure, error):
        if problem is not None:
            raise problem


def _forget_cancellation() -> None:
    """On asyncio, undo what a stray `Task.cancel()` left behind, or the next await would raise again."""
    asyncio = sys.modules.get("asyncio")
    task: Any = None
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # trio
            return
    while task is not None and task.cancelling() > 0:
        task.uncancel()
