"""One topic as this process reads it: what RabbitMQ may push, what came, and what is held.

RabbitMQ hands out as soon as it may, so what it may is kept to what somebody waits for: each
reader's wish becomes a consumer with that much prefetch, which stays while its slots turn over.
What was pushed and nobody took for a while is given back, and so is the right to more of it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from pamqp import commands

from murmur.transport import Delivery
from murmur.transports.rabbitmq_frames import (
    SERIAL,
    Content,
    acked,
    deliveries_of,
    headers_of,
    number,
)
from murmur.transports.rabbitmq_wire import Channel

LINGER: Final = 0.25  # seconds that pushed messages, or the right to more, may lie idle
_WRITTEN_WITHIN: Final = 0.01  # seconds
MOST: Final = 2_000  # messages RabbitMQ may push ahead of us; what its documentation advises


class Tap:
    """One consumer of ours at RabbitMQ."""

    def __init__(self, tag: str, prefetch: int) -> None:
        self.tag, self.prefetch = tag, prefetch
        self.unacked = 0


class Hold:
    """The token of a delivery: where it must be settled, and what became of it."""

    __slots__ = (
        "box", "channel", "count", "is_acked", "is_done", "is_lost", "is_settling", "renewed", "since", "tag", "tap"
    )  # fmt: skip

    def __init__(self, box: "Box", channel: Channel, tap: Tap, tag: int, count: int) -> None:
        self.box, self.channel, self.tap, self.tag, self.count = box, channel, tap, tag, count
        self.since = box.loop.time()  # when RabbitMQ began to count
        self.renewed: asyncio.Future[None] | None = None  # while its copy is under way
        self.is_settling = self.is_acked = self.is_done = self.is_lost = False


class Box:
    """What is read of one topic."""

    def __init__(
        self, name: str, *, is_inbox: bool, on_came: Callable[[], None], on_lost: Callable[[list[Delivery]], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.name, self.is_inbox = name, is_inbox
        self.channel: Channel | None = None
        self.taps: dict[str, Tap] = {}
        self.unread: deque[Delivery] = deque()
        self.came_at = 0.0  # when the oldest unread one came
        self.wanted_at = 0.0  # when somebody last waited for it
        self.held: dict[Delivery, Hold] = {}
        self.returned: list[Delivery] = []  # of an inbox: settled by the next read
        self.is_wanted: Callable[[], bool] = bool  # whether somebody waits for it
        self.copying: Channel | None = None  # on which copies of what is held come back; see `rabbitmq_renewal`
        self.on_copy: Callable[[int, int], None] = _no_copy  # serial, tag
        self.outstanding: set[int] = set()  # tags on the channel that nobody settled
        self.acks = 0  # so far
        self._on_came, self._on_lost = on_came, on_lost
        self._barrier: asyncio.Future[Any] | None = None
        self._serial = 0

    @property
    def spare(self) -> int:
        """How many messages RabbitMQ may still push."""
        return sum(max(0, tap.prefetch - tap.unacked) for tap in self.taps.values())

    def use(self, channel: Channel) -> None:
        """Read on this channel from now on."""
        self.channel = channel
        self.outstanding.clear()
        self.acks = 0
        channel.on_content, channel.on_cancel = self._pushed, self._cancelled
        channel.on_closed = lambda _: self.drop(channel)

    async def subscribe(self, prefetch: int) -> None:
        """Let RabbitMQ push so many more."""
        channel = self.channel
        assert channel is not None
        self._serial += 1
        tap = Tap(str(self._serial), prefetch)
        self.taps[tap.tag] = tap
        limited = channel.ask(commands.Basic.Qos(prefetch_count=prefetch))
        consuming = channel.ask(commands.Basic.Consume(queue=self.name, consumer_tag=tap.tag))
        await asyncio.gather(limited, consuming)

    async def unsubscribe(self) -> None:
        """Let it push nothing more; what came is unread still."""
        channel = self.channel
        if channel is not None and self.taps:
            await asyncio.gather(*(channel.ask(commands.Basic.Cancel(consumer_tag=tag)) for tag in self.taps))
        self.taps.clear()

    async def flushed(self) -> None:
        """Wait until RabbitMQ has sent us what it had for us: it answers behind that."""
        if self.channel is not None:
            await self.channel.ask(commands.Basic.Qos(prefetch_count=1))

    def take(self, most: int) -> list[Delivery]:
        """Hand out up to so many."""
        taken = [self.unread.popleft() for _ in range(min(most, len(self.unread)))]
        if self.is_inbox:
            self.returned += taken
        return taken

    def put_back(self, deliveries: list[Delivery]) -> None:
        """Take back what was handed to somebody who is gone."""
        self.returned = [one for one in self.returned if one not in deliveries]
        self.unread.extendleft(one for one in reversed(deliveries) if one in self.held)
        self.came_at = self.loop.time()

    def ack_returned(self) -> None:
        """Settle what an inbox handed out before."""
        self.ack([self.held.pop(delivery) for delivery in self.returned])
        self.returned.clear()

    def ack(self, holds: Sequence[Hold]) -> None:
        """Settle deliveries on their channel, in as few words as can be: RabbitMQ writes each to its log."""
        ours = [hold for hold in holds if not (hold.is_lost or hold.is_acked) and hold.channel.closed is None]
        for hold in ours:
            hold.tap.unacked -= 1
            hold.is_acked = True
        self.ack_tags({hold.tag for hold in ours})

    def ack_tags(self, tags: set[int]) -> None:
        """Settle by tags."""
        channel = self.channel
        if channel is None or not tags:
            return
        self.outstanding -= tags
        first = min(self.outstanding, default=max(tags) + 1)
        oldest = max((tag for tag in tags if tag < first), default=0)
        if oldest:
            channel.wire.write(acked(oldest, channel=channel.number, multiple=True))
        for tag in tags:
            if tag > oldest:
                channel.wire.write(acked(tag, channel=channel.number))
        self.acks += len(tags)

    async def drained(self) -> None:
        """Wait until RabbitMQ wrote what was settled: it passes on 32 at a time, and drops the rest at a close."""
        for _ in range(2 + min(self.acks, MOST) // 16):
            await self.flushed()
            await asyncio.sleep(_WRITTEN_WITHIN)

    async def acked(self) -> None:
        """Wait until RabbitMQ has all that was settled in this turn of the loop. Raises if that cannot be known."""
        if self._barrier is None:
            self._barrier = self.loop.create_future()
            self.loop.call_soon(self._ask_barrier, self._barrier)
        await asyncio.shield(self._barrier)

    def drop(self, channel: Channel | None = None) -> None:
        """Give up all that came on a channel which is gone, or from a queue which is."""
        if channel is not None and channel is not self.channel:
            return
        self.channel = None
        self.taps.clear()
        self.returned.clear()
        unread, self.unread = set(self.unread), deque()
        lost = []
        for delivery, hold in self.held.items():
            hold.is_lost = True
            if not (hold.is_settling or delivery in unread):
                lost.append(delivery)
        self.held.clear()
        self._on_lost(lost)

    def leave(self) -> None:
        """Read no more on this channel; what came on it is lost."""
        channel = self.channel
        self.drop()
        if channel is not None:
            channel.leave()

    # -- inside -----------------------------------------------------------------------------------

    def _ask_barrier(self, barrier: asyncio.Future[Any]) -> None:
        """Ask something cheap behind the acks: RabbitMQ answers in order, and acks have no answer of their own."""
        self._barrier = None
        if self.channel is None or self.channel.closed is not None:
            barrier.set_exception(ConnectionResetError(f"{self.name}: the channel is gone"))
            barrier.exception()
            return
        asked = self.channel.ask(commands.Basic.Qos(prefetch_count=1))

        def heard(answer: asyncio.Future[Any]) -> None:
            error = answer.exception()
            if error is None:
                barrier.set_result(None)
            else:
                barrier.set_exception(error)
                barrier.exception()

        asked.add_done_callback(heard)

    def _pushed(self, content: Content) -> None:
        method, properties = content.method, content.properties
        self.outstanding.add(method.delivery_tag)
        serial = number(properties, SERIAL)
        if serial and method.consumer_tag not in self.taps:
            self.on_copy(serial, method.delivery_tag)
            return
        tap = self.taps.get(method.consumer_tag)
        channel = self.channel
        if tap is None or channel is None:
            return  # of a consumer that is gone; RabbitMQ takes it back with its channel
        tap.unacked += 1
        count = deliveries_of(properties)
        hold = Hold(self, channel, tap, method.delivery_tag, count)
        delivery = Delivery(self.name, content.body, headers_of(properties), properties.message_id or "", count, hold)
        self.held[delivery] = hold
        if not self.unread:
            self.came_at = self.loop.time()
        self.unread.append(delivery)
        self._on_came()

    def _cancelled(self, _: str) -> None:
        """Its queue was deleted: nothing that came from it can be settled any more."""
        self.leave()


def _no_copy(_serial: int, _tag: int) -> None:
    """Nothing is held for long."""
