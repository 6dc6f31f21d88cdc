"""Contract: how a lease ends; each arrow by its owner once, by nobody else, and terminal states for ever."""

import asyncio

import pytest

from murmur.limits import MAX_ERRORS_KEPT
from murmur.store import Completion, Failure, State, Written
from tests.contracts.harness import now
from tests.contracts.store_harness import VERBS, WITHIN, StoreHarness, note

ENDINGS = ("complete", "bury")  # of the verbs: those after which nothing follows
KINDS = {"complete": 0, "fail": 1, "crash": 1, "release": 2, "bury": 3, "cancel": 4}  # same: a repeat of one another
OTHERS = [(first, second) for first in VERBS for second in VERBS if KINDS[first] != KINDS[second]]
AFTER_THE_END = [(ending, verb) for ending in (*ENDINGS, "cancel") for verb in VERBS if KINDS[ending] != KINDS[verb]]


class EndingContract:
    """LEASED → DONE, DEAD, CANCELLED, EXPIRED, or back to QUEUED."""

    async def test_a_result_is_written_and_the_lease_is_over(self, harness: StoreHarness) -> None:
        worker, publisher, (task_id,) = await harness.party("w"), await harness.party("p"), harness.ids(1)
        await publisher.admit(task_id)
        (claim,) = await worker.claim(task_id)
        assert await worker.complete(claim, b'{"answer":42}') is Written.STORED
        row = await publisher.row(task_id)
        assert (row.state, row.result, row.owner, row.attempts) == (State.DONE, b'{"answer":42}', None, 1)

    async def test_an_expired_task_is_over_like_a_done_one(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        assert await worker.complete(claim, b'"late"', State.EXPIRED) is Written.STORED
        assert await worker.state(task_id) is State.EXPIRED

    async def test_a_result_of_any_bytes_comes_back_as_it_was(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        result = b'{"output":"' + b"\\u0000\xc3\xa4\r\n" * 20_000 + b'"}'
        await worker.complete(claim, result)
        assert (await worker.row(task_id)).result == result

    async def test_many_are_completed_at_once_and_answered_in_order(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(300)
        await worker.admit(*ids)
        claims = await worker.claim(*ids)
        await worker.complete(claims[5], b'"5"')
        await worker.release(claims[6])
        written = await worker.store.complete(
            [Completion(claim, f'"{number}"'.encode()) for number, claim in enumerate(claims)]
        )
        assert [one for one in written if one is not Written.STORED] == [Written.REPEATED, Written.STALE]
        assert (written[5], written[6]) == (Written.REPEATED, Written.STALE)
        rows = await worker.store.read(ids)
        expected = [None if number == 6 else f'"{number}"'.encode() for number in range(300)]
        assert [row.result if row else None for row in rows] == expected

    @pytest.mark.parametrize("verb", VERBS)
    async def test_the_same_write_again_changes_nothing(self, harness: StoreHarness, verb: str) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        assert await VERBS[verb](worker, claim) is Written.STORED
        row, letters = await worker.row(task_id), list(await worker.store.dead_letters(harness.agent))
        assert await VERBS[verb](worker, claim) is Written.REPEATED
        assert await worker.row(task_id) == row
        assert list(await worker.store.dead_letters(harness.agent)) == letters

    @pytest.mark.parametrize(("first", "second"), OTHERS)
    async def test_of_two_different_writes_the_first_holds(
        self, harness: StoreHarness, first: str, second: str
    ) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        assert await VERBS[first](worker, claim) is Written.STORED
        row = await worker.row(task_id)
        assert await VERBS[second](worker, claim) is Written.STALE
        assert await worker.row(task_id) == row

    @pytest.mark.parametrize("verb", VERBS)
    async def test_an_older_token_changes_nothing(self, harness: StoreHarness, verb: str) -> None:
        old, new, (task_id,) = await harness.party("old"), await harness.party("new"), harness.ids(1)
        await old.admit(task_id)
        (stale,) = await old.claim(task_id)
        await old.release(stale)
        (claim,) = await new.claim(task_id)
        assert claim.token == 2
        row = await new.row(task_id)
        assert await VERBS[verb](old, stale) is Written.STALE
        assert not await old.renew(stale)
        assert await new.row(task_id) == row
        assert await new.complete(claim, b'"new"') is Written.STORED

    @pytest.mark.parametrize(("ending", "verb"), AFTER_THE_END)
    async def test_what_is_over_is_over(self, harness: StoreHarness, ending: str, verb: str) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        if ending == "cancel":
            await worker.store.cancel({task_id: b'"cancelled"'})
        else:
            await VERBS[ending](worker, claim)
        row, letters = await worker.row(task_id), list(await worker.store.dead_letters(harness.agent))
        assert await VERBS[verb](worker, claim) is Written.STALE
        assert not await worker.renew(claim)
        assert await worker.row(task_id) == row
        assert list(await worker.store.dead_letters(harness.agent)) == letters

    async def test_of_two_results_raced_under_one_token_one_stands(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        written = await asyncio.gather(*(worker.complete(claim, f'"{number}"'.encode()) for number in range(10)))
        assert sorted(one.value for one in written) == ["repeated"] * 9 + ["stored"]
        result = (await worker.row(task_id)).result
        assert result == f'"{written.index(Written.STORED)}"'.encode()

    @pytest.mark.parametrize("verb", [*ENDINGS, "fail", "release"])
    async def test_a_row_the_server_lost_is_written_anew(self, harness: StoreHarness, verb: str) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (first,) = await worker.claim(task_id)
        await worker.fail(first)
        (claim,) = await worker.claim(task_id)
        await harness.wipe()
        assert await VERBS[verb](worker, claim) is Written.STORED
        row = await worker.row(task_id)
        states = {"complete": State.DONE, "bury": State.DEAD, "fail": State.QUEUED, "release": State.QUEUED}
        assert (row.state, row.token, row.attempts) == (states[verb], 2, 2)
        if verb in ENDINGS:
            assert row.result == b'"stale"'
            assert await VERBS[verb](worker, claim) is Written.REPEATED
        else:
            (again,) = await worker.claim(task_id)
            assert (again.token, again.attempts, again.failures) == (3, 3, 1 + (verb == "fail"))

    async def test_a_failure_counts_and_is_remembered(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        for attempt in range(1, MAX_ERRORS_KEPT + 3):
            (claim,) = await worker.claim(task_id)
            assert (claim.attempts, claim.token, claim.failures) == (attempt, attempt, attempt - 1)
            assert await worker.fail(claim, attempt=attempt) is Written.STORED
            row = await worker.row(task_id)
            assert (row.state, row.owner, row.failures, row.crashes) == (State.QUEUED, None, attempt, 0)
        (last,) = await worker.claim(task_id)
        expected = [note(attempt) for attempt in range(3, MAX_ERRORS_KEPT + 3)]
        assert list(last.errors) == expected
        assert list((await worker.row(task_id)).errors) == expected

    async def test_a_crash_counts_apart_from_failures(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        for crashed in (True, False, True):
            (claim,) = await worker.claim(task_id)
            await worker.fail(claim, crashed=crashed)
        (claim,) = await worker.claim(task_id)
        assert (claim.attempts, claim.failures, claim.crashes) == (4, 1, 2)

    async def test_a_release_counts_nothing(self, harness: StoreHarness) -> None:
        worker, other, (task_id,) = await harness.party("w"), await harness.party("o"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        await worker.fail(claim, attempt=1)
        (claim,) = await worker.claim(task_id)
        assert await worker.release(claim) is Written.STORED
        row = await worker.row(task_id)
        assert (row.state, row.owner, row.failures, row.crashes, row.lapses) == (State.QUEUED, None, 1, 0, 0)
        (again,) = await other.claim(task_id)
        assert (again.token, again.attempts, again.failures, list(again.errors)) == (3, 3, 1, [note(1)])

    @pytest.mark.parametrize("verb", ["fail", "release"])
    async def test_a_delay_is_waited_for(self, harness: StoreHarness, verb: str) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        began = now()
        assert await getattr(worker, verb)(claim, delay=1.0) is Written.STORED
        assert await worker.state(task_id) is State.QUEUED
        due = await worker.store.sweep([worker.topic])
        assert due is not None
        assert 0.0 < due <= 1.0
        assert await worker.is_refused(task_id, patience=0.2)
        await self._granted_when_due(harness, task_id)
        assert 0.99 <= now() - began <= 1.0 + harness.slack
        assert await worker.store.sweep([worker.topic]) is None

    async def _granted_when_due(self, harness: StoreHarness, task_id: str) -> None:
        """Have another party sweep and ask, as workers do, until the task is granted."""
        other = await harness.party("other")
        sweeping = asyncio.create_task(self._sweep_for_ever(other.store.sweep, other.topic))
        await other.claim(task_id, within=WITHIN)
        sweeping.cancel()
        await asyncio.wait([sweeping])

    async def _sweep_for_ever(self, sweep, topic: str) -> None:  # type: ignore[no-untyped-def]  # a bound verb
        while True:
            due = await sweep([topic])
            await asyncio.sleep(0.05 if due is None else due)

    async def test_failures_of_one_call_are_each_decided_alone(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(3)
        await worker.admit(*ids)
        claims = await worker.claim(*ids)
        await worker.complete(claims[1])
        written = await worker.store.fail([Failure(claim, 0.0, note()) for claim in claims])
        assert list(written) == [Written.STORED, Written.STALE, Written.STORED]
        assert [await worker.state(one) for one in ids] == [State.QUEUED, State.DONE, State.QUEUED]

    async def test_a_burial_leaves_one_letter_and_a_result(self, harness: StoreHarness) -> None:
        worker, other, (task_id,) = await harness.party("w"), await harness.party("o"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        assert await worker.bury(claim, b'{"reason":"poison"}', b'"buried"') is Written.STORED
        row = await other.row(task_id)
        assert (row.state, row.result, row.owner) == (State.DEAD, b'"buried"', None)
        assert list(await other.store.dead_letters(harness.agent)) == [b'{"reason":"poison"}']

    async def test_dead_letters_are_told_newest_first_and_by_agent(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(5)
        await worker.admit(*ids)
        for number, claim in enumerate(await worker.claim(*ids)):
            await worker.bury(claim, f'{{"reason":"{number}"}}'.encode())
        newest = [f'{{"reason":"{number}"}}'.encode() for number in (4, 3, 2)]
        assert list(await worker.store.dead_letters(harness.agent, limit=3)) == newest
        assert list(await worker.store.dead_letters("somebody_else")) == []

    async def test_letters_are_forgotten_as_they_were_told_and_no_others(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(6)
        await worker.admit(*ids)
        for number, claim in enumerate(await worker.claim(*ids)):
            await worker.bury(claim, f'{{"reason":"{number}"}}'.encode())
        letters = list(await worker.store.dead_letters(harness.agent))
        gone = [letters[1], letters[4], b'{"reason":"unknown"}']
        assert await worker.store.forget_letters(harness.agent, gone) == 2
        assert list(await worker.store.dead_letters(harness.agent)) == [letters[at] for at in (0, 2, 3, 5)]
        assert await worker.store.forget_letters(harness.agent, gone) == 0
        assert await worker.store.forget_letters("somebody_else", letters) == 0

    async def test_a_queued_task_is_cancelled_and_never_starts(self, harness: StoreHarness) -> None:
        party, (task_id,) = await harness.party("p"), harness.ids(1)
        await party.admit(task_id)
        assert dict(await party.store.cancel({task_id: b'"cancelled"'})) == {task_id: State.CANCELLED}
        assert await party.is_refused(task_id)
        row = await party.row(task_id)
        assert (row.state, row.result, row.attempts) == (State.CANCELLED, b'"cancelled"', 0)
        (admission,) = await party.admit(task_id)
        assert (admission.fresh, admission.state, admission.result) == (False, State.CANCELLED, b'"cancelled"')

    async def test_whoever_runs_a_cancelled_task_hears_of_it(self, harness: StoreHarness) -> None:
        worker, publisher, ids = await harness.party("w"), await harness.party("p"), harness.ids(5)
        hearing = asyncio.create_task(anext(worker.store.cancelled()))
        for task_id in ids:  # the first may come before the worker is connected for news
            await publisher.admit(task_id)
            (claim,) = await worker.claim(task_id)
            states = await publisher.store.cancel({task_id: b'"cancelled"'})
            assert dict(states) == {task_id: State.CANCELLED}
            assert not await worker.renew(claim)
            assert await worker.complete(claim, b'"done all the same"') is Written.STALE
            assert (await publisher.row(task_id)).result == b'"cancelled"'
            await asyncio.wait([hearing], timeout=2.0)
            if hearing.done():
                break
        assert hearing.done()
        assert hearing.result() == task_id

    @pytest.mark.parametrize("verb", ["fail", "release"])
    async def test_what_was_given_back_before_a_cancel_is_not_given_back_after_it(
        self, harness: StoreHarness, verb: str
    ) -> None:
        party, (task_id,) = await harness.party("p"), harness.ids(1)
        await party.admit(task_id)
        (claim,) = await party.claim(task_id)
        await VERBS[verb](party, claim)
        await party.store.cancel({task_id: b'"cancelled"'})
        row = await party.row(task_id)
        assert await VERBS[verb](party, claim) is Written.STALE
        assert await party.row(task_id) == row

    async def test_what_is_over_or_unknown_is_not_cancelled(self, harness: StoreHarness) -> None:
        party, (over, unknown) = await harness.party("p"), harness.ids(2)
        await party.admit(over)
        (claim,) = await party.claim(over)
        await party.complete(claim, b'"done"')
        states = await party.store.cancel({over: b'"cancelled"', unknown: b'"cancelled"'})
        assert dict(states) == {over: State.DONE}
        assert (await party.row(over)).result == b'"done"'
        assert await party.state(unknown) is None

    async def test_cancelling_races_completing_and_one_of_them_stands(self, harness: StoreHarness) -> None:
        worker, publisher, ids = await harness.party("w"), await harness.party("p"), harness.ids(40)
        await publisher.admit(*ids)
        claims = await worker.claim(*ids)

        async def complete(number: int) -> Written:
            return await worker.complete(claims[number], b'"done"')

        async def cancel(number: int) -> State:
            return (await publisher.store.cancel({ids[number]: b'"cancelled"'}))[ids[number]]

        for number, task_id in enumerate(ids):
            order = (complete, cancel) if number % 2 else (cancel, complete)
            await asyncio.gather(*(one(number) for one in order))
            row = await publisher.row(task_id)
            assert (row.state, row.result) in ((State.DONE, b'"done"'), (State.CANCELLED, b'"cancelled"'))
            assert await complete(number) is (Written.REPEATED if row.state is State.DONE else Written.STALE)
