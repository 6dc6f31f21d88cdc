"""Plays scenarios on real supervisors. What children are made of, and when all is quiet, is left to those who derive.

Whatever begins and ends goes through a child of ours around the real one, which writes it down at once.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import TaskGroup
from attrs import evolve

from supervisors.child import Child, Failed, Ignored, Launch, OnExit, Started, StartOutcome
from supervisors.clock import Clock
from supervisors.errors import NotAlive, StartFailed, SupervisorError
from supervisors.inputs import Request, RestartChild, StartChild, StartDynamic
from supervisors.reasons import ExitReason
from supervisors.slot import State
from supervisors.spec import Init, SupervisorSpec
from supervisors.supervisor import Call, Supervisor, Tree
from supervisors.supervisor_child import SupervisorChild, made
from supervisors.testing.otp import reason_name
from supervisors.testing.players import TOP, Pending, Stage
from supervisors.testing.puppet import Puppet
from supervisors.views import ChildRef, Snapshot

_MOVING: Final = frozenset({State.STARTING, State.STOPPING, State.RESTARTING})
_OUTCOMES: Final = {Started: "ok", Ignored: "ignore", Failed: "error"}


class LivePlayer:
    """See `players.Player`. Those who derive say how a puppet is made a child, and how to wait until nothing moves."""

    def __init__(self, stage: Stage, tasks: TaskGroup, clock: Clock) -> None:
        self.stage = stage
        self._tasks = tasks
        self._clock = clock
        self._top: Supervisor | None = None
        self._failure: Exception | None = None
        self._is_over = True  # nothing was started
        self._calls: list[tuple[Call, Pending]] = []
        self.running: set[Puppet] = set()

    def make_puppet_child(self, launch: Launch, tree: Tree, puppet: Puppet, outcome: str) -> Child:
        """Return a child played by a puppet, whose start has this outcome."""
        raise NotImplementedError

    async def quiet(self, is_quiet: Callable[[], bool]) -> None:
        """Wait until this holds."""
        raise NotImplementedError

    async def arrived(self) -> None:
        """Wait until every supervisor has heard of the puppets that were made to end. Nothing else need be at rest."""
        raise NotImplementedError

    @property
    def is_somebody_dying(self) -> bool:
        """Whether a puppet was made to end, and its supervisor has not heard of it."""
        return any(puppet.ended is not None for puppet in self.running)

    # ---- what a player does

    async def start(self, top: Init) -> bool:
        """Start the tree, return when all is quiet. False: it declined. Raises why it could not start."""
        spec = made(top)
        if spec is None:
            return False
        self._is_over = False
        self._tasks.start_soon(self._hold, spec)
        await self.quiet(lambda: self._top is not None)
        await self.settle()
        if self._failure is not None:
            raise self._failure
        return True

    def post(self, supervisor: str, request: Request | str) -> Pending:
        """Put a request into an inbox. A text asks for the spec of the child with that key."""
        pending = Pending(is_start=isinstance(request, StartChild | StartDynamic | RestartChild))
        try:
            asked = self._find(supervisor)
            if isinstance(request, str):
                pending.spec = asked.get_child_spec(request)
            else:
                self._calls.append((asked.submit(request), pending))
        except SupervisorError as error:
            pending.error = error
        return pending

    def close(self) -> None:
        """Have the top supervisor stopped by the one above it."""
        if self._top is not None:
            self._top.request_shutdown()

    async def settle(self) -> None:
        """Wait until nothing moves, no child is restarting, and every posted request is answered."""
        await self.quiet(self._is_quiet)
        for call, pending in self._calls:
            pending.error = call.error
            if isinstance(call.answer, ChildRef):
                pending.ref = call.answer
            elif isinstance(call.answer, Snapshot):
                pending.snapshot = call.answer
        self._calls.clear()

    def snapshot(self) -> Snapshot | None:
        """Children and counts of the top supervisor; None if it has ended."""
        if self._top is None or self._top.ended is not None:
            return None
        return Snapshot(tuple(self._top.which_children()), self._top.count_children())

    @property
    def ended(self) -> ExitReason | None:
        """Why the top supervisor ended."""
        return None if self._top is None else self._top.ended

    # ---- the tree

    async def _hold(self, spec: SupervisorSpec) -> None:
        async with anyio.create_task_group() as tasks:
            tree = Tree(tasks, self._clock, lambda launch, tree: Recorded(launch, tree, self))
            self._top = Supervisor(spec, path=TOP, tree=tree)
            try:
                await self._top.run(lambda: None)
            except StartFailed as failure:
                self._failure = failure
            tasks.cancel_scope.cancel()
        self._is_over = True

    def _is_quiet(self) -> bool:
        if self.is_somebody_dying or not all(call.done.is_set() for call, _ in self._calls):
            return False
        if self._is_over or self._top is None:
            return self._is_over
        return not self._top.is_asked and self._top.ended is None and _is_at_rest(self._top)

    def _find(self, path: str) -> Supervisor:
        if self._top is None:
            raise NotAlive(path)
        found = self._top
        for name in path.split("/")[1:]:
            found = found.supervisor(name)
        return found


class Recorded:
    """A child, with its life on record. See `child.Child`."""

    def __init__(self, launch: Launch, tree: Tree, player: LivePlayer) -> None:
        self._on_exit: OnExit = launch.on_exit
        self._launch = evolve(launch, on_exit=self._exited)
        self._tree = tree
        self._player = player
        played = launch.spec.args[-1] if launch.spec.args else None
        self._puppet = played if isinstance(played, Puppet) else None
        self._label = launch.spec.id if self._puppet is None else self._puppet.label
        self._is_up = self._is_stopped = False
        self._child: Child | None = None

    async def start(self) -> StartOutcome:
        if self._puppet is None:
            self._child = SupervisorChild(self._launch, self._tree)
            outcome = await self._child.start()
            self._write("start", _OUTCOMES[type(outcome)])
            self._is_up = isinstance(outcome, Started)
            return outcome
        planned = self._puppet.next_outcome()
        after = self._player.stage.began(self._launch.path, self._puppet, planned)
        if planned in ("error", "raise"):
            await self._player.arrived()
        after()
        self._child = self._player.make_puppet_child(self._launch, self._tree, self._puppet, planned)
        outcome = await self._child.start()
        self._is_up = isinstance(outcome, Started)
        if self._is_up:
            self._player.running.add(self._puppet)
        return outcome

    async def stop(self, grace: float | None) -> ExitReason:
        self._is_stopped = True
        assert self._child is not None
        reason = await self._child.stop(grace)
        self._gone()
        if self._is_up:  # else it is a start that was given up
            self._write("stop", reason_name(reason))
        return reason

    def _exited(self, reason: ExitReason) -> None:
        if not self._is_stopped:
            self._write("exit", reason_name(reason))
        self._on_exit(reason)
        self._gone()

    def _gone(self) -> None:
        if self._puppet is not None:
            self._player.running.discard(self._puppet)

    def _write(self, what: str, how: str) -> None:
        self._player.stage.log.append([what, self._label, how])


def _is_at_rest(supervisor: Supervisor) -> bool:
    if supervisor.backlog:
        return False
    for child in supervisor.which_children():
        if child.state in _MOVING:
            return False
        with suppress(SupervisorError):
            if child.children is not None and not _is_at_rest(supervisor.supervisor(child.id)):
                return False
    return True
