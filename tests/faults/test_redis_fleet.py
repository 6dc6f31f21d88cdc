"""What dies, and what nobody may notice: workers, the broker, its connections, on a real Redis with real processes."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable

import pytest

from murmur import AgentRuntime, Remote, TaskSpec
from murmur.errors import SpawnError
from tests.brokers.redis_server import RedisServer
from tests.faults.conftest import Fleet

pytestmark = pytest.mark.anyio
WORK = Remote("work")
LEASE = ("--reclaim-min-idle-ms", "2000")


async def until(holds: Callable[[], bool], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_killed_workers_tasks_run_again_and_no_others(redis_server: RedisServer, fleet: Fleet) -> None:
    doomed = fleet.start(redis_server.url, "--concurrency", "5", *LEASE)
    fleet.start(redis_server.url, "--concurrency", "5", *LEASE)
    async with AgentRuntime(redis_server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.3] * 60))
        await until(lambda: len(fleet.running_on(doomed.pid)) == 5 and len(fleet.events("end")) >= 10)
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.wait()
        lost = fleet.running_on(doomed.pid)
        results = await gathering
    assert all(result.is_ok() for result in results)
    again = {task for task, times in fleet.starts().items() if times > 1}
    assert again <= lost
    assert {result.metadata.attempts for result in results if result.task_id in again} == {2}


async def test_a_drained_worker_finishes_what_runs_and_leaves_the_rest(redis_server: RedisServer, fleet: Fleet) -> None:
    going = fleet.start(redis_server.url, "--concurrency", "4", *LEASE)
    async with AgentRuntime(redis_server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.5] * 24))
        await until(lambda: len(fleet.running_on(going.pid)) == 4)
        fleet.start(redis_server.url, "--concurrency", "4", *LEASE)
        going.terminate()
        assert await asyncio.to_thread(going.wait, 20) == 0
        results = await gathering
    assert all(result.is_ok() and result.metadata.attempts == 1 for result in results)
    assert set(fleet.starts().values()) == {1}


async def test_a_second_signal_gives_running_tasks_back_at_once(redis_server: RedisServer, fleet: Fleet) -> None:
    going = fleet.start(redis_server.url, *LEASE)
    async with AgentRuntime(redis_server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [2.0] * 3))
        await until(lambda: len(fleet.running_on(going.pid)) == 3)
        going.terminate()
        await asyncio.sleep(0.2)
        going.terminate()
        assert await asyncio.to_thread(going.wait, 10) == 0
        fleet.start(redis_server.url, *LEASE)
        results = await gathering
    assert all(result.is_ok() and result.metadata.attempts == 2 for result in results)


async def test_a_broker_that_dies_and_comes_back_loses_nothing(
    start_redis: Callable[..., RedisServer], fleet: Fleet
) -> None:
    server = start_redis(aof=True)
    fleet.start(server.url, "--concurrency", "10", *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.1] * 200, max_concurrency=50))
        for ended in (20, 100):
            await until(lambda ended=ended: len(fleet.events("end")) >= ended)  # type: ignore[misc]
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)
        results = await asyncio.wait_for(gathering, 60)
    assert [result.unwrap() for result in results] == [0.1] * 200


async def test_a_broker_that_comes_back_empty_ends_no_slot_in_silence(
    start_redis: Callable[..., RedisServer], fleet: Fleet
) -> None:
    server = start_redis()
    fleet.start(server.url, "--concurrency", "10", *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.1] * 100, max_concurrency=30))
        await until(lambda: len(fleet.events("end")) >= 20)
        server.flush()
        results = await asyncio.wait_for(gathering, 60)
    assert all(result.is_ok() for result in results)


async def test_what_cannot_be_published_says_so_and_the_rest_is_answered(
    start_redis: Callable[..., RedisServer], fleet: Fleet
) -> None:
    server = start_redis(aof=True)
    fleet.start(server.url, *LEASE)
    async with AgentRuntime(server.url) as runtime:
        assert (await runtime.run(WORK, 0.01)).is_ok()

        async def inputs() -> object:
            yield 0.01
            await until(lambda: len(fleet.events("end")) >= 2)
            await asyncio.to_thread(server.kill)
            yield 0.02
            await asyncio.sleep(13)
            await asyncio.to_thread(server.start)
            yield 0.03

        results = await asyncio.wait_for(runtime.gather(WORK, inputs(), max_concurrency=1 + 2), 60)
    assert [result.is_ok() for result in results] == [True, False, True]
    assert isinstance(results[1].error, SpawnError)


async def test_long_tasks_beside_burners_run_once(redis_server: RedisServer, fleet: Fleet) -> None:
    fleet.start(redis_server.url, "--concurrency", "200", "--prefetch", "200", *LEASE)
    fleet.start(redis_server.url, "--concurrency", "10", *LEASE)  # somebody who would take over
    burners = [multiprocessing.get_context("spawn").Process(target=_burn, daemon=True) for _ in range(2)]
    for burner in burners:
        burner.start()
    try:
        async with AgentRuntime(redis_server.url) as runtime:
            results = await runtime.gather(WORK, [10.0] * 200, max_concurrency=200)
    finally:
        for burner in burners:
            burner.kill()
            burner.join()
    assert all(result.is_ok() for result in results)
    assert set(fleet.starts().values()) == {1}


async def test_a_paused_worker_that_wakes_late_changes_nothing(redis_server: RedisServer, fleet: Fleet) -> None:
    paused = fleet.start(redis_server.url, *LEASE)
    async with AgentRuntime(redis_server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [TaskSpec(1.0, id=f"p{n}") for n in range(5)]))
        await until(lambda: len(fleet.running_on(paused.pid)) == 5)
        os.kill(paused.pid, signal.SIGSTOP)
        fleet.start(redis_server.url, *LEASE)
        results = await asyncio.wait_for(gathering, 30)
        os.kill(paused.pid, signal.SIGCONT)
        assert all(result.is_ok() and result.metadata.attempts == 2 for result in results)
        engine = runtime._engine
        assert engine is not None
        before = await engine.queue.store.read([f"p{n}" for n in range(5)])
        await asyncio.sleep(1.5)  # what the woken worker writes now must be refused
        after = await engine.queue.store.read([f"p{n}" for n in range(5)])
    assert [row.result for row in before if row] == [row.result for row in after if row]
    assert all(row is not None and row.token == 2 for row in after)


def _burn() -> None:
    while True:
        sum(range(10_000))
