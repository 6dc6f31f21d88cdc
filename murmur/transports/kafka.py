"""The transport port on Kafka: a consumer group for each mailbox, settles in any order, retries in their place.

A mailbox is a topic, read by the group of the same name. Which messages are done, handed out, or wait is kept in
the group's committed offsets (`kafka_ledger`), so nothing is published a second time, and lag is exact. A lease is
the membership in the group: heartbeats keep it, however long a task runs, and a node that misses them for the
lease's length loses what it holds. Messages are bound to partitions, partitions to nodes that have room; a node
that is full loses its partitions to one that is not, and keeps what it runs. Kafka 2.5 or later.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Final, Literal, TypeVar

from attrs import evolve

from murmur.bell import Bell, Feed
from murmur.broker_url import BrokerURL
from murmur.errors import WrongForm
from murmur.names import Topics
from murmur.transport import Caps, Delivery, Kept, Outgoing, Receipt, Refusal, Settled, TopicKind, TopicSpec, TopicStats
from murmur.transports.kafka_inbox import Inbox
from murmur.transports.kafka_intake import Hold, Intake
from murmur.transports.kafka_link import KafkaLink
from murmur.transports.kafka_outlet import MAX_BODY, Outlet
from murmur.transports.kafka_records import place_of
from murmur.transports.kafka_survey import declare_work, survey

T = TypeVar("T")

_JOINING: Final = 5.0  # seconds that a first receive may take beyond its own wait, until it is told what it may read

CAPS: Final = Caps(
    dedup=False,
    delay=True,
    fencing=True,
    atomic_emit=False,
    stable_identity=False,
    lease="membership",
    max_body=MAX_BODY,
    fair=False,
    durable=True,
)
KEPT: Final = Kept(
    when_killed="nothing that was confirmed: all in-sync copies have it",
    when_power_fails="nothing with three copies and `min.insync.replicas=2`; "
    "one copy: what the system had not written by itself",
    demands=("`retention.ms=-1` on topics of tasks", "`unclean.leader.election.enable=false`", "three brokers"),
)


class KafkaTransport:
    """The transport port on one Kafka cluster."""

    def __init__(self, url: BrokerURL, *, consumer_id: str, namespace: str = "") -> None:
        self.link = KafkaLink(url, client_id=consumer_id)
        self._topics = Topics(namespace)
        self._specs: dict[str, TopicSpec] = {}
        self._intakes: dict[str, Intake] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._outlet = Outlet(self.link, self._place)
        self._lost: Feed[Delivery] = Feed()
        self._bells: dict[Bell, None] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._turn = 0
        self._is_closed = False

    @property
    def caps(self) -> Caps:
        """What this broker can promise."""
        return CAPS

    async def open(self, specs: Sequence[TopicSpec]) -> None:
        """Connect and make the topics; a mailbox's group is joined by the first `receive`."""
        if self._is_closed:
            raise WrongForm(used="a KafkaTransport after close()", instead="a new one")
        await self.link.open()
        await declare_work(self.link, [spec for spec in specs if spec.kind is TopicKind.WORK])
        for spec in specs:
            known = self._specs.get(spec.name, spec)
            lease = known.lease if spec.lease is None else spec.lease
            self._specs[spec.name] = evolve(spec, lease=lease, dead_topic=spec.dead_topic or known.dead_topic)
            if spec.kind is TopicKind.INBOX:
                await self._inboxes.setdefault(spec.name, Inbox(self.link, spec.name, self._topics)).open()

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Receipt | Refusal]:
        """Publish, each to any partition of its topic."""
        return await self._shielded(self._outlet.publish(messages))

    async def receive(self, group: str, topics: Mapping[str, int], *, credit: int, wait: float) -> Sequence[Delivery]:
        """Take work; or read inboxes, for the group `""`."""
        if self._is_closed:
            raise WrongForm(used="receive() after close()", instead="a new KafkaTransport")
        for name in topics:
            self._spec(name)
        if not group:
            return await self._replies(tuple(topics), credit=min(credit, sum(topics.values())), wait=wait)
        if credit <= 0 or not topics:
            return ()
        intakes = {self._joined(name): most for name, most in topics.items()}
        if not all(intake.joined.is_set() for intake in intakes):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_JOINING):
                    await asyncio.gather(*(intake.joined.wait() for intake in intakes))
        return await self._receive(intakes, credit, asyncio.get_running_loop().time() + wait)

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing] = ()) -> Sequence[Settled]:
        """Emit, then settle; nothing is emitted where every delivery was lost or settled before."""
        return await self._shielded(self._ack(deliveries, emit))

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, counted: bool = False
    ) -> Sequence[Settled]:
        """Give back, where it stands: whoever reads its partition hands it out again."""
        return await self._shielded(self._release(deliveries, delay=delay, counted=counted))

    async def dead(self, delivery: Delivery, letter: bytes) -> Settled:
        """Move to the dead topic. Raises `WrongForm` where the spec names none."""
        dead_topic = self._spec(delivery.topic).dead_topic
        if dead_topic is None:
            raise WrongForm(used=f"dead() on {delivery.topic!r}", instead="a TopicSpec with a dead_topic")
        message = Outgoing(dead_topic, letter, delivery.id, delivery.headers)
        return (await self._shielded(self._ack([delivery], [message], is_checked=True)))[0]

    def lost(self) -> AsyncIterator[Delivery]:
        """Yield what the group gave to others. One iterator at a time."""
        return self._lost

    async def stats(self, topic: str, group: str) -> TopicStats:  # noqa: ARG002  a topic has one group here
        """Count exactly; what waits for its time is not ready, once somebody has read it."""
        return await survey(self.link, self._spec(topic))

    async def close(self, *, grace: float = 5.0) -> None:
        """Give back what is held, leave the groups, disconnect."""
        if self._is_closed:
            return
        self._is_closed = True
        self._ring()
        try:
            async with asyncio.timeout(grace):
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self._release([one for intake in self._intakes.values() for one in intake.held])
        except TimeoutError:
            pass  # then the group gives it to others when it finds us gone
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(intake.stop() for intake in self._intakes.values()))
        await asyncio.gather(*(inbox.close() for inbox in self._inboxes.values()))
        self._lost.close()
        await self._outlet.close()
        await self.link.close()

    # -- receiving --------------------------------------------------------------------------------------------------

    async def _receive(self, intakes: Mapping[Intake, int], credit: int, deadline: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        for intake in intakes:
            intake.want(1)
        try:
            while True:
                bell = Bell()  # hung up before looking, so that what comes in between rings it
                self._bells[bell] = None
                try:
                    if taken := await self._taken(intakes, credit):
                        return taken
                    if self._is_closed or loop.time() >= deadline:
                        return ()
                    async with asyncio.timeout(deadline - loop.time()):
                        await bell.rung()
                except TimeoutError:
                    return ()
                finally:
                    del self._bells[bell]
        finally:
            for intake in intakes:
                intake.want(-1)

    async def _taken(self, intakes: Mapping[Intake, int], credit: int) -> Sequence[Delivery]:
        """Take what is there. If the caller is cancelled meanwhile, it is given back."""
        order = list(intakes)
        self._turn += 1
        picked: dict[Intake, list[Delivery]] = {}
        for intake in order[self._turn % len(order) :] + order[: self._turn % len(order)]:
            if found := intake.pick(min(intakes[intake], credit - sum(map(len, picked.values())))):
                picked[intake] = found
        if not picked:
            return ()
        task = self._run(self._granted(picked))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._return)
            raise

    async def _granted(self, picked: Mapping[Intake, Sequence[Delivery]]) -> list[Delivery]:
        granted = await asyncio.gather(*(intake.grant(found) for intake, found in picked.items()))
        return [one for found in granted for one in found]

    def _return(self, task: "asyncio.Task[list[Delivery]]") -> None:
        if not task.cancelled() and task.exception() is None:
            for intake, theirs in _by_intake(task.result()).items():
                intake.take_back(theirs)

    async def _replies(self, names: Sequence[str], *, credit: int, wait: float) -> Sequence[Delivery]:
        if len(names) != 1:
            raise WrongForm(used="one receive() over several inboxes", instead="one receive() for each")
        return await self._inboxes[names[0]].receive(credit=credit, wait=wait)

    def _joined(self, topic: str) -> Intake:
        intake = self._intakes.get(topic)
        if intake is None:
            intake = self._intakes[topic] = Intake(self.link, self._spec(topic), lost=self._lost, on_news=self._ring)
            intake.start()
        return intake

    def _ring(self) -> None:
        for bell in self._bells:
            bell.ring()

    # -- settling ---------------------------------------------------------------------------------------------------

    async def _ack(
        self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing], *, is_checked: bool = False
    ) -> list[Settled]:
        holds = [one.token for one in deliveries if isinstance(one.token, Hold)]
        if emit and (not deliveries or any(hold.state == "held" for hold in holds)):
            if is_checked:
                states = {await hold.intake.confirm(hold) for hold in holds}
                if states != {"held"}:
                    reason: Literal["lost", "unknown"] = "lost" if "lost" in states else "unknown"
                    return [Settled(one.id, ok=False, reason=reason) for one in deliveries]
            if any(isinstance(one, Refusal) for one in await self._outlet.publish(emit)):
                return [Settled(one.id, ok=False, reason="unknown") for one in deliveries]
        return await self._settled(deliveries)

    async def _release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, counted: bool = False
    ) -> list[Settled]:
        return await self._settled(deliveries, lambda hold: hold.count - (not counted), delay)

    async def _settled(
        self, deliveries: Sequence[Delivery], back: Callable[[Hold], int] | None = None, delay: float = 0.0
    ) -> list[Settled]:
        answers: dict[Delivery, Settled] = {}
        for intake, theirs in _by_intake(deliveries).items():
            answers |= zip(theirs, await intake.settle(theirs, back=back, delay=delay), strict=True)
        return [answers.get(one) or Settled(one.id, ok=False, reason="lost") for one in deliveries]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _place(self, topic: str) -> tuple[str, bytes | None]:
        spec = self._specs.get(topic)  # an agent may be named "inbox"
        return (topic, None) if spec and spec.kind is TopicKind.WORK else place_of(topic, self._topics)

    def _spec(self, topic: str) -> TopicSpec:
        spec = self._specs.get(topic)
        if spec is None:
            raise WrongForm(used=f"{topic!r} before open()", instead="open() with its TopicSpec first")
        return spec

    async def _shielded(self, work: Coroutine[object, object, T]) -> T:
        """Await what must not be cut short when its caller is cancelled."""
        return await asyncio.shield(self._run(work))

    def _run(self, work: Coroutine[object, object, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _by_intake(deliveries: Sequence[Delivery]) -> dict[Intake, list[Delivery]]:
    found: dict[Intake, list[Delivery]] = {}
    for one in deliveries:
        if isinstance(one.token, Hold):
            found.setdefault(one.token.intake, []).append(one)
    return found


def connect(
    url: str,
    *,
    consumer_id: str,
    namespace: str,
    lease: float | None,  # noqa: ARG001  stands in each TopicSpec; the wiring calls every adapter alike
) -> KafkaTransport:
    """Return a transport for `kafka://` or `kafka+ssl://`; nothing is connected before `open`."""
    return KafkaTransport(BrokerURL.parse(url), consumer_id=consumer_id, namespace=namespace)
