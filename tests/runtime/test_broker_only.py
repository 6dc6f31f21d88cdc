"""Tier B: a broker and nothing beside it. What still holds, what is refused by name, what is said about the rest."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import pytest

from murmur import Actor, AgentRuntime, TaskSpec, dead_letters, wiring
from murmur.envelope import decode_letter
from murmur.errors import BadSetting, NeedsStore, NoWorkers, TaskCancelled, Unsafe
from murmur.worker import Worker
from tests.runtime.agents import Fails, Nested, Sleeper, Stats, Stepwise, WordStats, starts

pytestmark = pytest.mark.anyio

_numbers = count()


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    """A broker nobody else uses. Redis serves as one that keeps messages and nothing else."""
    if request.param == "memory":
        return f"memory://broker-only-{next(_numbers)}"
    return str(request.getfixturevalue("redis_server").url)


def publisher(broker: str, **settings: Any) -> AgentRuntime:
    return AgentRuntime(broker=broker, store="none", **settings)


def worker(broker: str, *agents: type[Actor[Any, Any]], **settings: Any) -> Worker:
    return Worker(broker=broker, store="none", agents=agents, **{"concurrency": 20, "drain": 1.0, **settings})


@pytest.fixture
async def runtime(broker: str) -> AsyncIterator[AgentRuntime]:
    async with publisher(broker) as runtime, worker(broker, WordStats, Fails, Sleeper, Nested, Stepwise):
        yield runtime


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not holds():
            await asyncio.sleep(0.01)


async def test_results_come_in_order_and_children_too(runtime: AgentRuntime) -> None:
    results = await runtime.gather(WordStats, ["a", "b bb", "c cc ccc"])
    assert [result.unwrap() for result in results] == [Stats(1, "a"), Stats(2, "bb"), Stats(3, "ccc")]
    assert (await runtime.run(Nested, 2)).unwrap() == 25


async def test_failures_travel_with_the_message_until_it_is_buried(runtime: AgentRuntime) -> None:
    third = await runtime.run(Fails, "until 3")
    assert (third.unwrap(), third.metadata.attempts) == ("until 3", 3)
    spec = TaskSpec("always", headers={"who": "mé"})
    never = await runtime.run(Fails, spec)
    assert (never.metadata.attempts, starts[spec.id]) == (5, 5)
    assert str(never.error).endswith("never works")
    engine = runtime._engine
    assert engine is not None
    for _ in range(2):  # to look takes nothing away
        (raw,) = await engine.queue.dead_letters("fails")
    letter = decode_letter(raw)
    assert (letter.reason, letter.attempts, letter.task_id) == ("failed 5 times", 5, spec.id)
    assert [note.message for note in letter.errors] == ["never works"] * 3
    assert '"who":"mé"'.encode() in bytes(letter.task)


async def test_a_dead_letter_is_replayed_and_forgotten(runtime: AgentRuntime) -> None:
    await runtime.run(Fails, "always")
    engine = runtime._engine
    assert engine is not None
    letters = await dead_letters.read(engine.queue, "fails", limit=10)
    (replayed,) = await dead_letters.replay(engine.queue, "fails", letters)
    assert replayed.task_id is not None
    await until(lambda: starts[replayed.task_id or ""] == 5)

    async def again() -> list[str | None]:
        return [one.content.task_id for one in await dead_letters.read(engine.queue, "fails", limit=10)]

    async with asyncio.timeout(30.0):
        while await again() != [replayed.task_id]:
            await asyncio.sleep(0.05)


async def test_what_has_to_be_kept_is_refused_by_name(runtime: AgentRuntime) -> None:
    with pytest.raises(NeedsStore, match=r"named batch 'nightly'.*store="):
        await runtime.gather(WordStats, ["a"], batch_id="nightly")
    Stepwise.paid.clear()
    result = await runtime.run(Stepwise, "a")
    assert "context.once('pay')" in str(result.error)
    assert "NeedsStore" in str(result.error)
    assert not Stepwise.paid  # refused before it cost anything
    assert result.metadata.attempts == 1


async def test_a_running_task_is_cancelled(runtime: AgentRuntime) -> None:
    handle = await runtime.submit(Sleeper, 60.0)
    await until(lambda: starts[handle.task_id] == 1)
    await handle.cancel()
    assert isinstance((await handle.result(timeout=30.0)).error, TaskCancelled)
    await until(lambda: Sleeper.cancelled[handle.task_id] == 1)


async def test_a_waiting_task_stays_cancelled(broker: str) -> None:
    async with publisher(broker) as runtime, worker(broker, Sleeper, concurrency=1):
        busy = await runtime.submit(Sleeper, 60.0)
        await until(lambda: starts[busy.task_id] == 1)
        waiting = [await runtime.submit(Sleeper, 60.0) for _ in range(3)]
        for handle in waiting:
            await handle.cancel()
            assert isinstance((await handle.result(timeout=30.0)).error, TaskCancelled)
        await busy.cancel()
        assert (await runtime.run(Sleeper, 0.0, timeout=30.0)).unwrap() == 0.0  # it got past them
        assert not any(starts[handle.task_id] for handle in waiting)
        engine = runtime._engine
        assert engine is not None
        async with asyncio.timeout(30.0):  # and none of their messages is left
            while (await engine.queue.transport.stats("sleeper.tasks", "workers")).inflight:
                await asyncio.sleep(0.05)


async def test_nobody_who_serves_is_told_and_somebody_who_serves_is_known(broker: str) -> None:
    async with publisher(broker, no_workers_after=3.0) as runtime:
        result = await runtime.run(WordStats, "a")
        assert isinstance(result.error, NoWorkers)
        async with worker(broker, WordStats, Sleeper):
            asked = asyncio.ensure_future(runtime.run(Sleeper, 6.5))
            assert (await asked).is_ok()  # nothing is heard for longer than `no_workers_after`, and yet it waits


async def test_bytes_that_are_no_task_are_dead_letters_on_the_broker(runtime: AgentRuntime) -> None:
    from murmur.transport import Outgoing

    assert (await runtime.run(WordStats, "a")).is_ok()
    engine = runtime._engine
    assert engine is not None
    await engine.queue.transport.publish([Outgoing("word_stats.tasks", b"no task", "x")])
    assert (await runtime.run(WordStats, "a")).is_ok()
    async with asyncio.timeout(30.0):
        while not (letters := await engine.queue.dead_letters("word_stats")):
            await asyncio.sleep(0.05)
    assert decode_letter(letters[0]).body == "no task"


async def test_the_banner_names_the_tier_and_strict_refuses(
    capsys: pytest.CaptureFixture[str], redis_server: Any
) -> None:
    name = f"memory://broker-only-{next(_numbers)}"
    async with worker(name, WordStats):
        banner = capsys.readouterr().err
    assert "store        none (tier B: the broker only)" in banner
    assert all(f"  {number} broken: no store" in banner for number in ("I2", "I5", "I6", "I7", "I8", "I14", "I15"))
    with pytest.raises(Unsafe, match="I5 broken"):
        async with worker(redis_server.url, WordStats, strict=True):
            pass
    async with publisher(redis_server.url, strict=True) as runtime:
        with pytest.raises(Unsafe, match="I5 broken"):
            await runtime.run(WordStats, "a")
    with pytest.raises(BadSetting, match="store="):
        wiring.connect(
            wiring.connect(name, store=None, namespace="", consumer_id="a", lease=None, retention=1.0).transport,
            store="none", namespace="", consumer_id="a", lease=None, retention=1.0,
        )  # fmt: skip
