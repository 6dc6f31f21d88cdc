"""Reading from RabbitMQ: whoever waits for messages, and the consumers that fetch them.

A reader waits, a box fetches: subscribing and unsubscribing go on in tasks of the box's own, so a
reader may be cancelled at any time. What came for one that is gone is the next one's. Of several
topics each may push its share of the free slots, at least one; what finds no slot goes back.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from loguru import logger

from murmur.bell import Feed
from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, WrongForm
from murmur.transport import Delivery
from murmur.transports.rabbitmq_box import LINGER, MOST, Box
from murmur.transports.rabbitmq_link import RabbitLink
from murmur.transports.rabbitmq_wire import ServerError, WireLost

_ARRIVES_WITHIN: Final = 0.5  # seconds until RabbitMQ has pushed what it may
_INBOX_AHEAD: Final = 1_000  # results pushed ahead of their reader


class _Waiter:
    """One call of `receive`."""

    def __init__(self, topics: Mapping[str, int], credit: int) -> None:
        self.topics, self.credit = topics, credit
        self.taken: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()
        # RabbitMQ pushes, so the slots are shared out beforehand; `credit` bounds what one call returns.
        slots = max(topics.values(), default=0)
        self.shares = {name: min(most, max(1, slots // len(topics)), MOST) for name, most in topics.items()}


class Intake:
    """The receiving half of a transport, on a connection of its own."""

    def __init__(
        self,
        link: RabbitLink,
        *,
        declare: Callable[[str], Awaitable[None]],
        count: Callable[[str], Awaitable[int]],
        give_back: Callable[[Sequence[Delivery]], Awaitable[object]],
    ) -> None:
        self.link = link
        self.boxes: dict[str, Box] = {}
        self.lost: Feed[Delivery] = Feed()
        self.is_closed = False
        self._declare, self._count, self._give_back = declare, count, give_back
        self._waiters: list[_Waiter] = []
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._turn = 0  # which topic is served first
        self._serving = False
        self._looking: asyncio.TimerHandle | None = None

    async def receive(
        self, topics: Mapping[str, int], *, credit: int, wait: float, is_inbox: bool
    ) -> Sequence[Delivery]:
        """Return messages, as soon as there is one, or `()` after `wait` seconds. Cancelling loses nothing."""
        for name in topics:
            box = self._box(name, is_inbox=is_inbox)
            if is_inbox:
                box.ack_returned()
        waiter = _Waiter({name: most for name, most in topics.items() if most > 0}, credit)
        self._waiters.append(waiter)
        self._serve()
        for name in waiter.topics:
            self._tend(name)
        try:
            await asyncio.wait([waiter.taken], timeout=wait)
        except asyncio.CancelledError:
            if waiter.taken.done() and waiter.taken.exception() is None:
                for delivery in reversed(waiter.taken.result()):
                    self.boxes[delivery.topic].put_back([delivery])
                self._came()
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            for name in waiter.topics:
                self.boxes[name].wanted_at = self._now()
            self._look_later()
        return waiter.taken.result() if waiter.taken.done() else ()

    async def close(self) -> None:
        """Let RabbitMQ push nothing more, and end what waits."""
        self.is_closed = True
        if self._looking is not None:
            self._looking.cancel()
        for waiter in self._waiters:
            if not waiter.taken.done():
                waiter.taken.set_result([])
        await cancelled(self._tending.values())
        for box in self.boxes.values():
            with contextlib.suppress(ServerError, WireLost):
                await self._unsubscribe(box)

    # -- handing out ------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Hand what came to whoever waits for it."""
        self._serving = False
        for waiter in [one for one in self._waiters if not one.taken.done()]:
            taken = self._taken(waiter)
            if taken:
                waiter.taken.set_result(taken)
                self._waiters.remove(waiter)

    def _taken(self, waiter: _Waiter) -> list[Delivery]:
        names = list(waiter.topics)
        self._turn += 1
        taken: list[Delivery] = []
        for place in range(len(names)):
            name = names[(place + self._turn) % len(names)]
            taken += self.boxes[name].take(min(waiter.topics[name], waiter.credit - len(taken)))
        return taken

    def _came(self) -> None:
        if not self._serving:
            self._serving = True
            asyncio.get_running_loop().call_soon(self._serve)
            self._look_later()

    # -- fetching ---------------------------------------------------------------------------------

    def _box(self, name: str, *, is_inbox: bool) -> Box:
        box = self.boxes.get(name)
        if box is None:
            box = Box(name, is_inbox=is_inbox, on_came=self._came, on_lost=lambda lost: self._dropped(name, lost))
            box.is_wanted = lambda: any(name in waiter.topics for waiter in self._waiters)
            self.boxes[name] = box
        return box

    def _dropped(self, name: str, lost: Sequence[Delivery]) -> None:
        for delivery in lost:
            self.lost.give(delivery)
        self._tend(name)

    def _tend(self, name: str) -> None:
        """See to it that a topic is fetched as far as it is wanted, and no further."""
        if not self.is_closed and (name not in self._tending or self._tending[name].done()):
            self._tending[name] = asyncio.get_running_loop().create_task(self._tended(self.boxes[name]))

    async def _tended(self, box: Box) -> None:
        while not self.is_closed:
            missing = self._wanted(box) - box.spare - len(box.unread)
            try:
                if missing > 0:
                    await self._fetch(box, missing)
                elif self._is_idle(box):
                    await self._withdraw(box)
                else:
                    return
            except BrokerRefused as error:
                for waiter in [one for one in self._waiters if box.name in one.topics]:
                    if not waiter.taken.done():
                        waiter.taken.set_exception(error)
                return
            except (BrokerUnreachable, ServerError, WireLost, ConnectionResetError) as error:
                logger.debug("{}: {}", box.name, error)
                await asyncio.sleep(random.uniform(0.05, 0.3))  # noqa: S311  jitter, no secret

    def _wanted(self, box: Box) -> int:
        wishes = [waiter.shares[box.name] for waiter in self._waiters if box.name in waiter.shares]
        if box.is_inbox and wishes:
            return max(0, _INBOX_AHEAD - sum(tap.unacked for tap in box.taps.values()))
        return min(sum(wishes), MOST)

    async def _fetch(self, box: Box, missing: int) -> None:
        if box.channel is None:
            wire = await self.link.up(None)
            if wire is None:
                return
            await self._declare(box.name)
            box.use(await wire.channel())
        try:
            await box.subscribe(missing)
        except ServerError as error:
            told = self.link.told(error)
            if isinstance(told, BrokerRefused) and error.code != 404:  # 404: deleted a moment ago
                raise told from None
            raise

    def _is_idle(self, box: Box) -> bool:
        """Whether messages, or the right to more, lie where nobody takes them."""
        if box.is_inbox or box.channel is None:
            return False
        is_stale = bool(box.unread) and self._now() - box.came_at >= LINGER
        is_unwanted = not box.is_wanted() and self._now() - box.wanted_at >= LINGER
        return is_stale or (is_unwanted and bool(box.spare or box.unread))

    async def _withdraw(self, box: Box) -> None:
        await self._unsubscribe(box)
        self._serve()
        unread = box.take(len(box.unread))
        if unread:
            await self._give_back(unread)

    async def _unsubscribe(self, box: Box) -> None:
        """Let RabbitMQ push nothing more, once what it may push is here: what a consumer misses counts as delivered."""
        until = self._now() + _ARRIVES_WITHIN
        while not box.is_inbox and box.spare and self._now() < until:
            came = len(box.held)
            waiting = await self._count(box.name)
            await box.flushed()
            if not waiting and came == len(box.held):
                break
        await box.unsubscribe()

    def _look_later(self) -> None:
        if self._looking is None and not self.is_closed:
            self._looking = asyncio.get_running_loop().call_later(LINGER * 1.1, self._look)

    def _look(self) -> None:
        self._looking = None
        for box in self.boxes.values():
            if self._is_idle(box):
                self._tend(box.name)
        if any(box.unread or (box.spare and not box.is_inbox) for box in self.boxes.values()):
            is_quiet = self._waiters and not any(box.unread for box in self.boxes.values())
            if not is_quiet:
                self._look_later()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def opened(intake: Intake) -> None:
    """Raise `WrongForm` if it is closed."""
    if intake.is_closed:
        raise WrongForm(used="a RabbitTransport after close()", instead="a new one")
