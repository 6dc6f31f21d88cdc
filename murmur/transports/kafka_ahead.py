"""What is read of a partition and not handed out yet: in the order of the log, or of the times to wait for.

It is nobody's: when the partition moves it is dropped, and read again from the ledger's base by whoever reads it then.
"""

import heapq
import time
from collections import deque

from murmur.transports.kafka_ledger import Ledger
from murmur.transports.kafka_records import Item


class Ahead:
    """What is read ahead of one partition."""

    def __init__(self, ledger: Ledger) -> None:
        self.next = ledger.base  # the offset that is read next
        self.ready: deque[Item] = deque()
        self.later: list[tuple[float, int, Item]] = []  # a heap
        self.known: set[int] = set()  # offsets of both
        self.size = 0  # bytes of their bodies

    def arrive(self, item: Item, ledger: Ledger) -> None:
        """Keep what was read, unless it is settled, or held by somebody."""
        entry = ledger.entries.get(item.offset)
        if not ledger.is_done(item.offset) and item.offset not in self.known and not (entry and entry.owner):
            self._add(item, max(item.due, entry.due if entry else 0.0))

    def put_back(self, item: Item, due: float, ledger: Ledger) -> None:
        """Keep what was given back, unless it is going to be read again anyway."""
        if item.offset < self.next:
            self.arrive(Item(item.offset, item.body, item.headers, item.id, due), ledger)

    def take(self) -> Item:
        """Take the next that is ready."""
        item = self.ready.popleft()
        self.known.discard(item.offset)
        self.size -= len(item.body)
        return item

    def promote(self, now: float) -> None:
        """Make ready what has waited long enough."""
        while self.later and self.later[0][0] <= now:
            self.ready.append(heapq.heappop(self.later)[2])

    def _add(self, item: Item, due: float) -> None:
        self.known.add(item.offset)
        self.size += len(item.body)
        if due > time.time():
            heapq.heappush(self.later, (due, item.offset, item))
        else:
            self.ready.append(item)
