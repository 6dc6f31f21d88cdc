"""The ledger of a partition: what is done, handed out, or waits, and that its text says so."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmur.transports.kafka_assignor import Wish, shares
from murmur.transports.kafka_ledger import (
    MOST_ENTRIES,
    MOST_SPAN,
    Entry,
    Ledger,
    Outcome,
    decode_outcomes,
    encode_outcomes,
)

ME, OTHER = b"\x01\x02\x03\x04", b"\xff\x00\xff\x00"


def test_the_base_moves_over_what_is_done_and_no_further() -> None:
    ledger = Ledger(10)
    for offset in (10, 11, 12, 13):
        ledger.take(offset, ME)
    ledger.finish(11, 13)
    assert (ledger.base, ledger.done) == (10, {11, 13})
    ledger.finish(10)
    assert (ledger.base, ledger.done) == (12, {13})
    ledger.finish(12)
    assert (ledger.base, ledger.done, ledger.entries) == (14, set(), {})


@given(
    base=st.integers(0, 2**40),
    steps=st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from(["take", "done", "back", "wait"]), st.sampled_from([ME, OTHER])),
        max_size=200,
    ),
)
def test_what_is_written_is_what_is_read(base: int, steps: list[tuple[int, str, bytes]]) -> None:
    ledger = Ledger(base)
    for distance, verb, owner in steps:
        offset = base + distance
        if ledger.is_done(offset):
            continue
        if verb == "take":
            ledger.take(offset, owner)
        elif verb == "done":
            ledger.finish(offset)
        else:
            ledger.put_back(offset, distance % 3, 1_700_000_000.0 + distance if verb == "wait" else 0.0)
    read = Ledger.decoded(ledger.base, ledger.encoded())
    assert (read.base, read.done) == (ledger.base, ledger.done)
    assert read.entries.keys() == ledger.entries.keys()
    for offset, entry in ledger.entries.items():
        other = read.entries[offset]
        assert (other.count, other.owner) == (entry.count, entry.owner)
        assert other.due == pytest.approx(entry.due, abs=0.06)


def test_what_was_deleted_beyond_what_was_committed_is_done_and_the_rest_stands_as_it_was() -> None:
    ledger = Ledger(10)
    for offset in (10, 11, 13, 14):
        ledger.take(offset, ME)
    ledger.finish(12, 13, 15)
    read = Ledger.of((ledger.base, ledger.encoded()), begin=12, end=20)
    assert (read.base, read.done, set(read.entries)) == (14, {15}, {14})
    anew = Ledger.of((ledger.base, ledger.encoded()), begin=0, end=9)
    assert (anew.base, anew.done, anew.entries) == (0, set(), {})


def test_the_fullest_ledger_fits_where_kafka_keeps_it() -> None:
    chance = random.Random(7)
    ledger = Ledger(1_000)
    offsets = [1_000, *sorted(chance.sample(range(1_001, 1_000 + MOST_SPAN), MOST_SPAN // 2))]
    held = [1_000, *chance.sample(offsets[1:], MOST_ENTRIES - 1)]
    for offset in held:
        assert ledger.has_room(offset)
        ledger.entries[offset] = Entry(chance.randint(1, 100), chance.randbytes(4) if offset % 100 == 0 else ME)
    ledger.finish(*(offset for offset in offsets if offset not in ledger.entries))
    assert not ledger.has_room(1_000 + MOST_SPAN)
    assert not ledger.has_room(offsets[-1] + 1)
    assert ledger.has_room(held[3])
    assert len(ledger.encoded()) <= 4_096
    assert Ledger.decoded(1_000, ledger.encoded()).entries == ledger.entries
    for offset in held:
        ledger.put_back(offset, 99, 1_700_000_000.0 + chance.random() * 1e6)
    text = ledger.encoded()  # times are left out rather than counts
    assert len(text) <= 4_096
    assert {one.count for one in Ledger.decoded(1_000, text).entries.values()} == {99}


@pytest.mark.parametrize("text", ["", "a comment", "e30=", "eJwDAAAAAAE=", "\u2028", "AAAA" * 1_000])
def test_a_text_that_is_not_ours_is_as_good_as_none(text: str) -> None:
    ledger = Ledger.decoded(5, text)
    assert (ledger.base, ledger.done, ledger.entries) == (5, set(), {})
    assert decode_outcomes(text) == {}


def test_an_outcome_counts_for_the_hand_out_it_is_about_and_for_no_other() -> None:
    ledger = Ledger(0)
    ledger.take(0, ME)
    noted = decode_outcomes(encode_outcomes({0: Outcome(1), 1: Outcome(1, back=0, due=5.0)}))
    assert noted == {0: Outcome(1), 1: Outcome(1, back=0, due=5.0)}
    assert not ledger.apply(OTHER, 0, noted[0])
    assert not ledger.apply(ME, 0, Outcome(2))
    assert not ledger.apply(ME, 1, noted[1])
    assert ledger.apply(ME, 0, noted[0])
    assert ledger.base == 1
    assert not ledger.apply(ME, 0, noted[0])


def test_what_comes_back_keeps_its_count() -> None:
    ledger = Ledger(0)
    assert ledger.take(0, ME) == 1
    ledger.put_back(0, 0)
    assert ledger.take(0, OTHER) == 1
    ledger.put_back(0, 1)
    assert ledger.take(0, ME) == 2
    assert ledger.owners() == {ME}


def test_members_with_room_share_the_partitions_evenly_and_keep_what_they_read() -> None:
    wishes = {"a": Wish(True, [0, 1, 2, 3, 4, 5]), "b": Wish(True, []), "c": Wish(True, [6, 7])}
    found = shares(range(8), wishes)
    assert sorted(len(theirs) for theirs in found.values()) == [2, 3, 3]
    assert sorted(one for theirs in found.values() for one in theirs) == list(range(8))
    assert set(found["a"]) <= {0, 1, 2, 3, 4, 5}
    assert {6, 7} <= set(found["c"])


def test_a_full_member_reads_nothing_where_another_has_room_and_its_share_where_none_has() -> None:
    found = shares(range(4), {"full": Wish(False, [0, 1, 2, 3]), "free": Wish(True, [])})
    assert found == {"full": [], "free": [0, 1, 2, 3]}
    found = shares(range(4), {"full": Wish(False, [0, 1, 2, 3]), "too": Wish(False, [])})
    assert [len(theirs) for theirs in found.values()] == [2, 2]


def test_more_members_than_partitions_leave_some_without() -> None:
    found = shares(range(2), {name: Wish(True, []) for name in "abc"})
    assert sorted(map(len, found.values())) == [0, 1, 1]
