"""Contract: messages arrive whole, once, in no more than the credit, and nothing is dropped silently."""

import asyncio
from collections import Counter

import pytest
from attrs import evolve

from murmur.limits import MAX_ENVELOPE
from murmur.transport import Outgoing, Receipt, Refusal, Transport
from tests.contracts.harness import TransportHarness, bells, collect, now

WITHIN = 30.0  # seconds for what should take milliseconds


def outgoing(topic: str, count: int, *, start: int = 0, not_before: float | None = None) -> list[Outgoing]:
    """Return messages whose body and id are their number."""
    return [
        Outgoing(topic, str(number).encode(), str(number), not_before=not_before)
        for number in range(start, start + count)
    ]


async def published(transport: Transport, messages: list[Outgoing]) -> list[Receipt]:
    """Publish, and fail the test for anything that is not a receipt."""
    answers = await transport.publish(messages)
    assert [answer.id for answer in answers] == [message.id for message in messages]
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert refused == []
    return [answer for answer in answers if isinstance(answer, Receipt)]


class MessageContract:
    """Publishing and receiving while nobody dies."""

    @pytest.mark.parametrize("size", [0, 1, 500, MAX_ENVELOPE])
    async def test_body_headers_and_id_arrive_as_they_were_sent(self, harness: TransportHarness, size: int) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        size = min(size, harness.caps.max_body or size)
        body = (bytes(range(256)) * (size // 256 + 1))[:size]
        headers = {"traceparent": "00-1", "signature": "ä ü \u2028 \N{SNOWMAN}", "empty": ""}
        await published(transport, [Outgoing(topic, body, "one", headers)])
        (delivery,) = await collect(transport, topic, 1, within=WITHIN)
        assert (delivery.topic, delivery.id, delivery.deliveries) == (topic, "one", 1)
        assert delivery.body == body
        assert type(delivery.body) is bytes
        assert dict(delivery.headers) == headers
        assert [one.reason for one in await transport.ack([delivery])] == ["done"]

    async def test_a_body_too_large_is_refused_alone(self, harness: TransportHarness) -> None:
        if harness.caps.max_body is None:
            pytest.skip("this broker takes bodies of any size")
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        large = Outgoing(topic, b"x" * (harness.caps.max_body + 1), "large")
        first, refusal, last = await transport.publish([*outgoing(topic, 1), large, *outgoing(topic, 1, start=1)])
        assert isinstance(refusal, Refusal)
        assert (refusal.id, refusal.definite) == ("large", True)
        assert isinstance(first, Receipt)
        assert isinstance(last, Receipt)
        assert {one.id for one in await collect(transport, topic, 2, within=WITHIN)} == {"0", "1"}

    async def test_what_was_published_before_anybody_listened_is_delivered(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        await published(await harness.open("p", harness.spec(topic)), outgoing(topic, 3))
        late = await harness.open("late", harness.spec(topic))
        assert {one.id for one in await collect(late, topic, 3, within=WITHIN)} == {"0", "1", "2"}

    async def test_a_thousand_messages_in_one_call_are_all_receipted_and_delivered(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        receipts = await published(transport, outgoing(topic, 1_000))
        assert len({receipt.position for receipt in receipts}) == 1_000
        delivered = await collect(transport, topic, 1_000, within=2 * WITHIN)
        assert {int(one.body) for one in delivered} == set(range(1_000))
        assert all(one.ok for one in await transport.ack(delivered))

    async def test_a_thousand_concurrent_publishers_share_few_connections(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        before = await harness.connections()
        await asyncio.gather(*(published(transport, outgoing(topic, 1, start=number)) for number in range(1_000)))
        after = await harness.connections()
        if before is not None and after is not None:
            assert after <= before + 3
        assert len(await collect(transport, topic, 1_000, within=2 * WITHIN)) == 1_000

    async def test_the_same_id_again_adds_nothing_where_the_broker_dedups(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        first, second = await published(transport, outgoing(topic, 1) * 2)
        (third,) = await published(transport, outgoing(topic, 1))
        copies = 1 if harness.caps.dedup else 3
        assert [one.duplicate for one in (first, second, third)] == [False, copies == 1, copies == 1]
        await transport.ack(await collect(transport, topic, copies, within=WITHIN))
        # Settled is not forgotten: a publisher may have lost the answer, and asks again later.
        (fourth,) = await published(transport, outgoing(topic, 1))
        assert fourth.duplicate is harness.caps.dedup
        await published(transport, outgoing(topic, 1, start=1))
        rest = await collect(transport, topic, 1 if copies == 1 else 2, within=WITHIN)
        assert {one.id for one in rest} == ({"1"} if copies == 1 else {"0", "1"})

    async def test_messages_without_an_id_are_all_delivered(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await published(transport, [Outgoing(topic, b"same", "") for _ in range(3)])
        assert [one.id for one in await collect(transport, topic, 3, within=WITHIN)] == ["", "", ""]

    async def test_never_more_than_the_credit_is_handed_out_over_all_topics(self, harness: TransportHarness) -> None:
        topics = [harness.topic(name) for name in "abcde"]
        transport = await harness.open("a", *(harness.spec(topic) for topic in topics))
        for topic in topics:
            await published(transport, outgoing(topic, 20))
        held = await transport.receive("workers", dict.fromkeys(topics, 7), credit=7, wait=WITHIN)
        assert 1 <= len(held) <= 7
        counts = [await transport.stats(topic, "workers") for topic in topics]
        if all(count.inflight is not None for count in counts):
            assert sum(count.inflight or 0 for count in counts) == len(held)

    async def test_no_more_than_its_own_limit_of_a_topic_is_handed_out(self, harness: TransportHarness) -> None:
        wide, narrow = harness.topic("wide"), harness.topic("narrow")
        transport = await harness.open("a", harness.spec(wide), harness.spec(narrow))
        await published(transport, outgoing(wide, 20) + outgoing(narrow, 20))
        held = await transport.receive("workers", {wide: 8, narrow: 2}, credit=10, wait=WITHIN)
        counts = Counter(one.topic for one in held)
        assert counts[narrow] <= 2
        assert counts[wide] <= 8

    async def test_what_was_given_back_counts_for_the_limit_of_its_topic_too(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        for number in range(3):  # also where a read brought little, and the next one waits at once
            await published(transport, outgoing(topic, 1, start=2 * number))
            held = await collect(transport, topic, 1, within=WITHIN)
            await published(transport, outgoing(topic, 1, start=2 * number + 1))
            await transport.release(held)
            held = await transport.receive("workers", {topic: 1}, credit=5, wait=WITHIN)
            assert len(held) == 1
            await transport.ack([*held, *await collect(transport, topic, 1, within=WITHIN)])

    async def test_a_busy_topic_does_not_starve_a_quiet_one(self, harness: TransportHarness) -> None:
        busy, quiet = harness.topic("busy"), harness.topic("quiet")
        transport = await harness.open("a", harness.spec(busy), harness.spec(quiet))
        await published(transport, outgoing(busy, 50) + outgoing(quiet, 1))
        seen: list[str] = []
        while quiet not in seen and len(seen) < 50:
            (one,) = await transport.receive("workers", {busy: 1, quiet: 1}, credit=1, wait=WITHIN)
            await transport.ack([one])
            seen.append(one.topic)
        assert seen.index(quiet) < 25

    async def test_a_receive_without_messages_ends_with_its_wait(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        began = now()
        assert list(await transport.receive("workers", {topic: 1}, credit=1, wait=0.0)) == []
        assert now() - began <= harness.slack
        assert list(await transport.receive("workers", {topic: 1}, credit=1, wait=0.5)) == []
        assert 0.5 <= now() - began <= 0.5 + 2 * harness.slack

    async def test_a_waiting_receive_returns_as_soon_as_there_is_one(self, harness: TransportHarness) -> None:
        topics = [harness.topic(name) for name in "abc"]
        transport = await harness.open("a", *(harness.spec(topic) for topic in topics))
        publisher = await harness.open("p", harness.spec(topics[2]))
        reading = asyncio.create_task(
            transport.receive("workers", dict.fromkeys(topics, 5), credit=5, wait=6 * harness.lease)
        )
        await asyncio.wait([reading], timeout=0.3)
        began = now()
        await published(publisher, outgoing(topics[2], 1))
        assert [one.topic for one in await reading] == [topics[2]]
        assert now() - began <= harness.slack

    async def test_slots_share_a_burst_evenly(self, harness: TransportHarness) -> None:
        if not harness.caps.fair:
            pytest.skip("this broker binds messages to consumers by partition")
        topic, shares = harness.topic(), Counter[str]()
        consumers = {name: await harness.open(name, harness.spec(topic)) for name in "abc"}

        async def run(name: str) -> None:
            running: set[asyncio.Task[object]] = set()
            while shares.total() < 60:
                if len(running) == 5:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                free = 5 - len(running)
                for one in await consumers[name].receive("workers", {topic: free}, credit=free, wait=0.2):
                    shares[name] += 1
                    running.add(asyncio.create_task(finish(name, one)))
            await asyncio.gather(*running)

        async def finish(name: str, delivery: object) -> None:
            await asyncio.sleep(0.3)  # the task itself
            await consumers[name].ack([delivery])  # type: ignore[list-item]  # a Delivery

        await published(consumers["a"], outgoing(topic, 60))
        await asyncio.wait_for(asyncio.gather(*map(run, "abc")), 3 * WITHIN)
        assert shares.total() == 60
        assert all(16 <= share <= 24 for share in shares.values()), shares

    async def test_a_message_for_later_comes_neither_before_its_time_nor_long_after(
        self, harness: TransportHarness
    ) -> None:
        if not harness.caps.delay:
            pytest.skip("this broker knows no delays")
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        began = now()
        await published(transport, outgoing(topic, 1, not_before=1.0))
        (one,) = await collect(transport, topic, 1, within=WITHIN)
        assert now() - began >= 0.99
        assert now() - began <= 1.0 + harness.slack
        assert one.deliveries == 1

    async def test_a_receive_cancelled_while_messages_arrive_loses_none(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        spec = evolve(harness.spec(topic), lease=20.0)  # which nothing here lives to see the end of
        transport, publisher = await harness.open("a", spec), await harness.open("p", spec)
        came: list[str] = []
        for number in range(100):
            reading = asyncio.create_task(transport.receive("workers", {topic: 5}, credit=5, wait=WITHIN))
            publishing = asyncio.create_task(published(publisher, outgoing(topic, 1, start=number)))
            for _ in range(number % 7):
                await asyncio.sleep(0 if number % 2 else 0.0002)
            reading.cancel()
            await asyncio.wait([reading, publishing])
            if not reading.cancelled():
                came += [one.id for one in reading.result() if one.deliveries == 1]
                await transport.ack(reading.result())
        rest = await collect(transport, topic, 100 - len(came), within=spec.lease / 2)
        assert sorted(map(int, came + [one.id for one in rest if one.deliveries == 1])) == list(range(100))

    async def test_a_waiter_cancelled_as_a_message_comes_leaves_it_to_the_others(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        spec = harness.spec(topic)
        consumers = [await harness.open(name, spec) for name in "abc"]
        publisher = await harness.open("p", spec)
        waiting = [
            asyncio.create_task(consumer.receive("workers", {topic: 1}, credit=1, wait=2 * WITHIN))
            for consumer in consumers
        ]
        await asyncio.wait(waiting, timeout=0.2)
        await published(publisher, outgoing(topic, 1))
        for task in waiting[:2]:
            task.cancel()
        done, _ = await asyncio.wait(waiting[:2])
        came = [one for task in done if not task.cancelled() for one in task.result()]
        if not came:
            came = list(await asyncio.wait_for(waiting[2], harness.lease / 2 + harness.slack))
        assert [(one.id, one.deliveries) for one in came] == [("0", 1)]
        waiting[2].cancel()
        await asyncio.wait(waiting[2:])

    async def test_results_reach_the_inbox_they_are_addressed_to(self, harness: TransportHarness) -> None:
        mine, other, topic = harness.inbox("mine"), harness.inbox("other"), harness.topic()
        reader, neighbour = await harness.open_inbox("p1", mine), await harness.open_inbox("p2", other)
        worker = await harness.open("w", harness.spec(topic))
        await published(worker, outgoing(mine, 300) + outgoing(other, 1, start=1_000))
        assert {int(one.body) for one in await bells(reader, mine, 300, within=WITHIN)} == set(range(300))
        assert [one.id for one in await bells(neighbour, other, 1, within=WITHIN)] == ["1000"]

    async def test_what_an_inbox_gave_is_settled_by_the_next_read(self, harness: TransportHarness) -> None:
        inbox = harness.inbox()
        first = await harness.open_inbox("p", inbox)
        await published(first, outgoing(inbox, 1))
        assert [one.id for one in await bells(first, inbox, 1, within=WITHIN)] == ["0"]
        await published(first, outgoing(inbox, 1, start=1))
        assert [one.id for one in await bells(first, inbox, 1, within=WITHIN)] == ["1"]
        await first.close()
        # Whoever reads on sees again what the first may not have dealt with, and nothing older.
        second = await harness.open_inbox("p", inbox)
        assert [one.id for one in await bells(second, inbox, 1, within=WITHIN)] == ["1"]

    async def test_results_that_come_while_the_reader_is_away_are_kept(self, harness: TransportHarness) -> None:
        inbox = harness.inbox()
        await (await harness.open_inbox("p", inbox)).close()
        await published(await harness.open("w", harness.spec(harness.topic())), outgoing(inbox, 20))
        back = await harness.open_inbox("p", inbox)
        assert {int(one.id) for one in await bells(back, inbox, 20, within=WITHIN)} == set(range(20))
