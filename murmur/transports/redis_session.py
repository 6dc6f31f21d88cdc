"""What one process is to a Redis server: its name there, the topics it opened, and what it holds.

Shared by the parts of the transport and by a store fused with it. The name tells a boot from
the one before (`node-1#5f2c09ab`) and carries the lease (`….30000`, `….never`), so anybody may
judge by it alone whether an entry has lapsed.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import Final, cast
from urllib.parse import quote

from attrs import evolve, frozen

from murmur.bell import Feed
from murmur.errors import WrongForm
from murmur.names import Topics
from murmur.transport import Delivery, TopicKind, TopicSpec
from murmur.transports.redis_entries import Hold, milliseconds
from murmur.transports.redis_keeper import Lease
from murmur.transports.redis_link import RedisLink
from murmur.transports.redis_scripts import load
from murmur.transports.redis_wire import Argument, ServerError

_NEVER: Final = ".never"
CHUNK: Final = 256  # entries or tasks in one script: a few milliseconds of the server
GIVE_BACK: Final = load("murmur.transports", "give_back")


@frozen
class Rows:
    """Whether and where a fused store keeps rows beside the streams, in whose name, and for how long (seconds)."""

    prefix: str = ""  # of a row's key; "": nobody keeps rows here
    owner: str = ""
    retention: int = 86_400


@frozen
class Giving:
    """How an entry is given back: after `delay` seconds, counted as a delivery or not, with its lease lapsed or not."""

    delay: float = 0.0
    is_counted: bool = False
    is_lapsed: bool = False


AT_ONCE: Final = Giving()


class Session:
    """The state of one transport object."""

    def __init__(self, url: str, *, consumer_id: str, namespace: str, rows: Rows) -> None:
        self.identity = quote(consumer_id, safe="")  # no '#', and nothing that CLIENT SETNAME refuses
        self.boot = f"{self.identity}#{secrets.token_hex(4)}"
        self.link = RedisLink(url, name=connection_name(self.boot))
        self.topics = Topics(namespace)
        self.rows = rows
        self.specs: dict[str, TopicSpec] = {}
        self._consumers: dict[str, list[str]] = {}
        self.held: dict[Delivery, Hold] = {}
        self.lost: Feed[Delivery] = Feed()
        self.is_closed = False

    def consumer(self, topic: str) -> str:
        """Return our name in the group of a topic, by which we read now."""
        lease = self.spec(topic).lease
        return self.boot + (_NEVER if lease is None else f".{milliseconds(lease)}")

    def places(self) -> list[tuple[str, str]]:
        """Return all topics with our names in their groups; there are several of one whose lease was changed."""
        return [(topic, name) for topic, names in self._consumers.items() for name in names]

    def learn(self, specs: Iterable[TopicSpec]) -> None:
        """Use these topics from now on. A publisher that opens a topic without a lease leaves its workers theirs."""
        for spec in specs:
            known = self.specs.get(spec.name, spec)
            lease = known.lease if spec.lease is None else spec.lease
            self.specs[spec.name] = evolve(spec, lease=lease, dead_topic=spec.dead_topic or known.dead_topic)
            if spec.kind is TopicKind.WORK:
                names = self._consumers.setdefault(spec.name, [])
                if self.consumer(spec.name) not in names:
                    names.append(self.consumer(spec.name))

    def spec(self, topic: str) -> TopicSpec:
        """Return what a topic was opened with. Raises `WrongForm` if it was not."""
        spec = self.specs.get(topic)
        if spec is None:
            raise WrongForm(used=f"{topic!r} before open()", instead="open() with its TopicSpec first")
        return spec

    def work_topics(self) -> list[str]:
        """Return the topics we compete for."""
        return [name for name, spec in self.specs.items() if spec.kind is TopicKind.WORK]

    def is_inbox(self, topic: str) -> bool:
        """Whether messages of a topic are forgotten after the retention."""
        return topic.startswith(self.topics.inbox(""))

    def hold(self, deliveries: Iterable[Delivery]) -> None:
        """From now on these are kept by us."""
        for delivery in deliveries:
            self.held[delivery] = cast(Hold, delivery.token)

    def leases(self) -> list[Lease]:
        """Return what is to be renewed. May be called from another thread."""
        return [
            Lease(one, hold.consumer, self.lease_of(one))
            for one, hold in self.held.copy().items()
            if not hold.consumer.endswith(_NEVER)
        ]

    def lease_of(self, delivery: Delivery) -> tuple[Argument, ...]:
        """Return the arguments of a lease for `renew.lua`."""
        hold = cast(Hold, delivery.token)
        return (delivery.topic, hold.ref, hold.task_id or delivery.id, hold.token)

    def give_up(self, deliveries: Iterable[object]) -> None:
        """Report what the server says is no longer ours, unless we are just settling it."""
        for delivery in deliveries:
            if isinstance(delivery, Delivery):
                hold = self.held.get(delivery)
                if hold is not None and not hold.is_settling:
                    del self.held[delivery]
                    self.lost.give(delivery)

    async def pending(self, topic: str, consumer: str) -> list[bytes]:
        """Return references to what is pending for a consumer, at most some thousand. Raises as the link does."""
        found: list[bytes] = []
        for stream, mark in ((f"{topic}:again", b"+"), (topic, b"")):
            try:
                reply = await self.link.ask(
                    "XPENDING", stream, "workers", "-", "+", 2_000, consumer, is_repeatable=True
                )
            except ServerError as error:
                if error.code != "NOGROUP":
                    raise
                continue
            found += [mark + one[0] for one in cast(list[list[bytes]], reply)]
        return found

    async def give_back(
        self, entries: Sequence[tuple[str, bytes]], *, consumer: str, how: Giving, is_repeat: bool = False
    ) -> bytes:
        """Give entries (topic, reference) that are pending for a consumer back; return what `give_back.lua` answers."""
        answer = b""
        head: list[Argument] = [self.rows.prefix, self.rows.retention, consumer, milliseconds(how.delay)]
        head += [int(how.is_counted), int(how.is_lapsed), int(is_repeat)]
        for first in range(0, len(entries), CHUNK):
            places = [argument for entry in entries[first : first + CHUNK] for argument in entry]
            answer += cast(bytes, await self.link.run(GIVE_BACK, (), [*head, *places]))
        return answer


def connection_name(boot: str) -> str:
    """Return the name in `CLIENT LIST` of all connections of one boot."""
    return f"murmur:{boot}"
