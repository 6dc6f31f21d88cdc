"""What the memory broker is made of: messages, the topics they wait in, the sessions that hold them.

Each class keeps its own books straight; the rules between them, and the lock, are the
broker's (`murmur.transports.memory_broker`).
"""

import heapq
import math
from collections import deque
from collections.abc import Mapping

from msgspec import Struct

from murmur.bell import Bell, Feed
from murmur.limits import MEMORY_ROWS_KEPT
from murmur.transport import Delivery, TopicKind, TopicSpec


class Message(Struct, eq=False):
    """One copy of a message; also the token of the one ownership it may get. Given back, it becomes a new copy."""

    topic: "Topic"
    id: str
    body: bytes
    headers: Mapping[str, str]
    deliveries: int = 1  # what the next delivery will tell
    owner: "Session | None" = None
    is_settled: bool = False


class Session:
    """What the broker knows of one transport object: the topics it opened and what it holds."""

    def __init__(self, consumer_id: str) -> None:
        self.consumer_id = consumer_id
        self.specs: dict[str, TopicSpec] = {}
        self.held: dict[Message, Delivery] = {}
        self.lost: Feed[Delivery] = Feed()
        self.bells: dict[Bell, None] = {}  # of its waiting coroutines
        self.gone_at: float | None = None  # when it was killed or stalled
        self.is_dead = False
        self.is_closed = False
        self.turn = 0  # which topic it reads first

    def lapses_at(self, topic: str) -> float:
        """Return when what it holds of a topic is taken from it; infinite while it lives."""
        lease = self.specs[topic].lease
        return math.inf if self.gone_at is None or lease is None else self.gone_at + lease


class Topic:
    """One topic: what waits, what waits for its time, and which ids were seen."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind: TopicKind | None = None  # until somebody opens it
        self.ready: deque[Message] = deque()
        self.delayed: list[tuple[float, int, Message]] = []
        self.inflight = 0
        self.reader: Session | None = None  # of an inbox
        self.unsettled: list[Message] = []  # of an inbox: read, not yet settled by the next read
        self.waiters: dict[Bell, None] = {}
        self.known: dict[str, str] = {}  # message id -> position
        self._over: deque[str] = deque()  # ids whose message is settled, oldest first

    def delay(self, message: Message, due: float, order: int) -> None:
        """Keep a message until `due`."""
        heapq.heappush(self.delayed, (due, order, message))
        self.rouse_all()

    def promote(self, now: float) -> None:
        """Make ready what was delayed and is due."""
        while self.delayed and self.delayed[0][0] <= now:
            self.ready.append(heapq.heappop(self.delayed)[2])

    def retire(self, message_id: str) -> None:
        """Remember the id of a settled message a while longer, as one of a bounded number."""
        if message_id:
            self._over.append(message_id)
            if len(self._over) > MEMORY_ROWS_KEPT:
                self.known.pop(self._over.popleft(), None)

    def rewind(self) -> None:
        """Put back what an inbox's reader did not settle."""
        for message in reversed(self.unsettled):
            message.deliveries += 1
            self.ready.appendleft(message)
        self.unsettled = []
        self.reader = None

    def clear(self) -> None:
        """Forget every message and every id."""
        self.ready.clear()
        self.delayed.clear()
        self.unsettled.clear()
        self.known.clear()
        self._over.clear()
        self.inflight = 0

    def rouse(self) -> None:
        """Wake as many waiters as messages are ready, those that wait longest first."""
        wanted = len(self.ready)
        while wanted and self.waiters:
            bell = next(iter(self.waiters))
            del self.waiters[bell]
            if bell.ring():
                wanted -= 1

    def rouse_all(self) -> None:
        """Wake every waiter, to look at the time anew."""
        for bell in self.waiters:
            bell.ring()
        self.waiters.clear()
