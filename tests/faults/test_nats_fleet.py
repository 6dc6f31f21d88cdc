"""What dies, and what nobody may notice: workers and the broker, on a real NATS with real processes."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from murmur import AgentRuntime, Remote, TaskSpec
from tests.brokers.fixtures import NatsStarter
from tests.brokers.nats_operator import wipe
from tests.faults.conftest import Fleet

pytestmark = pytest.mark.anyio
WORK = Remote("work")
LEASE = ("--reclaim-min-idle-ms", "2000")


async def until(holds: Callable[[], bool], within: float = 30.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_killed_workers_tasks_run_again_and_no_others(start_nats: NatsStarter, fleet: Fleet) -> None:
    server = start_nats()
    doomed = fleet.start(server.url, "--concurrency", "5", *LEASE)
    fleet.start(server.url, "--concurrency", "5", *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.3] * 60))
        await until(lambda: len(fleet.running_on(doomed.pid)) == 5 and len(fleet.events("end")) >= 10)
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.wait()
        lost = fleet.running_on(doomed.pid)
        results = await gathering
    assert all(result.is_ok() for result in results)
    again = {task for task, times in fleet.starts().items() if times > 1}
    assert again <= lost
    assert {result.metadata.attempts for result in results if result.task_id in again} <= {2}


async def test_a_drained_worker_finishes_what_runs_and_leaves_the_rest(start_nats: NatsStarter, fleet: Fleet) -> None:
    server = start_nats()
    going = fleet.start(server.url, "--concurrency", "4", *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.5] * 24))
        await until(lambda: len(fleet.running_on(going.pid)) == 4)
        fleet.start(server.url, "--concurrency", "4", *LEASE)
        going.terminate()
        assert await asyncio.to_thread(going.wait, 20) == 0
        results = await gathering
    assert all(result.is_ok() and result.metadata.attempts == 1 for result in results)
    assert set(fleet.starts().values()) == {1}


async def test_a_broker_that_dies_three_times_loses_nothing(start_nats: NatsStarter, fleet: Fleet) -> None:
    server = start_nats()
    fleet.start(server.url, "--concurrency", "10", *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.1] * 200, max_concurrency=50))
        for ended in (20, 70, 120):
            await until(lambda ended=ended: len(fleet.events("end")) >= ended)  # type: ignore[misc]
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)
        results = await asyncio.wait_for(gathering, 90)
    assert [result.unwrap() for result in results] == [0.1] * 200


async def test_streams_that_are_deleted_end_no_slot_in_silence(start_nats: NatsStarter, fleet: Fleet) -> None:
    server = start_nats()
    fleet.start(server.url, "--concurrency", "10", *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.1] * 100, max_concurrency=30))
        await until(lambda: len(fleet.events("end")) >= 20)
        await wipe(server.url)
        results = await asyncio.wait_for(gathering, 90)
    assert all(result.is_ok() for result in results)


async def test_tasks_of_five_leases_run_once(start_nats: NatsStarter, fleet: Fleet) -> None:
    server = start_nats()
    fleet.start(server.url, "--concurrency", "50", "--prefetch", "50", *LEASE)
    fleet.start(server.url, "--concurrency", "10", *LEASE)  # somebody who would take over
    async with AgentRuntime(server.url) as runtime:
        results = await runtime.gather(WORK, [10.0] * 50, max_concurrency=50)
    assert all(result.is_ok() for result in results)
    assert set(fleet.starts().values()) == {1}


async def test_a_paused_worker_that_wakes_late_changes_nothing(start_nats: NatsStarter, fleet: Fleet) -> None:
    server = start_nats()
    paused = fleet.start(server.url, *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [TaskSpec(1.0, id=f"p{n}") for n in range(5)]))
        await until(lambda: len(fleet.running_on(paused.pid)) == 5)
        os.kill(paused.pid, signal.SIGSTOP)
        heir = fleet.start(server.url, *LEASE)
        results = await asyncio.wait_for(gathering, 60)
        os.kill(paused.pid, signal.SIGCONT)
        assert all(result.is_ok() and result.metadata.attempts == 2 for result in results)
        assert len([one for one in fleet.events("end") if int(one[2]) == heir.pid]) == 5
        engine = runtime._engine
        assert engine is not None
        before = await engine.queue.store.read([f"p{n}" for n in range(5)])
        await asyncio.sleep(1.5)  # what the woken worker writes now must be refused
        after = await engine.queue.store.read([f"p{n}" for n in range(5)])
    assert [row.result for row in before if row] == [row.result for row in after if row]
    assert all(row is not None and row.token == 2 for row in after)
