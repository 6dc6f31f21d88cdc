"""Commits whose caller gave up, or whose group moved on meanwhile: none of them ends unheard, or too late."""

import asyncio
import gc
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.structs import OffsetAndMetadata

from murmur.broker_url import BrokerURL
from murmur.transports import kafka_commit
from murmur.transports.kafka_commit import commit
from murmur.transports.kafka_link import KafkaLink, stopped

pytestmark = pytest.mark.anyio
NAME = f"commits-{secrets.token_hex(4)}"  # of the topic, and of the group
OFFSETS = {TopicPartition(NAME, 0): OffsetAndMetadata(3, "a text")}


@pytest.fixture
async def consumer(shared_kafka: str) -> AsyncIterator[Any]:
    link = KafkaLink(BrokerURL.parse(shared_kafka), client_id="commits")
    await link.open()
    await link.declare([NAME], retention=None)
    consumer = link.consumer(group_id=NAME)
    consumer.assign(list(OFFSETS))
    await link.start(consumer)
    await consumer._coordinator.ensure_coordinator_known()
    yield consumer
    await stopped(consumer)
    await link.close()


async def test_a_commit_whose_caller_gave_up_does_not_fail_unheard(
    consumer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, unheard = asyncio.get_running_loop(), list[dict[str, Any]]()
    dies, ended = asyncio.Event(), asyncio.Event()

    async def send(_: object) -> None:
        try:
            await dies.wait()
            raise kafka_errors.KafkaConnectionError("the server died")
        finally:
            ended.set()

    monkeypatch.setattr(consumer._coordinator, "_send_req", send)
    monkeypatch.setattr(kafka_commit, "DEADLINE", 0.05)
    with pytest.raises(TimeoutError):
        await commit(consumer, OFFSETS)
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    try:
        dies.set()
        await ended.wait()
        await asyncio.sleep(0)  # the task that sent has ended
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert not unheard


async def test_a_commit_is_tried_again_but_not_in_another_generation(
    consumer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, tries = consumer._coordinator, 0

    async def send(_: object) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            coordinator.generation = 7
        raise kafka_errors.KafkaConnectionError("the server died")

    monkeypatch.setattr(coordinator, "generation", coordinator.generation)
    monkeypatch.setattr(coordinator, "_send_req", send)
    with pytest.raises(kafka_errors.CommitFailedError, match="another generation"):
        await commit(consumer, OFFSETS)
    assert tries == 2


async def test_what_uvloop_says_of_a_connection_that_has_just_closed_is_tried_again(
    consumer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, send = consumer._coordinator, consumer._coordinator._send_req
    tries = 0

    async def fail_once(request: object) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("unable to perform operation; the handler is closed")
        return await send(request)

    monkeypatch.setattr(coordinator, "_send_req", fail_once)
    await commit(consumer, OFFSETS)
    assert tries == 2
    assert await coordinator.fetch_committed_offsets(list(OFFSETS)) == OFFSETS
