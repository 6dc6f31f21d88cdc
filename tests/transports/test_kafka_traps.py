"""What Kafka does that a mailbox must not: bind messages to who happens to read their partition, and forget."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.protocol.commit import OffsetFetchRequest, OffsetFetchResponse_v3

from murmur.transport import Delivery
from murmur.transports import kafka_intake, kafka_member
from murmur.transports.kafka import KafkaTransport
from tests.contracts.harness import collect, until
from tests.contracts.transport_messages import WITHIN, outgoing, published
from tests.contracts.transport_ownership import counts
from tests.transports.test_kafka_contract import KafkaHarness

pytestmark = pytest.mark.anyio
PATIENTLY = 60.0  # seconds


@pytest.fixture
async def harness(kafka_url: str) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(kafka_url, None)
    harness.lease = 60.0
    yield harness
    await harness.close()


async def handed_over(harness: KafkaHarness, topic: str) -> tuple[KafkaTransport, Sequence[Delivery], KafkaTransport]:
    """Return a full consumer, the four tasks it runs, and another that took all that waited, and its partitions."""
    full, free = await harness.open("full", harness.spec(topic)), await harness.open("free", harness.spec(topic))
    await published(full, outgoing(topic, 40))
    held = await collect(full, topic, 4, within=PATIENTLY, credit=1)
    rest = await collect(free, topic, 36, within=PATIENTLY)
    assert sorted(int(one.id) for one in [*held, *rest]) == list(range(40))
    assert {one.deliveries for one in rest} == {1}
    assert all(one.ok for one in await free.ack(rest))
    assert isinstance(full, KafkaTransport)
    assert isinstance(free, KafkaTransport)
    return full, held, free


async def test_what_waits_behind_a_full_consumer_goes_to_another_and_what_it_runs_stays_its_own(
    harness: KafkaHarness,
) -> None:
    topic = harness.topic()
    full, held, free = await handed_over(harness, topic)
    assert await counts(free, topic, 0, 4, 0)
    assert [one.reason for one in await full.ack(held[:2])] == ["done", "done"]
    assert [one.reason for one in await full.release(held[2:3])] == ["done"]
    (again,) = await collect(free, topic, 1, within=PATIENTLY)
    assert (again.id, again.deliveries) == (held[2].id, 1)
    assert [one.reason for one in await full.release(held[3:], counted=True)] == ["done"]
    (last,) = await collect(free, topic, 1, within=PATIENTLY)
    assert (last.id, last.deliveries) == (held[3].id, 2)
    assert all(one.ok for one in await free.ack([again, last]))
    assert await counts(free, topic, 0, 0, 0)


async def test_what_a_consumer_ended_elsewhere_before_it_left_is_not_done_again(harness: KafkaHarness) -> None:
    topic = harness.topic()
    full, held, free = await handed_over(harness, topic)
    assert all(one.ok for one in await full.ack(held[:3]))
    await full.close()
    (given_back,) = await collect(free, topic, 1, within=PATIENTLY)
    assert (given_back.id, given_back.deliveries) == (held[3].id, 1)
    await free.ack([given_back])
    assert await collect(free, topic, 1, within=1.0) == []
    assert await counts(free, topic, 0, 0, 0)


async def test_partitions_that_come_back_bring_what_was_ended_meanwhile(harness: KafkaHarness) -> None:
    topic = harness.topic()
    full, held, free = await handed_over(harness, topic)
    assert all(one.ok for one in await full.ack(held[:2]))
    await free.close()
    await published(full, outgoing(topic, 3, start=100))
    fresh = await collect(full, topic, 3, within=PATIENTLY)
    assert {one.id for one in fresh} == {"100", "101", "102"}
    assert [one.reason for one in await full.ack([*held[2:], *fresh])] == ["done"] * 5
    assert await counts(full, topic, 0, 0, 0)


async def test_records_of_other_programs_are_handed_over_as_they_are(harness: KafkaHarness) -> None:
    topic = harness.topic()
    transport = await harness.open("a", harness.spec(topic))
    producer = AIOKafkaProducer(bootstrap_servers=harness.url.removeprefix("kafka://").partition("?")[0])
    await producer.start()
    await producer.send_and_wait(topic, b"plain")
    await producer.send_and_wait(topic, None, key=b"a tombstone")
    odd = [("murmur-not-before", b"soon"), ("murmur-id", b"\xff"), ("empty", None), ("twice", b"1"), ("twice", b"2")]
    await producer.send_and_wait(topic, b"odd", headers=odd)
    await producer.stop()
    found = {one.body: one for one in await collect(transport, topic, 3, within=PATIENTLY)}
    assert found.keys() == {b"plain", b"", b"odd"}
    assert (found[b"odd"].id, found[b"odd"].headers) == ("\ufffd", {"empty": "", "twice": "2"})
    assert all(one.ok for one in await transport.ack(list(found.values())))
    assert await counts(transport, topic, 0, 0, 0)


async def test_offsets_that_are_no_messages_hold_nothing_up(harness: KafkaHarness) -> None:
    topic = harness.topic()
    transport = await harness.open("a", harness.spec(topic))
    at = harness.url.removeprefix("kafka://").partition("?")[0]
    producer = AIOKafkaProducer(bootstrap_servers=at, transactional_id=f"{harness.namespace}-tx")
    await producer.start()
    for number in range(2):
        async with producer.transaction():  # its end takes an offset of each partition it wrote to
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
            await producer.send_and_wait(topic, b"%d more" % number, partition=0)
    await producer.stop()
    found = await collect(transport, topic, 4, within=PATIENTLY)
    assert {one.body for one in found} == {b"0", b"0 more", b"1", b"1 more"}
    await transport.ack(found)
    await published(transport, outgoing(topic, 8))
    await transport.ack(await collect(transport, topic, 8, within=PATIENTLY))
    assert (await transport.stats(topic, "workers")).inflight == 0


async def test_what_is_done_is_deleted_and_the_lag_others_see_goes_to_nothing(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_intake, "_CLEAN_EVERY", 0.3)
    topic = harness.topic()
    transport = await harness.open("a", harness.spec(topic))
    assert isinstance(transport, KafkaTransport)
    await published(transport, outgoing(topic, 60))
    await transport.ack(await collect(transport, topic, 60, within=PATIENTLY))
    link = transport.link
    ends = await link.ends(topic)
    assert sum(ends.values()) == 60
    committed = await link.committed(topic, topic)
    assert {number: one.offset for number, one in committed.items()} == {n: end for n, end in ends.items() if end}

    async def deleted() -> bool:
        return await link.begins(topic) == ends

    assert await until(deleted, within=PATIENTLY)


@pytest.mark.parametrize("answer", [([], 14), ([], 16), ([("{topic}", [(0, -1, "", 16)])], 0)])
async def test_a_cluster_that_is_loading_what_was_committed_is_asked_again(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch, answer: tuple[list[tuple[str, list[Any]]], int]
) -> None:
    topic = harness.topic()
    transport = await harness.open("a", harness.spec(topic))
    assert isinstance(transport, KafkaTransport)
    await published(transport, outgoing(topic, 20))
    assert all(one.ok for one in await transport.ack(await collect(transport, topic, 20, within=PATIENTLY)))
    admin = transport.link.admin
    send, asked = admin._send_request, 0

    async def still_loading(request: object, node: int | None = None) -> object:
        nonlocal asked
        asked += isinstance(request, OffsetFetchRequest)
        if isinstance(request, OffsetFetchRequest) and asked == 1:
            topics = [(name.format(topic=topic), partitions) for name, partitions in answer[0]]
            return OffsetFetchResponse_v3(0, topics, answer[1])
        return await send(request, node)

    monkeypatch.setattr(admin, "_send_request", still_loading)
    stats = await transport.stats(topic, "workers")
    assert (stats.ready, stats.inflight) == (0, 0)
    assert asked > 1


async def test_what_is_done_but_not_written_so_is_not_deleted(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_intake, "_CLEAN_EVERY", 0.1)
    topic = harness.topic()
    transport = await harness.open("a", harness.spec(topic))
    assert isinstance(transport, KafkaTransport)
    await published(transport, outgoing(topic, 8))
    held = await collect(transport, topic, 8, within=PATIENTLY)

    async def fail(*_: object) -> None:
        raise kafka_errors.RequestTimedOutError

    monkeypatch.setattr(kafka_member, "commit", fail)
    assert {one.reason for one in await transport.ack(held)} == {"unknown"}
    forget, forgotten = transport.link.forget, list[dict[int, int]]()

    async def forgetting(name: str, before: dict[int, int]) -> None:
        forgotten.append(before)
        await forget(name, before)

    monkeypatch.setattr(transport.link, "forget", forgetting)

    async def cleaned_twice() -> bool:
        return len(forgotten) >= 2

    assert await until(cleaned_twice, within=PATIENTLY)
    assert not any(offset for before in forgotten for offset in before.values())
    assert sum((await transport.link.begins(topic)).values()) == 0


async def test_a_topic_that_was_made_before_keeps_its_partitions(harness: KafkaHarness) -> None:
    topic = harness.topic()
    first = harness.make("first")
    first.link.partitions = 1
    harness._opened.append(first)
    await first.open([harness.spec(topic)])
    second = await harness.open("second", harness.spec(topic))
    await published(second, outgoing(topic, 20))
    assert len(await collect(second, topic, 20, within=WITHIN)) == 20
    assert await asyncio.wait_for(second.stats(topic, "workers"), WITHIN)


async def test_a_loop_that_broke_is_told_once_and_begins_anew(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = harness.topic()
    transport = await harness.open("a", harness.spec(topic))
    await published(transport, outgoing(topic, 1))
    assert all(one.ok for one in await transport.ack(await collect(transport, topic, 1, within=PATIENTLY)))
    looks = 0

    async def look(_: object) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise LookupError("nobody expected it")

    monkeypatch.setattr(kafka_intake.Intake, "_look", look)
    with pytest.raises(LookupError, match="nobody expected it"):
        await collect(transport, topic, 1, within=PATIENTLY)
    await published(transport, outgoing(topic, 1))
    assert all(one.ok for one in await transport.ack(await collect(transport, topic, 1, within=PATIENTLY)))
    async with asyncio.timeout(PATIENTLY):
        while looks < 2:
            await asyncio.sleep(0.05)
