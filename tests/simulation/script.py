"""One task, two workers, and a network that does one written thing to one written call: the space to search whole."""

import asyncio
import contextlib
import enum
import io
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from attrs import define, field, frozen
from loguru import logger

from murmur.ids import task_id_in_batch
from murmur.testing import SimulatedFleet
from murmur.testing.network import Mishap, Passage
from supervisors import StartFailed
from tests.simulation.course import BATCH, actor_of
from tests.simulation.ledger import Ledger, violations
from tests.simulation.plan import LEASE, Plan

WORKERS: Final = ("w0", "w1")
_HORIZON: Final = 600.0  # virtual seconds after which a gather counts as hung
_PLAN: Final = Plan(seed=16, tasks=1, troubles=(), lost=1.0, delay=0.0)


class Act(enum.Enum):
    """What is done to one call, or to the node that makes it."""

    LOST_REQUEST = "lost request"
    LOST_REPLY = "lost reply"
    REPEATED = "repeated"
    LATE = "late"
    KILL_BEFORE = "killed before"
    KILL_AFTER = "killed after"
    STALL_BEFORE = "stalled before"
    STALL_AFTER = "stalled after"


_MISHAPS: Final = {
    Act.LOST_REQUEST: Mishap.LOST_REQUEST,
    Act.LOST_REPLY: Mishap.LOST_REPLY,
    Act.REPEATED: Mishap.REPEATED,
    Act.LATE: Mishap.LATE,
}


@frozen
class Call:
    """The `nth` time that a node calls a verb, from 0."""

    node: str
    verb: str
    nth: int


Script = Mapping[Call, Act]


@define
class _ScriptedNetwork:
    script: Script
    calls: list[Call] = field(factory=list)
    kill: Any = None
    stall: Any = None
    _counts: Counter[tuple[str, str]] = field(factory=Counter)

    def passage(self, node: str, verb: str) -> Passage:
        """Do what is written."""
        call = Call(node, verb, self._counts[node, verb])
        self._counts[node, verb] += 1
        self.calls.append(call)
        act = self.script.get(call)
        if act is None:
            return Passage()
        if act in _MISHAPS:
            return Passage(_MISHAPS[act], late=1.5 * LEASE)
        happen = self.kill if act in (Act.KILL_BEFORE, Act.KILL_AFTER) else self.stall
        if act in (Act.KILL_AFTER, Act.STALL_AFTER):
            return Passage(then=lambda: happen(node))
        happen(node)
        return Passage()


def follow(script: Script) -> tuple[list[str], list[Call]]:
    """Return what a script broke, and the calls of its course in their order."""
    logger.disable("murmur")
    state = random.getstate()
    random.seed(0)
    network = _ScriptedNetwork(script)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # banners
            ledger = SimulatedFleet.run(_Scene(network).run, network=network)
        return violations(_PLAN, ledger), network.calls
    except TimeoutError:
        return ["I1: a gather waits for ever"], network.calls
    except Exception as error:
        return [f"{type(error).__name__}: {error}"], network.calls
    finally:
        random.setstate(state)
        logger.enable("murmur")


class _Scene:
    """The course of a script."""

    def __init__(self, network: _ScriptedNetwork) -> None:
        self._ledger = Ledger()
        self._actor = actor_of(_PLAN, self._ledger)
        self._doing: set[asyncio.Future[Any]] = set()
        self._gathering: asyncio.Future[Any] | None = None
        self._publishers = 0
        self._network = network
        network.kill, network.stall = self._kill, self._stall

    async def run(self, fleet: SimulatedFleet) -> Ledger:
        """Play it to its end."""
        self._fleet = fleet
        for name in WORKERS:
            self._do(self._start(name))
        self._gather(fleet.runtime)
        async with asyncio.timeout(_HORIZON):
            while self._gathering is not None and not self._gathering.done():
                await asyncio.wait([self._gathering], timeout=0.1)
        assert self._gathering is not None
        self._ledger.lists.append(self._gathering.result())
        if self._doing:
            await asyncio.wait(self._doing)
        await asyncio.sleep(LEASE)
        self._network.script = {}  # the course is over
        task_id = task_id_in_batch(BATCH, 0)
        self._ledger.rows = dict(zip([task_id], fleet.tables.read([task_id]), strict=True))
        return self._ledger

    async def _start(self, name: str) -> None:
        with contextlib.suppress(StartFailed):  # it was killed while it started
            await self._fleet.start(name, agents=[self._actor], concurrency=1, lease=LEASE, drain=LEASE)

    def _gather(self, publisher: Any) -> None:
        self._gathering = asyncio.ensure_future(publisher.gather(self._actor, tasks=[0], batch_id=BATCH))

    def _kill(self, node: str) -> None:
        self._fleet.kill(node)
        self._do(self._replaced(node))

    def _stall(self, node: str) -> None:
        self._fleet.stall(node)
        self._do(self._resumed(node))

    def _do(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _resumed(self, node: str) -> None:
        await asyncio.sleep(1.5 * LEASE)
        self._fleet.resume(node)

    async def _replaced(self, node: str) -> None:
        await asyncio.sleep(LEASE / 4)
        if node in WORKERS:
            await self._start(node)
            return
        assert self._gathering is not None
        self._gathering.cancel()
        self._publishers += 1
        self._gather(self._fleet.publisher(f"p{self._publishers}"))


def searched(
    verbs: frozenset[str] | None, acts: Iterable[Act], depth: int, script: Script | None = None
) -> Iterator[tuple[Script, list[str]]]:
    """Yield each script of up to `depth` acts, one after the other, with what it broke; `verbs` None: of all verbs."""
    script = script or {}
    broken, calls = follow(script)
    yield script, broken
    if len(script) == depth:
        return
    first = 1 + max((calls.index(call) for call in script if call in calls), default=-1)
    for call in calls[first:]:
        if verbs is None or call.verb in verbs:
            for act in acts:
                yield from searched(verbs, acts, depth, {**script, call: act})
