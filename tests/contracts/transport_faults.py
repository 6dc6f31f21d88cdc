"""Contract: consumers are killed and frozen, the server vanishes and forgets, and nothing is lost or done by two."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest
from attrs import evolve

from murmur.transport import Outgoing, Receipt
from tests.contracts.harness import TransportHarness, bells, collect, now, until
from tests.contracts.transport_messages import WITHIN, outgoing, published
from tests.contracts.transport_ownership import counts


class FaultContract:
    """What holds when somebody dies."""

    async def test_what_a_killed_consumer_held_is_delivered_once_more_and_nothing_else(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        spec = harness.spec(topic)
        bystander, victim = await harness.open("bystander", spec), await harness.member("victim", spec)
        await published(bystander, outgoing(topic, 10))
        theirs = await collect(bystander, topic, 4, within=WITHIN)
        his: list[str] = []
        while len(his) < 6:
            his += [one.id for one in await victim.receive(topic, credit=6 - len(his), wait=WITHIN)]
        await victim.settle("ack", his[1:4:2])
        await victim.kill()
        began = now()
        again = await collect(bystander, topic, 4, within=harness.found_dead)
        assert now() - began <= harness.found_dead
        assert sorted(one.id for one in again) == sorted({*his} - {*his[1:4:2]})
        assert [one.deliveries for one in again] == [2] * 4
        assert [one.reason for one in await bystander.ack([*theirs, *again])] == ["done"] * 8
        assert await counts(bystander, topic, 0, 0, 0)

    async def test_a_killed_consumer_that_restarts_under_its_name_need_not_wait_for_the_lease(
        self, harness: TransportHarness
    ) -> None:
        if not harness.caps.stable_identity:
            pytest.skip("this broker knows no stable consumers")
        topic = harness.topic()
        spec = evolve(harness.spec(topic), lease=60.0)
        first = await harness.member("node", spec)
        await published(await harness.open("p", spec), outgoing(topic, 3))
        assert len(await first.receive(topic, credit=3, wait=WITHIN)) == 3
        await first.kill()
        restarted = await harness.open("node", spec)
        again = await collect(restarted, topic, 3, within=WITHIN)
        assert sorted((one.id, one.deliveries) for one in again) == [("0", 2), ("1", 2), ("2", 2)]

    async def test_two_living_consumers_of_one_name_take_nothing_from_each_other(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        first = await harness.open("same", harness.spec(topic))
        await published(first, outgoing(topic, 2))
        held = await collect(first, topic, 1, within=WITHIN)
        second = await harness.open("same", harness.spec(topic))
        held += await collect(second, topic, 1, within=WITHIN)
        assert {one.id for one in held} == {"0", "1"}
        assert await collect(second, topic, 1, within=2 * harness.lease) == []
        assert [one.reason for one in await first.ack(held[:1])] == ["done"]
        assert [one.reason for one in await second.ack(held[1:])] == ["done"]

    async def test_a_blocked_event_loop_does_not_lose_its_tasks(self, harness: TransportHarness) -> None:
        if harness.caps.lease != "time":
            pytest.skip("this broker's heartbeats live in the event loop")
        topic = harness.topic()
        spec = harness.spec(topic)
        busy, other = await harness.member("busy", spec), await harness.open("other", spec)
        await published(other, outgoing(topic, 1))
        assert len(await busy.receive(topic, credit=1, wait=WITHIN)) == 1
        blocking = asyncio.create_task(busy.block(2 * harness.lease))
        assert await collect(other, topic, 1, within=2 * harness.lease) == []
        await blocking
        assert await busy.settle("ack", ["0"]) == ["done"]

    async def test_a_consumer_frozen_beyond_its_lease_hears_that_it_lost_and_changes_nothing(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        spec = harness.spec(topic)
        old, new = await harness.member("old", spec), await harness.open("new", spec)
        await published(new, outgoing(topic, 3))
        held: list[str] = []
        while len(held) < 3:
            held += [one.id for one in await old.receive(topic, credit=3 - len(held), wait=WITHIN)]
        await old.pause()
        taken = await collect(new, topic, 3, within=harness.found_dead)
        assert [one.deliveries for one in taken] == [2] * 3
        await old.resume()
        assert sorted(await old.lost(count=3, wait=harness.lease + harness.slack)) == ["0", "1", "2"]
        reasons = [await old.settle(verb, [one]) for verb, one in zip(("ack", "release", "dead"), "012", strict=True)]
        assert reasons == [["lost"]] * 3
        assert await counts(new, topic, 0, 3, 0)
        assert [one.reason for one in await new.ack(taken)] == ["done"] * 3
        assert await counts(new, topic, 0, 0, 0)

    async def test_a_stale_settle_before_anybody_said_lost_changes_nothing_either(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        spec = harness.spec(topic)
        old, new = await harness.member("old", spec), await harness.open("new", spec)
        await published(new, outgoing(topic, 1))
        assert len(await old.receive(topic, credit=1, wait=WITHIN)) == 1
        await old.pause()
        taken = await collect(new, topic, 1, within=harness.found_dead)
        await old.resume()
        assert await old.settle("release", ["0"]) == ["lost"]
        assert await counts(new, topic, 0, 1, 0)
        assert [one.reason for one in await new.ack(taken)] == ["done"]

    async def test_a_message_that_kills_its_consumers_is_counted_and_can_be_buried(
        self, harness: TransportHarness
    ) -> None:
        topic = harness.topic()
        spec = harness.spec(topic)
        undertaker = await harness.open("undertaker", spec)
        await published(undertaker, outgoing(topic, 1))
        for deliveries in (1, 2):
            victim = await harness.member(f"victim-{deliveries}", spec)
            (seen,) = await victim.receive(topic, credit=1, wait=harness.found_dead + WITHIN)
            assert seen.deliveries == deliveries
            await victim.kill()
        await published(undertaker, outgoing(topic, 5, start=1))
        held = await collect(undertaker, topic, 6, within=harness.found_dead + WITHIN)
        (poison,) = [one for one in held if one.id == "0"]
        assert poison.deliveries == 3
        assert (await undertaker.dead(poison, b"killed 2 consumers")).ok
        assert all(one.ok for one in await undertaker.ack([one for one in held if one is not poison]))
        assert await counts(undertaker, topic, 0, 0, 1)

    async def test_a_kill_between_result_and_ack_never_costs_a_result(self, harness: TransportHarness) -> None:
        topic, inbox = harness.topic(), harness.inbox()
        spec = harness.spec(topic)
        reader, publisher = await harness.open_inbox("p", inbox), await harness.open("publisher", spec)
        await published(publisher, outgoing(topic, 300))
        results = Counter[str]()
        for number in range(3):
            victim = await harness.member(f"victim-{number}", spec)
            await victim.serve(topic, inbox=inbox)
            first = await bells(reader, inbox, 40, within=WITHIN)
            await victim.kill()
            results.update(one.id for one in first)
        await (await harness.member("heir", spec)).serve(topic, inbox=inbox)
        deadline = now() + harness.found_dead + WITHIN
        while len(results) < 300 and now() < deadline:
            results.update(one.id for one in await bells(reader, inbox, 1, within=0.5))
        assert len(results) == 300

        async def all_are_settled() -> bool:  # a message whose result was sent apart from its ack waits for its lease
            return await counts(publisher, topic, 0, 0, 0)

        assert await until(all_are_settled, within=0.0 if harness.caps.atomic_emit else harness.found_dead)
        results.update(one.id for one in await bells(reader, inbox, 1_000, within=0.5))
        if harness.caps.atomic_emit:
            assert results.total() == 300

    async def test_after_a_wipe_the_topology_is_made_anew_and_work_goes_on(self, harness: TransportHarness) -> None:
        topic, inbox = harness.topic(), harness.inbox()
        spec = harness.spec(topic)
        worker, publisher = await harness.open("w", spec), await harness.open("p", spec)
        reader = await harness.open_inbox("r", inbox)
        await published(publisher, outgoing(topic, 1))
        held = await collect(worker, topic, 1, within=WITHIN)
        waiting = asyncio.create_task(collect(worker, topic, 3, within=2 * WITHIN))
        await asyncio.wait([waiting], timeout=0.2)
        await harness.wipe()
        await published(publisher, outgoing(topic, 3, start=10))
        came = await waiting
        assert {one.id for one in came} == {"10", "11", "12"}
        assert [one.reason for one in await worker.ack(held)] == ["lost"]
        assert [one.reason for one in await worker.ack(came)] == ["done"] * 3
        await published(worker, [Outgoing(inbox, b"after", "after")])
        assert [one.id for one in await bells(reader, inbox, 1, within=WITHIN)] == ["after"]

    async def test_a_killed_server_loses_nothing_it_confirmed(self, harness: TransportHarness) -> None:
        if not (harness.can_restart and harness.caps.durable):
            pytest.skip("this broker does not outlive its process")
        topic = harness.topic()
        spec = evolve(harness.spec(topic), lease=5.0)
        publisher, worker = await harness.open("p", spec), await harness.open("w", spec)
        confirmed: set[str] = set()
        done = Counter[str]()
        await published(publisher, outgoing(topic, 1, start=-1))
        await worker.ack(await collect(worker, topic, 1, within=WITHIN))  # it consumes, however long that took

        async def publish() -> None:
            for number in range(0, 300, 10):
                todo = outgoing(topic, 10, start=number)
                while todo:
                    answers = await publisher.publish(todo)
                    confirmed.update(one.id for one in answers if isinstance(one, Receipt))
                    todo = [one for one in todo if one.id not in confirmed]
                await asyncio.sleep(0.03)

        async def consume() -> None:
            while len(done) < 300:
                held = await worker.receive("workers", {topic: 10}, credit=10, wait=0.5)
                while held:  # what is in doubt is settled again
                    settled = await worker.ack(held)
                    done.update(one.id for one in settled if one.ok)
                    held = [one for one, answer in zip(held, settled, strict=True) if answer.reason == "unknown"]

        working = asyncio.gather(publish(), consume())
        await asyncio.wait([working], timeout=0.4)
        assert 0 < len(done) < 300
        await harness.stop_server()
        await asyncio.wait([working], timeout=1.0)
        await harness.start_server()
        before = len(done)

        async def goes_on() -> bool:
            return len(done) > before

        assert await until(goes_on, within=2.0 + harness.slack)
        await asyncio.wait_for(working, 90.0)
        assert set(done) == {str(number) for number in range(300)}

    async def test_while_the_server_is_away_calls_end_in_time_and_nothing_spins(
        self, harness: TransportHarness
    ) -> None:
        if not harness.can_restart:
            pytest.skip("this broker cannot be away")
        topic = harness.topic()
        transport = await harness.open("a", harness.spec(topic))
        await harness.stop_server()
        began, spent = now(), time.process_time()
        answers = await transport.publish(outgoing(topic, 2))
        assert all(not isinstance(one, Receipt) for one in answers)
        assert now() - began <= 30.0  # ten on a machine with nothing else to do
        while now() - began < 12.0:
            assert list(await transport.receive("workers", {topic: 1}, credit=1, wait=1.0)) == []
        assert time.process_time() - spent < 0.05 * (now() - began)
        reading = asyncio.create_task(transport.receive("workers", {topic: 1}, credit=1, wait=60.0))
        await asyncio.wait([reading], timeout=0.1)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(reading, harness.slack)
        await harness.start_server()
        todo = outgoing(topic, 2)
        while todo:
            todo = [
                one
                for one, answer in zip(todo, await transport.publish(todo), strict=True)
                if not isinstance(answer, Receipt)
            ]
        assert {one.id for one in await collect(transport, topic, 2, within=WITHIN)} == {"0", "1"}
