"""Plays scenarios on real supervisors whose scripted children are real processes, in real time.

What a puppet is to do is decided here, where its plan goes on from start to start; the process is told, and acts.
"""

import os
import signal
from collections.abc import Callable
from functools import cache
from typing import Final

import anyio
from anyio import Event
from anyio.abc import TaskGroup
from attrs import evolve

from supervisors.child import Child, ChildContext, Declined, Launch, Started, StartOutcome
from supervisors.clock import LoopClock
from supervisors.process import Link, ProcessContext
from supervisors.process.child import ProcessShell
from supervisors.processes import Processes
from supervisors.reasons import Crashed, ExitReason, Killed
from supervisors.remote_error import RemoteError
from supervisors.spec import Isolation
from supervisors.supervisor import Tree
from supervisors.testing.live_player import LivePlayer
from supervisors.testing.otp import REASONS, reason_name
from supervisors.testing.players import Stage
from supervisors.testing.puppet import Boom, Puppet

_QUIET_WITHIN: Final = 30.0  # seconds; a scenario takes a tenth of one


class ProcessPlayer(LivePlayer):
    """See `players.Player`."""

    def __init__(self, stage: Stage, tasks: TaskGroup) -> None:
        super().__init__(stage, tasks, LoopClock())

    def make_puppet_child(self, launch: Launch, tree: Tree, puppet: Puppet, outcome: str) -> Child:
        """Return a process in which a puppet acts for one start."""
        return _ActingProcess(launch, tree, puppet, outcome)

    async def quiet(self, is_quiet: Callable[[], bool]) -> None:
        """Wait until this holds. Raises TimeoutError."""
        with anyio.fail_after(_QUIET_WITHIN):
            while not is_quiet():  # noqa: ASYNC110  nobody tells when everything is at rest
                await anyio.sleep(0.001)

    async def arrived(self) -> None:
        """Wait until every supervisor has heard of the puppets that were made to end."""
        await self.quiet(lambda: not self.is_somebody_dying)


class _ActingProcess:
    """A process, its puppet's string in our hands. See `child.Child`."""

    def __init__(self, launch: Launch, tree: Tree, puppet: Puppet, outcome: str) -> None:
        self._puppet = puppet
        self._is_tied = Event()
        self._on_exit = launch.on_exit
        spec = evolve(
            launch.spec,
            start=act,
            args=(puppet.label, outcome, puppet.on_stop),
            kwargs={},
            peer=self._tie,
            isolation=Isolation.PROCESS,
        )
        self._child = _shell().make_child(evolve(launch, spec=spec, on_exit=self._exited), tree)

    async def start(self) -> StartOutcome:
        outcome = await self._child.start()
        if isinstance(outcome, Started):
            await self._is_tied.wait()
        return outcome

    async def stop(self, grace: float | None) -> ExitReason:
        return self._seen(await self._child.stop(grace))

    def _exited(self, reason: ExitReason) -> None:
        self._on_exit(self._seen(reason))

    def _seen(self, reason: ExitReason) -> ExitReason:
        """The process is dead. A crash comes back as a record; scenarios know it by its class."""
        self._puppet.tie(None)
        if isinstance(reason, Crashed) and isinstance(reason.error, RemoteError):
            is_boom = reason.error.record.type == f"{Boom.__module__}.{Boom.__qualname__}"
            return Crashed(Boom(self._puppet.label)) if is_boom else reason
        return reason

    async def _tie(self, _ctx: ChildContext, link: Link) -> None:
        """Beside the process: pull its string when the scenario says so."""
        pulled = Event()
        reasons: list[ExitReason] = []

        def pull(reason: ExitReason) -> None:
            reasons.append(reason)
            pulled.set()

        self._puppet.tie(pull)
        self._is_tied.set()
        await pulled.wait()
        if isinstance(reasons[0], Killed):
            os.kill(link.pid, signal.SIGKILL)
        else:
            await link.send(reason_name(reasons[0]).encode())


async def act(ctx: ProcessContext, label: str, outcome: str, on_stop: str) -> None:
    """A puppet in a process of its own, for one start."""
    puppet = Puppet(label, on_stop=on_stop)
    error: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_listen, ctx.link, puppet)
        try:
            await puppet.run(ctx, LoopClock(), outcome)
        except (Exception, Declined) as raised:  # noqa: BLE001  raised again, where no task group wraps it
            error = raised
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error


async def _listen(link: Link, puppet: Puppet) -> None:
    puppet.end(REASONS[(await link.receive()).decode()]())


@cache
def _shell() -> ProcessShell:
    """One fork server for all that this process plays; it ends with the process."""
    return ProcessShell(Processes(preload=(__name__,)))
