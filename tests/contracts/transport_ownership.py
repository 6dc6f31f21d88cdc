"""Contract: a delivery belongs to one consumer until it is settled, given back, or lost."""

from attrs import evolve

from murmur.transport import Outgoing, TopicSpec, TopicStats, Transport
from tests.contracts.harness import TransportHarness, bells, collect, now, until
from tests.contracts.transport_messages import WITHIN, outgoing, published


async def counts(transport: Transport, topic: str, *expected: int | None) -> bool:
    """Whether ready, inflight and dead come to stand at the expected numbers within a second."""

    async def stand() -> bool:
        stats: TopicStats = await transport.stats(topic, "workers")
        shown = (stats.ready, stats.inflight, stats.dead)
        return all(a is None or b is None or a == b for a, b in zip(shown, expected, strict=True))

    return await until(stand, within=1.0)


class OwnershipContract:
    """Settling, giving back and burying while nobody dies."""

    async def test_settling_twice_is_settling_once(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await published(transport, outgoing(topic, 2))
        held = await collect(transport, topic, 2, within=WITHIN)
        assert [one.reason for one in await transport.ack(held)] == ["done", "done"]
        assert [(one.id, one.ok) for one in await transport.ack(held)] == [(one.id, True) for one in held]
        assert await counts(transport, topic, 0, 0, 0)

    async def test_a_task_many_leases_long_stays_where_it_runs(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        owner, other = [await harness.open(name, harness.spec(topic)) for name in "ab"]
        await published(owner, outgoing(topic, 5))
        held = await collect(owner, topic, 5, within=WITHIN)
        assert await collect(other, topic, 1, within=5 * harness.lease) == []
        assert [one.reason for one in await owner.ack(held)] == ["done"] * 5

    async def test_what_is_released_is_at_once_somebody_elses_and_not_counted(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        spec = evolve(harness.spec(topic), lease=60.0)
        first, second = await harness.open("a", spec), await harness.open("b", spec)
        await published(first, [Outgoing(topic, b"body", "one", {"k": "v"})])
        assert [one.ok for one in await first.release(await collect(first, topic, 1, within=WITHIN))] == [True]
        began = now()
        (again,) = await collect(second, topic, 1, within=WITHIN)
        assert now() - began <= harness.slack
        assert (again.id, again.body, dict(again.headers), again.deliveries) == ("one", b"body", {"k": "v"}, 1)
        assert [one.reason for one in await second.ack([again])] == ["done"]
        assert await counts(second, topic, 0, 0, 0)

    async def test_a_counted_release_raises_the_count(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await published(transport, outgoing(topic, 1))
        for deliveries in (1, 2, 3):
            (one,) = await collect(transport, topic, 1, within=WITHIN)
            assert one.deliveries == deliveries
            await transport.release([one], counted=True)

    async def test_a_delayed_release_comes_neither_before_its_time_nor_long_after(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await published(transport, outgoing(topic, 1))
        for delay, counted, deliveries in ((1.0, False, 1), (2 * harness.lease, True, 2)):
            held = await collect(transport, topic, 1, within=WITHIN)
            began = now()
            assert [one.ok for one in await transport.release(held, delay=delay, counted=counted)] == [True]
            (one,) = await collect(transport, topic, 1, within=WITHIN)
            assert now() - began >= delay - 0.01
            assert now() - began <= delay + harness.slack
            assert one.deliveries == deliveries
            await transport.release([one])

    async def test_a_release_is_not_repeated(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await published(transport, outgoing(topic, 1))
        held = await collect(transport, topic, 1, within=WITHIN)
        await transport.release(held)
        await transport.release(held)
        await transport.ack(held)
        assert await counts(transport, topic, 1, 0, 0)
        assert len(await collect(transport, topic, 1, within=WITHIN)) == 1

    async def test_a_dead_letter_stands_on_the_dead_topic_and_the_message_is_gone(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        spec = harness.spec(topic)
        transport = await harness.open("a", spec)
        # No envelope at all: a transport hands over whatever came, and the next good one after it.
        await published(transport, [Outgoing(topic, b"\xff\x00{", "bad"), Outgoing(topic, b"{}", "good")])
        held = {one.id: one for one in await collect(transport, topic, 2, within=WITHIN)}
        assert held["bad"].body == b"\xff\x00{"
        settled = await transport.dead(held["bad"], b'{"reason":"not an envelope"}')
        assert (settled.id, settled.reason) == ("bad", "done")
        assert await counts(transport, topic, 0, 1, 1)
        await transport.ack([held["good"]])
        assert spec.dead_topic is not None
        reader = await harness.open("reader", evolve(spec, name=spec.dead_topic, dead_topic=None))
        (letter,) = await collect(reader, spec.dead_topic, 1, within=WITHIN)
        assert (letter.body, letter.id) == (b'{"reason":"not an envelope"}', "bad")

    async def test_mailboxes_may_share_their_dead_topic(self, harness: TransportHarness) -> None:
        spec = harness.spec(harness.topic())
        assert spec.dead_topic is not None
        other = evolve(spec, name=harness.topic("other"))
        transport = await harness.open("a", spec, other)
        for name in (spec.name, other.name):
            await transport.publish([Outgoing(name, b"", name)])
            (one,) = await collect(transport, name, 1, within=WITHIN)
            assert (await transport.dead(one, name.encode())).ok
        reader = await harness.open("reader", evolve(spec, name=spec.dead_topic, dead_topic=None))
        letters = await collect(reader, spec.dead_topic, 2, within=WITHIN)
        assert {one.body.decode() for one in letters} == {spec.name, other.name}

    async def test_a_message_has_at_most_one_dead_letter(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await published(transport, outgoing(topic, 1))
        (one,) = await collect(transport, topic, 1, within=WITHIN)
        assert (await transport.dead(one, b"letter")).ok
        assert (await transport.dead(one, b"letter")).ok
        assert await counts(transport, topic, 0, 0, 1)

    async def test_what_is_emitted_with_an_ack_arrives(self, harness: TransportHarness) -> None:
        topic, inbox = harness.topic(), harness.inbox()
        reader, worker = await harness.open_inbox("p", inbox), await harness.open("w", harness.spec(topic))
        await published(worker, outgoing(topic, 20))
        held = await collect(worker, topic, 20, within=WITHIN)
        emit = [Outgoing(inbox, b"result " + one.body, one.id) for one in held]
        settled = await worker.ack(held, emit)
        assert [(one.id, one.reason) for one in settled] == [(one.id, "done") for one in held]
        results = await bells(reader, inbox, 20, within=WITHIN)
        assert {one.id: one.body for one in results} == {one.id: b"result " + one.body for one in held}
        if harness.caps.atomic_emit:
            # Repeated, as after an unknown outcome: what was settled has emitted already.
            assert all(one.ok for one in await worker.ack(held, emit))
            await worker.ack((), [Outgoing(inbox, b"last", "last")])
            assert [one.id for one in await bells(reader, inbox, 1, within=WITHIN)] == ["last"]

    async def test_a_message_is_sent_again_with_other_headers_as_it_is_settled(self, harness: TransportHarness) -> None:
        """What a broker without a store does with a failure: body as it was, counters in the headers, after a pause."""
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await published(transport, [Outgoing(topic, b"body", "task", {"kept": "1"})])
        (one,) = await collect(transport, topic, 1, within=WITHIN)
        began = now()
        again = Outgoing(topic, one.body, "task:2", {**one.headers, "count": "1"}, not_before=0.5)
        assert [answer.reason for answer in await transport.ack([one], [again])] == ["done"]
        (two,) = await collect(transport, topic, 1, within=WITHIN)
        assert now() - began >= 0.5
        assert (two.body, two.id, two.deliveries) == (b"body", "task:2", 1)
        assert {name: two.headers.get(name) for name in ("kept", "count")} == {"kept": "1", "count": "1"}
        await transport.ack([two])
        assert await counts(transport, topic, 0, 0, 0)

    async def test_dead_letters_are_looked_at_and_taken_like_messages(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        spec = harness.spec(topic)
        assert spec.dead_topic is not None
        transport = await harness.open("a", spec)
        await published(transport, outgoing(topic, 2))
        for one in await collect(transport, topic, 2, within=WITHIN):
            assert (await transport.dead(one, b"letter " + one.body)).ok
        reader = await harness.open("b", TopicSpec(spec.dead_topic, lease=harness.lease))
        for _ in range(2):
            letters = await collect(reader, spec.dead_topic, 2, within=WITHIN)
            assert {one.body for one in letters} == {b"letter 0", b"letter 1"}
            assert all(answer.ok for answer in await reader.release(letters))
        letters = await collect(reader, spec.dead_topic, 2, within=WITHIN)
        assert all(answer.ok for answer in await reader.ack(letters))
        assert await counts(transport, topic, 0, 0, 0)

    async def test_the_counts_are_right_at_every_stage(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        assert await counts(transport, topic, 0, 0, 0)
        await published(transport, outgoing(topic, 10))
        assert await counts(transport, topic, 10, 0, 0)
        held = await collect(transport, topic, 4, within=WITHIN)
        assert await counts(transport, topic, 6, 4, 0)
        await transport.ack(held[:1])
        await transport.release(held[1:2])
        await transport.dead(held[2], b"letter")
        assert await counts(transport, topic, 7, 1, 1)

    async def test_closing_gives_back_what_was_not_settled_uncounted_and_at_once(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        spec = evolve(harness.spec(topic), lease=60.0)
        leaver, heir = await harness.open("a", spec), await harness.open("b", spec)
        await published(leaver, outgoing(topic, 6))
        held = await collect(leaver, topic, 6, within=WITHIN)
        await leaver.ack(held[:1])
        await leaver.close()
        began = now()
        inherited = await collect(heir, topic, 5, within=WITHIN)
        assert now() - began <= harness.slack
        assert sorted(one.id for one in inherited) == sorted(one.id for one in held[1:])
        assert [one.deliveries for one in inherited] == [1] * 5
        assert await counts(heir, topic, 0, 5, 0)
        assert [one.reason for one in await heir.ack(inherited)] == ["done"] * 5

    async def test_closing_twice_is_closing_once(self, harness: TransportHarness) -> None:
        transport = await harness.open("a", harness.spec(harness.topic()))
        await transport.close()
        await transport.close()

    async def test_an_order_of_settling_other_than_that_of_receiving_settles_each(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await published(transport, outgoing(topic, 30))
        held = await collect(transport, topic, 30, within=WITHIN)
        for part in (held[29:19:-1], held[0:20:2], held[1:20:2]):
            assert all(one.ok for one in await transport.ack(part))
        assert await counts(transport, topic, 0, 0, 0)

    async def test_consumers_that_come_and_go_in_order_lose_and_repeat_nothing(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        spec = evolve(harness.spec(topic), lease=60.0)
        publisher = await harness.open("p", spec)
        await published(publisher, outgoing(topic, 300))
        done: list[int] = []
        for round_number, members in enumerate((1, 2, 3, 2, 1)):
            consumers = [await harness.open(f"{round_number}-{name}", spec) for name in range(members)]
            for consumer in consumers:
                held = await collect(consumer, topic, 40, within=WITHIN)
                finished = held[:30]
                assert all(one.ok for one in await consumer.ack(finished))
                done += [int(one.id) for one in finished]
            for consumer in consumers:
                await consumer.close()
        last = await harness.open("last", spec)
        rest = await collect(last, topic, 300 - len(done), within=WITHIN)
        assert sorted(done + [int(one.id) for one in rest]) == list(range(300))
        if harness.caps.exact_count:
            assert {one.deliveries for one in rest} == {1}

    async def test_nothing_grows_as_consumers_and_messages_pass_through(self, harness: TransportHarness) -> None:
        topic = harness.topic()
        spec = harness.spec(topic)
        sizes = []
        for round_number in range(12):
            consumer = await harness.open(f"pod-{round_number}", spec)
            await published(consumer, outgoing(topic, 50, start=50 * round_number))
            await consumer.ack(await collect(consumer, topic, 50, within=WITHIN))
            assert await counts(consumer, topic, 0, 0, 0)
            await consumer.close()
            sizes.append(dict(await harness.leftovers()))
        assert sizes[3] == sizes[-1]
