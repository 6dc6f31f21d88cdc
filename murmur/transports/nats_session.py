"""What one process is to a NATS server: the topics it opened and what it holds of them.

A delivery's token is a `Hold`. NATS fences nothing: a late ack settles what another holds by
now. So a hold is ours only while our own clock says that its lease, counted from the last
beat the server has read, is not over; and only while its stream is the one it came from.
"""

import time
from collections.abc import Iterable
from typing import Final, cast

from attrs import evolve
from msgspec import Struct

from murmur.bell import Feed
from murmur.errors import WrongForm
from murmur.transport import Delivery, TopicKind, TopicSpec
from murmur.transports.nats_link import NatsLink
from murmur.transports.nats_streams import NANOSECONDS, Streams
from murmur.transports.nats_wire import NO_HEADERS, Message

MESSAGE_ID: Final = "Nats-Msg-Id"  # by which the server knows a repeat
OUR_ID: Final = "Murmur-Id"  # the message's own id, where the server needs another
DELIVERIES: Final = "Murmur-Deliveries"  # of the copies before this one
DELAY: Final = "Murmur-Delay"  # seconds from when it was stored until it may start
_TRUSTED: Final = 0.9  # of a lease: the rest is for the way from the server to us


class Hold(Struct, eq=False):
    """A message that the server counts as ours."""

    reply: bytes  # where it is acked
    sequence: int  # in its stream
    number: int  # how often the server delivered this copy
    beat_at: float  # monotonic seconds; the lease counts from here
    lease: float | None
    is_settling: bool = False
    is_done: bool = False

    def is_valid(self, now: float) -> bool:
        """Whether nobody else can have it: the server counts from when it sent, which was a little before we heard."""
        return self.lease is None or now - self.beat_at < _TRUSTED * self.lease


class Session:
    """The state of one transport object."""

    def __init__(self, link: NatsLink, *, namespace: str) -> None:
        self.link = link
        self.streams = Streams(link, namespace=namespace)
        self.specs: dict[str, TopicSpec] = {}
        self.held: dict[Delivery, Hold] = {}
        self.places: dict[tuple[str, int], Delivery] = {}  # what is held, by topic and sequence
        self.lost: Feed[Delivery] = Feed()
        self.is_closed = False

    def learn(self, specs: Iterable[TopicSpec]) -> None:
        """Use these topics from now on. A publisher that opens a topic without a lease leaves its workers theirs."""
        for spec in specs:
            known = self.specs.get(spec.name, spec)
            lease = known.lease if spec.lease is None else spec.lease
            self.specs[spec.name] = evolve(spec, lease=lease, dead_topic=spec.dead_topic or known.dead_topic)

    def spec(self, topic: str) -> TopicSpec:
        """Return what a topic was opened with. Raises `WrongForm` if it was not."""
        spec = self.specs.get(topic)
        if spec is None:
            raise WrongForm(used=f"{topic!r} before open()", instead="open() with its TopicSpec first")
        return spec

    def work_topics(self) -> list[str]:
        """Return the topics we compete for."""
        return [name for name, spec in self.specs.items() if spec.kind is TopicKind.WORK]

    def hold(self, delivery: Delivery) -> None:
        """From now on this is kept by us."""
        hold = cast(Hold, delivery.token)
        self.held[delivery] = hold
        self.places[delivery.topic, hold.sequence] = delivery

    def drop(self, delivery: Delivery) -> None:
        """It is not kept by us any more."""
        hold = self.held.pop(delivery, None)
        if hold is not None and self.places.get((delivery.topic, hold.sequence)) is delivery:
            del self.places[delivery.topic, hold.sequence]

    def ours(self, delivery: Delivery) -> bool:
        """Whether a delivery may be settled by us; one whose lease is over is reported as lost."""
        hold = self.held.get(delivery)
        if hold is None:
            return False
        if hold.is_valid(time.monotonic()):
            return True
        self.give_up([delivery])
        return False

    def give_up(self, deliveries: Iterable[Delivery]) -> None:
        """Report what is no longer ours."""
        for delivery in deliveries:
            if delivery in self.held:
                self.drop(delivery)
                self.lost.give(delivery)

    def forget(self, topic: str) -> None:
        """The stream of a topic is gone, and with it all that was held of it."""
        self.give_up([one for one in self.held if one.topic == topic])


def delivered(
    topic: str, message: Message, *, lease: float | None, asked_at: float | None = None
) -> tuple[Delivery, float]:
    """Return a message as a delivery, and in how many seconds it may start: 0 for nearly all.

    `asked_at`: when what brought it at once was sent, monotonic seconds; its lease began no earlier.
    """
    number, sequence, stored_at, _ = place_of(message)
    hold = Hold(message.reply, sequence, number, time.monotonic() if asked_at is None else asked_at, lease)
    if not message.raw_headers:
        return Delivery(topic, message.body, NO_HEADERS, "", number, hold), 0.0
    theirs = dict(message.headers)
    message_id = theirs.pop(MESSAGE_ID, "")
    message_id = theirs.pop(OUR_ID, message_id)
    deliveries = number + whole(theirs.pop(DELIVERIES, ""))
    delay = seconds(theirs.pop(DELAY, ""))
    if delay > 0:
        # Delivered before its time it is put back, which the server counts and we do not.
        deliveries -= number > 1
        delay = 0.0 if number > 1 else min(delay, delay - (time.time() - stored_at))
    return Delivery(topic, message.body, theirs, message_id, deliveries, hold), max(0.0, delay)


def place_of(message: Message) -> tuple[int, int, float, int]:
    """Return how often it was delivered, its sequence, when it was stored (seconds), and how many wait behind it.

    The reply subject of a delivery tells it: `$JS.ACK.stream.consumer.number.sequence.serial.time.pending`, with domain
    and account before the stream, and a token behind the end, on newer servers.
    """
    words = message.reply.split(b".")
    first = 4 if len(words) == 9 else 6
    return int(words[first]), int(words[first + 1]), int(words[first + 3]) / NANOSECONDS, int(words[first + 4])


def whole(text: str) -> int:
    """Return a count of a header, 0 where a stranger wrote something else."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def seconds(text: str) -> float:
    """Return a delay of a header, 0 where a stranger wrote something else; at most a year."""
    if not text:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return min(value, 365 * 86_400.0) if value > 0 else 0.0
