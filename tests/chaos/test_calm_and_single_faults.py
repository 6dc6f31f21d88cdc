"""One fault at a time, many times over, and none at all: where the storm is too coarse to tell."""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from murmur import AgentRuntime, Remote
from tests.brokers.redis_server import RedisServer
from tests.faults.conftest import Fleet
from tests.faults.conftest import fleet as fleet

pytestmark = pytest.mark.anyio
WORK = Remote("work")
LEASE = ("--reclaim-min-idle-ms", "2000")


def _burn(until: float) -> None:
    while time.monotonic() < until:
        sum(range(10_000))


async def test_without_faults_nothing_starts_twice(redis_server: RedisServer, fleet: Fleet) -> None:
    for _ in range(2):
        fleet.start(redis_server.url, "--concurrency", "50", *LEASE)
    async with AgentRuntime(redis_server.url) as runtime:
        results = await runtime.gather(WORK, [0.0] * 8_000, max_concurrency=500)
    assert all(result.is_ok() and result.metadata.attempts == 1 for result in results)
    assert set(fleet.starts().values()) == {1}


async def test_two_hundred_tasks_of_five_leases_beside_burners_start_once(
    redis_server: RedisServer, fleet: Fleet
) -> None:
    fleet.start(redis_server.url, "--concurrency", "200", *LEASE)
    burners = [multiprocessing.get_context("spawn").Process(target=_burn, args=(time.monotonic() + 14,)) for _ in "ab"]
    for burner in burners:
        burner.start()
    try:
        async with AgentRuntime(redis_server.url) as runtime:
            results = await runtime.gather(WORK, [10.0] * 200, max_concurrency=200)
    finally:
        for burner in burners:
            burner.kill()
            burner.join()
    assert all(result.metadata.attempts == 1 for result in results)
    assert set(fleet.starts().values()) == {1}


async def _frozen(server: RedisServer, fleet: Fleet, rounds: int) -> None:
    """Freeze each of many workers for three leases while it runs a task; another one does the task meanwhile."""
    frozen = [fleet.start(server.url, "--concurrency", "1", *LEASE) for _ in range(rounds)]
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [1.0] * rounds, batch_id="frozen", timeout=None))
        async with asyncio.timeout(60):
            while len(fleet.events("start")) < rounds:
                await asyncio.sleep(0.05)
        for worker in frozen:
            os.kill(worker.pid, signal.SIGSTOP)
        fleet.start(server.url, "--concurrency", "20", *LEASE)
        await asyncio.sleep(6.0)
        for worker in frozen:
            os.kill(worker.pid, signal.SIGCONT)
        first = await gathering
        await asyncio.sleep(3.0)  # what the thawed ones still have to say
        again = await runtime.gather(WORK, [1.0] * rounds, batch_id="frozen")
    starts = {(task, int(token)) for task, token, _ in fleet.events("start")}
    assert len(starts) == len(fleet.events("start"))
    for result, same in zip(first, again, strict=True):
        newest = max(token for task, token in starts if task == result.task_id)
        assert result.is_ok()
        assert result.metadata == same.metadata
        assert result.metadata.attempts == newest


async def test_frozen_workers_that_wake_late_write_nothing(redis_server: RedisServer, fleet: Fleet) -> None:
    await _frozen(redis_server, fleet, rounds=6)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_three_hundred_frozen_workers_write_nothing(redis_server: RedisServer, tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        fleet = Fleet(folder)
        redis_server.flush()
        try:
            await _frozen(redis_server, fleet, rounds=10)
        finally:
            for worker in fleet.workers:
                worker.kill()
                worker.wait()


async def _restarted(server: RedisServer, fleet: Fleet, times: int) -> list[float]:
    """Kill and start the server again and again under load; return the seconds from each start to the next result."""
    for _ in range(2):
        fleet.start(server.url, "--concurrency", "10", *LEASE)
    waits = []
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.05] * (400 * times), max_concurrency=40))
        for number in range(times):
            async with asyncio.timeout(60):
                while len(fleet.events("end")) < 200 * (number + 1):
                    await asyncio.sleep(0.05)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.5)
            before = len(fleet.events("start"))
            await asyncio.to_thread(server.start)
            began = time.monotonic()
            async with asyncio.timeout(60):
                while len(fleet.events("start")) == before:
                    await asyncio.sleep(0.02)
            waits.append(time.monotonic() - began)
        assert all(result.is_ok() for result in await gathering)
    return waits


async def test_work_goes_on_soon_after_each_restart_of_the_broker(
    start_redis: Callable[..., RedisServer], fleet: Fleet
) -> None:
    waits = await _restarted(start_redis(aof=True), fleet, times=3)
    print("seconds until the next start after a restart:", [round(wait, 2) for wait in waits])


@pytest.mark.soak
@pytest.mark.timeout(1_200)
async def test_twenty_restarts_of_the_broker(start_redis: Callable[..., RedisServer], fleet: Fleet) -> None:
    waits = await _restarted(start_redis(aof=True), fleet, times=20)
    assert max(waits) <= 5.0, waits  # what is promised; the machine may be slow, and five seconds are long


async def test_a_server_emptied_under_way_leaves_no_slot_open_and_serves_on(
    start_redis: Callable[..., RedisServer], fleet: Fleet
) -> None:
    server = start_redis(aof=True)
    fleet.start(server.url, "--concurrency", "10", *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.2] * 200, max_concurrency=50))
        for ended in (20, 60, 120):
            while len(fleet.events("end")) < ended:
                await asyncio.sleep(0.02)
            server.flush()
        results = await asyncio.wait_for(gathering, 100)
        assert len(results) == 200
        assert all(result.is_ok() or result.error is not None for result in results)
        assert (await runtime.run(WORK, 0.0)).is_ok()
