"""Many deaths, and the death of what all processes are forked from: they are replaced, and no task is lost."""

import asyncio
import os
import signal
from functools import partial

import psutil
import pytest

from murmur import AgentRuntime
from murmur.worker import Worker
from murmur.worker.pool import Pool
from supervisors.events import RetryPlanned
from supervisors.reasons import ExitReason, Killed
from tests.brokers.redis_server import RedisServer
from tests.worker.pooled_agents import Where
from tests.worker.test_processes import pool_of, until

eventually = partial(until, within=60.0)
pytestmark = pytest.mark.anyio


def node(broker: str) -> Worker:
    return Worker(broker=broker, agents=[Where], processes=2, concurrency=6, drain=5.0)


async def test_a_killed_fork_server_costs_its_processes_and_no_task(redis_server: RedisServer) -> None:
    async with AgentRuntime(broker=redis_server.url) as runtime, node(redis_server.url) as worker:
        pool = pool_of(worker)
        gathering = asyncio.ensure_future(runtime.gather(Where, [0.5] * 12, timeout=100.0))
        await eventually(lambda: pool.running == 6)
        before = set(pool.seats)
        os.kill(psutil.Process(min(before)).ppid(), signal.SIGKILL)
        results = await gathering
        assert all(result.is_ok() for result in results)
        assert not {result.output for result in results if result.metadata.attempts > 1} & before
        await eventually(lambda: len(pool.seats) == 2 and not pool.seats.keys() & before)
        rows = await pool.queue.store.read([result.task_id for result in results])
        assert {(row.crashes, row.failures) for row in rows if row} == {(0, 0)}


async def test_after_a_fault_of_ours_at_a_death_the_next_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with node("memory://untold") as worker:
        pool, told = pool_of(worker), []
        died = type(pool).died

        def breaks_once(self: Pool, path: str, incarnation: int, reason: ExitReason) -> None:
            told.append(reason)
            if len(told) == 1:
                raise RuntimeError("a fault of ours")
            died(self, path, incarnation, reason)

        monkeypatch.setattr(type(pool), "died", breaks_once)
        for deaths in (1, 2):
            os.kill(max(filter(psutil.pid_exists, pool.seats)), signal.SIGKILL)
            await eventually(lambda deaths=deaths: told.count(Killed(signal.SIGKILL)) == deaths)
        await eventually(lambda: len(pool.seats) == 2)


async def test_two_dozen_deaths_in_a_row_pause_nothing() -> None:
    async with node("memory://deaths") as worker:
        pool = pool_of(worker)
        supervisor = pool.supervisor()
        assert supervisor is not None
        paused: list[object] = []

        async def listen() -> None:
            async for event in supervisor.events():
                paused.extend([event] if isinstance(event, RetryPlanned) and event.is_pause else [])

        listening = asyncio.ensure_future(listen())
        for _ in range(24):
            doomed = min(pool.seats)
            os.kill(doomed, signal.SIGKILL)
            await eventually(lambda doomed=doomed: doomed not in pool.seats and len(pool.seats) == 2)
        listening.cancel()
        assert paused == []


async def test_a_drain_does_not_wait_for_a_process_that_died() -> None:
    broker = "memory://dying"
    worker = Worker(broker=broker, agents=[Where], processes=2, concurrency=2, drain=3_600.0)
    async with AgentRuntime(broker=broker) as runtime:
        await worker.start()
        pool = pool_of(worker)
        lost = asyncio.ensure_future(runtime.gather(Where, [3_600.0] * 2, timeout=None))
        await eventually(lambda: pool.running == 2)
        seats = list(pool.seats.values())
        stopping = asyncio.ensure_future(worker.stop())
        await eventually(lambda: all(seat.is_closed for seat in seats))
        for seat in seats:
            os.kill(seat.link.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            await stopping
        lost.cancel()
