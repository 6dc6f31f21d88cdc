"""What a contract needs of a broker or store under test, beyond the port itself.

One subclass per adapter. Times are those of the running event loop, so a harness on a
`VirtualLoop` and one on a real server run the same tests.
"""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping

from murmur.transport import Caps, Delivery, TopicKind, TopicSpec, Transport
from tests.contracts.member import Member

_serial = itertools.count(1)


class TransportHarness(ABC):
    """One broker under test, and everything a test opened on it."""

    caps: Caps
    lease = 2.0  # seconds, of the topics a test uses unless it says otherwise
    slack = 5.0  # seconds that a busy machine may add to anything
    can_restart = False  # whether the server can be stopped and started again

    def __init__(self) -> None:
        self._opened: list[Transport | Member] = []
        self._place = next(_serial)

    @property
    def found_dead(self) -> float:
        """Seconds until what a killed consumer held is handed out again, at the latest."""
        return self.lease * 4 / 3 + self.slack

    def topic(self, name: str = "echo") -> str:
        """Return the work topic `name` of this test alone."""
        return f"t{self._place}-{name}.tasks"

    def inbox(self, name: str = "p") -> str:
        """Return the inbox `name` of this test alone."""
        return f"inbox.t{self._place}-{name}"

    def spec(self, topic: str) -> TopicSpec:
        """Return the spec of a work topic with the harness's lease."""
        return TopicSpec(topic, lease=self.lease, dead_topic=f"{topic.removesuffix('.tasks')}.dead")

    @abstractmethod
    def make(self, consumer_id: str) -> Transport:
        """Return a new transport of this process, not yet open."""

    @abstractmethod
    async def start_member(self, consumer_id: str, specs: list[TopicSpec]) -> Member:
        """Return a new consumer that can be killed, its topics open."""

    async def open(self, consumer_id: str, *specs: TopicSpec) -> Transport:
        """Return an open transport of this process; closed when the test ends."""
        transport = self.make(consumer_id)
        self._opened.append(transport)
        await transport.open(specs)
        return transport

    async def member(self, consumer_id: str, *specs: TopicSpec) -> Member:
        """Return a consumer that can be killed; closed when the test ends."""
        member = await self.start_member(consumer_id, list(specs))
        self._opened.append(member)
        return member

    async def open_inbox(self, consumer_id: str, inbox: str) -> Transport:
        """Return a transport that reads an inbox."""
        return await self.open(consumer_id, TopicSpec(inbox, TopicKind.INBOX))

    async def close(self) -> None:
        """Close all that was opened."""
        for one in reversed(self._opened):
            await one.close()

    async def wipe(self) -> None:
        """Make the server forget everything, topology included."""
        raise NotImplementedError

    async def stop_server(self) -> None:
        """End the server as `kill -9` does; what it has on disk stays."""
        raise NotImplementedError

    async def start_server(self) -> None:
        """Start it again where it was, and return once it answers."""
        raise NotImplementedError

    async def connections(self) -> int | None:
        """Count the clients of the server; None where there is no such thing."""
        return None

    async def leftovers(self) -> Mapping[str, int]:
        """Return counts that must not grow as work passes through: keys, consumers, queues."""
        return {}


def now() -> float:
    """Return the running loop's time, seconds."""
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], Awaitable[bool]], *, within: float) -> bool:
    """Poll a condition; return whether it came true within so many seconds."""
    deadline = now() + within
    while not await condition():
        if now() >= deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def collect(
    transport: Transport, topic: str, count: int, *, within: float, credit: int | None = None
) -> list[Delivery]:
    """Receive until `count` deliveries came, or `within` seconds are over; they stay held."""
    deadline, found = now() + within, list[Delivery]()
    while len(found) < count and now() < deadline:
        room = min(count - len(found), credit or count)
        found += await transport.receive("workers", {topic: room}, credit=room, wait=deadline - now())
    return found


async def bells(transport: Transport, inbox: str, count: int, *, within: float) -> list[Delivery]:
    """Read an inbox until `count` messages came, or `within` seconds are over."""
    deadline, found = now() + within, list[Delivery]()
    while len(found) < count and now() < deadline:
        found += await transport.receive("", {inbox: 1_000}, credit=1_000, wait=deadline - now())
    return found
