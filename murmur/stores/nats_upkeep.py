"""What a store does beside its verbs: marks what is leased for long, takes away what is over, keeps time.

Marks are for sweeps: a task that ends within a third of its lease never costs one. What is
over is taken away by one process at a time, in small bites.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.store import Claim, Grant
from murmur.stores.nats_bucket import Bucket, Entry, Write
from murmur.stores.nats_rows import RowBook

_COLLECT_EVERY: Final = 60.0  # seconds
_CLOCK_EVERY: Final = 60.0


class Upkeep:
    """Looks after two buckets."""

    def __init__(self, rows: Bucket, beside: Bucket, book: RowBook, *, retention: float) -> None:
        self._rows, self._beside, self._book = rows, beside, book
        self._retention = retention
        self._every = max(1.0, min(_COLLECT_EVERY, retention / 4))
        self._collected_at = 0.0
        self._clock_set_at = 0.0
        self._held: dict[str, float] = {}  # tasks that were granted here and are not marked, and since when
        self._marking: asyncio.Task[None] | None = None

    async def set_clock(self) -> None:
        """Learn the server's time."""
        await asyncio.gather(self._rows.set_clock(), self._beside.set_clock())
        self._clock_set_at = asyncio.get_running_loop().time()

    def granted(self, grants: Sequence[Grant], *, lease: float | None) -> None:
        """These were leased; what still is after a third of its lease gets a mark."""
        if lease is None:
            return
        now = asyncio.get_running_loop().time()
        self._held.update((one.task_id, now) for one in grants if isinstance(one, Claim))
        if self._marking is None or self._marking.done():
            self._marking = asyncio.create_task(self._mark(lease))

    async def collect(self) -> None:
        """Take away what is over, if it is time and nobody else does."""
        now = asyncio.get_running_loop().time()
        if now - self._clock_set_at > _CLOCK_EVERY:
            await self.set_clock()
        if now - self._collected_at < self._every:
            return
        self._collected_at = now
        (entry,) = await self._beside.get(["collected"])
        last = await self._beside.stored_at("collected")
        if last is not None and self._beside.now() - last < self._every:
            return
        turn = Write("collected", b"", expected=entry.revision if entry is not None else 0)
        if await self._beside.put([turn]) == [None]:
            return
        # Nothing younger than the retention can be over, but for a few values that say less.
        old = self._rows.now() - self._retention
        await self._rows.drop(_over(await self._rows.scan(">", headers_only=True, before=old)))
        await self._beside.drop(_over(await self._beside.scan(">", headers_only=True)))

    async def close(self) -> None:
        """End it."""
        await cancelled([self._marking])

    async def _mark(self, lease: float) -> None:
        loop = asyncio.get_running_loop()
        while self._held:
            await asyncio.sleep(lease / 6)
            due = [task_id for task_id, since in self._held.items() if loop.time() - since >= lease / 3]
            for task_id in due:
                del self._held[task_id]
            with contextlib.suppress(BrokerUnreachable, BrokerRefused, OutcomeUnknown):
                await self._book.mark(due)


def _over(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.is_over]
