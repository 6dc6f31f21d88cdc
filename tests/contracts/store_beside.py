"""Contract: what a store keeps beside the rows: journalled steps, values under keys; and for how long."""

import asyncio

import pytest

from murmur.errors import LeaseLost
from murmur.store import State, Written
from tests.contracts.harness import until
from tests.contracts.store_harness import StoreHarness


class BesideContract:
    """Journal, keys, retention, and the end."""

    async def test_a_step_is_journalled_once(self, harness: StoreHarness) -> None:
        worker, (task_id,) = await harness.party("w"), harness.ids(1)
        await worker.admit(task_id)
        (claim,) = await worker.claim(task_id)
        assert await worker.store.record(claim, "pay", b'"first"') == b'"first"'
        assert await worker.store.record(claim, "pay", b'"second"') == b'"first"'
        assert await worker.store.record(claim, "mail", b"") == b""
        assert await worker.store.recorded(task_id, "pay") == b'"first"'
        assert await worker.store.recorded(task_id, "mail") == b""

    async def test_a_later_attempt_finds_what_an_earlier_one_journalled(self, harness: StoreHarness) -> None:
        first, second, (task_id,) = await harness.party("a"), await harness.party("b"), harness.ids(1)
        await first.admit(task_id)
        (claim,) = await first.claim(task_id)
        await first.store.record(claim, "pay", b'"first"')
        await first.fail(claim)
        (later,) = await second.claim(task_id)
        assert await second.store.recorded(task_id, "pay") == b'"first"'
        assert await second.store.record(later, "pay", b'"second"') == b'"first"'

    async def test_an_older_token_journals_nothing(self, harness: StoreHarness) -> None:
        old, new, (task_id,) = await harness.party("old"), await harness.party("new"), harness.ids(1)
        await old.admit(task_id)
        (stale,) = await old.claim(task_id)
        await old.release(stale)
        with pytest.raises(LeaseLost) as lost:
            await old.store.record(stale, "pay", b'"stale"')
        assert (lost.value.task_id, lost.value.token) == (task_id, 1)
        (claim,) = await new.claim(task_id)
        with pytest.raises(LeaseLost):
            await old.store.record(stale, "pay", b'"stale"')
        await new.complete(claim)
        with pytest.raises(LeaseLost):
            await new.store.record(claim, "pay", b'"late"')
        assert await new.store.recorded(task_id, "pay") is None

    async def test_tasks_have_journals_of_their_own(self, harness: StoreHarness) -> None:
        worker, ids = await harness.party("w"), harness.ids(2)
        await worker.admit(*ids)
        for claim in await worker.claim(*ids):
            await worker.store.record(claim, "step", claim.task_id.encode())
        assert [await worker.store.recorded(one, "step") for one in ids] == [one.encode() for one in ids]
        assert await worker.store.recorded(ids[0], "other") is None
        assert await worker.store.recorded("unknown", "step") is None

    async def test_values_are_kept_replaced_and_forgotten(self, harness: StoreHarness) -> None:
        writer, reader = await harness.party("a"), await harness.party("b")
        await writer.store.put("k/1", b"one")
        await writer.store.put("k/2", b"\xff\x00")
        await writer.store.put("k/1", b"")
        assert list(await reader.store.get(["k/2", "k/0", "k/1"])) == [b"\xff\x00", None, b""]
        await reader.store.delete(["k/2", "k/0"])
        assert list(await writer.store.get(["k/1", "k/2"])) == [b"", None]
        assert list(await writer.store.get([])) == []

    async def test_values_are_listed_by_what_their_keys_begin_with(self, harness: StoreHarness) -> None:
        writer, reader = await harness.party("a"), await harness.party("b")
        for key in ("presence/a", "presence/b", "presences", "other/presence/a", "presence/*", "presence/["):
            await writer.store.put(key, key.encode())
        await writer.store.delete(["presence/b"])
        expected = {key: key.encode() for key in ("presence/a", "presence/*", "presence/[")}
        assert dict(await reader.store.listed("presence/")) == expected
        assert dict(await reader.store.listed("presence/*")) == {"presence/*": b"presence/*"}
        assert dict(await reader.store.listed("nothing/")) == {}

    async def test_a_value_with_a_time_to_live_vanishes_and_the_next_put_decides_anew(
        self, harness: StoreHarness
    ) -> None:
        party = await harness.party("a")
        await party.store.put("brief/1", b"x", ttl=0.5)
        await party.store.put("brief/2", b"x", ttl=0.5)
        await party.store.put("brief/2", b"y")
        await party.store.put("brief/3", b"x")
        await party.store.put("brief/3", b"y", ttl=0.5)
        assert len(await party.store.listed("brief/")) == 3

        async def are_gone() -> bool:
            return list(await party.store.get(["brief/1", "brief/3"])) == [None, None]

        assert await until(are_gone, within=0.5 + harness.slack)
        assert dict(await party.store.listed("brief/")) == {"brief/2": b"y"}

    async def test_a_swap_takes_place_only_where_the_expected_value_stands(self, harness: StoreHarness) -> None:
        a, b = await harness.party("a"), await harness.party("b")
        assert await a.store.swap("s", b"x", b"y") is None
        assert await a.store.swap("s", None, b"") == b""
        assert await b.store.swap("s", None, b"2") == b""
        assert await b.store.swap("s", b"", b"\xff\x00") == b"\xff\x00"
        assert await b.store.swap("s", b"", b"\xff\x00") == b"\xff\x00"
        assert await a.store.swap("s", b"", b"3") == b"\xff\x00"
        assert dict(await a.store.listed("s")) == {"s": b"\xff\x00"}
        assert await a.store.swap("s", b"\xff\x00", None) is None
        assert await a.store.swap("s", b"\xff\x00", None) is None
        assert list(await b.store.get(["s"])) == [None]
        assert dict(await b.store.listed("s")) == {}

    async def test_of_many_swaps_at_once_one_takes_place(self, harness: StoreHarness) -> None:
        parties = [await harness.party(name) for name in "abcd"]
        for old, mark in ((None, b"1"), (b"1", b"2")):
            values = [mark + bytes([65 + number]) for number in range(12)]
            expected = old and (await parties[0].store.get(["race"]))[0]
            stands = await asyncio.gather(
                *(parties[n % 4].store.swap("race", expected, value) for n, value in enumerate(values))
            )
            assert len(set(stands)) == 1
            assert list(await parties[1].store.get(["race"])) == [stands[0]]

    async def test_a_swapped_value_lives_as_long_as_the_last_swap_says(self, harness: StoreHarness) -> None:
        party = await harness.party("a", retention=1.0)
        await party.store.swap("lease", None, b"mine", ttl=0.5)
        await party.store.swap("for ever", None, b"x", ttl=0.5)
        await party.store.swap("for ever", b"x", b"y")
        await party.store.put("kept", b"x")

        async def are_gone() -> bool:
            return list(await party.store.get(["lease", "kept"])) == [None, None]

        assert await until(are_gone, within=1.0 + harness.slack)
        assert await party.store.swap("lease", b"mine", b"mine", ttl=0.5) is None
        assert await party.store.swap("lease", None, b"another's", ttl=30.0) == b"another's"
        await party.store.put("for another reason", b"x")
        assert list(await party.store.get(["for ever", "lease"])) == [b"y", b"another's"]

    async def test_what_is_over_is_forgotten_after_the_retention_and_what_is_not_is_kept(
        self, harness: StoreHarness
    ) -> None:
        party, ids = await harness.party("a", retention=1.0), harness.ids(5)
        done, kept, cancelled, queued, leased = ids
        await party.admit(leased)
        (held,) = await party.claim(leased)
        await party.store.admit([party.task(done), party.task(kept, keep=True)])
        for claim in await party.claim(done, kept):
            await party.store.record(claim, "step", b"x")
            await party.complete(claim)
        await party.admit(cancelled)
        await party.store.cancel({cancelled: b'"cancelled"'})
        await party.admit(queued)
        await party.store.put("value", b"x")
        assert await party.state(done) is State.DONE

        async def are_gone() -> bool:
            rows = await party.store.read([done, kept, cancelled])
            return [*rows, *await party.store.get(["value"])] == [None] * 4

        assert await until(are_gone, within=2.0 + harness.slack)
        assert await party.store.recorded(done, "step") is None
        assert await party.state(queued) is State.QUEUED
        assert await party.state(leased) is State.LEASED
        assert party.store.keeps_leases or await party.renew(held)
        assert await party.complete(held) is Written.STORED

    async def test_closing_ends_the_news_and_may_be_repeated(self, harness: StoreHarness) -> None:
        party = await harness.party("a")
        hearing = asyncio.create_task(anext(party.store.cancelled(), None))
        await asyncio.sleep(0)
        await party.store.close()
        assert await asyncio.wait_for(hearing, 5.0) is None
        await party.store.close()
