"""A handler that never returns, whatever it is at: found, its stacks kept, its process replaced, nobody else harmed."""

import asyncio
from functools import partial

import pytest

from murmur import AgentRuntime, Remote
from murmur.envelope import decode_letter
from murmur.worker import Worker
from tests.brokers.redis_server import RedisServer
from tests.worker.pooled_agents import Deadly, Where
from tests.worker.test_processes import pool_of, until

eventually = partial(until, within=60.0)
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("how", ["hang", "spin", "hold"])
async def test_what_never_returns_is_dumped_and_its_process_replaced_and_others_run_on(
    redis_server: RedisServer, how: str
) -> None:
    worker = Worker(
        broker=redis_server.url,
        agents=[Deadly, Where],
        processes=2,
        concurrency=4,
        prefetch=1,
        hang_after=1.0,
        drain=5.0,
    )
    async with AgentRuntime(broker=redis_server.url) as runtime, worker:
        pool = pool_of(worker)
        stuck = asyncio.ensure_future(runtime.run(Deadly, how, timeout=100.0))
        await eventually(lambda: pool.running == 1)
        (hung,) = [pid for pid, seat in pool.seats.items() if seat.in_hand]
        beside = asyncio.ensure_future(runtime.gather(Where, [3.0] * 2, timeout=100.0))
        await eventually(lambda: pool.running == 3)
        elsewhere = {task for pid, seat in pool.seats.items() if pid != hung for task in seat.in_hand}
        result = await stuck
        assert "hung" in str(result.error)
        assert all(one.is_ok() for one in await beside)
        assert {one.metadata.attempts for one in await beside if one.task_id in elsewhere} == {1}
        assert hung not in pool.seats
        assert len([seat for seat in pool.seats.values() if not seat.is_spare]) == 2
        (letter,) = [decode_letter(raw) for raw in await pool.queue.dead_letters("deadly")]
        assert (letter.exit, letter.crashes) == ("hung", Deadly.redelivery.max_crashes)
        assert "pooled_agents.py" in (letter.errors[-1].stack or "")
        assert (await runtime.run(Remote("where"), 0.0, timeout=60.0)).is_ok()
