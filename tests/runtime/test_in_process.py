"""`AgentRuntime()` without a broker: a private memory broker and an embedded worker, nothing to set up."""

import gc
import threading
import tracemalloc

import pytest

from murmur import AgentRuntime
from murmur.errors import UnknownAgent
from tests.runtime.agents import Nested, Stats, WordStats


def test_blocking_forms_work_twice_in_a_row_and_leave_nothing_behind() -> None:
    threads = threading.active_count()
    runtime = AgentRuntime()
    assert runtime.run_sync(WordStats, "a bb").unwrap() == Stats(2, "bb")
    assert [r.unwrap().words for r in runtime.gather_sync(WordStats, ["a", "b c"])] == [1, 2]
    assert [r.unwrap().words for r in runtime.gather_sync(WordStats, ["a", "b c"])] == [1, 2]
    runtime.close()
    assert threading.active_count() == threads


@pytest.mark.anyio
async def test_any_class_is_served_as_it_is_used() -> None:
    async with AgentRuntime() as runtime:
        assert (await runtime.run(WordStats, "a")).unwrap().words == 1
        assert (await runtime.run(Nested, 2)).unwrap() == 25
        with pytest.raises(UnknownAgent):
            await runtime.run("nobody", 1)
        runtime.register(WordStats)
        assert (await runtime.run("word_stats", "a b")).unwrap().words == 2


@pytest.mark.anyio
async def test_a_private_runtime_serves_only_itself() -> None:
    async with AgentRuntime() as one, AgentRuntime() as other:
        one.register(WordStats)
        with pytest.raises(UnknownAgent):
            await other.run("word_stats", "a")


@pytest.mark.anyio
async def test_nothing_is_kept_per_finished_task() -> None:
    async with AgentRuntime() as runtime:

        async def work(tasks: int) -> None:
            async for result in runtime.as_completed(WordStats, ("a b c" for _ in range(tasks)), max_concurrency=200):
                assert result.is_ok()

        await work(15_000)  # fills what is bounded: finished rows, idle instances
        gc.collect()
        tracemalloc.start()
        await work(15_000)
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert grown < 30_000_000  # the 10,000 rows a memory store keeps, all of them new; a leak would add to it
