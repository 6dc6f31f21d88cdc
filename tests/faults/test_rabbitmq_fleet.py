"""The laws of a fleet on a real RabbitMQ: workers killed, long tasks, a broker that dies and comes back."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from murmur import AgentRuntime, Remote
from tests.brokers.fixtures import RabbitPlace
from tests.brokers.rabbitmq_server import RabbitServer
from tests.faults.conftest import Fleet

pytestmark = pytest.mark.anyio
WORK = Remote("work")
LEASE = ("--reclaim-min-idle-ms", "2000")


async def until(holds: Callable[[], bool], within: float = 30.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.02)


def beside(folder: Path) -> str:
    """Return a store beside the broker that all processes of this host share."""
    return f"sqlite:///{folder}/rows.db"


async def test_a_killed_workers_tasks_begin_elsewhere_at_once_and_no_others(
    rabbitmq: RabbitPlace, fleet: Fleet, tmp_path: Path
) -> None:
    store = beside(tmp_path)
    doomed = fleet.start(rabbitmq.url, "--store", store, "--concurrency", "5", *LEASE)
    fleet.start(rabbitmq.url, "--store", store, "--concurrency", "10", *LEASE)
    async with AgentRuntime(rabbitmq.url, store=store) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.3] * 80))
        await until(lambda: len(fleet.running_on(doomed.pid)) >= 3 and len(fleet.events("end")) >= 10)
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.wait()
        killed, lost = time.monotonic(), fleet.running_on(doomed.pid)
        await until(lambda: all(fleet.starts()[task] > 1 for task in lost))
        print(f"{len(lost)} tasks began elsewhere after {time.monotonic() - killed:.2f} s")
        results = await gathering
    assert all(result.is_ok() for result in results)
    again = {task for task, times in fleet.starts().items() if times > 1}
    assert again <= lost
    assert {result.metadata.attempts for result in results if result.task_id in again} <= {2}


async def test_tasks_five_leases_long_start_once(rabbitmq: RabbitPlace, fleet: Fleet, tmp_path: Path) -> None:
    store = beside(tmp_path)
    fleet.start(rabbitmq.url, "--store", store, "--concurrency", "50", *LEASE)
    fleet.start(rabbitmq.url, "--store", store, "--concurrency", "5", *LEASE)  # somebody who would take over
    async with AgentRuntime(rabbitmq.url, store=store) as runtime:
        results = await runtime.gather(WORK, [10.0] * 50)
    assert all(result.is_ok() for result in results)
    assert set(fleet.starts().values()) == {1}


async def test_a_drained_worker_finishes_what_runs_and_leaves_the_rest(
    rabbitmq: RabbitPlace, fleet: Fleet, tmp_path: Path
) -> None:
    store = beside(tmp_path)
    going = fleet.start(rabbitmq.url, "--store", store, "--concurrency", "4", *LEASE)
    async with AgentRuntime(rabbitmq.url, store=store) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.5] * 24))
        await until(lambda: len(fleet.running_on(going.pid)) == 4)
        fleet.start(rabbitmq.url, "--store", store, "--concurrency", "4", *LEASE)
        going.terminate()
        assert await asyncio.to_thread(going.wait, 30) == 0
        results = await gathering
    assert all(result.is_ok() and result.metadata.attempts == 1 for result in results)
    assert set(fleet.starts().values()) == {1}


@pytest.mark.soak  # a node takes ten seconds of a processor to start, and this starts four
@pytest.mark.timeout(300)
async def test_a_broker_that_dies_three_times_and_comes_back_loses_nothing(
    start_rabbitmq: Callable[..., RabbitServer], fleet: Fleet, tmp_path: Path
) -> None:
    server, store = start_rabbitmq(), beside(tmp_path)
    fleet.start(server.url, "--store", store, "--concurrency", "10", *LEASE)
    async with AgentRuntime(server.url, store=store) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.1] * 200, max_concurrency=50))
        for ended in (20, 80, 140):
            await until(lambda ended=ended: len(fleet.events("end")) >= ended)  # type: ignore[misc]
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        results = await asyncio.wait_for(gathering, 90)
    assert [result.unwrap() for result in results] == [0.1] * 200
