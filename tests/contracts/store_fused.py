"""Contract of a store that lives in its broker: rows and messages change in one step."""

import asyncio

import pytest

from murmur.store import State
from murmur.transport import TopicKind, TopicSpec, Transport
from tests.contracts.harness import bells, now, until
from tests.contracts.store_harness import WITHIN, Party, StoreHarness


def transport_of(party: Party) -> Transport:
    """Return the transport of a fused party."""
    assert party.transport is not None
    return party.transport


async def is_empty(party: Party, *, dead: int = 0) -> bool:
    """Whether nothing is left on the topic within a second."""

    async def nothing() -> bool:
        stats = await transport_of(party).stats(party.topic, "workers")
        return (stats.ready, stats.inflight, stats.dead) == (0, 0, dead)

    return await until(nothing, within=1.0)


class FusedContract:
    """What `moves_messages` promises."""

    async def test_admitting_enqueues_and_completing_settles_and_rings(self, harness: StoreHarness) -> None:
        publisher, worker, ids = await harness.party("p"), await harness.party("w"), harness.ids(20)
        assert publisher.store.moves_messages
        await transport_of(publisher).open([TopicSpec(harness.inbox, TopicKind.INBOX)])
        await publisher.admit(*ids, reply_to=harness.inbox)
        await publisher.admit(*ids, reply_to=harness.inbox)
        for claim in await worker.claim(*ids):
            await worker.complete(claim, claim.task_id.encode())
            await worker.complete(claim, b"again")
        results = await bells(transport_of(publisher), harness.inbox, 20, within=WITHIN)
        assert sorted(one.body for one in results) == sorted(one.encode() for one in ids)
        assert await is_empty(worker)

    async def test_a_cancelled_task_leaves_the_mailbox_and_rings(self, harness: StoreHarness) -> None:
        party, (task_id,) = await harness.party("p"), harness.ids(1)
        await transport_of(party).open([TopicSpec(harness.inbox, TopicKind.INBOX)])
        await party.admit(task_id, reply_to=harness.inbox)
        await party.store.cancel({task_id: b'"cancelled"'})
        results = await bells(transport_of(party), harness.inbox, 1, within=WITHIN)
        assert [one.body for one in results] == [b'"cancelled"']
        assert await party.is_refused(task_id)
        assert await is_empty(party)

    async def test_a_burial_settles_rings_and_leaves_one_letter(self, harness: StoreHarness) -> None:
        party, (task_id,) = await harness.party("p"), harness.ids(1)
        await transport_of(party).open([TopicSpec(harness.inbox, TopicKind.INBOX)])
        await party.admit(task_id, reply_to=harness.inbox)
        (claim,) = await party.claim(task_id)
        await party.bury(claim, b'{"reason":"poison"}', b'"dead"')
        await party.bury(claim, b'{"reason":"poison"}', b'"dead"')
        results = await bells(transport_of(party), harness.inbox, 1, within=WITHIN)
        assert [one.body for one in results] == [b'"dead"']
        assert await is_empty(party, dead=1)

    @pytest.mark.parametrize("verb", ["fail", "release"])
    async def test_what_goes_back_is_there_for_others_at_once(self, harness: StoreHarness, verb: str) -> None:
        first, second, (task_id,) = await harness.party("a"), await harness.party("b"), harness.ids(1)
        await first.admit(task_id)
        (claim,) = await first.claim(task_id)
        waiting = asyncio.create_task(second.claim(task_id))
        await asyncio.wait([waiting], timeout=0.1)
        began = now()
        await getattr(first, verb)(claim)
        (again,) = await waiting
        assert now() - began < harness.lease  # which would bring it, too
        assert (again.token, again.delivery.body) == (2, claim.delivery.body)
        await second.complete(again)
        assert await is_empty(second)

    async def test_a_second_copy_of_a_message_starts_nothing(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        await worker.publish_again(task_id)
        assert await worker.is_refused(task_id)
        await worker.complete(claim)
        assert await worker.is_refused(task_id, patience=1.5 * harness.lease)
        assert (await worker.row(task_id)).attempts == 1
        assert await is_empty(worker)

    async def test_a_task_resubmitted_after_a_wipe_is_not_written_by_its_old_claim(self, harness: StoreHarness) -> None:
        worker, publisher, (task_id,) = await harness.party("w"), await harness.party("p"), harness.ids(1)
        await publisher.admit(task_id)
        (old,) = await worker.claim(task_id)
        # Messages are told apart by the server's clock, to the millisecond: no real server loses its data faster.
        await asyncio.sleep(0.005)
        await harness.wipe()
        await publisher.admit(task_id)
        (new,) = await publisher.claim(task_id)
        assert old.token == new.token
        row = await publisher.row(task_id)
        assert (await worker.complete(old, b'"old"')).value == "stale"
        assert await publisher.row(task_id) == row
        assert (await publisher.complete(new, b'"new"')).value == "stored"
        assert (await publisher.row(task_id)).result == b'"new"'

    async def test_a_lost_lease_is_heard_of(self, harness: StoreHarness) -> None:
        worker, other, (task_id,) = await harness.party("w"), await harness.party("o"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        hearing = asyncio.create_task(anext(transport_of(worker).lost()))
        await other.store.cancel({task_id: b'"cancelled"'})
        lost = await asyncio.wait_for(hearing, harness.lease + harness.slack)
        assert lost is claim.delivery
        assert await other.state(task_id) is State.CANCELLED
