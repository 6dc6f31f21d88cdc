"""Those who listen on a control plane: bounded feeds, filled from any thread, one per iterator."""

import threading
from typing import Final
from weakref import WeakSet

from murmur.bell import Feed

KEPT: Final = 1_000  # messages that wait for a slow listener; beyond them the oldest are lost


class Listeners:
    """The feeds of each topic, for as long as somebody holds them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, WeakSet[Feed[bytes]]] = {}

    def add(self, topic: str) -> Feed[bytes]:
        """Return a new listener's feed of a topic."""
        feed: Feed[bytes] = Feed(most=KEPT)
        with self._lock:
            self._topics.setdefault(topic, WeakSet()).add(feed)
        return feed

    def remove(self, feed: Feed[bytes]) -> None:
        """Give it nothing more, and end it after what it was given."""
        with self._lock:
            for feeds in self._topics.values():
                feeds.discard(feed)
        feed.close()

    def tell(self, topic: str, body: bytes) -> None:
        """Give a message to all who listen on its topic."""
        with self._lock:
            feeds = list(self._topics.get(topic, ()))
        for feed in feeds:
            feed.give(body)

    def close(self) -> None:
        """End them all."""
        with self._lock:
            feeds = [feed for those in self._topics.values() for feed in those]
            self._topics.clear()
        for feed in feeds:
            feed.close()
