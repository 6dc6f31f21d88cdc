"""Inputs and outputs too large for an envelope: they go by the store, are proven, and are never waited for in vain."""

import asyncio
import base64
import hashlib
import os
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from murmur import AgentRuntime, dead_letters, stowage
from murmur.envelope import ResultMessage, Stowed, decode_letter, decode_result
from murmur.errors import NeedsStore, PayloadLost, PayloadTooLarge, TaskFailed
from murmur.limits import MAX_INLINE
from murmur.task_queue import Release, TaskQueue
from murmur.transport import Outgoing
from murmur.worker import Worker
from tests.runtime.stowing_agents import Courier, Dropper, Weigher, Writer

pytestmark = pytest.mark.anyio
_numbers = count()
AGENTS = (Weigher, Writer, Courier, Dropper)


@pytest.fixture(params=["memory", "redis", "sqlite"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A broker with a store: its own, or one beside it."""
    of_memory = f"memory://stowage-{next(_numbers)}"
    if request.param == "redis":
        return {"broker": request.getfixturevalue("redis_server").url, "namespace": f"stow{next(_numbers)}"}
    return {"broker": of_memory} | ({"store": f"sqlite:///{tmp_path}/rows.db"} if request.param == "sqlite" else {})


def queue_of(runtime: AgentRuntime) -> TaskQueue:
    assert runtime._engine is not None
    return runtime._engine.queue


async def answer(runtime: AgentRuntime, message: dict[str, Any]) -> ResultMessage:
    """Publish an envelope as a stranger would, and return what comes to an inbox of its own."""
    queue = queue_of(runtime)
    inbox = queue.topics.inbox(f"stranger{next(_numbers)}")
    await queue.open_inbox(inbox)
    whole = {"v": 1, "agent": "weigher", "input": None, "reply_to": inbox, **message}
    await queue.transport.publish([Outgoing(queue.topics.tasks("weigher"), msgspec.json.encode(whole), "")])
    async with asyncio.timeout(30.0):
        while not (found := await queue.replies(inbox, wait=1.0)):
            pass
    return decode_result(found[0].body)


@pytest.mark.parametrize("processes", [0, 2])
async def test_what_is_too_large_for_an_envelope_arrives_whole_both_ways(where: dict[str, Any], processes: int) -> None:
    texts = ["x" * size for size in (1, MAX_INLINE, 1_200_000, 10_000_000)]
    async with AgentRuntime(**where) as runtime, Worker(agents=AGENTS, processes=processes, **where):
        weights = await runtime.gather(Weigher, texts, timeout=60.0)
        assert [one.unwrap() for one in weights] == [
            (len(text), hashlib.sha256(text.encode()).hexdigest()) for text in texts
        ]
        written = await runtime.gather(Writer, [1, 200_000, 5_000_000], timeout=60.0)
        assert [one.unwrap() for one in written] == ["ä", "ä" * 200_000, "ä" * 5_000_000]
        assert (await runtime.run(Courier, 700_000, timeout=60.0)).unwrap() == 700_000
        too_much = await runtime.run(Writer, 6_000_000, timeout=60.0)
        assert isinstance(too_much.error, TaskFailed)
        assert too_much.error.error_type == PayloadTooLarge.__name__


async def test_envelopes_stay_small_and_what_nobody_needs_is_forgotten(where: dict[str, Any]) -> None:
    text = "x" * 2_000_000
    async with AgentRuntime(**where) as runtime:
        handle = await runtime.submit(Weigher, text)
        queue = queue_of(runtime)
        (found,) = await queue.receive({"weigher": 1}, credit=1, wait=10.0)
        (work,) = queue.granted([found]) or await queue.grant([found])
        message = work.message
        assert len(found.body) < 1_000
        assert message.stowed is not None
        assert (message.stowed.size, len(await stowage.fetch(queue.store, message.stowed))) == (2_000_002, 2_000_002)
        await queue.settle([Release(work.claim)])
        async with Worker(agents=AGENTS, **where):
            assert (await handle.result(timeout=30.0)).unwrap()[0] == 2_000_000
            async with asyncio.timeout(30.0):
                while any(await queue.store.get([f"{message.stowed.key}:{part}" for part in range(4)])):
                    await asyncio.sleep(0.02)


async def test_a_stored_output_is_there_for_who_resumes(where: dict[str, Any]) -> None:
    async with Worker(agents=AGENTS, **where):
        for _ in range(2):
            async with AgentRuntime(**where) as runtime:
                (result,) = await runtime.gather(Writer, [400_000], batch_id="once")
                assert result.unwrap() == "ä" * 400_000
                assert result.metadata.attempts == 1


async def test_a_reference_that_leads_nowhere_is_answered(where: dict[str, Any]) -> None:
    payload = b'"something"'
    name = hashlib.sha256(payload).hexdigest()
    async with AgentRuntime(**where) as runtime, Worker(agents=AGENTS, **where):
        assert (await runtime.run(Weigher, "a")).is_ok()
        whole = {"key": "stowed:t:0", "size": len(payload), "digest": name}
        gone = await answer(runtime, {"task_id": "gone", "stowed": whole})
        assert (gone.success, gone.error_type) == (False, PayloadLost.__name__)
        assert "it is gone" in (gone.error_message or "")
        await stowage.put(queue_of(runtime).store, Stowed(**whole), b'"otherwise"')
        altered = await answer(runtime, {"task_id": "altered", "stowed": whole})
        assert "it is not what its envelope says" in (altered.error_message or "")
        deep = b"[" * 100 + b"]" * 100
        bottomless = {"key": "stowed:t:1", "size": 200, "digest": hashlib.sha256(deep).hexdigest()}
        await stowage.put(queue_of(runtime).store, Stowed(**bottomless), deep)
        deepest = await answer(runtime, {"task_id": "deep", "stowed": bottomless})
        assert "nested deeper" in (deepest.error_message or "")
        await stowage.put(queue_of(runtime).store, Stowed(**whole), payload)
        right = await answer(runtime, {"task_id": "right", "stowed": whole})
        assert right.success


async def test_a_large_input_is_still_there_when_its_dead_letter_is_replayed(where: dict[str, Any]) -> None:
    async with AgentRuntime(**where) as runtime, Worker(agents=AGENTS, **where):
        dropped = await runtime.run(Dropper, "x" * 500_000)
        assert "dropped 500000" in str(dropped.error)
        letters = await dead_letters.read(queue_of(runtime), "dropper", limit=10)
        assert len(letters[0].raw) < 5_000
        await dead_letters.replay(queue_of(runtime), "dropper", letters)
        async with asyncio.timeout(30.0):
            while not (again := await queue_of(runtime).dead_letters("dropper")):
                await asyncio.sleep(0.05)
        assert decode_letter(again[0]).errors[-1].message == "dropped 500000"


async def test_without_a_store_it_is_refused_by_name_both_ways() -> None:
    where = {"broker": f"memory://stowage-{next(_numbers)}", "store": "none"}
    async with AgentRuntime(**where) as runtime, Worker(agents=AGENTS, **where):  # type: ignore[arg-type]
        assert (await runtime.run(Weigher, "x" * 900_000)).unwrap()[0] == 900_000  # it fits an envelope
        with pytest.raises(
            NeedsStore, match=r"the input of task 0 for weigher, of 1,200,002 bytes, needs a coordination"
        ):
            await runtime.run(Weigher, "x" * 1_200_000)
        written = await runtime.gather(Writer, [1, 700_000])
        assert written[0].is_ok()
        assert "the output of writer, of 1,400,002 bytes, needs a coordination" in str(written[1].error)
        refused = await runtime.gather(Weigher, ["a", "x" * 1_200_000], max_concurrency=1)
        assert refused[0].is_ok()
        assert isinstance(refused[1].error, NeedsStore)
        garbage = {"key": "stowed:t:0", "size": 5, "digest": "0" * 64}
        assert (await answer(runtime, {"task_id": "t", "stowed": garbage})).error_type == NeedsStore.__name__


async def test_references_are_signed_with_their_envelopes(where: dict[str, Any], tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nid = "k"\nuse = "sign"\nsecret = "{base64.b64encode(os.urandom(32)).decode()}"\n')
    where |= {"signing_keys": keys}
    async with AgentRuntime(**where) as runtime, Worker(agents=AGENTS, processes=1, **where):
        assert (await runtime.run(Weigher, "x" * 600_000, timeout=60.0)).unwrap()[0] == 600_000
        assert (await runtime.run(Writer, 300_000, timeout=60.0)).unwrap() == "ä" * 300_000
