"""A publisher that dies is a batch that goes on: killed at every step, resumed twice at once, resumed too late."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import count

import pytest

from murmur import AgentRuntime
from murmur.errors import BatchConflict, BatchExpired
from murmur.worker import Worker
from tests.runtime.agents import WordStats
from tests.simulation.script import Act, Call, follow

pytestmark = pytest.mark.anyio
_numbers = count()


def test_a_publisher_killed_at_any_of_its_calls_is_resumed_and_what_ended_is_not_run_again() -> None:
    _, calls = follow({})
    mine = [call for call in calls if call.node == "publisher"]
    assert {"get", "put", "admit", "publish", "receive"} <= {call.verb for call in mine}
    for call in mine:
        for act in (Act.KILL_BEFORE, Act.KILL_AFTER):
            broken, after = follow({call: act})
            assert broken == [], (call, act, broken)
            assert len(runs(after)) == 1, (call, act)


def runs(calls: list[Call]) -> list[Call]:
    """Return the completions: one for a task that ran once."""
    return [call for call in calls if call.verb == "complete"]


async def test_two_who_resume_a_batch_at_once_hear_the_same_and_run_it_once(broker: str) -> None:
    batch = f"twice-{next(_numbers)}"
    async with (
        AgentRuntime(broker=broker) as first,
        AgentRuntime(broker=broker) as second,
        Worker(broker=broker, agents=[WordStats], drain=1.0),
    ):
        texts = [f"a b{number}" for number in range(60)]
        one, two = await asyncio.gather(
            first.gather(WordStats, tasks=texts, batch_id=batch), second.gather(WordStats, tasks=texts, batch_id=batch)
        )
        assert [result.output for result in one] == [result.output for result in two]
        assert [result.metadata for result in one] == [result.metadata for result in two]
        assert all(result.metadata.attempts == 1 for result in one)


async def test_an_open_batch_is_sealed_by_whoever_reaches_its_end(broker: str) -> None:
    batch = f"open-{next(_numbers)}"

    def texts(until: int) -> list[str]:
        return [f"word {number}" for number in range(until)]

    async def endless() -> AsyncIterator[str]:
        for text in texts(5):
            yield text
        await asyncio.sleep(60)

    async with AgentRuntime(broker=broker) as runtime, Worker(broker=broker, agents=[WordStats], drain=1.0):
        done: list[int] = []
        gathering = asyncio.ensure_future(
            runtime.gather(WordStats, tasks=endless(), batch_id=batch, progress=lambda ok, *_: done.append(ok))
        )
        async with asyncio.timeout(20):
            while 5 not in done:
                await asyncio.sleep(0.02)
        gathering.cancel()
        await asyncio.gather(gathering, return_exceptions=True)
        longer = await runtime.gather(WordStats, tasks=texts(8), batch_id=batch)
        assert len(longer) == 8
        assert all(result.is_ok() for result in longer)
        with pytest.raises(BatchConflict, match="this list is longer"):
            await runtime.gather(WordStats, tasks=texts(9), batch_id=batch)
        with pytest.raises(BatchConflict, match="this list ends"):
            await runtime.gather(WordStats, tasks=texts(7), batch_id=batch)


async def test_a_batch_older_than_its_results_is_refused_before_anything_runs(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = f"old-{next(_numbers)}"
    async with (
        AgentRuntime(broker=broker, retention=3_600.0) as runtime,
        Worker(broker=broker, agents=[WordStats], drain=1.0),
    ):
        await runtime.gather(WordStats, tasks=["a"], batch_id=batch)
        real = time.time
        monkeypatch.setattr("murmur.runtime.manifest.time.time", lambda: real() + 3_000.0)
        await runtime.gather(WordStats, tasks=["a"], batch_id=batch)
        monkeypatch.setattr("murmur.runtime.manifest.time.time", lambda: real() + 2 * 3_600.0)
        with pytest.raises(BatchExpired, match=r"begun 2\.0 h ago, and results are kept for 1 h"):
            await runtime.gather(WordStats, tasks=["a"], batch_id=batch)
