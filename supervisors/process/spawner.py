"""Starts and reaps OS processes, and makes every `multiprocess.Process` call from one thread.

A start gives a `Spawned`: a pid that is watched by a pidfd before the child may go on, the socket to it, the page of
its beats and the file for its stacks. What is said over the socket, and when a child is to die, is left to `life`.
All methods but the coroutines run in the one thread.
"""

import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
import multiprocess
import multiprocess.process
from attrs import define, evolve

from supervisors.errors import SupervisorError
from supervisors.process import bootstrap, guard, strays
from supervisors.process.beats import Page
from supervisors.process.bootstrap import PassedFd
from supervisors.process.confine import cgroup_of, clear, is_removed
from supervisors.process.exits import LOST, OomCounter
from supervisors.process.fork_server import ForkServer, ServedProcess, is_readable, pidfd_of
from supervisors.process.messages import Order
from supervisors.process.pipes import Pipes
from supervisors.process.stacks import StackFile
from supervisors.process.target import Target
from supervisors.process.thread import OneThread
from supervisors.processes import Processes

_STATUS_WITHIN: Final = 1.0  # seconds from a death to its exit status; only a fork server that is stopped takes longer
_CENSUS_HOLDS: Final = 0.1  # seconds
_DYING: Final = 0.05  # seconds
_INIT: Final = 1  # who adopts orphans when nobody else wants to


@define
class PreloadFailed(SupervisorError):
    """Modules that were to be preloaded could not be imported by the fork server."""

    failures: dict[str, str]

    def __str__(self) -> str:
        told = "; ".join(f"{name}: {why}" for name, why in sorted(self.failures.items()))
        return f"preload failed for {told}. Install what is missing, or take it out of Processes(preload=...)"


@define
class SpawnFailed(SupervisorError):
    """The system or the fork server did not make a process."""

    path: str
    problem: str

    def __str__(self) -> str:
        return (
            f"no process for {self.path}: {self.problem}; see the limits on processes and files, and what stderr says"
        )


@define(eq=False)
class Spawned:
    """A process that was started: everything its supervisor holds of it, until it is reaped."""

    pid: int
    parent: int  # the fork server, or ourselves
    process: Any  # multiprocess has no types
    connection: socket.socket
    page: Page
    stacks: StackFile
    pidfd: int | None
    cgroup: Path | None
    pipes: Pipes | None
    is_oom: bool = False  # known of its own cgroup, when it is reaped

    @property
    def death(self) -> int:
        """A file descriptor that can be read when it is dead: its pidfd; without one the next best."""
        return self.pidfd if self.pidfd is not None else int(self.process.sentinel)

    def send_signal(self, number: int) -> None:
        """Signal this very process, never another one that got its number."""
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, number)
            else:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL it and its process group."""
        guard.kill_group(self.pid)
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Give back what is held of it. It must be dead."""
        with contextlib.suppress(ValueError):  # its status is still open
            self.process.close()
        self.connection.close()
        self.page.close()
        self.stacks.close()
        if self.pipes is not None:
            self.pipes.close()
        if self.pidfd is not None:
            os.close(self.pidfd)


