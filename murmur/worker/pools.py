"""Which agents run in worker processes, and in which pool: one for all, and one for each that wants its own.

With `processes=N` all agents run in the shared pool; an actor class with `isolation = "process"` has a pool to itself,
also beside agents that run in the node's own process. What a pool does with tasks is told in `pool`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, Protocol

from attrs import define, evolve, field
from loguru import logger

from murmur import wiring
from murmur.policy import Redelivery
from murmur.registry import AnyActor
from murmur.store import Claim
from murmur.task_queue import TaskQueue, Work
from murmur.worker.desk import Desk
from murmur.worker.endings import Endings
from murmur.worker.hooks import Hooks
from murmur.worker.named_pins import Pins
from murmur.worker.pool import Pool
from murmur.worker.setting import Keeping, Setting, check_sendable
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots
from supervisors import Processes, Supervisor
from supervisors.errors import SupervisorError
from supervisors.events import ChildExited, ChildFailed, ChildStopped, EventStream

_ROOT: Final = "root"  # of the worker's tree
_SHARED: Final = "pool"
_PRELOAD: Final = "murmur.worker.inside"  # what every worker process begins with


class Place(Protocol):
    """Where tasks run: the crew of this process, or a pool of others."""

    @property
    def free(self) -> int:
        """How many more tasks may begin."""

    @property
    def broken(self) -> dict[str, str]:
        """Agents that cannot be served now, and why."""

    def room(self) -> Mapping[str, int]:
        """Return how many messages each agent may take now; agents that may take none are left out."""

    def begin(self, work: Work) -> None:
        """Start an attempt at a granted task."""

    def lose(self, claim_of: object) -> None:
        """A delivery, or a task by its id, is no longer ours: end its attempt, write nothing."""

    def claims(self) -> list[Claim]:
        """Return the rights to all that is in hand."""

    def drain(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Let what runs end for so many seconds, and give the rest back, uncounted."""


@define(eq=False)
class Pools:
    """The pools of one node."""

    queue: TaskQueue
    settler: Settler
    slots: Slots
    endings: Endings
    hooks: Hooks
    desk: Desk
    setting: Setting
    keeping: Keeping
    count: int = field(alias="processes")
    concurrency: int
    on_room: Callable[[], object]
    supervisor: Callable[[], Supervisor | None]
    _by_agent: dict[str, Pool] = field(factory=dict)
    _is_hopeless: asyncio.Event = field(factory=asyncio.Event)

    def __iter__(self) -> Iterator[Pool]:
        return iter(dict.fromkeys(self._by_agent.values()))

    @property
    def agents(self) -> tuple[str, ...]:
        """Those that run in processes."""
        return tuple(self._by_agent)

    @property
    def processes(self) -> Processes:
        """How the processes are started."""
        return Processes(preload=(_PRELOAD, wiring.PUBLISHER, *self.keeping.preload))

    def of(self, agent: str) -> Pool | None:
        """Return the pool in which an agent runs; None: it runs in the node's own process."""
        return self._by_agent.get(agent)

    def stage_of(self, agent: str) -> Pins | None:
        """Return where the names of an agent live; None: in the node's own process."""
        pool = self._by_agent.get(agent)
        return None if pool is None else pool.pins

    def add(self, name: str, actor: AnyActor, redelivery: Redelivery) -> bool:
        """Find a pool for an agent, before its processes start; False if it runs in the node's own process."""
        if actor.isolation == "process":
            check_sendable(actor)
            most = self.concurrency if actor.concurrency is None else min(actor.concurrency, self.concurrency)
            self._by_agent[name] = self._pool(f"{_SHARED}-{name}", {name: actor}, {name: redelivery}, most)
            return True
        if not self.count:
            return False
        shared = next((pool for pool in self if pool.id == _SHARED), None)
        agents = {name: actor} if shared is None else {**shared.setting.agents, name: actor}
        limits = {name: redelivery} if shared is None else {**shared.redelivery, name: redelivery}
        shared = self._pool(_SHARED, agents, limits, self.concurrency)
        self._by_agent |= dict.fromkeys(agents, shared)
        return True

    def stir(self) -> None:
        """A slot is free: names that wait in this node go before what is still with the broker."""
        for pool in self:
            pool.pins.stir()

    async def listen(self, events: EventStream) -> None:
        """Hear how processes end, and what broke in this one."""
        async for event in events:
            if isinstance(event, ChildExited) and event.supervisor == _ROOT:
                logger.warning("the {} of this worker broke, and begins anew: {}", event.child, event.reason)
            if isinstance(event, ChildExited | ChildFailed | ChildStopped):
                for pool in self:
                    try:
                        pool.died(f"{event.supervisor}/{event.child}", event.incarnation, event.reason)
                    except Exception:  # noqa: BLE001  ours: the next death is heard all the same
                        logger.exception("the node broke at the end of {}: {}", event.child, event.reason)
                    if pool.early.hopeless is not None:
                        self._is_hopeless.set()

    async def hopeless(self) -> None:
        """Wait until a pool will never serve. Raises `WorkerNotStarted`."""
        await self._is_hopeless.wait()
        raise next(pool.early.hopeless for pool in self if pool.early.hopeless is not None)

    async def stop_all(self) -> None:
        """Give back, uncounted, whatever any process has in hand."""
        for pool in self:
            await pool.stop_all()

    def _pool(
        self, name: str, agents: Mapping[str, AnyActor], redelivery: Mapping[str, Redelivery], concurrency: int
    ) -> Pool:
        return Pool(
            name,
            self.queue,
            self.settler,
            self.slots,
            self.endings,
            self.hooks,
            self.desk,
            evolve(self.setting, agents=agents, recycle=self.keeping.recycle),
            self.keeping,
            min(max(self.count, 1), concurrency),
            concurrency,
            redelivery,
            self.on_room,
            lambda: self._supervisor_of(name),
        )

    def _supervisor_of(self, name: str) -> Supervisor | None:
        above = self.supervisor()
        if above is None:
            return None
        try:
            return above.supervisor(name)
        except SupervisorError:
            return None  # it is being started again
