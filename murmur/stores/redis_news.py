"""Hearing of cancelled tasks: a subscription to one channel that comes back when it breaks.

Published messages are lost while nobody listens, so whoever looks after the leases is asked to
look at once whenever the subscription was made anew; what it finds is told by other ways.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from murmur.bell import Feed
from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.transports.redis_link import DEADLINE, PING_AFTER, RedisLink
from murmur.transports.redis_wire import Call, Reply, Wire, settler

_LONGEST: Final = 5.0  # seconds to wait for the link before a try of our own


class CancelNews:
    """Ids of cancelled tasks, for any number of feeds. `missed` is called when some may have been."""

    def __init__(self, link: RedisLink, channel: str, *, missed: Callable[[], None]) -> None:
        self._link, self._channel, self._missed = link, channel, missed
        self._feeds: list[Feed[str]] = []
        self._listening: asyncio.Task[None] | None = None
        self._is_lost = asyncio.Event()

    def feed(self) -> Feed[str]:
        """Return an iterator over what is cancelled from about now on; ends with `close`."""
        feed: Feed[str] = Feed()
        self._feeds.append(feed)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        return feed

    async def close(self) -> None:
        """End the subscription and all feeds."""
        await cancelled([self._listening])
        for feed in self._feeds:
            feed.close()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(BrokerUnreachable, BrokerRefused, ConnectionError):
                await self._subscribe()
            await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311  jitter, no secret
            with contextlib.suppress(BrokerRefused):
                await self._link.up(_LONGEST)

    async def _subscribe(self) -> None:
        """Listen until the connection breaks."""
        loop = asyncio.get_running_loop()
        self._is_lost.clear()
        wire = await self._link.another(on_lost=self._lost, on_push=self._hear)
        try:
            subscribed: asyncio.Future[Reply] = loop.create_future()
            wire.send(Call(("SUBSCRIBE", self._channel), settler(subscribed), deadline=loop.time() + DEADLINE))
            async with asyncio.timeout(DEADLINE):
                await subscribed
            self._missed()
            await self._stay(wire)
        finally:
            wire.close()

    async def _stay(self, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_AFTER):
                    await self._is_lost.wait()
            oldest = wire.oldest_deadline
            if oldest is not None and oldest <= loop.time():
                return
            if oldest is None:
                wire.send(Call(("PING",), _ignore, deadline=loop.time() + DEADLINE))

    def _hear(self, push: list[Reply]) -> None:
        if isinstance(push[2], bytes):
            for feed in self._feeds:
                feed.give(push[2].decode())

    def _lost(self, calls: list[Call], problem: str) -> None:
        self._is_lost.set()
        for call in calls:
            call.finish(None, ConnectionResetError(problem))


def _ignore(_reply: Reply, _error: Exception | None) -> None:
    """That a ping is answered is all we want of it."""
