"""Simulated courses: whatever is killed, frozen or drained, each message stands in its name's state once, in order."""

from collections.abc import Mapping
from typing import Any

import pytest

from murmur.worker.named_record import Kept, Record
from murmur.worker.named_shards import Shards
from tests.named.course import play, violations

SEEDS = 60


def broken_by(seed: int) -> list[str]:
    is_rough = seed % 3 == 2
    try:
        return violations(play(seed, rough=is_rough), in_order=not is_rough)
    except TimeoutError:
        return ["somebody waits for ever"]


@pytest.mark.parametrize("part", range(4))
def test_names_keep_state_and_order_whatever_happens(part: int) -> None:
    broken = {seed: found for seed in range(part, SEEDS, 4) if (found := broken_by(seed))}
    assert not broken


async def _results_forgotten(kept: Kept, state: bytes | None, results: Mapping[str, bytes]) -> None:
    """A state without its results: what comes again is applied again."""
    del results
    before = kept._record
    await kept._swap(Record(before.epoch, kept._owner, before.version + 1, state, {}))


async def _unfenced(kept: Kept, record: Record | None) -> None:
    """Whoever had the name writes on."""
    from murmur.worker.named_record import _encode

    if record is not None:
        await kept._store.put(kept._key, _encode(record), ttl=1e9)
    kept._stands, kept._record = None if record is None else _encode(record), record or Record()


async def _hasty(shards: Shards, mailbox: str, held: Any) -> None:
    """Reads a shard whose former holder still has some of its messages."""
    if not held.is_read and held.leaving is None and not shards._is_closing:
        held.is_read = True
        shards._intake.wake()


@pytest.mark.parametrize(
    ("of", "verb", "bug"),
    [
        (Kept, "commit", _results_forgotten),
        (Kept, "_swap", _unfenced),
        (Shards, "_begin_reading", _hasty),
    ],
)
def test_a_planted_bug_is_found(of: type, verb: str, bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of, verb, bug)
    assert any(broken_by(seed) for seed in range(120))
