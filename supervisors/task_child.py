"""A child that is a task: one scope and one converter per incarnation, so that nothing it raises gets out.

A child ends in an ExitReason, whatever it does: return, raise, raise SystemExit, await something
cancelled, cancel itself, swallow its cancellation. The last cannot be undone, a task cannot be killed:
it is reported as Stuck, and who owns the process has to act. When to start and stop is left to `core`.
"""

import asyncio
import contextlib
import importlib
from collections.abc import Awaitable, Callable

import anyio
from anyio import CancelScope, Event
from anyio.abc import TaskGroup

from supervisors.child import ChildContext, Declined, Exit, Failed, Ignored, Launch, Started, StartOutcome
from supervisors.errors import EndedBeforeReady, StartTimeout, StrayCancellation
from supervisors.reasons import Crashed, ExitReason, Fatal, Killed, Normal, Stopped, Stuck
from supervisors.spec import takes_context

KILL_PATIENCE = 1.0  # seconds a cancelled task has to unwind before it is called stuck


class TaskChild:
    """One incarnation of a child as a task of `tasks`. See `child.Child` for the protocol."""

    def __init__(self, launch: Launch, tasks: TaskGroup) -> None:
        self._launch = launch
        self._tasks = tasks
        self._scope = CancelScope()
        self._settled = Event()  # the start succeeded, or the task has ended
        self._ended = Event()
        self._stopping = Event()
        self._is_trapping = False
        self._is_killed = False
        self._outcome: StartOutcome | None = None
        self._reason: ExitReason | None = None

    async def start(self) -> StartOutcome:
        """Run the child's function in a task of its own and wait for what it says."""
        spec = self._launch.spec
        self._tasks.start_soon(self._run, name=self._launch.path)
        with self._launch.clock.timeout(spec.start_timeout):
            await self._settled.wait()
        if self._outcome is None:
            timeout = StartTimeout(self._launch.path, spec.start_timeout or 0.0)
            self._outcome = Failed(Crashed(timeout))
            ended = await self.stop(KILL_PATIENCE)
            if isinstance(ended, Stuck):
                self._outcome = Failed(ended)
        return self._outcome

    async def stop(self, grace: float | None) -> ExitReason:
        """Ask (or cancel, see `ChildContext.stopping`), wait, cancel, and say how it really ended."""
        if self._reason is not None:
            return self._reason
        self._stopping.set()
        waited = 0.0
        if grace != 0 and self._is_trapping:
            await self._wait(grace)
            waited = grace or 0.0
            grace = 0
        if grace == 0:
            self._is_killed = True
            grace = KILL_PATIENCE
        self._scope.cancel()
        if self._reason is None:
            await self._wait(grace)
            waited += grace or 0.0
        return self._reason or Stuck(self._launch.path, waited)

    async def _wait(self, seconds: float | None) -> None:
        with self._launch.clock.timeout(seconds):
            await self._ended.wait()

    # ---- inside the task

    async def _run(self) -> None:
        reason = await self._converted()
        await _absorb_self_cancellation()
        self._reason = reason
        was_started = isinstance(self._outcome, Started)
        if self._outcome is None:
            self._outcome = Failed(Crashed(EndedBeforeReady(self._launch.path)) if reason == Normal() else reason)
        self._settled.set()
        self._ended.set()
        if was_started:
            self._launch.on_exit(reason)

    async def _converted(self) -> ExitReason:
        """Turn every way a function can end into a reason. Only a cancellation from above passes."""
        reason: ExitReason = Normal()
        with self._scope:
            try:
                await self._call()
            except Exit as exit_:
                reason = exit_.reason
            except Declined:
                if self._outcome is None:
                    self._outcome = Ignored()
            except anyio.get_cancelled_exc_class():
                if self._scope.cancel_called or anyio.current_effective_deadline() == -float("inf"):
                    raise
                reason = Crashed(StrayCancellation(self._launch.path))
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - this is the loop that turns a crash into an exit
                reason = _classify(error)
        if self._scope.cancelled_caught:
            reason = Killed() if self._is_killed else Stopped()
        return reason

    async def _call(self) -> None:
        spec = self._launch.spec
        function = load(spec.start) if isinstance(spec.start, str) else spec.start
        if not callable(function):
            raise TypeError(f"{self._launch.path} cannot run {function!r} as a task")
        if takes_context(function):
            await function(self._context(), *spec.args, **spec.kwargs)
        else:
            self._on_ready(None)
            await function()

    def _context(self) -> ChildContext:
        launch = self._launch
        return ChildContext(
            id=launch.spec.id,
            path=launch.path,
            incarnation=launch.incarnation,
            on_ready=self._on_ready,
            on_beat=self._on_beat,
            trap=self._trap,
        )

    def _on_ready(self, info: object) -> None:
        if self._outcome is None:
            self._outcome = Started(info)
            self._settled.set()

    def _on_beat(self, note: str) -> None:
        self.beat = (self._launch.clock.now(), note)

    def _trap(self) -> Event:
        self._is_trapping = True
        return self._stopping


def load(name: str) -> Callable[..., Awaitable[object]]:
    """Find the function a spec names as "module:name"."""
    module, _, qualname = name.partition(":")
    found: object = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is {found!r}, not a function")
    return found


def _classify(error: BaseException) -> ExitReason:
    """A group that carries a SystemExit or KeyboardInterrupt is as fatal as that; everything else is a crash."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            reason = _classify(inner)
            if isinstance(reason, Fatal):
                return reason
    return Fatal(error) if isinstance(error, SystemExit | KeyboardInterrupt) else Crashed(error)


async def _absorb_self_cancellation() -> None:
    """A task that called cancel() on itself would end cancelled, and silently cancel all of its task group.

    asyncio only: trio has no such call. Deliver what is pending here, where it can be caught. A scope around us
    that is cancelled delivers anew in every turn of the loop: that is not ours to absorb, and would never end.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return  # another event loop
    while task is not None and task.cancelling() > 0 and anyio.current_effective_deadline() != -float("inf"):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()
