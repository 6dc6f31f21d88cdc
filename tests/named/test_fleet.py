"""Named actors over brokers: one home, one order and one state, with and without worker processes."""

import asyncio
import os
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw

from murmur import AgentRuntime, Remote, wiring
from murmur.envelope import TaskMessage, decode_result, encode
from murmur.errors import NoWorkers, TaskFailed
from murmur.named import mailbox_of, shard_of
from murmur.store import NewTask
from murmur.task_queue import TaskQueue
from murmur.worker import Worker
from tests.named.agents import Asker, Counter, Fragile, Ledger, Where

pytestmark = pytest.mark.anyio
AGENTS = (Ledger, Counter, Where, Asker, Fragile)


def worker(broker: str, processes: int = 0, **settings: Any) -> Worker:
    return Worker(**{"broker": broker, "agents": AGENTS, "processes": processes, "drain": 10.0, **settings})


def queue_on(broker: str) -> TaskQueue:
    return wiring.connect(broker, store=None, namespace="", consumer_id="test", lease=None, retention=60.0)


def name() -> str:
    """A name nobody else uses: brokers outlive tests."""
    return f"n-{secrets.token_hex(4)}"


async def until(holds: Callable[[], object], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("processes", [0, 2])
async def test_names_have_one_home_one_order_and_one_state(broker: str, processes: int) -> None:
    async with AgentRuntime(broker=broker) as runtime, worker(broker, processes):
        refs = [runtime.ref(Ledger, name()) for _ in range(5)]
        answers = await asyncio.gather(*(ref.ask(f"m{n}", timeout=60.0) for n in range(20) for ref in refs))
        for at, answer in enumerate(answers):
            assert answer == [f"m{n}" for n in range(at // 5 + 1)]
        asker = name()
        assert await runtime.ref(Asker, asker).ask("from within", timeout=60.0) == ["from within"]
        with pytest.raises(TaskFailed, match="as it was told"):
            await runtime.ref(Ledger, asker).ask("reject", timeout=60.0)
        await runtime.ref(Ledger, asker).tell("told")
        assert await runtime.ref(Remote("ledger"), asker).ask("look", timeout=60.0) == ["from within", "told"]


@pytest.mark.parametrize("processes", [0, 2])
async def test_names_work_side_by_side_and_never_more_than_concurrency_says(broker: str, processes: int) -> None:
    async with AgentRuntime(broker=broker) as runtime, worker(broker, processes, concurrency=4):
        keys = [name() for _ in range(12)]
        found = await asyncio.gather(*(runtime.ref(Where, key).ask(0.1, timeout=60.0) for key in keys * 2))
        spans = sorted((began, ended) for _, _, began, ended in found)
        most = max(sum(began <= at < ended for began, ended in spans) for at, _ in spans)
        assert 2 <= most <= 4
        for key in keys:
            (_, _, _, first), (_, _, second, _) = sorted(
                (one for one in found if one[1] == key), key=lambda one: one[2]
            )
            assert first <= second
            assert len({pid for pid, at, _, _ in found if at == key}) == 1
        assert (os.getpid() in {pid for pid, *_ in found}) == (not processes)


async def test_a_killed_process_loses_nothing_and_its_names_live_on_in_another(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, worker(broker, 2):
        ref = runtime.ref(Ledger, name())
        await ref.ask("before", timeout=60.0)
        words = ["a", "die now", "b", "c", "d"]
        answers = await asyncio.gather(*(ref.ask(word, timeout=60.0) for word in words))
        assert answers == [["before", *words[: n + 1]] for n in range(5)]


async def test_a_message_that_crashes_its_process_is_given_up_and_the_state_stands(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, worker(broker, 2):
        ref = runtime.ref(Ledger, name())
        await ref.ask("before", timeout=60.0)
        answers = await asyncio.gather(
            *(ref.ask(word, timeout=80.0) for word in ("a", "wreck it", "b")), return_exceptions=True
        )
        assert isinstance(answers[1], TaskFailed), answers
        assert await ref.ask("look", timeout=60.0) == ["before", "a", "b"]


async def test_a_program_that_knows_no_shards_publishes_with_a_key(broker: str) -> None:
    queue, key = queue_on(broker), name()
    inbox = queue.topics.inbox(f"stranger-{key}")
    async with worker(broker):
        await queue.open(owner="stranger", lease=None)
        await queue.open_tasks(["ledger"])
        await queue.open_inbox(inbox)
        keys = [key, key, "", key]
        for number, one in enumerate(keys):
            message = TaskMessage(
                v=1, task_id=f"{key}-{number}", agent="ledger", key=one, input=Raw(b'"m%d"' % number), reply_to=inbox
            )
            await queue.submit([NewTask(message.task_id, "ledger", "ledger.tasks", encode(message), inbox)])
        results = {}
        async with asyncio.timeout(60.0):
            while len(results) < len(keys):
                for delivery in await queue.replies(inbox, wait=1.0):
                    result = decode_result(delivery.body)
                    results[result.task_id] = result
        assert [bytes(results[f"{key}-{number}"].output) for number in (0, 1, 3)] == [
            b'["m0"]',
            b'["m0","m1"]',
            b'["m0","m1","m3"]',
        ]
        assert results[f"{key}-2"].error_type == "BadActorKey"
    await queue.close()


async def test_a_message_in_the_mailbox_of_another_shard_is_refused(broker: str) -> None:
    queue, key = queue_on(broker), name()
    wrong = mailbox_of("ledger", (shard_of(key) + 1) % 16)
    async with worker(broker):
        await queue.open(owner="stranger", lease=None)
        await queue.open_tasks([wrong])
        message = TaskMessage(v=1, task_id=f"{key}-0", agent="ledger", key=key, input=Raw(b'"x"'))
        await queue.submit([NewTask(message.task_id, "ledger", f"{wrong}.tasks", encode(message))])
        async with asyncio.timeout(60.0):
            while not (row := (await queue.store.read([message.task_id]))[0]) or row.result is None:
                await asyncio.sleep(0.05)
        assert decode_result(row.result).error_type == "BadActorKey"
    await queue.close()


async def test_asking_an_agent_that_nobody_serves_says_so(broker: str) -> None:
    async with AgentRuntime(broker=broker, no_workers_after=4.0) as runtime:
        with pytest.raises(NoWorkers, match="nobody serves 'ledger_nobody'"):
            await runtime.ref(Remote("ledger_nobody"), "a").ask("x")


async def test_workers_share_the_names_and_hand_them_over_without_losing_or_repeating_any(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime:
        refs = [runtime.ref(Ledger, name()) for _ in range(12)]
        sent: dict[str, list[str]] = {ref.key: [] for ref in refs}
        done = asyncio.Event()

        async def ask_on(ref: Any) -> None:
            while not done.is_set() or not sent[ref.key]:
                sent[ref.key].append(f"m{len(sent[ref.key])}")
                assert await ref.ask(sent[ref.key][-1], timeout=60.0) == sent[ref.key]
                await asyncio.sleep(0.01)

        first = worker(broker)
        await first.start()
        asking = asyncio.gather(*map(ask_on, refs))
        await until(lambda: all(sent.values()))
        second = worker(broker)
        await second.start()
        await until(lambda: second._tree and len(second._tree.shards.reading) > 5)
        assert first._tree is not None
        assert second._tree is not None
        assert not set(first._tree.shards.reading) & set(second._tree.shards.reading)
        await until(lambda: second._tree and second._tree.names.live("ledger"))
        await first.stop()
        await until(lambda: second._tree and len(second._tree.shards.reading) == len(AGENTS) * 16)
        before = {key: len(words) for key, words in sent.items()}
        await until(lambda: all(len(words) > before[key] for key, words in sent.items()))
        done.set()
        await asking
        await second.stop()


async def test_a_snapshot_that_cannot_be_kept_is_told_over_the_broker_too(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, worker(broker):
        ref = runtime.ref(Fragile, name())
        assert await ref.ask("old", timeout=60.0) == "old"
        Fragile.broken.add("snapshot")
        with pytest.raises(TaskFailed, match="could not be kept"):
            await ref.ask("new", timeout=60.0)
        Fragile.broken.clear()
        assert await ref.ask("", timeout=60.0) == "old"
