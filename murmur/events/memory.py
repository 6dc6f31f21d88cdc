"""`memory://name`: the control plane within one process, shared by all who name it; `memory://` is private."""

import threading
from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakSet, WeakValueDictionary

from murmur.bell import Feed
from murmur.broker_url import BrokerURL
from murmur.errors import BrokerUnreachable
from murmur.events.listeners import Listeners


class MemoryControl:
    """The control plane port on listeners of this process. Its users may live in different loops and threads."""

    def __init__(self, everybody: Listeners, *, prefix: str, shown: str = "memory://") -> None:
        self._everybody = everybody
        self._prefix = prefix
        self._shown = shown
        self._mine: WeakSet[Feed[bytes]] = WeakSet()
        self._is_closed = False

    async def open(self) -> None:
        """Nothing to connect."""
        self._is_closed = False

    async def publish(self, topic: str, body: bytes) -> None:
        """Give it to all who listen. Raises `BrokerUnreachable` after `close`."""
        if self._is_closed:
            raise BrokerUnreachable(url=self._shown, after=0.0, problem="the control plane is closed")
        self._everybody.tell(self._prefix + topic, body)

    def subscribe(self, topic: str) -> AsyncIterator[bytes]:
        """Listen from now on."""
        feed = self._everybody.add(self._prefix + topic)
        self._mine.add(feed)
        return feed

    async def close(self) -> None:
        """End what was subscribed here; others go on."""
        self._is_closed = True
        for feed in list(self._mine):
            self._everybody.remove(feed)


def connect(url: str, *, prefix: str) -> MemoryControl:
    """Return the control plane of a name, or a private one."""
    parsed = BrokerURL.parse(url)
    name = parsed.hosts[0][0] if parsed.hosts else ""
    return MemoryControl(_planes.named(name), prefix=prefix, shown=str(parsed))


class _Planes:
    """The named control planes of this process, each for as long as somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._named: WeakValueDictionary[str, Listeners] = WeakValueDictionary()

    def named(self, name: str) -> Listeners:
        """Return the listeners of this name; new ones for the empty name."""
        with self._lock:
            listeners = self._named.get(name) or Listeners()
            if name:
                self._named[name] = listeners
            return listeners


# As in the memory transport: a process is the scope, and nothing smaller is known to both ends.
_planes: Final = _Planes()
