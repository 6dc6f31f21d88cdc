"""`open_supervisor`: a supervision tree for the length of an `async with` block.

The tree runs in a task of its own that no cancellation from outside reaches: however the block ends,
the children are stopped in reverse order, each with the time its spec gives it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio import CancelScope, Event

from supervisors.clock import Clock, LoopClock
from supervisors.errors import StartFailed, SupervisorFailed
from supervisors.processes import Processes
from supervisors.reasons import Fatal, is_clean
from supervisors.spec import SupervisorSpec
from supervisors.supervisor import Supervisor, Tree
from supervisors.supervisor_child import ProcessShell, Shells


@asynccontextmanager
async def open_supervisor(
    spec: SupervisorSpec,
    *,
    name: str = "root",
    clock: Clock | None = None,
    processes: Processes | ProcessShell | None = None,
) -> AsyncIterator[Supervisor]:
    """Start a supervisor and its children; yields when all are ready, stops them at the end.

    The block lasts as long as the supervisor: if that ends by itself, the block is cancelled. When it gave
    up, SupervisorFailed is raised; when it ended cleanly (auto_shutdown), nothing is. `sup.ended` says why.
    `processes`: how children with Isolation.PROCESS are started, or a shell that other trees use, too.
    Raises: StartFailed, SupervisorFailed, and the SystemExit or KeyboardInterrupt of a child.
    """
    boot = _Boot(Shells(processes or Processes()))
    error: BaseException | None = None
    async with anyio.create_task_group() as host:
        host.start_soon(boot.run, spec, name, clock or LoopClock(), host.cancel_scope)
        try:
            await boot.is_settled.wait()
            if boot.supervisor is not None and boot.failure is None:
                yield boot.supervisor
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise
        except BaseException as raised:
            if host.cancel_scope.cancel_called:  # the cancellation of this scope is in it, and must end here
                raise
            error = raised  # raised again below, where no task group wraps it
        finally:
            boot.leave()
    if error is not None:
        raise error
    boot.raise_failure()


class _Boot:
    """The task that holds the tree, and what it has to tell the one that opened it."""

    def __init__(self, shells: Shells) -> None:
        self._shells = shells
        self.is_settled = Event()
        self.supervisor: Supervisor | None = None
        self.failure: StartFailed | None = None
        self._is_left = False

    async def run(self, spec: SupervisorSpec, name: str, clock: Clock, block: CancelScope) -> None:
        """Hold the tree until its supervisor has ended; end the block if that was not wanted."""
        with CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                supervisor = self.supervisor = Supervisor(
                    spec, path=name, tree=Tree(tasks, clock, self._shells.make_child)
                )
                if self._is_left:
                    supervisor.request_shutdown()
                try:
                    await supervisor.run(self.is_settled.set)
                except StartFailed as failure:
                    self.failure = failure
                tasks.cancel_scope.cancel()  # pending retries and timers; no child is left
            await self._shells.close()
        self.is_settled.set()
        if not self._is_left and not supervisor.is_asked:
            block.cancel()

    def leave(self) -> None:
        """The block has ended."""
        self._is_left = True
        if self.supervisor is not None:
            self.supervisor.request_shutdown()

    def raise_failure(self) -> None:
        """Tell why the tree ended, unless it ended well."""
        if self.supervisor is None or self.supervisor.ended is None:
            return
        ended = self.supervisor.ended
        if isinstance(ended, Fatal):
            raise ended.error
        if self.failure is not None:
            raise self.failure
        if not is_clean(ended):
            raise SupervisorFailed(self.supervisor.path, ended)
