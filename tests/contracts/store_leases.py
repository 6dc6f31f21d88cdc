"""Contract: admission, grants and leases; who may start a task, and for how long it is his."""

import asyncio

import pytest

from murmur.store import Busy, Claim, Finished, State, Written
from tests.contracts.harness import until
from tests.contracts.store_harness import VERBS, StoreHarness, is_over


class LeaseContract:
    """(none) → QUEUED → LEASED, renewed, lapsed, and LEASED again."""

    async def test_a_new_task_is_queued_and_untouched(self, harness: StoreHarness) -> None:
        publisher, (task_id,) = await harness.party("p"), harness.ids(1)
        (admission,) = await publisher.admit(task_id)
        assert (admission.task_id, admission.fresh, admission.state) == (task_id, True, State.QUEUED)
        row = await publisher.row(task_id)
        assert (row.agent, row.state, row.owner, row.result) == (harness.agent, State.QUEUED, None, None)
        assert (row.token, row.attempts, row.failures, row.crashes, row.lapses) == (0, 0, 0, 0, 0)

    async def test_a_task_admitted_again_stands_as_it_was(self, harness: StoreHarness) -> None:
        party, (task_id,) = await harness.party("p"), harness.ids(1)
        await party.admit(task_id)
        (queued,) = await party.admit(task_id)
        (claim,) = await party.claim(task_id)
        (leased,) = await party.admit(task_id)
        await party.complete(claim, b'"first"')
        (done,) = await party.admit(task_id)
        assert [one.fresh for one in (queued, leased, done)] == [False] * 3
        assert [one.state for one in (queued, leased, done)] == [State.QUEUED, State.LEASED, State.DONE]
        assert [one.result for one in (queued, leased, done)] == [None, None, b'"first"']
        assert (await party.row(task_id)).attempts == 1

    async def test_many_are_admitted_at_once_and_answered_in_order(self, harness: StoreHarness) -> None:
        party, ids = await harness.party("p"), harness.ids(500)
        await party.admit(ids[7])
        answers = await party.admit(*ids, ids[3])
        assert [one.task_id for one in answers] == [*ids, ids[3]]
        assert [number for number, one in enumerate(answers) if not one.fresh] == [7, 500]

    async def test_two_who_admit_the_same_task_make_one(self, harness: StoreHarness) -> None:
        first, second = await harness.party("p1"), await harness.party("p2")
        (task_id,) = harness.ids(1)
        answers = await asyncio.gather(*(party.admit(task_id) for party in (first, second) * 5))
        assert sorted(one.fresh for (one,) in answers) == [False] * 9 + [True]

    async def test_a_grant_is_stored_before_it_is_answered(self, harness: StoreHarness) -> None:
        worker, other, (task_id,) = await harness.party("w"), await harness.party("o"), harness.ids(1)
        await other.admit(task_id, reply_to=harness.inbox)
        (claim,) = await worker.claim(task_id)
        assert (claim.task_id, claim.token, claim.attempts, claim.reply_to) == (task_id, 1, 1, harness.inbox)
        assert (claim.failures, claim.crashes, claim.lapses, list(claim.errors)) == (0, 0, 0, [])
        row = await other.row(task_id)
        assert (row.state, row.token, row.attempts, row.owner) == (State.LEASED, 1, 1, "w")

    async def test_a_grant_keeps_hold_of_its_delivery(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        task = worker.task(task_id)
        await worker.store.admit([task])
        (claim,) = await worker.claim(task_id)
        assert (claim.delivery.topic, claim.delivery.body) == (task.topic, task.body)

    async def test_many_are_granted_at_once_and_answered_in_order(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(300)
        await worker.admit(*ids)
        claims = await worker.claim(*ids)
        assert [one.task_id for one in claims] == ids
        assert {(one.token, one.attempts) for one in claims} == {(1, 1)}

    async def test_of_many_who_want_a_task_one_gets_it(self, harness: StoreHarness) -> None:
        workers = [await harness.party(name) for name in "abcde"]
        (task_id,) = harness.ids(1)
        await workers[0].admit(task_id)
        for _ in workers:
            await workers[0].publish_again(task_id)
        offers = await asyncio.gather(*(worker.offer(task_id, patience=1.0) for worker in workers))
        assert [isinstance(grant, Claim) for (grant,) in offers].count(True) == 1
        assert (await workers[0].row(task_id)).attempts == 1

    async def test_a_task_with_a_valid_lease_is_busy(self, harness: StoreHarness) -> None:
        owner, other, (task_id,) = await harness.party("a"), await harness.party("b"), harness.ids(1)
        await owner.admit(task_id)
        (claim,) = await owner.claim(task_id)
        await other.publish_again(task_id)
        (grant,) = await other.offer(task_id, patience=0.5)
        assert grant is None or isinstance(grant, Busy)
        if isinstance(grant, Busy):
            assert grant.retry_after > 0
            assert owner.store.keeps_leases or grant.retry_after <= harness.lease
        assert await owner.complete(claim) is Written.STORED

    async def test_a_stranger_s_task_is_admitted_on_the_way(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.publish_again(task_id, reply_to=harness.inbox)
        (claim,) = await worker.claim(task_id)
        assert (claim.token, claim.attempts) == (1, 1)
        assert (await worker.row(task_id)).agent == harness.agent
        assert await worker.complete(claim) is Written.STORED

    async def test_a_task_that_is_over_is_never_granted_again(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(4)
        done, expired, dead, cancelled = ids
        await worker.admit(*ids)
        claims = dict(zip(ids, await worker.claim(*ids), strict=True))
        await worker.complete(claims[done], b'"done"')
        await worker.complete(claims[expired], b'"expired"', State.EXPIRED)
        await worker.bury(claims[dead], result=b'"dead"')
        await worker.store.cancel({cancelled: b'"cancelled"'})
        for task_id, state in zip(ids, (State.DONE, State.EXPIRED, State.DEAD, State.CANCELLED), strict=True):
            await worker.publish_again(task_id)
            (grant,) = await worker.offer(task_id, patience=0.3)
            assert is_over(grant, state, f'"{state.value}"'.encode())
            row = await worker.row(task_id)
            assert (row.state, row.attempts, row.result) == (state, 1, f'"{state.value}"'.encode())

    async def test_a_lease_that_is_renewed_outlasts_itself_many_times(self, harness: StoreHarness) -> None:
        owner, other, (task_id,) = await harness.party("a"), await harness.party("b"), harness.ids(1)
        await owner.admit(task_id)
        (claim,) = await owner.claim(task_id)
        for _ in range(12):
            assert owner.store.keeps_leases or await owner.renew(claim)
            await other.store.sweep([other.topic])
            assert await other.is_refused(task_id, patience=harness.lease / 3)
            if other.transport is None:
                await asyncio.sleep(harness.lease / 3)  # nobody waits for a message here, so time passes by itself
        assert (await other.row(task_id)).attempts == 1
        assert await owner.complete(claim) is Written.STORED

    async def test_a_lease_that_lapsed_goes_to_the_next_and_is_counted(self, harness: StoreHarness) -> None:
        old, new, (task_id,) = await harness.party("old"), await harness.party("new"), harness.ids(1)
        await old.admit(task_id)
        await old.claim(task_id)
        await harness.lapse(old, new, task_id)
        row = await new.row(task_id)
        assert (row.state, row.lapses, row.attempts, row.owner) == (State.QUEUED, 1, 1, None)
        (claim,) = await new.claim(task_id)
        assert (claim.token, claim.attempts, claim.lapses, claim.failures, claim.crashes) == (2, 2, 1, 0, 0)
        assert (await new.row(task_id)).owner == "new"

    async def test_a_lapsed_task_is_granted_without_a_sweep(self, harness: StoreHarness) -> None:
        old, new, (task_id,) = await harness.party("old"), await harness.party("new"), harness.ids(1)
        if new.transport is not None:
            pytest.skip("here a message comes back by the sweep alone")
        await old.admit(task_id)
        await old.claim(task_id)
        (claim,) = await new.claim(task_id, within=harness.lapsed_within)
        assert (claim.token, claim.attempts, claim.lapses) == (2, 2, 1)

    async def test_lapses_are_counted_in_a_row_and_a_failure_ends_the_row(self, harness: StoreHarness) -> None:
        new, (task_id,) = await harness.party("new"), harness.ids(1)
        await new.admit(task_id)
        for number in (1, 2):
            old = await harness.party(f"old-{number}")
            await old.claim(task_id)
            await harness.lapse(old, new, task_id)
        (claim,) = await new.claim(task_id)
        assert (claim.lapses, claim.attempts) == (2, 3)
        await new.fail(claim)
        assert (await new.row(task_id)).lapses == 0

    @pytest.mark.parametrize("verb", VERBS)
    async def test_who_lost_his_lease_changes_nothing(self, harness: StoreHarness, verb: str) -> None:
        old, new, (task_id,) = await harness.party("old"), await harness.party("new"), harness.ids(1)
        await old.admit(task_id)
        (stale,) = await old.claim(task_id)
        await harness.lapse(old, new, task_id)
        queued = await new.row(task_id)
        assert await VERBS[verb](old, stale) is Written.STALE
        assert await new.row(task_id) == queued
        (claim,) = await new.claim(task_id)
        leased = await new.row(task_id)
        assert await VERBS[verb](old, stale) is Written.STALE
        assert not await old.renew(stale)
        assert await new.row(task_id) == leased
        assert await new.complete(claim, b'"new"') is Written.STORED
        assert await VERBS[verb](old, stale) is Written.STALE
        assert (await new.row(task_id)).result == b'"new"'
        assert list(await new.store.dead_letters(harness.agent)) == []

    async def test_a_lease_that_lapsed_is_still_its_owner_s_until_somebody_takes_it(
        self, harness: StoreHarness
    ) -> None:
        owner, (task_id,) = await harness.party("w", lease=0.2), harness.ids(1)
        if owner.store.keeps_leases:
            pytest.skip("this store renews by itself")
        await owner.admit(task_id)
        (claim,) = await owner.claim(task_id)
        await asyncio.sleep(0.3)
        assert await owner.complete(claim) is Written.STORED

    async def test_a_lease_without_an_end_never_lapses(self, harness: StoreHarness) -> None:
        owner, other = await harness.party("a", endless=True), await harness.party("b", endless=True)
        (task_id,) = harness.ids(1)
        await owner.admit(task_id)
        (claim,) = await owner.claim(task_id)
        await harness.silence(owner)

        async def is_taken() -> bool:
            await other.store.sweep([other.topic])
            return not await other.is_refused(task_id, patience=0.1)

        assert not await until(is_taken, within=2 * harness.lease)
        assert await owner.complete(claim) is Written.STORED

    async def test_renewing_what_is_not_leased_by_us_says_so(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(3)
        await worker.admit(*ids)
        held, ended, released = await worker.claim(*ids)
        await worker.complete(ended)
        await worker.release(released)
        assert list(await worker.store.renew([held, ended, released])) == [True, False, False]

    async def test_a_sweep_touches_no_valid_lease_and_no_other_topic(self, harness: StoreHarness) -> None:
        old, new, ids = await harness.party("old"), await harness.party("new"), harness.ids(2)
        await old.admit(*ids)
        await old.claim(ids[0])
        (valid,) = await new.claim(ids[1])
        await harness.silence(old)

        async def is_over() -> bool:
            if not new.store.keeps_leases:
                assert await new.renew(valid)
            await new.store.sweep(["elsewhere.tasks"])
            assert await new.state(ids[0]) is State.LEASED
            await new.store.sweep([new.topic])
            return await new.state(ids[0]) is State.QUEUED

        assert await until(is_over, within=harness.lapsed_within)
        assert await new.state(ids[1]) is State.LEASED
        assert await new.complete(valid) is Written.STORED

    async def test_what_nobody_ever_admitted_has_no_row(self, harness: StoreHarness) -> None:
        party, ids = await harness.party("p"), harness.ids(3)
        await party.admit(ids[1])
        rows = await party.store.read(ids)
        assert [row and row.task_id for row in rows] == [None, ids[1], None]

    async def test_grants_of_one_call_are_each_decided_alone(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(3)
        if worker.transport is not None:
            pytest.skip("here a read hands out only what may start")
        over, busy, free = ids
        await worker.admit(*ids)
        claims = await worker.claim(over, busy)
        await worker.complete(claims[0], b'"over"')
        grants = await worker.offer(free, over, busy, patience=0.0)
        assert [type(grant) for grant in grants] == [Claim, Finished, Busy]
        assert [grant.task_id for grant in grants if grant] == [free, over, busy]

    async def test_the_same_task_twice_in_one_call_is_granted_once(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        await worker.publish_again(task_id)
        grants = await worker.offer(task_id, task_id, patience=0.5)
        assert len([grant for grant in grants if isinstance(grant, Claim)]) <= 1
        assert (await worker.row(task_id)).attempts == 1
