"""A child that is a supervisor: its loop in a task, asked to end through its inbox, as OTP does it."""

import importlib
from collections.abc import Callable
from typing import Final, Protocol

from anyio import CancelScope, Event

from supervisors.child import Child, Failed, Ignored, Launch, Started, StartOutcome
from supervisors.errors import ProcessesUnavailable, StartFailed
from supervisors.processes import Processes
from supervisors.reasons import Crashed, ExitReason, Killed, Stopped, is_doom
from supervisors.spec import Init, Isolation, SupervisorSpec
from supervisors.supervisor import Supervisor, Tree
from supervisors.task_child import TaskChild

_PROCESSES: Final = "supervisors.process.child"


class SupervisorChild:
    """One incarnation of a supervisor below another one. See `child.Child` for the protocol."""

    def __init__(self, launch: Launch, tree: Tree) -> None:
        self._launch = launch
        self._tree = tree
        self._scope = CancelScope()
        self._settled = Event()
        self._outcome: StartOutcome | None = None
        self._supervisor: Supervisor | None = None
        self._reason: ExitReason | None = None

    async def start(self) -> StartOutcome:
        """Make the spec, start its children, and say how that went."""
        try:
            spec = made(self._launch.spec.start)
        except Exception as error:  # noqa: BLE001 - the user's init function; a crash becomes an outcome here
            return Failed(Crashed(error))
        if spec is None:
            return Ignored()
        self._supervisor = Supervisor(spec, path=self._launch.path, tree=self._tree)
        self._tree.tasks.start_soon(self._run, self._supervisor, name=self._launch.path)
        with self._launch.clock.timeout(self._launch.spec.start_timeout):
            await self._settled.wait()
        if self._outcome is None:
            self._outcome = Failed(await self.stop(0))
        return self._outcome

    async def stop(self, grace: float | None) -> ExitReason:
        """Ask it to stop its children and end; when `grace` is over, kill them."""
        if self._supervisor is None:
            return self._reason or Killed()
        if grace != 0:
            self._supervisor.request_shutdown(Stopped())
            with self._launch.clock.timeout(grace):
                return await self._supervisor.wait()
        self._scope.cancel()
        return await self._supervisor.wait()

    async def _run(self, supervisor: Supervisor) -> None:
        try:
            with self._scope:
                await supervisor.run(self._on_up)
        except StartFailed as failure:
            self._outcome = Failed(failure.reason if is_doom(failure.reason) else Crashed(failure))
        self._reason = supervisor.ended or Killed()
        if isinstance(self._outcome, Started):
            self._launch.on_exit(self._reason)
        elif self._outcome is None:
            self._outcome = Failed(self._reason)
        self._settled.set()

    def _on_up(self) -> None:
        self._outcome = Started()
        self._settled.set()


def made(start: object) -> SupervisorSpec | None:
    """The spec of a supervisor, from itself or from its init function. Raises whatever that raises."""
    if isinstance(start, Init):
        start = start.make()
    if start is not None and not isinstance(start, SupervisorSpec):
        raise TypeError(f"Init.make must return a SupervisorSpec or None; got {start!r}")
    return start


class ProcessShell(Protocol):
    """What makes process children, see `process.child`."""

    def make_child(self, launch: Launch, tree: Tree) -> Child:
        """Make a child of this tree."""

    async def close(self) -> None:
        """End what they shared. None of them is left."""


class Shells:
    """Makes the children of a tree, each by the shell its spec asks for.

    The process shell is loaded when the first child asks for it: multiprocess is heavy and often unused. One that
    was given to us is not closed by us.
    """

    def __init__(self, processes: Processes | ProcessShell) -> None:
        self._processes = processes
        self._own: ProcessShell | None = None

    def make_child(self, launch: Launch, tree: Tree) -> Child:
        """Make a child of this tree."""
        if launch.spec.isolation is Isolation.PROCESS:
            return self._process_shell().make_child(launch, tree)
        if isinstance(launch.spec.start, SupervisorSpec | Init):
            return SupervisorChild(launch, tree)
        return TaskChild(launch, tree.tasks)

    async def close(self) -> None:
        """End what the children shared. None of them is left."""
        if self._own is not None:
            await self._own.close()

    def _process_shell(self) -> ProcessShell:
        if not isinstance(self._processes, Processes):
            return self._processes
        if self._own is None:
            try:
                made: Callable[[Processes], ProcessShell] = importlib.import_module(_PROCESSES).ProcessShell
            except ImportError as error:
                raise ProcessesUnavailable(str(error)) from error
            self._own = made(self._processes)
        return self._own
