"""What the store keeps of one name: its state, and the results that were decided together with it.

One value under one key, changed by compare-and-set only, so state and results stand there together or not at all.
Whoever brings a name to life takes its record over under the next epoch; from then on everybody who held it before is
fenced: what they write meets another value. A result stays in the record until its task's row is known to have it: a
message that comes again until then is answered from here, and not applied twice.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from murmur.patience import patiently
from murmur.store import Store

PREFIX: Final = "named:"
_KEPT: Final = 16  # results that may stand in a record before their rows are looked at
_KEPT_BYTES: Final = 64 * 1024


class Record(Struct, frozen=True):
    """One name as the store keeps it. `state` is JSON; `results` are encoded ResultMessages by task id."""

    epoch: int = 0
    owner: str = ""
    version: int = 0  # of this epoch: no two values of a record are ever the same
    state: bytes | None = None
    results: dict[str, bytes] = {}


class Fenced(Exception):
    """Somebody else has taken the name over."""


class Unreadable(Exception):
    """The record is not ours to read."""


class Kept:
    """The record of one name as its owner holds it. Between `take` and `Fenced` nobody else writes it."""

    def __init__(self, store: Store, agent: str, key: str, *, owner: str) -> None:
        self._store = store
        self._key = f"{PREFIX}{agent}:{key}"
        self._owner = owner
        self._stands: bytes | None = None
        self._record = Record()

    @property
    def state(self) -> bytes | None:
        """The committed state."""
        return self._record.state

    @property
    def results(self) -> Mapping[str, bytes]:
        """The committed results, by task id, while they are kept."""
        return self._record.results

    async def take(self) -> None:
        """Take the name over, whoever had it before. Raises `Unreadable`."""
        (stands,) = await patiently(lambda: self._store.get([self._key]))
        while True:
            before = _read(stands)
            record = Record(before.epoch + 1, self._owner, 0, before.state, before.results)
            written = _encode(record)
            expected = stands
            stands = await patiently(
                lambda expected=expected, written=written: self._store.swap(self._key, expected, written)  # type: ignore[misc]
            )
            if stands == written:
                self._record, self._stands = record, written
                return

    async def commit(self, state: bytes | None, results: Mapping[str, bytes]) -> None:
        """Keep a state together with the results that belong to it. Raises `Fenced`: then nothing was kept."""
        kept = await self._unsettled()
        before = self._record
        await self._swap(Record(before.epoch, self._owner, before.version + 1, state, {**kept, **results}))

    async def leave(self) -> None:
        """Forget a record in which nothing is worth keeping. The name is let go."""
        if self._record.state is None and not await self._unsettled(at_least=0):
            await self._swap(None)

    async def _swap(self, record: Record | None) -> None:
        written = None if record is None else _encode(record)
        stands = await patiently(lambda: self._store.swap(self._key, self._stands, written))
        if stands != written:
            raise Fenced
        self._stands, self._record = written, record or Record()

    async def _unsettled(self, *, at_least: int = _KEPT) -> Mapping[str, bytes]:
        """Return the results whose rows are not known to have them; looked at only when there are many."""
        results = self._record.results
        if len(results) <= at_least and sum(map(len, results.values())) <= _KEPT_BYTES:
            return results
        ids = list(results)
        rows = await patiently(lambda: self._store.read(ids))
        return {
            task_id: results[task_id]
            for task_id, row in zip(ids, rows, strict=True)
            if row is not None and not row.state.is_terminal
        }


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(Record)


def _read(stands: bytes | None) -> Record:
    if stands is None:
        return Record()
    try:
        return _decoder.decode(stands)
    except msgspec.DecodeError as error:
        raise Unreadable(str(error)) from error
