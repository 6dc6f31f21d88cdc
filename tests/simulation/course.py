"""Plays a plan: real publishers and workers over a memory broker, in virtual time, with all that can go wrong."""

import asyncio
import contextlib
import io
import itertools
import random
import time
from collections import Counter
from typing import Any, Final
from unittest import mock

from loguru import logger

from murmur import Actor, TaskSpec
from murmur.errors import Reject
from murmur.ids import task_id_in_batch
from murmur.policy import Backoff, Redelivery
from murmur.stores.memory_tables import MemoryTables
from murmur.testing import SimulatedFleet
from murmur.testing.network import RoughNetwork
from murmur.transport import Outgoing
from tests.simulation.ledger import Fate, Ledger, Start, fate_of, is_stubborn, violations
from tests.simulation.plan import LEASE, WORKERS, Kind, Plan, Trouble

BATCH: Final = "course"
_HORIZON: Final = 900.0  # virtual seconds after which a gather counts as hung


def play(plan: Plan, tables: type[MemoryTables] = MemoryTables) -> Ledger:
    """Return what the course of a plan showed. Deterministic."""
    logger.disable("murmur")
    state = random.getstate()
    random.seed(plan.seed)
    try:
        dice = random.Random(plan.seed)
        network = RoughNetwork(dice, delay=plan.delay, trouble=plan.lost)
        with contextlib.redirect_stderr(io.StringIO()):  # banners
            return SimulatedFleet.run(_Course(plan).run, network=network, tables=tables, has_store=plan.has_store)
    finally:
        random.setstate(state)
        logger.enable("murmur")


def broken_by(plan: Plan) -> list[str]:
    """Return what a plan breaks; an error of the runtime's own counts."""
    try:
        return violations(plan, play(plan))
    except TimeoutError:
        return ["I1: a gather waits for ever"]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


