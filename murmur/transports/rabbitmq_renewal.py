"""Holding a message for longer than RabbitMQ allows.

RabbitMQ closes the channel of whoever has not settled a delivery within its consumer_timeout: half
an hour as it comes, a minute at the least. So what is held for long is copied, every now and then,
to a queue that this process alone reads; once the copy is in hand, the original is settled. When the
process dies, RabbitMQ puts the copy back, and its time to live has long run out: it moves on to the topic.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Final, cast

from loguru import logger
from pamqp import commands

from murmur.transport import Delivery
from murmur.transports.rabbitmq_box import Box, Hold, Tap
from murmur.transports.rabbitmq_frames import Message
from murmur.transports.rabbitmq_outlet import Outlet
from murmur.transports.rabbitmq_queues import held

RENEW_AFTER: Final = 30.0  # seconds: half of the shortest timeout that RabbitMQ supports
_COPY_WITHIN: Final = 10.0  # seconds until a copy is in hand
_TAG: Final = "hold"


class Renewal:
    """Renews what the boxes of one transport hold. `after`: seconds that RabbitMQ may count."""

    def __init__(
        self, outlet: Outlet, boxes: Callable[[], Sequence[Box]], *, boot: str, after: float = RENEW_AFTER
    ) -> None:
        self.after = after
        self._outlet, self._boxes, self._boot = outlet, boxes, boot
        self._serials = itertools.count(1)
        self._copies: dict[int, Hold] = {}  # on their way to us, by serial
        self._running: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End, once no copy is under way."""
        self._stopping.set()
        if self._running is not None:
            await asyncio.wait([self._running])

    def cancel(self) -> None:
        """End now; what is half renewed goes with its connection."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            for box in self._boxes():
                old = [one for one, hold in box.held.items() if self._is_due(box, hold)]
                if old and not box.is_inbox:
                    try:
                        await self._renew(box, [one for one in old if one not in box.unread])
                    except Exception as error:  # noqa: BLE001  tried again next time; until then the original is ours
                        logger.debug("{}: not renewed: {}", box.name, error)
            try:
                async with asyncio.timeout(self.after / 4):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _is_due(self, box: Box, hold: Hold) -> bool:
        return box.loop.time() - hold.since >= self.after and not (hold.is_settling or hold.is_acked)

    async def _renew(self, box: Box, old: Sequence[Delivery]) -> None:
        channel, queue = box.channel, held(box.name, self._boot)
        if channel is None or not old:
            return
        if not box.is_wanted():
            await box.unsubscribe()  # else settling the originals would have as many more pushed
        if box.copying is not channel:
            await self._outlet.declare(queue)
            asked = channel.ask(commands.Basic.Qos(prefetch_count=0))
            await asyncio.gather(asked, channel.ask(commands.Basic.Consume(queue=queue, consumer_tag=_TAG)))
            box.copying, box.on_copy = channel, lambda serial, tag: self._copied(box, serial, tag)
        waits, copies = [], []
        for one in old:
            hold = cast(Hold, one.token)
            if hold.is_settling or hold.is_lost:
                continue
            serial = next(self._serials)
            self._copies[serial] = hold
            hold.renewed = box.loop.create_future()
            waits.append(hold.renewed)
            copies.append(Message(queue, one.body, one.id, one.headers, hold.count, serial))
        try:
            await self._outlet.publish(copies)
            if waits:
                await asyncio.wait(waits, timeout=_COPY_WITHIN)
        finally:
            for copy in copies:
                self._end(self._copies.pop(copy.serial, None))

    def _copied(self, box: Box, serial: int, tag: int) -> None:
        """A copy is in hand: what it stands for is settled, or, if that was done meanwhile, the copy is."""
        hold, channel = self._copies.pop(serial, None), box.channel
        if channel is None:
            return
        if hold is None or hold.is_lost or hold.is_acked:
            box.ack_tags({tag})
            return
        box.ack_tags({hold.tag})
        hold.tap.unacked -= 1
        hold.tap = Tap(_TAG, 0)
        hold.tag, hold.since = tag, box.loop.time()
        self._end(hold)

    def _end(self, hold: Hold | None) -> None:
        if hold is not None and hold.renewed is not None:
            if not hold.renewed.done():
                hold.renewed.set_result(None)
            hold.renewed = None
