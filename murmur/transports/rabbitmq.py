"""The transport port on RabbitMQ: a quorum queue per topic, and a lease that is the connection.

RabbitMQ knows by itself when a consumer is gone, within two to three heartbeats at most, and then
hands its messages to another. It keeps no rows: with a store beside it it is tier A, alone tier B.
RabbitMQ 3.10 or later. What stands where is told in docs/wire.md, and why in decision 0050.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from murmur.errors import BrokerRefused, BrokerUnreachable, PayloadTooLarge, WrongForm
from murmur.transport import Caps, Delivery, Kept, Outgoing, Receipt, Refusal, Settled, TopicSpec, TopicStats
from murmur.transports.rabbitmq_frames import Message
from murmur.transports.rabbitmq_intake import Intake, opened
from murmur.transports.rabbitmq_link import RabbitLink
from murmur.transports.rabbitmq_outlet import Outlet
from murmur.transports.rabbitmq_queues import LONGEST_DELAY
from murmur.transports.rabbitmq_renewal import Renewal
from murmur.transports.rabbitmq_settling import Settling

MAX_BODY: Final = 12 * 1024 * 1024  # bytes: below what RabbitMQ 4 takes as it comes, 16 MiB
CAPS: Final = Caps(
    dedup=False,
    delay=True,
    fencing=True,
    atomic_emit=False,
    stable_identity=False,
    lease="connection",
    max_body=MAX_BODY,
    fair=True,
    durable=True,
    exact_count=False,
)
KEPT: Final = Kept(
    when_killed="nothing that was confirmed",
    when_power_fails="nothing that was confirmed; in a cluster, what most of its nodes have",
    demands=("nothing: queues are quorum queues, messages persistent, mandatory and confirmed, by ourselves",),
)
_LEAST_BEAT, _MOST_BEAT = 2, 10  # seconds


def heartbeat(lease: float | None) -> int:
    """Return the heartbeat, in seconds, that finds a silent holder within about its lease: RabbitMQ takes three."""
    return _MOST_BEAT if lease is None else max(_LEAST_BEAT, min(_MOST_BEAT, int(lease / 3)))


class RabbitTransport:
    """The transport port on one RabbitMQ virtual host."""

    def __init__(self, url: str, *, consumer_id: str, namespace: str = "", lease: float | None = None) -> None:
        self.boot = secrets.token_hex(4)
        self._prefix = f"{namespace}." if namespace else ""
        beat, name = heartbeat(lease), f"murmur:{consumer_id}"
        self._specs: dict[str, TopicSpec] = {}
        self._outlet = Outlet(url, name=f"{name} sends", boot=self.boot, heartbeat=beat, prefix=self._prefix)
        self._settling = Settling(self._outlet)
        self._intake = Intake(
            RabbitLink(url, name=f"{name} reads", heartbeat=beat),
            declare=self._outlet.declare,
            count=self._outlet.count,
            give_back=self.release,
        )
        self.renewal = Renewal(self._outlet, lambda: list(self._intake.boxes.values()), boot=self.boot)

    @property
    def caps(self) -> Caps:
        """What this broker can promise."""
        return CAPS

    async def open(self, specs: Sequence[TopicSpec]) -> None:
        """Connect, and make the queues."""
        opened(self._intake)
        await self._outlet.link.open()
        self._specs |= {spec.name: spec for spec in specs}
        await asyncio.gather(*(self._outlet.declare(spec.name) for spec in specs))

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Receipt | Refusal]:
        """Send messages; what has to wait goes to a queue of its delay first."""
        refusals: dict[int, Refusal] = {}
        sent: dict[int, Message] = {}
        for index, one in enumerate(messages):
            if len(one.body) > MAX_BODY:
                large = PayloadTooLarge(what=f"message {one.id!r}", size=len(one.body), limit=MAX_BODY)
                refusals[index] = Refusal(one.id, str(large), definite=True)
            elif one.not_before is not None and one.not_before > LONGEST_DELAY:
                refusals[index] = Refusal(one.id, f"RabbitMQ delays up to {LONGEST_DELAY:.0f} s", definite=True)
            else:
                try:
                    sent[index] = await self._outlet.addressed(one)
                except (BrokerRefused, BrokerUnreachable) as error:
                    refusals[index] = Refusal(one.id, str(error), definite=True)
        answers = dict(zip(sent, await self._outlet.publish(list(sent.values())), strict=True)) if sent else {}
        return [
            refusals[index]
            if index in refusals
            else Receipt(one.id, answers[index].position)
            if answers[index].position
            else Refusal(one.id, answers[index].failure, answers[index].is_definite)
            for index, one in enumerate(messages)
        ]

    async def receive(self, group: str, topics: Mapping[str, int], *, credit: int, wait: float) -> Sequence[Delivery]:
        """Take work; or read inboxes, for the group `""`."""
        opened(self._intake)
        if group:
            self.renewal.start()
        return await self._intake.receive(topics, credit=credit, wait=wait, is_inbox=not group)

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing] = ()) -> Sequence[Settled]:
        """Emit, wait for the confirms, then settle."""
        return await self._settling.shielded(self._settling.ack(deliveries, emit))

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, counted: bool = False
    ) -> Sequence[Settled]:
        """Give back as copies, which RabbitMQ 4 hands out before all that waits."""
        return await self._settling.shielded(self._settling.release(deliveries, delay=delay, counted=counted))

    async def dead(self, delivery: Delivery, letter: bytes) -> Settled:
        """Move to the dead topic. Raises `WrongForm` where the spec names none."""
        spec = self._specs.get(delivery.topic)
        if spec is None or spec.dead_topic is None:
            raise WrongForm(used=f"dead() on {delivery.topic!r}", instead="a TopicSpec with a dead_topic")
        return await self._settling.shielded(self._settling.bury(delivery, spec.dead_topic, letter))

    def lost(self) -> AsyncIterator[Delivery]:
        """Yield what went with its connection. One iterator at a time."""
        return self._intake.lost

    async def stats(self, topic: str, group: str) -> TopicStats:  # noqa: ARG002  a topic has one group here
        """Count what waits; what others hold RabbitMQ does not say."""
        spec = self._specs.get(topic)
        ready = await self._outlet.count(topic)
        dead = await self._outlet.count(spec.dead_topic) if spec and spec.dead_topic else None
        return TopicStats(ready, None, dead, exact=False)

    async def close(self, *, grace: float = 5.0) -> None:
        """End what waits, give back what is held, disconnect."""
        intake = self._intake
        if intake.is_closed:
            return
        intake.is_closed = True
        try:
            async with asyncio.timeout(grace):
                await intake.close()
                await self.renewal.stop()
                await self._settling.rest()
                held = [one for box in intake.boxes.values() if not box.is_inbox for one in box.held]
                await self._settling.release(held, delay=0.0, counted=False)
                await asyncio.gather(*(box.drained() for box in intake.boxes.values()), return_exceptions=True)
        except (TimeoutError, ConnectionError, BrokerUnreachable, BrokerRefused):
            pass  # then RabbitMQ takes it back with the connection, and counts it
        self.renewal.cancel()
        intake.lost.close()
        await intake.link.close()
        await self._outlet.link.close()


def connect(url: str, *, consumer_id: str, namespace: str, lease: float | None) -> RabbitTransport:
    """Return a transport for `amqp://` or `amqps://`; nothing is connected before `open`."""
    return RabbitTransport(url, consumer_id=consumer_id, namespace=namespace, lease=lease)