class _Course:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ledger = Ledger()
        self._wall = 1_800_000_000.0
        self._gathers: set[asyncio.Task[Any]] = set()
        self._publisher = "publisher"
        self._names = itertools.count(1)
        self._nodes = {name: asyncio.Lock() for name in WORKERS}
        self._actor = actor_of(plan, self._ledger)

    async def run(self, fleet: SimulatedFleet) -> Ledger:
        """Play it to its end."""
        with mock.patch.object(time, "time", self._now):
            self._gather(fleet, self._publisher)
            for name in WORKERS:
                await self._start(fleet, name)
            troubles = [asyncio.ensure_future(self._trouble(fleet, trouble)) for trouble in self._plan.troubles]
            await self._answered()
            await asyncio.wait(troubles) if troubles else None
            self._ledger.broken += [repr(one.exception()) for one in troubles if one.exception()]
            await self._answered()  # those that were begun since
            await asyncio.sleep(LEASE)
            ids = [task_id_in_batch(BATCH, index) for index in range(self._plan.tasks)]
            if self._plan.has_store:
                self._ledger.rows = dict(zip(ids, fleet.tables.read(ids), strict=True))
                self._ledger.letters = len(fleet.tables.dead_letters("worker_of_course", 1_000))
            else:
                await self._quiet(fleet)
                self._ledger.letters = fleet.broker.stats("worker_of_course.dead", None).ready or 0
            return self._ledger

    def _now(self) -> float:
        """Return what the wall clocks show."""
        return self._wall + asyncio.get_running_loop().time()

    async def _start(self, fleet: SimulatedFleet, name: str) -> None:
        await fleet.start(name, agents=[self._actor], concurrency=3, lease=LEASE, drain=LEASE)

    def _gather(self, fleet: SimulatedFleet, name: str) -> None:
        runtime = fleet.runtime if name == "publisher" else fleet.publisher(name)
        numbers = range(self._plan.tasks)
        gathering = asyncio.ensure_future(
            runtime.gather(self._actor, tasks=numbers, batch_id=BATCH, max_concurrency=6)
            if self._plan.has_store
            else runtime.gather(
                self._actor, [TaskSpec(one, id=task_id_in_batch(BATCH, one)) for one in numbers], max_concurrency=6
            )
        )
        gathering.set_name(name)
        self._gathers.add(gathering)

    async def _answered(self) -> None:
        """Wait for every gather whose publisher lives."""
        async with asyncio.timeout(_HORIZON):
            while waiting := {gathering for gathering in self._gathers if not gathering.done()}:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=LEASE)
        for gathering in self._gathers:
            if not gathering.cancelled():
                self._ledger.lists.append(gathering.result())
        self._gathers.clear()

    async def _quiet(self, fleet: SimulatedFleet) -> None:
        """Wait until no task is left on the broker: one that was answered may still have to be buried."""
        name = "worker_of_course.tasks"
        until = asyncio.get_running_loop().time() + _HORIZON
        while (stats := fleet.broker.stats(name, None)).ready or stats.inflight or fleet.broker._topics[name].delayed:
            if asyncio.get_running_loop().time() > until:
                self._ledger.broken.append("I9: a task never leaves the broker")
                return
            await asyncio.sleep(LEASE / 2)

    async def _trouble(self, fleet: SimulatedFleet, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.at)
        name = WORKERS[trouble.which % len(WORKERS)]
        match trouble.kind:
            case Kind.KILL:
                async with self._nodes[name]:
                    fleet.kill(name)
                    await asyncio.sleep(trouble.length)
                    await self._start(fleet, name)
            case Kind.STALL:
                async with self._nodes[name]:
                    fleet.stall(name)
                    await asyncio.sleep(trouble.length)
                    fleet.resume(name)
            case Kind.DRAIN:
                async with self._nodes[name]:
                    await fleet.stop(name)
                    await self._start(fleet, name)
            case Kind.PUBLISHER:
                self._kill_publisher(fleet)
            case Kind.RESUMER:
                self._gather(fleet, f"p{next(self._names)}")
            case Kind.STRANGER:
                self._publish_again(fleet, trouble.which % self._plan.tasks)
            case Kind.CLOCK:
                self._wall += (trouble.length - LEASE) * 1_800.0  # an hour back to two hours on
            case Kind.WIPE:
                fleet.wipe()

    def _kill_publisher(self, fleet: SimulatedFleet) -> None:
        """The batch's newest publisher dies; another goes on with the batch."""
        for gathering in list(self._gathers):
            if gathering.get_name() == self._publisher:
                fleet.kill(self._publisher)
                gathering.cancel()
                self._gathers.discard(gathering)
        self._publisher = f"p{next(self._names)}"
        self._gather(fleet, self._publisher)

    def _publish_again(self, fleet: SimulatedFleet, number: int) -> None:
        """A broker that repeats itself, or a stranger who does."""
        task_id = task_id_in_batch(BATCH, number)
        body = b'{"v":1,"task_id":"%s","agent":"worker_of_course","input":%d}' % (task_id.encode(), number)
        fleet.broker.publish([Outgoing("worker_of_course.tasks", body, f"again-{next(self._names)}")])


def actor_of(plan: Plan, ledger: Ledger) -> type[Actor[int, int]]:
    begun: Counter[int] = Counter()
    effects = itertools.count()

    class WorkerOfCourse(Actor[int, int]):
        """Squares a number, or fails, as its fate wants it; takes up to five leases for it."""

        redelivery = Redelivery(backoff=Backoff(initial=0.1, factor=2.0, cap=2.0, jitter=True))

        async def receive(self, number: int) -> int:
            context = self.context
            now = asyncio.get_running_loop().time()
            ledger.starts.append(Start(context.task_id, number, context.token, context.attempt, now))
            dice = random.Random(f"{plan.seed}:{number}:{begun[number]}")
            begun[number] += 1
            await asyncio.sleep(dice.choice((0.0, 0.1, LEASE, 5 * LEASE)) * dice.random())

            async def effect() -> int:
                await asyncio.sleep(dice.random())
                return next(effects)

            step = asyncio.ensure_future(context.once("effect", effect) if plan.has_store else effect())
            if is_stubborn(number):  # what is being paid for is awaited, whoever says stop
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(step)
            ledger.steps.append((context.task_id, await step))
            await asyncio.sleep(dice.random())
            match fate_of(number):
                case Fate.REJECTED:
                    raise Reject("no")
                case Fate.POISON:
                    raise ConnectionError("never")
                case Fate.FLAKY if context.attempt < 3:
                    raise ConnectionError("not yet")
            return number * number

    return WorkerOfCourse
