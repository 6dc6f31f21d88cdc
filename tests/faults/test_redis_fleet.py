"""A fleet on a real Redis: what it alone can do, and what need not be shown on each broker (`test_fleet.py`)."""

import asyncio
from collections.abc import Callable

import pytest

from murmur import AgentRuntime, Remote
from murmur.errors import SpawnError
from tests.brokers.redis_server import RedisServer
from tests.faults.conftest import Fleet, until

pytestmark = pytest.mark.anyio
WORK = Remote("work")
LEASE = ("--reclaim-min-idle-ms", "2000")


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