class Spawner:
    """The one who starts the processes of a tree, or of several that share it."""

    def __init__(self, settings: Processes) -> None:
        self.recycling = anyio.Lock()  # one process at a time is replaced before its time
        self._settings = settings
        self._thread = OneThread("supervisors-spawner", self._sweep)
        self._server: ForkServer | None = None
        self._alive: dict[int, Spawned] = {}
        self._unswept: set[int] = set()  # dead children whose strays may live
        self._oom = OomCounter(None)
        self._cgroups: set[Path] = set()  # of dead children
        self._census: Counter[int] = Counter()  # session → processes and threads
        self._census_at = 0.0

    async def start(self, order: Order, pack: Callable[[], Target], *, is_heard: bool = False) -> Spawned:
        """Start a process that says hello and waits. Raises SpawnFailed, and NotSendable from `pack`.

        `is_heard`: what it prints comes through `pipes`.
        """
        return await self._thread.call(lambda: self._start(evolve(order, target=pack()), is_heard), undo=self._undo)

    async def reap(self, spawned: Spawned) -> int | None:
        """Take a dead process's exit code and give back what is held of it. LOST: nobody knows the code."""
        return await self._thread.call(lambda: self._reap(spawned))

    def is_oom(self, dead: Spawned) -> bool:
        """Whether the kernel killed it for memory: by its own cgroup, or somebody whom nobody has accounted for."""
        is_somebody = dead.is_oom or dead.cgroup is None
        return is_somebody and (self._oom.take() or dead.is_oom)

    async def count(self, spawned: Spawned) -> int:
        """How many processes and threads there are in its session."""
        return await self._thread.call(lambda: self._counted(spawned.pid))

    async def close(self) -> None:
        """End the fork server and the thread. All processes must have been reaped."""
        with anyio.move_on_after(_STATUS_WITHIN, shield=True) as patience:
            await self._thread.call(self._end)
        if patience.cancelled_caught and self._server is not None:
            self._server.kill()  # it never came back from importing something
        self._thread.end()

    # ---- in the thread

    def _start(self, order: Order, is_heard: bool) -> Spawned:
        if not self._alive:
            self._oom = OomCounter.here()
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            page = Page.create()
            undo.callback(page.close)
            stacks = StackFile()
            undo.callback(stacks.close)
            pipes = Pipes() if is_heard else None
            if pipes is not None:
                undo.callback(pipes.close)
            output = [PassedFd(fd) for fd in pipes.theirs] if pipes is not None else []
            try:
                with theirs:
                    process = self._make(order, [PassedFd(fd) for fd in (theirs.fileno(), page.fd, stacks.fd)], output)
                    process.start()
            except (OSError, EOFError) as error:
                raise SpawnFailed(order.path, f"{type(error).__name__}: {error}") from error
            # It is ours alone: nobody else's start or exit is to poll or join it.
            multiprocess.process._children.discard(process)
            if pipes is not None:
                pipes.give()
            undo.pop_all()
        parent = self._server.pid if self._server is not None else os.getpid()
        cgroup = cgroup_of(order.limits, process.pid)
        spawned = Spawned(int(process.pid), parent, process, ours, page, stacks, pidfd_of(process.pid), cgroup, pipes)
        self._alive[spawned.pid] = spawned
        return spawned

    def _make(self, order: Order, fds: list[PassedFd], output: list[PassedFd]) -> Any:
        if self._settings.method == "spawn":
            context = multiprocess.get_context("spawn")
            order = evolve(order, parent=os.getpid())
            return context.Process(target=bootstrap.main, args=(*fds, order, *output), name=order.path, daemon=False)
        if self._server is None:
            loop = ("uvloop",) if order.is_uvloop else ()
            runtime = (bootstrap.__name__, f"anyio._backends._{order.backend}", *loop)
            self._server = ForkServer((*runtime, *self._settings.preload))
        self._server.ensure_running()
        order = evolve(order, parent=self._server.pid, is_preloaded=True)
        args = (*fds, order, *output)
        return ServedProcess(self._server, target=bootstrap.main, args=args, name=order.path, daemon=False)

    def _reap(self, spawned: Spawned) -> int | None:
        spawned.process.join(_STATUS_WITHIN)
        code: int | None = spawned.process.exitcode
        if code == 255 and self._server is not None and not self._server.is_alive(spawned.parent):
            code = LOST  # multiprocess says 255 of a process that nobody has waited for
        with contextlib.suppress(
            ChildProcessError
        ):  # ours only if we adopt orphans, as the first process of a container
            os.waitpid(spawned.pid, os.WNOHANG)
        guard.kill_group(spawned.pid)
        if spawned.cgroup is not None:
            spawned.is_oom = clear(spawned.cgroup)
            self._cgroups.add(spawned.cgroup)
        self._unswept.add(spawned.pid)
        del self._alive[spawned.pid]
        spawned.close()
        return code

    def _undo(self, spawned: Spawned) -> None:
        """Nobody wants it: end it and forget it."""
        spawned.kill()
        is_readable(spawned.death, within=_STATUS_WITHIN)
        self._reap(spawned)

    def _counted(self, session: int) -> int:
        if time.monotonic() - self._census_at > _CENSUS_HOLDS:  # one look at the table is enough for all children
            self._census, self._census_at = strays.census(), time.monotonic()
        return self._census[session]

    def _sweep(self) -> None:
        """Nothing else to do: end what dead children left behind."""
        owners, self._unswept = self._unswept, set()
        if owners:
            server = self._server.pid if self._server is not None else _INIT
            strays.kill_strays(owners, adopters={os.getpid(), server, _INIT}, spare=self._alive)
        self._cgroups = {cgroup for cgroup in self._cgroups if not is_removed(cgroup)}

    def _end(self) -> None:
        self._sweep()
        if self._server is not None:
            self._server.close()
        if self._cgroups:  # the last ones had no time to die
            time.sleep(_DYING)
            self._sweep()
