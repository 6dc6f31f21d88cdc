"""A child that is an operating-system process, behind the same protocol as tasks.

For its supervisor it is one incarnation, also when a process that has lived, worked or grown enough is replaced: a
fresh one is started first, takes over when it is ready, and then the old one is asked to finish. What
happens in one process is left to `life`, who may be replaced when to `recycle`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio import CancelScope, Event
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

from supervisors.child import Failed, Launch, Started, StartOutcome
from supervisors.errors import StartTimeout
from supervisors.events import ChildEvent, ChildLate, ChildRecycled, OutputLine
from supervisors.output import Line
from supervisors.process.life import Life
from supervisors.process.messages import Order
from supervisors.process.spawner import Spawner
from supervisors.processes import Processes
from supervisors.reasons import Crashed, ExitReason, Stuck
from supervisors.recycle import Recycle
from supervisors.supervisor import Tree


class ProcessChild:
    """One incarnation of a child as a process. See `child.Child` for the protocol."""

    def __init__(self, launch: Launch, tree: Tree, spawner: Spawner) -> None:
        self._launch = launch
        self._tree = tree
        self._spawner = spawner
        self._life = self._born()  # the one that counts
        self._lives: set[Life] = set()  # that are not over: also the next one, and old ones that finish
        self._is_over = Event()  # the one that counts is
        self._recycling = CancelScope()

    async def start(self) -> StartOutcome:
        """Start the process and wait for what it says."""
        spec = self._launch.spec
        life = self._life
        self._tree.tasks.start_soon(self._run, name=self._launch.path)
        with self._launch.clock.timeout(spec.start_timeout):
            await life.settled.wait()
        if life.outcome is None:
            ended = await life.stop(0)
            timeout = StartTimeout(self._launch.path, spec.start_timeout or 0.0)
            return Failed(ended if isinstance(ended, Stuck) else Crashed(timeout))
        return life.outcome

    async def stop(self, grace: float | None) -> ExitReason:
        """Ask it to end, wait, kill it and all it started."""
        self._recycling.cancel()
        life = self._life
        reasons: dict[Life, ExitReason] = {}

        async def stop_one(one: Life) -> None:
            reasons[one] = await one.stop(grace)

        async with anyio.create_task_group() as tasks:
            for one in self._lives | {life}:
                tasks.start_soon(stop_one, one)
        return next((reason for reason in reasons.values() if isinstance(reason, Stuck)), reasons[life])

    async def stacks(self, patience: float) -> str:
        """What the threads of the process that counts are at. See `child.HasStacks`."""
        return await self._life.stacks(patience)

    # ---- in the tree's task group

    async def _run(self) -> None:
        """Keep the child until the process that counts is over, and no other is left."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._live, self._life)
            await self._life.settled.wait()
            recycle = self._launch.spec.recycle
            if recycle is not None and isinstance(self._life.outcome, Started):
                tasks.start_soon(self._recycle, recycle, tasks)
            await self._is_over.wait()
            self._recycling.cancel()
            for other in tuple(self._lives):
                await other.stop(0)
        if isinstance(self._life.outcome, Started):
            assert self._life.reason is not None
            self._launch.on_exit(self._life.reason)

    async def _live(self, life: Life) -> None:
        self._lives.add(life)
        try:
            await life.run()
        finally:
            self._lives.discard(life)
            if life is self._life:
                self._is_over.set()

    async def _recycle(self, recycle: Recycle, tasks: TaskGroup) -> None:
        """Whenever a limit is reached, let a fresh process take over. One that cannot start is tried again later."""
        with self._recycling:
            limits, pause = recycle.jittered(self._tree.random()), self._every
            while True:
                await anyio.sleep(pause)
                pause = self._every
                why = None if self._is_over.is_set() else limits.due(self._life.usage())
                if why is not None:
                    async with self._spawner.recycling:
                        is_replaced = await self._replace(tasks, why)
                    limits = recycle.jittered(self._tree.random()) if is_replaced else limits
                    pause = pause if is_replaced else recycle.retry

    async def _replace(self, tasks: TaskGroup, why: str) -> bool:
        old, fresh = self._life, self._born()
        tasks.start_soon(self._live, fresh)
        try:
            with self._launch.clock.timeout(self._launch.spec.start_timeout):
                await fresh.settled.wait()
        finally:
            if self._is_over.is_set() or not isinstance(fresh.outcome, Started):
                fresh.kill("not needed any more")
        if self._is_over.is_set() or not isinstance(fresh.outcome, Started):
            await fresh.ended.wait()
            return False
        self._life = fresh
        self._launch.on_info(fresh.outcome.info)
        self._tell(ChildRecycled, why=why, info=fresh.outcome.info)
        await old.stop(self._launch.spec.grace)
        return True

    def _born(self) -> Life:
        launch = self._launch
        backend, is_uvloop = _loop()
        order = Order(
            id=launch.spec.id,
            path=launch.path,
            incarnation=launch.incarnation,
            backend=backend,
            is_uvloop=is_uvloop,
            every=self._every,
            limits=launch.spec.limits,
        )
        life = Life(launch, order, self._spawner, self._tree.tasks)
        life.on_late = lambda silent: self._tell(ChildLate, silent=silent)
        life.on_line = self._print
        return life

    @property
    def _every(self) -> float:
        watchdog = self._launch.spec.watchdog
        return 1.0 if watchdog is None else watchdog.every

    def _print(self, stream: str, line: Line) -> None:
        output = self._launch.spec.output
        if output is None or output.to is None:
            self._tell(OutputLine, stream=stream, text=line.text, dropped=line.dropped)
        else:
            output.to(self._event(OutputLine, stream=stream, text=line.text, dropped=line.dropped))

    def _tell(self, kind: type[ChildEvent], **fields: object) -> None:
        if self._tree.events.is_heard:
            self._tree.events.put(self._event(kind, **fields))

    def _event(self, kind: type[ChildEvent], **fields: object) -> ChildEvent:
        above, _, key = self._launch.path.rpartition("/")
        now = self._launch.clock.now()
        return kind(at=now, supervisor=above, child=key, incarnation=self._launch.incarnation, **fields)


class ProcessShell:
    """Makes process children that share a fork server. Ended by `close`, after all of them."""

    def __init__(self, settings: Processes) -> None:
        self._spawner = Spawner(settings)

    def make_child(self, launch: Launch, tree: Tree) -> ProcessChild:
        """Make a child of this tree."""
        return ProcessChild(launch, tree, self._spawner)

    async def close(self) -> None:
        """End the fork server."""
        await self._spawner.close()


@asynccontextmanager
async def open_processes(settings: Processes | None = None) -> AsyncIterator[ProcessShell]:
    """A fork server that several trees share: `open_supervisor(spec, processes=shell)`. It outlives them."""
    shell = ProcessShell(settings or Processes())
    try:
        yield shell
    finally:
        await shell.close()


def _loop() -> tuple[str, bool]:
    """The backend of the running event loop, and whether it is uvloop's."""
    loop = current_token().native_token
    module = type(loop).__module__.partition(".")[0]
    return ("trio" if module == "trio" else "asyncio"), module == "uvloop"
