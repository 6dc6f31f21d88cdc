"""The transport port on Redis Streams: a consumer group per topic, leases by the age of what is pending.

Beside another store this adapter does everything by itself: it renews what it handed out,
gives back what lapsed, moves on what is due. Beside `RedisStore` on the same server the
store's scripts change rows and streams in one step, and this is its hands and ears. What
stands where in Redis is told in `lua/entries.lua`. Redis 6.2 or later, not Redis Cluster.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, cast

from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown, WrongForm
from murmur.transport import Caps, Delivery, Kept, Outgoing, Receipt, Refusal, Settled, TopicKind, TopicSpec, TopicStats
from murmur.transports.redis_intake import Intake
from murmur.transports.redis_keeper import RENEW, LeaseKeeper
from murmur.transports.redis_outlet import MAX_BODY, Outlet, consumer_of, grouped
from murmur.transports.redis_reader import InboxReader
from murmur.transports.redis_scripts import load
from murmur.transports.redis_session import Rows, Session
from murmur.transports.redis_upkeep import Upkeep

CAPS: Final = Caps(
    dedup=True,
    delay=True,
    fencing=True,
    atomic_emit=True,
    stable_identity=True,
    lease="time",
    max_body=MAX_BODY,
    fair=True,
    durable=True,
)
KEPT: Final = Kept(
    when_killed="append-only file on: nothing that was confirmed (`everysec` on a busy disk: what waits behind a "
    "slow sync, up to about two seconds). No persistence: everything",
    when_power_fails="`appendfsync always`: nothing; `everysec`: up to about two seconds",
    demands=("`appendonly yes`", "`maxmemory-policy noeviction`", "never trim a stream of tasks"),
)

_DECLARE: Final = load("murmur.transports", "declare")
_LEAVE: Final = load("murmur.transports", "leave")
_STATS: Final = load("murmur.transports", "stats")


class RedisTransport:
    """The transport port on one Redis server. `window`: seconds in which an id published again adds nothing."""

    def __init__(self, url: str, *, consumer_id: str, namespace: str = "", window: float = 86_400.0) -> None:
        self.session = Session(url, consumer_id=consumer_id, namespace=namespace, rows=Rows())
        self._inboxes: dict[tuple[str, ...], InboxReader] = {}
        self._intake, self._upkeep = Intake(self.session), Upkeep(self.session)
        self._outlet = Outlet(self.session, window=window)
        self._keeper: LeaseKeeper | None = None

    @property
    def caps(self) -> Caps:
        """What this broker can promise."""
        return CAPS

    async def open(self, specs: Sequence[TopicSpec]) -> None:
        """Connect, make the groups, and take over what an earlier boot of this consumer left behind."""
        session = self.session
        if session.is_closed:
            raise WrongForm(used="a RedisTransport after close()", instead="a new one")
        await session.link.open()
        topics = [spec.name for spec in specs if spec.kind is TopicKind.WORK]
        if topics:
            await session.link.run(_DECLARE, topics, (), is_repeatable=True)
        session.learn(specs)
        if topics:
            await self._upkeep.inherit(topics)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Receipt | Refusal]:
        """Add messages, joined with what others publish in this loop turn."""
        answers = await self._outlet.publish(messages)
        if any(message.not_before for message in messages):
            self._upkeep.hurry()
        return answers

    async def receive(self, group: str, topics: Mapping[str, int], *, credit: int, wait: float) -> Sequence[Delivery]:
        """Take work, granted already beside a fused store; or read inboxes, for the group `""`."""
        session = self.session
        if session.is_closed:
            raise WrongForm(used="receive() after close()", instead="a new RedisTransport")
        if not group:
            names = tuple(topics)
            reader = self._inboxes.get(names)
            if reader is None:
                reader = self._inboxes[names] = InboxReader(session.link, names)
            return await reader.receive(credit=min(credit, sum(topics.values())), wait=wait)
        for name in topics:
            self._keep(session.spec(name).lease)
        return await self._intake.receive(topics, credit=credit, wait=wait)

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing] = ()) -> Sequence[Settled]:
        """Settle and emit in one step; nothing is emitted where no delivery was left to settle."""
        settled = await self._outlet.ack(deliveries, emit)
        if emit and any(message.not_before for message in emit):
            self._upkeep.hurry()
        return settled

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, counted: bool = False
    ) -> Sequence[Settled]:
        """Give back as copies, which are read before all that waits."""
        settled = await self._outlet.shielded(self._outlet.release(deliveries, delay=delay, counted=counted))
        if delay:
            self._upkeep.hurry()
        return settled

    async def dead(self, delivery: Delivery, letter: bytes) -> Settled:
        """Move to the dead topic. Raises `WrongForm` where the spec names none."""
        if self.session.spec(delivery.topic).dead_topic is None:
            raise WrongForm(used=f"dead() on {delivery.topic!r}", instead="a TopicSpec with a dead_topic")
        return await self._outlet.shielded(self._outlet.bury(delivery, letter))

    def lost(self) -> AsyncIterator[Delivery]:
        """Yield what the server says is no longer ours. One iterator at a time."""
        return self.session.lost

    async def stats(self, topic: str, group: str) -> TopicStats:  # noqa: ARG002  a topic has one group here
        """Count exactly; what is delayed is not ready."""
        spec = self.session.specs.get(topic)
        dead_topic = (spec.dead_topic if spec else None) or ""
        reply = await self.session.link.run(_STATS, (topic, dead_topic), (), is_repeatable=True)
        ready, inflight, dead = cast(list[int], reply)
        return TopicStats(ready, inflight, dead, exact=True)

    async def close(self, *, grace: float = 5.0) -> None:
        """End what waits, give back what is held, leave the groups, disconnect."""
        session = self.session
        if session.is_closed:
            return
        session.is_closed = True
        try:
            async with asyncio.timeout(grace):
                await self._intake.close()
                await self._outlet.rest()
                await self._outlet.release(list(session.held), delay=0.0, counted=False)
                await self._leave()
        except (TimeoutError, BrokerUnreachable, BrokerRefused, OutcomeUnknown):
            pass  # then it waits for its lease; the next boot of this consumer takes it over
        await self._upkeep.close()
        if self._keeper is not None:
            await self._keeper.stop()
        for reader in self._inboxes.values():
            await reader.close()
        session.lost.close()
        await session.link.close()

    def watch(self) -> None:
        """Look now for leases that were lost: news of them may have been missed."""
        if self._keeper is not None:
            self._keeper.nudge()

    async def renew(self, deliveries: Sequence[Delivery]) -> list[bool]:
        """Renew leases now, for a fused store; say which are still ours."""
        session = self.session
        answers: dict[Delivery, bool] = {}
        for consumer, theirs in grouped(deliveries, consumer_of):
            arguments = [part for one in theirs for part in session.lease_of(one)]
            reply = await session.link.run(RENEW, (), (session.rows.prefix, consumer, *arguments), is_repeatable=True)
            answers |= zip(theirs, (code == ord("1") for code in cast(bytes, reply)), strict=True)
        return [answers[one] for one in deliveries]

    async def sweep(self, topics: Sequence[str]) -> float | None:
        """Give back what lapsed and move on what is due, for a fused store; see `Upkeep.sweep`."""
        return await self._upkeep.sweep(topics)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _keep(self, lease: float | None) -> None:
        """Begin to renew, and, without a fused store, to sweep."""
        if not self.session.rows.prefix:
            self._upkeep.start()
        if lease is None:
            return
        if self._keeper is None:
            session = self.session
            self._keeper = LeaseKeeper(
                session.link, rows=session.rows.prefix, held=session.leases, lost=session.give_up
            )
        self._keeper.keep(lease)

    async def _leave(self) -> None:
        """Leave nothing of us behind but what is unread."""
        session = self.session
        for topic, consumer in session.places():
            await session.link.run(_LEAVE, (topic,), (consumer, "0"))
        for inboxes in self._inboxes:
            await session.link.run(_LEAVE, inboxes, ("", "1"))


def connect(
    url: str,
    *,
    consumer_id: str,
    namespace: str,
    lease: float | None,  # noqa: ARG001  stands in each TopicSpec; the wiring calls every adapter alike
) -> RedisTransport:
    """Return a transport for `redis://`, `rediss://` or `unix://`; nothing is connected before `open`."""
    return RedisTransport(url, consumer_id=consumer_id, namespace=namespace)
