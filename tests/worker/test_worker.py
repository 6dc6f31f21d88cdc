"""Workers: the forms users type, hooks, directives, actors that break, and bytes that are no task."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest

from murmur import Actor, AgentRuntime, Intensity, Remote, wiring
from murmur.envelope import decode_letter, decode_result
from murmur.errors import BadAgentName, BadSetting, BadURL, InputError, NoWorkers, TaskFailed, UnknownAgent
from murmur.presence import seen
from murmur.task_queue import TaskQueue
from murmur.transport import Outgoing
from murmur.worker import Worker
from tests.runtime.agents import Fails, Moody, Researcher, Sleeper, Stats, WordStats, starts

pytestmark = pytest.mark.anyio


async def until(holds: Callable[[], bool], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.01)


def queue_on(broker: str) -> TaskQueue:
    return wiring.connect(broker, store=None, namespace="", consumer_id="test", lease=None, retention=60.0)


async def test_every_form_of_naming_agents_serves_them(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime:
        runtime.register(Researcher)
        by_name = Worker(runtime=runtime, broker=broker, agents=("researcher",), concurrency=20, prefetch=5)
        by_mapping = Worker(broker=broker, agents={"counter": WordStats})
        by_class = Worker(broker=broker, agents=(WordStats,))
        for worker in (by_name, by_mapping, by_class):
            await worker.start()
        assert (await runtime.run("researcher", {"text": "a", "limit": 2})).unwrap() == "aa"
        with pytest.raises(InputError, match=r"limit expected int, got 'two'"):
            await runtime.run("researcher", {"text": "a", "limit": "two"})
        assert (await runtime.run(Remote("counter"), "a bb")).unwrap() == {"words": 2, "longest": "bb"}
        assert (await runtime.run(WordStats, "a bb")).unwrap() == Stats(2, "bb")
        await asyncio.gather(by_name.stop(), by_mapping.stop(), by_class.stop())


async def test_start_begins_at_once_unawaited(broker: str) -> None:
    worker = Worker(broker=broker, agents=(WordStats,))
    started = worker.start()
    async with AgentRuntime(broker=broker) as runtime:
        assert (await runtime.run(WordStats, "x")).is_ok()
    await started
    await worker.stop()
    await worker.stop()


async def test_three_workers_share_the_work(broker: str) -> None:
    workers = [Worker(broker=broker, agents=(Sleeper,), concurrency=5, prefetch=1) for _ in range(3)]
    for worker in workers:
        await worker.start()
    async with AgentRuntime(broker=broker) as runtime:
        results = await runtime.gather(Sleeper, [0.05] * 60)
    by = {result.metadata.worker_id for result in results}
    assert len(by) == 3
    for worker in workers:
        await worker.stop()


async def test_no_more_tasks_run_at_once_than_concurrency_says(broker: str) -> None:
    class Counted(Actor[int, int]):
        now: ClassVar[int] = 0
        most: ClassVar[int] = 0

        async def receive(self, number: int) -> int:
            Counted.now += 1
            Counted.most = max(Counted.most, Counted.now)
            await asyncio.sleep(0.01)
            Counted.now -= 1
            return number

    class Rare(Counted):
        concurrency = 2
        now: ClassVar[int] = 0

        async def receive(self, number: int) -> int:
            Rare.now += 1
            assert Rare.now <= 2
            await asyncio.sleep(0.01)
            Rare.now -= 1
            return number

    async with AgentRuntime(broker=broker) as runtime, Worker(broker=broker, agents=(Counted, Rare), concurrency=7):
        many, rare = await asyncio.gather(runtime.gather(Counted, range(60)), runtime.gather(Rare, range(20)))
    assert all(result.is_ok() for result in [*many, *rare])
    assert Counted.most <= 7


async def test_hooks_are_called_and_their_bugs_harm_nothing(broker: str) -> None:
    worker = Worker(broker=broker, agents=(Fails,))
    seen_by_hooks: list[tuple[Any, ...]] = []

    @worker.on_task_start
    async def broken(task_id: str, agent_name: str) -> None:
        raise ZeroDivisionError(task_id + agent_name)

    @worker.on_task_start
    async def on_start(task_id: str, agent_name: str) -> None:
        seen_by_hooks.append(("start", agent_name))

    @worker.on_task_complete
    async def on_complete(task_id: str, agent_name: str, duration_ms: int) -> None:
        seen_by_hooks.append(("complete", agent_name, type(duration_ms)))

    @worker.on_task_error
    async def on_error(task_id: str, agent_name: str, error: Exception) -> None:
        seen_by_hooks.append(("error", agent_name, str(error)))

    async with AgentRuntime(broker=broker) as runtime, worker:
        assert (await runtime.run(Fails, "fine")).is_ok()
        assert not (await runtime.run(Fails, "reject")).is_ok()
        await until(lambda: len(seen_by_hooks) == 4)
    assert seen_by_hooks == [
        ("start", "fails"),
        ("complete", "fails", int),
        ("start", "fails"),
        ("error", "fails", "does not fit"),
    ]


async def test_stop_buries_the_task_and_serves_the_agent_no_more(broker: str) -> None:
    async with (
        AgentRuntime(broker=broker, no_workers_after=6.0) as runtime,
        Worker(broker=broker, agents=(Moody, WordStats)),
    ):
        stopped = await runtime.run(Moody, "stop")
        assert isinstance(stopped.error, TaskFailed)
        assert (await runtime.run(WordStats, "others go on")).is_ok()
        assert isinstance((await runtime.run(Moody, "fine")).error, NoWorkers)


async def test_an_escalated_task_is_given_back_and_runs_again(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, Worker(broker=broker, agents=(Moody,)):
        result = await runtime.run(Moody, "escalate")
    assert result.unwrap() == "calm"
    assert starts[result.task_id] == 2


async def test_an_actor_that_cannot_start_is_held_and_said_to_be_broken(broker: str) -> None:
    class Unborn(Actor[str, str]):
        intensity = Intensity(max_restarts=1, period=60.0)

        async def started(self) -> None:
            raise ConnectionError("no database")

        async def receive(self, message: str) -> str:
            return message

    async with AgentRuntime(broker=broker) as runtime, Worker(broker=broker, agents=(Unborn, WordStats)):
        waiting = asyncio.ensure_future(runtime.run(Unborn, "x"))
        engine = runtime._engine
        assert engine is not None
        async with asyncio.timeout(20):
            while not any(note.broken for note in await seen(engine.queue.store)):
                await asyncio.sleep(0.05)
        (note,) = await seen(engine.queue.store)
        assert note.broken == {"unborn": "ConnectionError: no database"}
        assert (await runtime.run(WordStats, "others go on")).is_ok()
        waiting.cancel()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff\xfe not json", "not UTF-8"),
        (b"{", "truncated"),
        (b"[1, 2]", "Expected `object`"),
        (b'{"v":1,"task_id":"x","agent":"word_stats"}', "missing required field `input`"),
        (b'{"v":9,"task_id":"x","agent":"word_stats","shape":"new"}', "of version 9, this murmur reads 1"),
        (b'{"v":1,"task_id":"x","agent":"other","input":"a"}', "addressed to 'other'"),
        (b'{"v":1,"task_id":"","agent":"word_stats","input":"a"}', "must be 1 to 200 characters"),
        (b'{"v":1,"task_id":"x","agent":"word_stats","input":' + b"[" * 70 + b"]" * 70 + b"}", "nested deeper"),
    ],
)
async def test_bytes_that_are_no_task_are_dead_lettered_and_work_goes_on(broker: str, body: bytes, reason: str) -> None:
    queue = queue_on(broker)
    await queue.open(owner="stranger", lease=None)
    await queue.open_tasks(["word_stats"])
    async with Worker(broker=broker, agents=(WordStats,)), AgentRuntime(broker=broker) as runtime:
        await queue.transport.publish([Outgoing(topic="word_stats.tasks", body=body, id="stranger-1")])
        assert (await runtime.run(WordStats, "next")).is_ok()
        letters: list[bytes] = []
        async with asyncio.timeout(10):
            while not letters:
                letters = [bytes(raw) for raw in await queue.dead_letters("word_stats")]
                await asyncio.sleep(0.02)
    await queue.close()
    letter = decode_letter(letters[0])
    assert reason in letter.reason
    assert letter.body is not None


async def test_a_strangers_task_is_run_and_answered(broker: str) -> None:
    queue = queue_on(broker)
    await queue.open(owner="stranger", lease=None)
    await queue.open_tasks(["word_stats"])
    await queue.open_inbox("inbox.stranger")
    message = {"v": 1, "task_id": "s-1", "agent": "word_stats", "input": "a bb", "reply_to": "inbox.stranger", "new": 1}
    async with Worker(broker=broker, agents=(WordStats,)):
        for repeat in range(3):
            outgoing = Outgoing(topic="word_stats.tasks", body=msgspec.json.encode(message), id=f"s-1-{repeat}")
            await queue.transport.publish([outgoing])
        (reply, *_) = await queue.replies("inbox.stranger", wait=10.0)
        result = decode_result(reply.body)
        assert (result.task_id, result.success, bytes(result.output)) == ("s-1", True, b'{"words":2,"longest":"bb"}')
        async with asyncio.timeout(10):
            while (stats := await queue.transport.stats("word_stats.tasks", "workers")).ready or stats.inflight:
                await asyncio.sleep(0.02)
    assert starts["s-1"] == 1
    await queue.close()


def test_settings_that_cannot_work_are_refused_by_name() -> None:
    faulty: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: Worker(broker="memory://", agents=[]), BadSetting, "agents must be at least one"),
        (lambda: Worker(broker="memory://", agents=(WordStats,), concurrency=0), BadSetting, "concurrency must be"),
        (lambda: Worker(broker="memory://", agents=(WordStats,), prefetch=True), BadSetting, "prefetch must be"),
        (
            lambda: Worker(broker="memory://", agents=(WordStats,), processes=-1),
            BadSetting,
            "processes must be",
        ),
        (lambda: Worker(broker="memory://", agents=(WordStats,), drain=-1), BadSetting, "drain must be"),
        (lambda: Worker(broker="memory://", agents=("researcher",)), UnknownAgent, "no agent 'researcher'"),
        (lambda: Worker(broker="redsi://h", agents=(WordStats,)), BadURL, "known, nearest first: redis://"),
        (lambda: Worker(agents=(WordStats,)), BadSetting, "broker must be a URL"),
        (lambda: Worker(broker="memory://", agents=(Remote("x"),)), BadSetting, "agents must be actor classes"),  # type: ignore[arg-type]
        (lambda: type("Bad", (Actor,), {"name": "Not OK"}), BadAgentName, "must match"),
    ]
    for make, error, message in faulty:
        with pytest.raises(error, match=message):
            make()
    assert issubclass(BadAgentName, TypeError)
