"""Plays scenarios on real supervisors and real tasks, in virtual time."""

from collections.abc import Callable

from anyio import lowlevel
from anyio.abc import TaskGroup
from attrs import evolve

from supervisors.child import Child, Launch
from supervisors.supervisor import Tree
from supervisors.task_child import TaskChild
from supervisors.testing.clock import VirtualClock, settle
from supervisors.testing.live_player import LivePlayer
from supervisors.testing.players import Stage
from supervisors.testing.puppet import Puppet


class TaskPlayer(LivePlayer):
    """See `players.Player`."""

    def __init__(self, stage: Stage, tasks: TaskGroup) -> None:
        self._time = VirtualClock()
        super().__init__(stage, tasks, self._time)

    def make_puppet_child(self, launch: Launch, tree: Tree, puppet: Puppet, outcome: str) -> Child:
        """Return a task that runs the puppet."""
        spec = evolve(launch.spec, start=puppet.run, args=(self._time, outcome), kwargs={})
        return TaskChild(evolve(launch, spec=spec), tree.tasks)

    async def quiet(self, is_quiet: Callable[[], bool]) -> None:
        """Let everything run, and time pass where something waits for it. Raises RuntimeError if that never helps."""
        await settle()
        while not is_quiet():
            if not await self._time.jump():
                raise RuntimeError("the tree waits for what never comes")

    async def arrived(self) -> None:
        """Wait until every supervisor has heard of the puppets that were made to end."""
        while self.is_somebody_dying:
            await lowlevel.checkpoint()
