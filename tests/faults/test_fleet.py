"""The laws of a fleet, the same on every broker: what dies, comes and goes, and what nobody may notice of it.

Real workers and real servers. How soon each broker must get over what is in `places.py`; what was measured is printed.
What only one broker can do is tested beside, in a file of its own.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any, Self

import psutil
import pytest

from murmur import AgentResult, AgentRuntime, Remote
from murmur.errors import SpawnError
from tests.chaos.processes import below
from tests.faults.conftest import Fleet, until
from tests.faults.places import LEASE, SLACK, Place

pytestmark = pytest.mark.anyio
WORK = Remote("attempt")
ELSEWHERE = ("redis", "rabbitmq", "kafka")  # where the build leaves it to contracts, and to tests/chaos
FIVE_LEASES = 5 * LEASE


class Load:
    """Tasks without an end, so many open at once, until they are wanted no more."""

    def __init__(self, runtime: AgentRuntime, *, seconds: float = 0.2, at_once: int = 40) -> None:
        self._is_wanted = True
        self._gathering = asyncio.ensure_future(
            runtime.gather(WORK, self._inputs(seconds), max_concurrency=at_once, timeout=None)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gathering.cancel()

    async def results(self) -> list[AgentResult[Any]]:
        """Want no more; return what came of all there were."""
        self._is_wanted = False
        return await asyncio.wait_for(self._gathering, 120.0)

    async def _inputs(self, seconds: float) -> AsyncIterator[float]:
        while self._is_wanted:
            yield seconds


def assert_answered(results: Iterable[AgentResult[Any]], *, attempts: int | None = None) -> None:
    failed = [result.error for result in results if not result.is_ok()]
    assert not failed
    assert attempts is None or {result.metadata.attempts for result in results} == {attempts}


def again(fleet: Fleet) -> set[str]:
    """Return the tasks that were started more than once."""
    return {task for task, times in fleet.starts().items() if times > 1}


def busy(fleet: Fleet, node: "subprocess.Popen[bytes]") -> int:
    """Count the worker processes of a node that are at work."""
    return sum(len(fleet.running_on(pid)) > 0 for pid in below(node))


async def begun_elsewhere(fleet: Fleet, dead: set[int], *, promised: float) -> None:
    """Wait until all that these processes ran as they died has begun again."""
    killed = time.monotonic()
    await until(lambda: not any(map(psutil.pid_exists, dead)))
    lost = {task for pid in dead for task in fleet.running_on(pid)}
    await until(lambda: lost <= again(fleet), within=promised + SLACK)
    print(f"{len(lost)} tasks began elsewhere {time.monotonic() - killed:.2f} s after a kill; at most {promised:g}")


async def test_a_killed_workers_tasks_run_again_and_no_others(place: Place, fleet: Fleet) -> None:
    slots = 8
    heir = fleet.start(place.broker, "--concurrency", "20", *place.options())
    async with place.runtime() as runtime:
        long = asyncio.ensure_future(runtime.gather(WORK, [FIVE_LEASES] * 5))
        await until(lambda: len(fleet.running_on(heir.pid)) == 5)
        doomed = fleet.start(place.broker, "--concurrency", str(slots), "--processes", "2", *place.options())
        async with Load(runtime) as load:
            await until(lambda: busy(fleet, doomed) == 2)
            process = below(doomed)[0]
            os.kill(process, signal.SIGKILL)
            await begun_elsewhere(fleet, {process}, promised=1.0)
            await until(lambda: busy(fleet, doomed) == 2)
            rest = set(below(doomed))
            doomed.kill()
            doomed.wait()
            await begun_elsewhere(fleet, rest, promised=place.promise.node_killed)
            results = await load.results()
        assert_answered(await asyncio.wait_for(long, 60.0), attempts=1)
    assert_answered(results)
    # What ended as they died, and was not stored, is begun again as well.
    theirs = {task for task, _, pid in fleet.events("start") if int(pid) in {process, *rest}}
    assert again(fleet) <= theirs
    assert len(again(fleet)) <= 2 * slots


async def _come_and_gone(place: Place, fleet: Fleet, most: int, publishers: int) -> None:
    """Have nodes become one, and many again, under load; nothing may be lost, or begin twice."""
    options = ("--concurrency", "4", *place.options(lease=30.0))  # nobody dies here
    first, *others = [fleet.start(place.broker, *options) for _ in range(most)]
    began = time.monotonic()
    for _ in range(publishers):
        async with place.runtime() as fresh:
            assert (await fresh.run(WORK, 0.0)).is_ok()
    print(f"{publishers} fresh publishers in a row were answered, {time.monotonic() - began:.1f} s")
    async with place.runtime() as runtime, Load(runtime) as load:
        await until(lambda: all(fleet.running_on(node.pid) for node in (first, *others)))
        for node in others:
            node.terminate()
        for node in others:
            assert await asyncio.to_thread(node.wait, 60) == 0
        others = [fleet.start(place.broker, *options) for _ in others]
        await until(lambda: all(fleet.running_on(node.pid) for node in (first, *others)))
        results = await load.results()
    assert_answered(results)  # what was granted and given back before it began counts as an attempt
    assert not again(fleet)


async def test_nodes_that_come_and_go_lose_and_repeat_nothing(place: Place, fleet: Fleet) -> None:
    await _come_and_gone(place, fleet, most=2, publishers=10)


@pytest.mark.soak
@pytest.mark.timeout(1_200)
async def test_three_nodes_become_one_and_three_again_beside_a_thousand_publishers(place: Place, fleet: Fleet) -> None:
    await _come_and_gone(place, fleet, most=3, publishers=1_000)


@pytest.mark.parametrize(
    "place", ["nats", *(pytest.param(one, marks=pytest.mark.soak) for one in ELSEWHERE)], indirect=True
)
async def test_a_paused_worker_that_wakes_late_changes_nothing(place: Place, fleet: Fleet) -> None:
    paused = fleet.start(place.broker, *place.options())
    async with place.runtime() as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [1.0] * 5, batch_id="paused", timeout=None))
        await until(lambda: len(fleet.running_on(paused.pid)) == 5)
        paused.send_signal(signal.SIGSTOP)
        heir = fleet.start(place.broker, *place.options())
        results = await asyncio.wait_for(gathering, 120.0)
        assert_answered(results, attempts=2)
        paused.send_signal(signal.SIGCONT)
        heir.terminate()
        assert await asyncio.to_thread(heir.wait, 60) == 0
        # It has the fleet to itself now: what it was at is over when it works again.
        assert (await runtime.run(WORK, 0.0, timeout=120.0)).is_ok()
    async with place.runtime() as another:
        same = await another.gather(WORK, [1.0] * 5, batch_id="paused", timeout=None)
    assert [result.unwrap() for result in same] == [result.unwrap() for result in results]


async def _survived(place: Place, fleet: Fleet, *, tasks: int, restarts: int) -> None:
    """Kill the broker so many times while so many tasks pass through; nothing may be lost, or come out otherwise."""
    slots = 20
    worker = fleet.start(place.broker, "--concurrency", str(slots), *place.options())
    async with place.runtime() as runtime:
        assert (await runtime.run(WORK, 0.0)).is_ok()
        began = time.monotonic()
        assert_answered(await runtime.gather(WORK, [1.0] * slots), attempts=1)
        print(f"{slots} tasks of a second took {time.monotonic() - began:.2f} s on {slots} slots")
        before = len(fleet.events("end"))
        inputs = [0.05] * tasks
        gathering = asyncio.ensure_future(
            runtime.gather(WORK, inputs, batch_id="restarts", max_concurrency=50, timeout=None)
        )
        waits = []
        for number in range(restarts):
            enough = before + (number + 1) * tasks // (restarts + 1)
            await until(lambda enough=enough: len(fleet.events("end")) >= enough or worker.poll() is not None)
            assert place.server is not None
            await asyncio.to_thread(place.server.kill)
            await asyncio.sleep(0.3)  # what was granted before has begun
            begun = len(fleet.events("start"))
            await asyncio.to_thread(place.server.start)
            back = time.monotonic()
            await until(lambda begun=begun: len(fleet.events("start")) > begun)
            waits.append(time.monotonic() - back)
        results = await asyncio.wait_for(gathering, 120.0 + tasks / 100)
    # Where it was away for longer than a publish may take, slots say so; the same batch again asks for those alone.
    failed = [result.error for result in results if not result.is_ok()]
    assert all(isinstance(error, SpawnError) for error in failed), failed
    async with place.runtime() as another:
        whole = await asyncio.wait_for(another.gather(WORK, inputs, batch_id="restarts", timeout=None), 120.0)
    assert_answered(whole)
    changed = [one for one, now in zip(results, whole, strict=True) if one.is_ok() and one.output != now.output]
    assert not changed
    repeated = fleet.starts().total() - len(fleet.starts())
    print(f"{tasks} tasks, {restarts} restarts: {repeated} repeated, {len(failed)} not published in ten seconds,")
    print(f"next start at most {max(waits):.2f} s after the broker is back")
    assert repeated <= restarts * slots


async def test_a_broker_that_dies_and_comes_back_loses_nothing(own_place: Place, fleet: Fleet) -> None:
    await _survived(own_place, fleet, tasks=300, restarts=own_place.promise.restarts)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_twenty_deaths_of_the_broker_under_twenty_thousand_tasks_lose_nothing(
    own_place: Place, fleet: Fleet
) -> None:
    await _survived(own_place, fleet, tasks=20_000, restarts=20)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_task_of_three_minutes_starts_once_whatever_the_broker_takes_for_long(
    own_place: Place, fleet: Fleet
) -> None:
    for _ in range(2):
        fleet.start(own_place.broker, *own_place.options())
    async with own_place.runtime() as runtime:
        assert_answered(await runtime.gather(WORK, [180.0] * 3, timeout=None), attempts=1)
    assert not again(fleet)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_three_nodes_share_a_burst_and_one_that_comes_late_gets_some(place: Place, fleet: Fleet) -> None:
    options = ("--concurrency", "5", *place.options())
    nodes = [fleet.start(place.broker, *options) for _ in range(3)]
    async with place.runtime() as runtime:
        async with Load(runtime) as load:
            await until(lambda: all(fleet.running_on(node.pid) for node in nodes))
            await load.results()
        began, ideal = time.monotonic(), 60 * 0.5 / 15
        assert_answered(await runtime.gather(WORK, [0.5] * 60), attempts=1)
        ratio = (time.monotonic() - began) / ideal
        print(f"60 tasks of half a second on 3 x 5 slots: {ratio:.2f} x ideal; at most {place.promise.makespan:g}")
        async with Load(runtime, at_once=60) as load:
            late = fleet.start(place.broker, *options)
            await until(lambda: fleet.running_on(late.pid))
            before = Counter(int(pid) for _, _, pid in fleet.events("end"))
            await until(lambda: len(fleet.events("end")) >= before.total() + 400)
            share = Counter(int(pid) for _, _, pid in fleet.events("end")) - before
            await load.results()
        print(f"of {share.total()} tasks the late one took {share[late.pid]}, the others {share[nodes[0].pid]}, …")
        assert share[late.pid] > 0
    assert ratio <= place.promise.makespan
