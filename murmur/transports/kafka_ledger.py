"""What became of the messages of one partition: written into the partition's committed offset, and read from there.

Kafka remembers one number for each partition and group: everything before it is done. Tasks end in
another order than they began, so the text that may be committed beside the number tells the rest: what
is done beyond it, and which messages were handed out how often, to whom, or wait until when. Whoever takes
a partition over knows from there what its predecessors did. Pure: no clock, no I/O.
"""

import base64
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

MOST_ENTRIES: Final = 500  # with the span below: 4,096 characters of text, what a broker takes by default
MOST_SPAN: Final = 8_000  # offsets between the first message that is not done and the last that was handed out
_LONGEST: Final = 4_090
_TENTH: Final = 0.1  # seconds: how exactly a time to wait for is kept


class Entry(Struct, frozen=True):
    """A message that was handed out before: `count` times, and is held by `owner` now, or by nobody."""

    count: int
    owner: bytes = b""
    due: float = 0.0  # Unix time before which it is not handed out again


class Outcome(Struct, frozen=True, array_like=True):
    """How a hand-out ended elsewhere: `taken` was the count then; `back` is the count it returns with, None: done."""

    taken: int
    back: int | None = None
    due: float = 0.0


class _Packed(Struct, frozen=True, array_like=True):
    done: bytes  # a bit for each offset from the base
    owners: list[bytes]
    since: float  # what the times of the entries are counted from
    entries: list[int]  # four each: distance to the one before, count, owner from 1, tenths of seconds from 1


class Ledger:
    """The messages of one partition, by offset. All before `base` are done."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.done: set[int] = set()
        self.entries: dict[int, Entry] = {}

    def is_done(self, offset: int) -> bool:
        """Whether a message is settled for good."""
        return offset < self.base or offset in self.done

    def has_room(self, offset: int) -> bool:
        """Whether one more may be handed out, so that the text still fits."""
        return offset in self.entries or (len(self.entries) < MOST_ENTRIES and offset - self.base < MOST_SPAN)

    def take(self, offset: int, owner: bytes) -> int:
        """Hand a message out; return how often it was by now."""
        known = self.entries.get(offset)
        count = 1 if known is None else known.count + 1
        self.entries[offset] = Entry(count, owner)
        return count

    def put_back(self, offset: int, count: int, due: float = 0.0) -> None:
        """Have it handed out again, as one that was handed out `count` times, not before `due`."""
        if not self.is_done(offset):
            if count or due:
                self.entries[offset] = Entry(count, b"", due)
            else:
                self.entries.pop(offset, None)

    def finish(self, *offsets: int) -> None:
        """Settle messages for good."""
        for offset in offsets:
            self.entries.pop(offset, None)
            if offset >= self.base:
                self.done.add(offset)
        while self.base in self.done:
            self.done.remove(self.base)
            self.base += 1

    def apply(self, owner: bytes, offset: int, outcome: Outcome) -> bool:
        """Note how what `owner` held ended; whether it still was of interest."""
        entry = self.entries.get(offset)
        if entry is None or entry.owner != owner or entry.count != outcome.taken:
            return False
        if outcome.back is None:
            self.finish(offset)
        else:
            self.put_back(offset, outcome.back, outcome.due)
        return True

    def owners(self) -> set[bytes]:
        """Return who holds messages of this partition."""
        return {entry.owner for entry in self.entries.values() if entry.owner}

    def held_by(self, owner: bytes) -> Iterator[tuple[int, Entry]]:
        """Yield what somebody holds."""
        yield from [(offset, entry) for offset, entry in self.entries.items() if entry.owner == owner]

    def inflight(self) -> int:
        """Count what is held."""
        return sum(1 for entry in self.entries.values() if entry.owner)

    def delayed(self, now: float) -> int:
        """Count what waits for its time."""
        return sum(1 for entry in self.entries.values() if entry.due > now)

    def encoded(self) -> str:
        """Return the text to commit beside `base`. Times to wait for are left out where it would be too long."""
        text = self._encoded(with_times=True)
        return text if len(text) <= _LONGEST else self._encoded(with_times=False)

    def _encoded(self, *, with_times: bool) -> str:
        if not self.done and not self.entries:
            return ""
        bits = bytearray((max(self.done, default=self.base) - self.base) // 8 + 1) if self.done else bytearray()
        for offset in self.done:
            at = offset - self.base
            bits[at // 8] |= 1 << at % 8
        owners = sorted(self.owners())
        since = min((entry.due for entry in self.entries.values() if entry.due), default=0.0)
        flat, last = list[int](), self.base
        for offset, entry in sorted(self.entries.items()):
            due = round((entry.due - since) / _TENTH) + 1 if entry.due and with_times else 0
            flat += (offset - last, entry.count, owners.index(entry.owner) + 1 if entry.owner else 0, due)
            last = offset
        packed = msgspec.msgpack.encode(_Packed(bytes(bits), owners, since, flat))
        return base64.b64encode(zlib.compress(packed, 1)).decode()

    @classmethod
    def of(cls, committed: tuple[int, str] | None, *, begin: int, end: int) -> "Ledger":
        """Return what was committed of a partition that holds the offsets from `begin` to before `end`.

        A new one where nothing was, or what cannot be: then the topic was made anew. What was deleted is done.
        """
        if committed is None or committed[0] > end:
            return cls(begin)
        ledger = cls.decoded(*committed)
        if begin > ledger.base:
            ledger.entries = {offset: entry for offset, entry in ledger.entries.items() if offset >= begin}
            ledger.done = {offset for offset in ledger.done if offset >= begin}
            ledger.base = begin
            ledger.finish()
        return ledger

    @classmethod
    def decoded(cls, base: int, text: str) -> "Ledger":
        """Return what was committed. A text of somebody else's is as good as none: what is not done is done again."""
        ledger = cls(base)
        try:
            raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 1_000_000)
            packed = msgspec.msgpack.decode(raw, type=_Packed)
            at = base
            entries = {}
            for distance, count, owner, due in zip(*[iter(packed.entries)] * 4, strict=True):
                at += distance
                due_at = packed.since + (due - 1) * _TENTH if due else 0.0
                entries[at] = Entry(count, packed.owners[owner - 1] if owner else b"", due_at)
        except (ValueError, IndexError, zlib.error, msgspec.MsgspecError):
            return ledger
        ledger.entries = entries
        ledger.done = {
            base + 8 * place + bit for place, byte in enumerate(packed.done) for bit in range(8) if byte >> bit & 1
        }
        return ledger


def encode_outcomes(outcomes: dict[int, Outcome]) -> str:
    """Return what is committed to tell others how hand-outs ended, by offset."""
    return base64.b64encode(zlib.compress(msgspec.msgpack.encode(outcomes), 1)).decode() if outcomes else ""


def decode_outcomes(text: str) -> dict[int, Outcome]:
    """Return what `encode_outcomes` wrote; nothing for anything else."""
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 1_000_000)
        return msgspec.msgpack.decode(raw, type=dict[int, Outcome])
    except (ValueError, zlib.error, msgspec.MsgspecError):
        return {}
