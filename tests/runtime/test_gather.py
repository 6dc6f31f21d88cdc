"""What publishers get back: one typed result per task, in order, whatever the task did."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from murmur import Actor, AgentRuntime, Remote, TaskSpec
from murmur.errors import (
    BadSetting,
    BatchConflict,
    DuplicateTaskId,
    GaveUp,
    InputError,
    NoWorkers,
    PayloadTooLarge,
    SpawnLimit,
    TaskCancelled,
    TaskFailed,
    TaskTimeout,
    UnknownAgent,
    WrongForm,
)
from tests.runtime.agents import (
    QUICK,
    Fails,
    Introvert,
    Nested,
    Question,
    Researcher,
    Sleeper,
    Stats,
    Stepwise,
    WordStats,
    starts,
)

pytestmark = pytest.mark.anyio


async def test_results_are_typed_and_in_input_order(runtime: AgentRuntime) -> None:
    results = await runtime.gather(WordStats, ["a bb ccc", "", "hello world"])
    assert [r.unwrap() for r in results] == [Stats(3, "ccc"), Stats(0, ""), Stats(2, "hello")]
    assert all(r.is_ok() and r.agent_name == "word_stats" and r.metadata.attempts == 1 for r in results)


async def test_more_tasks_than_the_window_all_come_back(runtime: AgentRuntime) -> None:
    results = await runtime.gather(WordStats, (str(n) for n in range(1_000)), max_concurrency=64)
    assert [r.unwrap().longest for r in results] == [str(n) for n in range(1_000)]


async def test_an_async_lazy_source_is_read(runtime: AgentRuntime) -> None:
    async def source() -> AsyncIterator[str]:
        for word in ("x", "yy", "zzz"):
            await asyncio.sleep(0)
            yield word

    results = await runtime.gather(WordStats, source(), max_concurrency=2)
    assert [r.unwrap().longest for r in results] == ["x", "yy", "zzz"]


async def test_a_lazy_source_is_read_no_further_than_there_is_room(runtime: AgentRuntime) -> None:
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for _ in range(1_000):
            read += 1
            yield "word"

    results = runtime.as_completed(WordStats, source(), max_concurrency=10)
    async for result in results:
        assert result.is_ok()
        assert read <= 60
        break
    await results.aclose()  # type: ignore[attr-defined]


async def test_failures_answer_and_are_retried_as_the_directive_says(runtime: AgentRuntime) -> None:
    how = ["fine", "until 3", "always", "reject", "exit", "interrupt", "stray", "unfit output", "object output"]
    results = await runtime.gather(Fails, how)
    attempts = [r.metadata.attempts for r in results]
    assert attempts == [1, 3, 5, 1, 5, 5, 5, 1, 1]
    assert [r.is_ok() for r in results] == [True, True] + [False] * 7
    types = [r.error.error_type for r in results[2:] if isinstance(r.error, TaskFailed)]
    assert types == [
        "RuntimeError",
        "Reject",
        "SystemExit",
        "KeyboardInterrupt",
        "StrayCancellation",
        "OutputError",
        "OutputError",
    ]
    with pytest.raises(TaskFailed, match="never works"):
        results[2].unwrap()


async def test_a_task_dead_lettered_is_kept_with_its_errors(runtime: AgentRuntime) -> None:
    from murmur.envelope import decode_letter

    result = await runtime.run(Fails, TaskSpec("always", headers={"who": "me"}))
    engine = runtime._engine
    assert engine is not None
    (raw,) = [raw for raw in await engine.queue.store.dead_letters("fails") if result.task_id.encode() in raw]
    letter = decode_letter(raw)
    assert letter.reason == "failed 5 times"
    assert letter.attempts == 5
    assert [note.message for note in letter.errors] == ["never works"] * 3
    assert b'"who":"me"' in bytes(letter.task)


async def test_a_slot_that_times_out_keeps_the_others_and_stops_the_work(runtime: AgentRuntime) -> None:
    fast, slow = await runtime.gather(Sleeper, [0.01, 60.0], timeout=0.7)
    assert fast.unwrap() == 0.01
    assert isinstance(slow.error, GaveUp)
    with_deadline = await runtime.gather(Sleeper, [60.0, 0.01], deadline=0.7)
    assert isinstance(with_deadline[0].error, GaveUp)
    assert with_deadline[1].is_ok()
    await _until(lambda: Sleeper.cancelled[slow.task_id] == 1)


async def test_an_attempt_that_takes_too_long_fails_unretried(runtime: AgentRuntime) -> None:
    result = await runtime.run(Sleeper, TaskSpec(60.0, timeout=0.1))
    assert isinstance(result.error, TaskTimeout)
    assert result.metadata.attempts == 1


async def test_a_cancelled_run_raises_and_stops_the_work(runtime: AgentRuntime) -> None:
    spec = TaskSpec(60.0)
    running = asyncio.ensure_future(runtime.run(Sleeper, spec))
    await _until(lambda: starts[spec.id] == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await _until(lambda: Sleeper.cancelled[spec.id] == 1)


async def test_a_handle_waits_and_cancels(runtime: AgentRuntime) -> None:
    handle = await runtime.submit(WordStats, "one two")
    assert (await handle.result()).unwrap() == Stats(2, "one")
    sleeping = await runtime.submit(Sleeper, 60.0)
    with pytest.raises(TimeoutError):
        await sleeping.result(timeout=0.05)
    await sleeping.cancel()
    assert isinstance((await sleeping.result()).error, TaskCancelled)
    assert starts[sleeping.task_id] <= 1


async def test_parents_that_wait_give_their_slots_back(broker: str) -> None:
    from murmur.worker import Worker

    async with AgentRuntime(broker=broker) as runtime, Worker(broker=broker, agents=(Nested,), concurrency=4):
        results = await runtime.gather(Nested, [3] * 4)
    assert [r.unwrap() for r in results] == [125] * 4


async def test_a_step_is_journalled_once_over_attempts(runtime: AgentRuntime) -> None:
    result = await runtime.run(Stepwise, "a")
    assert result.unwrap() == 41
    assert result.metadata.attempts == 2
    assert Stepwise.paid["a"] == 1


async def test_what_a_spec_says_reaches_the_actor(runtime: AgentRuntime) -> None:
    spec = TaskSpec(None, id="my-task", idempotency_key="k1", headers={"tenant": "acme"})
    assert (await runtime.run(Introvert, spec)).unwrap() == {"task": "my-task", "key": "k1", "tenant": "acme"}


async def test_an_agent_served_elsewhere_takes_plain_json(runtime: AgentRuntime) -> None:
    result = await runtime.run(Remote("researcher"), {"text": "ab", "limit": 2})
    assert result.unwrap() == "abab"
    unfit = await runtime.run(Remote("researcher"), {"text": "ab", "limit": "two"})
    assert isinstance(unfit.error, TaskFailed)
    assert "$.limit expected int, got 'two'" in str(unfit.error)


async def test_the_same_task_id_runs_once(runtime: AgentRuntime) -> None:
    first = await runtime.run(WordStats, TaskSpec("once", id="same-id"))
    again = await runtime.run(WordStats, TaskSpec("once", id="same-id"))
    assert first.unwrap() == again.unwrap()
    assert starts["same-id"] == 1


async def test_a_named_batch_is_resumed_without_running_again(broker: str, runtime: AgentRuntime) -> None:
    texts = [f"text {n}" for n in range(20)]
    async with AgentRuntime(broker=broker) as crashed:
        finished = 0
        results = crashed.as_completed(WordStats, texts, batch_id="library", max_concurrency=3)
        async for _ in results:
            finished += 1
            if finished == 7:
                break
        await results.aclose()  # type: ignore[attr-defined]
    whole = await runtime.gather(WordStats, texts, batch_id="library")
    assert [r.unwrap().longest for r in whole] == ["text"] * 20
    assert {starts[f"library.{n}"] for n in range(20)} == {1}
    with pytest.raises(BatchConflict, match="at index 3"):
        await runtime.gather(WordStats, [*texts[:3], "another", *texts[4:]], batch_id="library")
    with pytest.raises(BatchConflict, match="longer"):
        await runtime.gather(WordStats, [*texts, "one more"], batch_id="library")
    with pytest.raises(BatchConflict, match="ends at index 5"):
        await runtime.gather(WordStats, texts[:5], batch_id="library")


async def test_bad_input_is_told_before_anything_is_published(runtime: AgentRuntime) -> None:
    with pytest.raises(UnknownAgent, match="resercher"):
        await runtime.run("resercher", "x")
    with pytest.raises(InputError, match=r"\$ expected str, got 5"):
        await runtime.gather(WordStats, ["fine", 5])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"\$.limit expected int, got 'five'"):
        await runtime.run(Researcher, Question("a", "five"))  # type: ignore[arg-type]
    with pytest.raises(PayloadTooLarge, match="at most 10,485,760"):
        await runtime.run(WordStats, "x" * 10_600_000)
    with pytest.raises(DuplicateTaskId, match="tasks 0 and 2"):
        await runtime.gather(WordStats, [TaskSpec("a", id="i"), TaskSpec("b", id="j"), TaskSpec("c", id="i")])
    with pytest.raises(TypeError, match="expected a class derived from Actor"):
        await runtime.run(dict, "x")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="iterable of inputs"):
        await runtime.gather(WordStats, 5)  # type: ignore[call-overload]
    with pytest.raises(BadSetting, match="max_concurrency must be a whole number"):
        await runtime.gather(WordStats, ["a"], max_concurrency=0)


async def test_a_bad_input_met_later_gets_its_own_error(runtime: AgentRuntime) -> None:
    inputs = (5 if n == 40 else "word" for n in range(80))
    results = await runtime.gather(WordStats, inputs, max_concurrency=8)  # type: ignore[call-overload]
    assert [n for n, r in enumerate(results) if not r.is_ok()] == [40]
    assert isinstance(results[40].error, InputError)


async def test_nobody_serving_is_told_and_ends_the_wait(broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with AgentRuntime(broker=broker, no_workers_after=6.0) as runtime:
        results = await runtime.gather(WordStats, (str(n) for n in range(300)), max_concurrency=10)
    assert len(results) == 300
    assert all(isinstance(r.error, NoWorkers) for r in results)
    assert "E214 nobody serves 'word_stats'" in capsys.readouterr().err


async def test_tasks_published_before_any_worker_wait_for_it(broker: str) -> None:
    from murmur.worker import Worker

    async with AgentRuntime(broker=broker) as runtime:
        handle = await runtime.submit(WordStats, "early bird")
        async with Worker(broker=broker, agents=(WordStats,)):
            assert (await handle.result()).unwrap() == Stats(2, "early")


async def test_too_deep_a_family_is_refused(runtime: AgentRuntime) -> None:
    from murmur.limits import MAX_DEPTH

    class Deep(Nested):
        async def receive(self, depth: int) -> int:
            return (await self.context.runtime.run(Deep, depth + 1)).unwrap() if depth < 99 else 0

    async with AgentRuntime() as private:
        result = await private.run(Deep, 0)
    assert SpawnLimit.__name__ in str(result.error)
    assert str(MAX_DEPTH) in str(result.error)


async def test_too_wide_a_family_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("murmur.runtime.inputs.MAX_CHILDREN", 3)

    class Wide(Actor[int, list[str]]):
        async def receive(self, children: int) -> list[str]:
            results = await self.context.runtime.gather(WordStats, ["a b"] * children, max_concurrency=2)
            return [type(result.error).__name__ for result in results if not result.is_ok()]

    async with AgentRuntime() as private:
        results = await private.gather(Wide, [3, 5])
    assert [result.unwrap() for result in results] == [[], ["SpawnLimit", "SpawnLimit"]]


async def test_a_parent_that_is_tried_again_finds_its_children() -> None:
    class Parent(Actor[int, int]):
        redelivery = QUICK

        async def receive(self, children: int) -> int:
            results = await self.context.runtime.gather(WordStats, ["a b"] * children)
            if self.context.attempt < 3:
                raise RuntimeError("dies after its children are done")
            return sum(result.unwrap().words for result in results)

    async with AgentRuntime() as private:
        result = await private.run(Parent, 7)
    assert result.unwrap() == 14
    assert result.metadata.attempts == 3
    assert sorted(starts.values()) == [1] * 7


async def test_the_blocking_forms_refuse_a_running_loop(runtime: AgentRuntime) -> None:
    with pytest.raises(WrongForm, match=r"await runtime.run"):
        runtime.run_sync(WordStats, "x")
    with pytest.raises(WrongForm, match=r"await runtime.gather"):
        runtime.gather_sync(WordStats, ["x"])


async def _until(holds: object, within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)
