"""The transport port on NATS JetStream: a work-queue stream per topic, read by pulling exactly the free credit.

Leases are the consumer's `ack_wait`, renewed while we hold; the server fences nothing, so our
own clock does. What stands where is told in `nats_streams`. NATS 2.9 or later, file storage.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final
from urllib.parse import quote

from attrs import evolve

from murmur.broker_url import BrokerURL
from murmur.errors import BadURL, BrokerRefused, BrokerUnreachable, OutcomeUnknown, WrongForm
from murmur.limits import MAX_ENVELOPE
from murmur.transport import Caps, Delivery, Kept, Outgoing, Receipt, Refusal, Settled, TopicSpec, TopicStats
from murmur.transports.nats_answers import JetStreamError
from murmur.transports.nats_inbox import InboxReader
from murmur.transports.nats_intake import Intake
from murmur.transports.nats_keeper import LeaseKeeper
from murmur.transports.nats_link import NatsLink
from murmur.transports.nats_outlet import ROOM, Outlet
from murmur.transports.nats_session import Session
from murmur.transports.nats_streams import CONSUMER, CONSUMER_MISSING, STREAM_MISSING

CAPS: Final = Caps(
    dedup=True,
    delay=True,
    fencing=False,
    atomic_emit=False,
    stable_identity=False,
    lease="time",
    max_body=MAX_ENVELOPE - ROOM,
    fair=True,
    durable=True,
)
KEPT: Final = Kept(
    when_killed="JetStream on files: nothing that was confirmed",
    when_power_fails="defaults: everything since the last sync, two minutes; "
    "`sync_interval: always` or three replicas: nothing",
    demands=("a `store_dir` that lasts", "`sync_interval: always`, or three servers and `?replicas=3`"),
)


class NatsTransport:
    """The transport port on one NATS server or cluster."""

    def __init__(self, url: str, *, consumer_id: str, namespace: str = "") -> None:
        check_options(url)
        self.link = NatsLink(url, name=f"murmur:{quote(consumer_id, safe='')}")
        self.session = Session(self.link, namespace=namespace)
        self._outlet = Outlet(self.session)
        self._intake = Intake(self.session, give_back=self._give_back)
        self._inboxes: dict[tuple[str, ...], InboxReader] = {}
        self._keeper: LeaseKeeper | None = None
        self._caps, self._caps_of = CAPS, -1  # as they stood on that connection

    @property
    def caps(self) -> Caps:
        """What this broker can promise."""
        if self._caps_of != self.link.generation:  # each server has limits of its own
            self._caps, self._caps_of = evolve(CAPS, max_body=self._outlet.max_body), self.link.generation
        return self._caps

    async def open(self, specs: Sequence[TopicSpec]) -> None:
        """Connect, and make the streams; consumers are made by who reads."""
        session = self.session
        if session.is_closed:
            raise WrongForm(used="a NatsTransport after close()", instead="a new one")
        await self.link.open()
        dead = [spec.dead_topic for spec in specs if spec.dead_topic]
        await session.streams.declare([*(spec.name for spec in specs), *dead])
        session.learn(specs)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Receipt | Refusal]:
        """Add messages; all are sent before the first answer is awaited."""
        return await self._outlet.shielded(self._outlet.publish(messages))

    async def receive(self, group: str, topics: Mapping[str, int], *, credit: int, wait: float) -> Sequence[Delivery]:
        """Take work; or read inboxes, for the group `""`."""
        session = self.session
        if session.is_closed:
            raise WrongForm(used="receive() after close()", instead="a new NatsTransport")
        if not group:
            names = tuple(topics)
            reader = self._inboxes.get(names)
            if reader is None:
                reader = self._inboxes[names] = InboxReader(session, names)
            return await reader.receive(credit=min(credit, sum(topics.values())), wait=wait)
        for name in topics:
            self._keep(session.spec(name).lease)
        return await self._intake.receive(topics, credit=credit, wait=wait)

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing] = ()) -> Sequence[Settled]:
        """Emit, then settle; nothing is emitted where no delivery was left to settle."""
        return await self._outlet.shielded(self._outlet.ack(deliveries, emit))

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, counted: bool = False
    ) -> Sequence[Settled]:
        """Give back as copies, which are read after all that waits."""
        return await self._outlet.shielded(self._outlet.release(deliveries, delay=delay, counted=counted))

    async def dead(self, delivery: Delivery, letter: bytes) -> Settled:
        """Move to the dead topic. Raises `WrongForm` where the spec names none."""
        if self.session.spec(delivery.topic).dead_topic is None:
            raise WrongForm(used=f"dead() on {delivery.topic!r}", instead="a TopicSpec with a dead_topic")
        return await self._outlet.shielded(self._outlet.bury(delivery, letter))

    def lost(self) -> AsyncIterator[Delivery]:
        """Yield what by our clock is no longer ours, or went with its stream. One iterator at a time."""
        return self.session.lost

    async def stats(self, topic: str, group: str) -> TopicStats:  # noqa: ARG002  a topic has one group here
        """Count what waits, what is held or delayed, and what is dead."""
        streams = self.session.streams
        spec = self.session.specs.get(topic)
        dead = await self._messages(spec.dead_topic) if spec is not None and spec.dead_topic else 0
        try:
            stands = await self.link.api(f"CONSUMER.INFO.{streams.stream(topic)}.{CONSUMER}")
        except JetStreamError as error:
            if error.code not in (CONSUMER_MISSING, STREAM_MISSING):
                raise streams.refused(error) from None
            return TopicStats(await self._messages(topic), 0, dead, exact=True)
        return TopicStats(stands["num_pending"], stands["num_ack_pending"], dead, exact=True)

    async def close(self, *, grace: float = 5.0) -> None:
        """End what waits, give back what is held, disconnect."""
        session = self.session
        if session.is_closed:
            return
        session.is_closed = True
        try:
            async with asyncio.timeout(grace):
                await self._intake.close()
                await self._outlet.rest()
                await self._outlet.release(list(session.held), delay=0.0, counted=False)
                for reader in self._inboxes.values():
                    await reader.close()
        except (TimeoutError, BrokerUnreachable, BrokerRefused, OutcomeUnknown):
            pass  # then it waits for its lease
        if self._keeper is not None:
            await self._keeper.stop()
        session.lost.close()
        await self.link.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _keep(self, lease: float | None) -> None:
        if lease is None:
            return
        if self._keeper is None:
            self._keeper = LeaseKeeper(self.session)
        self._keeper.keep(lease)

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        await self._outlet.release(deliveries, delay=0.0, counted=False)

    async def _messages(self, topic: str) -> int:
        try:
            stands = await self.link.api(f"STREAM.INFO.{self.session.streams.stream(topic)}")
        except JetStreamError as error:
            if error.code != STREAM_MISSING:
                raise self.session.streams.refused(error) from None
            return 0
        return int(stands["state"]["messages"])


def connect(
    url: str,
    *,
    consumer_id: str,
    namespace: str,
    lease: float | None,  # noqa: ARG001  stands in each TopicSpec; the wiring calls every adapter alike
) -> NatsTransport:
    """Return a transport for `nats://` or `tls://`; nothing is connected before `open`. Raises `BadURL`."""
    return NatsTransport(url, consumer_id=consumer_id, namespace=namespace)


def check_options(url: str) -> None:
    """Raise `BadURL` for what a NATS URL cannot say."""
    parsed = BrokerURL.parse(url)
    unknown = set(parsed.options) - {"replicas", "ca", "cert", "key"}
    if unknown:
        raise BadURL(
            url=str(parsed), problem=f"unknown option {', '.join(sorted(unknown))}; there are replicas, ca, cert, key"
        )
    if parsed.options.get("replicas", "1") not in ("1", "3", "5"):
        raise BadURL(url=str(parsed), problem="replicas must be 1, 3 or 5")
    if parsed.username is not None and parsed.password is None:
        raise BadURL(
            url=f"{parsed.scheme}://…", problem="a user without a password; write a token as scheme://:token@host"
        )
