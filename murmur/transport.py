"""The transport port: a broker as the mailbox between publishers and workers.

Nine methods that every broker can give, with what each promises about loss, repeats and
cancellation. An adapter renews what it handed out by itself and says through `lost` what
it could not keep. It decides nothing: attempts, limits and dead letters are the runtime's.
Adapters stand in `murmur.transports`; `tests/contracts/transport.py` is their law.
"""

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

from attrs import frozen
from msgspec import Struct


class TopicKind(enum.Enum):
    """`WORK`: competing consumers, leases, settles. `INBOX`: one reader, the replies of one publisher."""

    WORK = "work"
    INBOX = "inbox"


@frozen
class TopicSpec:
    """One topic as this process uses it."""

    name: str
    kind: TopicKind = TopicKind.WORK
    lease: float | None = 30.0  # seconds an unrenewed delivery stays ours; None: for ever
    dead_topic: str | None = None


class Outgoing(Struct, frozen=True):
    """One message to publish. `id` makes a repeat recognisable where `Caps.dedup`.

    `is_bell`: what it says is stored elsewhere too, so the broker need not keep it if its reader hears it now.
    """

    topic: str
    body: bytes
    id: str
    headers: Mapping[str, str] = {}
    key: str | None = None
    not_before: float | None = None  # seconds from now
    is_bell: bool = False


class Receipt(Struct, frozen=True):
    """The broker has it. `duplicate`: it had it before, nothing was added."""

    id: str
    position: str
    duplicate: bool = False


class Refusal(Struct, frozen=True):
    """The broker does not have it. `definite`: it never will; else nobody knows, and the same id may be tried again."""

    id: str
    problem: str
    definite: bool


class Delivery(Struct, frozen=True, eq=False):
    """One message handed to this process. Ends in one `ack`, `release` or `dead`."""

    topic: str
    body: bytes
    headers: Mapping[str, str]
    id: str  # of the message, as its publisher named it; "" if it had none
    deliveries: int  # 1 = first; counts lost leases and counted releases
    token: object  # the adapter's own: valid for this ownership only


class Settled(Struct, frozen=True):
    """What became of settling one delivery. `lost`: it was no longer ours, and nothing was changed."""

    id: str
    ok: bool
    reason: Literal["done", "lost", "unknown"]


@frozen
class TopicStats:
    """How full a topic is; None where the broker cannot say."""

    ready: int | None
    inflight: int | None
    dead: int | None
    exact: bool


@frozen
class Caps:
    """What a broker can promise; the capability table of the docs is made from these."""

    dedup: bool
    delay: bool
    fencing: bool
    atomic_emit: bool
    stable_identity: bool
    lease: Literal["time", "connection", "membership"]
    max_body: int | None  # bytes
    fair: bool
    durable: bool  # outlives this process
    exact_count: bool = True  # False: `Delivery.deliveries` may also count what was pushed to somebody and taken back


@frozen
class Kept:
    """What is left of what was confirmed, in words for people; the durability table of the docs is made from these."""

    when_killed: str  # what `kill -9` of the server costs
    when_power_fails: str
    demands: tuple[str, ...]  # what its operator sets


class Transport(Protocol):
    """One object per process and URL. Coroutines may be called concurrently."""

    @property
    def caps(self) -> Caps:
        """What this broker can promise."""

    async def open(self, specs: Sequence[TopicSpec]) -> None:
        """Connect if need be and declare the topics; may be called again with more. Raises `BrokerUnreachable`,
        `BrokerRefused` within 10 s."""

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Receipt | Refusal]:
        """Return one answer each, in order, once the broker confirmed; never a silent drop. Ends within 10 s."""

    async def receive(self, group: str, topics: Mapping[str, int], *, credit: int, wait: float) -> Sequence[Delivery]:
        """Return up to `credit` deliveries over all topics and up to `topics[name]` of each, as soon as there is one.

        Nothing more is held for this process on the broker. After `wait` seconds without any: `()`.
        Cancelling loses nothing and leaves nothing waiting for a lease. An INBOX is read by `group=""`;
        what was returned is settled by the next receive.
        Reconnects by itself and for ever; raises only what is a bug or a missing right.
        """

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing] = ()) -> Sequence[Settled]:
        """Settle for good. `emit` is durable before, or atomically with, the settle. Idempotent.

        It and the two below raise `BrokerRefused` where the right to it is missing: what is not settled is still held.
        """

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, counted: bool = False
    ) -> Sequence[Settled]:
        """Give back: available again after `delay` seconds, to anybody. Uncounted ones don't raise `deliveries`."""

    async def dead(self, delivery: Delivery, letter: bytes) -> Settled:
        """Move it to the topic's dead letters as `letter`, then settle it; at most one letter per message id."""

    def lost(self) -> AsyncIterator[Delivery]:
        """Yield deliveries that are no longer ours, within one lease: their work is to be cancelled."""

    async def stats(self, topic: str, group: str) -> TopicStats:
        """Return how full the topic is, right within a second."""

    async def close(self, *, grace: float = 5.0) -> None:
        """Flush settles, give back what was received and not settled, uncounted, and disconnect. Idempotent."""
