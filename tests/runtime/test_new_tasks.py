"""Tasks that nobody knew before: on NATS their first grants make their rows. What a row was good for until then."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from murmur import AgentRuntime, TaskSpec
from murmur.errors import TaskCancelled
from murmur.runtime import engine
from murmur.store import State
from murmur.stores import nats as stores
from murmur.transport import Outgoing, Receipt, Refusal
from murmur.transports.nats import NatsTransport
from murmur.worker import Worker
from tests.brokers.nats_server import NatsServer
from tests.runtime.agents import WordStats, starts

pytestmark = pytest.mark.anyio


def worker(server: NatsServer) -> Worker:
    return Worker(broker=server.url, agents=[WordStats], concurrency=20, drain=1.0)


async def states(server: NatsServer, *ids: str) -> list[State | None]:
    """How rows stand, as a third process sees them."""
    store = stores.connect(server.url, namespace="", retention=3_600.0, mailbox=None)
    await store.open(owner="looker", lease=None)
    try:
        return [None if row is None else row.state for row in await store.read(ids)]
    finally:
        await store.close()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(30.0):
        while not await holds():
            await asyncio.sleep(0.02)


async def test_a_new_task_has_no_row_until_it_begins_and_then_one(nats_server: NatsServer) -> None:
    async with AgentRuntime(broker=nats_server.url) as runtime:
        waiting = await runtime.submit(WordStats, "a b")
        named = await runtime.submit(WordStats, TaskSpec("a", id="known-by-others"))
        assert await states(nats_server, waiting.task_id, named.task_id) == [None, State.QUEUED]
        async with worker(nats_server):
            assert (await waiting.result(30.0)).unwrap().words == 2
            assert (await named.result(30.0)).unwrap().words == 1
        assert await states(nats_server, waiting.task_id) == [State.DONE]
        assert starts[waiting.task_id] == 1


async def test_a_new_task_that_is_cancelled_before_it_began_never_runs(nats_server: NatsServer) -> None:
    async with AgentRuntime(broker=nats_server.url) as runtime:
        waiting = await runtime.submit(WordStats, "a b")
        await waiting.cancel()
        assert isinstance((await waiting.result(30.0)).error, TaskCancelled)
        assert await states(nats_server, waiting.task_id) == [State.CANCELLED]
        async with worker(nats_server):
            await runtime.run(WordStats, "behind it in the mailbox")
    assert starts[waiting.task_id] == 0


async def test_a_new_task_that_waits_for_long_has_a_row_and_still_runs_once(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_LATE", 0.0)
    async with AgentRuntime(broker=nats_server.url) as runtime:
        waiting = await runtime.submit(WordStats, "a b")

        async def has_a_row() -> bool:
            return await states(nats_server, waiting.task_id) == [State.QUEUED]

        await until(has_a_row)
        async with worker(nats_server):
            assert (await waiting.result(30.0)).unwrap().words == 2
            await runtime.run(WordStats, "behind it in the mailbox")
    assert starts[waiting.task_id] == 1


async def test_a_new_task_whose_publish_nobody_confirmed_is_published_again_and_runs_once(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, lost = NatsTransport.publish, []

    async def unheard(transport: NatsTransport, messages: Sequence[Outgoing]) -> Sequence[Receipt | Refusal]:
        receipts = await publish(transport, messages)
        if lost or not messages:
            return receipts
        lost.extend(messages)
        return [Refusal(one.id, "no answer in time", definite=False) for one in messages]

    monkeypatch.setattr(NatsTransport, "publish", unheard)
    async with AgentRuntime(broker=nats_server.url) as runtime:
        waiting = await runtime.submit(WordStats, "a b")
        assert [one.id for one in lost] == [waiting.task_id]
        assert await states(nats_server, waiting.task_id) == [State.QUEUED]  # it is not new to the broker
        async with worker(nats_server):
            assert (await waiting.result(30.0)).unwrap().words == 2
            await runtime.run(WordStats, "behind it in the mailbox")
    assert starts[waiting.task_id] == 1


async def test_a_spec_that_is_published_again_is_the_same_task(nats_server: NatsServer) -> None:
    spec = TaskSpec("a b")
    async with AgentRuntime(broker=nats_server.url) as runtime, worker(nats_server):
        first = await runtime.run(WordStats, spec)
        again = await runtime.run(WordStats, spec)
    assert first == again
    assert starts[spec.id] == 1
