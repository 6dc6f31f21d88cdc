"""The control plane on a broker, through FastStream: one adapter for Redis, NATS, Kafka and RabbitMQ.

FastStream and the broker's client are imported when the plane is opened, in a thread: they take more CPU than all of
murmur, and nobody waits for heartbeats. What differs between brokers stands in `murmur.events.faststream_kinds`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final, TypeVar

from loguru import logger

from murmur.broker_url import BrokerURL
from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, MissingExtra
from murmur.events.faststream_kinds import KINDS, Kind
from murmur.events.listeners import Listeners

T = TypeVar("T")

_WITHIN: Final = 9.0  # seconds a call may take
_AGAIN: Final = 1.0  # seconds until a subscription that could not begin is tried again


class FastStreamControl:
    """The control plane port on a FastStream broker."""

    def __init__(self, url: BrokerURL, kind: Kind, *, prefix: str) -> None:
        self._url = url
        self._kind = kind
        self._prefix = prefix
        self._broker: Any = None
        self._opening = asyncio.Lock()
        self._listeners = Listeners()
        self._subscribing: dict[str, asyncio.Task[Any]] = {}

    async def open(self) -> None:
        """Connect. Raises `BrokerUnreachable`, `BrokerRefused`, `MissingExtra`."""
        async with self._opening:
            if self._broker is not None:
                return
            try:
                make = await asyncio.to_thread(self._kind.load)
            except ModuleNotFoundError as error:
                raise MissingExtra(package=error.name or "faststream", extra=self._kind.extra) from error
            broker = make(self._url)
            try:
                await self._timely(_started(broker))
            except BaseException:
                await _stopped(broker)
                raise
            self._broker = broker

    async def publish(self, topic: str, body: bytes) -> None:
        """Send. Raises `BrokerUnreachable`, `BrokerRefused`."""
        if self._broker is None:
            raise self._unreachable("the control plane is not open")
        await self._timely(self._kind.publish(self._broker, self._url.channel(self._prefix + topic), body))

    def subscribe(self, topic: str) -> AsyncIterator[bytes]:
        """Listen. FastStream has one subscription per topic; all listeners of this process share it."""
        if self._broker is None:
            raise self._unreachable("the control plane is not open")
        feed = self._listeners.add(topic)
        if topic not in self._subscribing:
            self._subscribing[topic] = asyncio.get_running_loop().create_task(self._subscribed(topic))
        return feed

    async def close(self) -> None:
        """Disconnect."""
        broker, self._broker = self._broker, None
        tasks, self._subscribing = list(self._subscribing.values()), {}
        await cancelled(tasks)
        self._listeners.close()
        if broker is not None:
            await _stopped(broker)

    async def _subscribed(self, topic: str) -> None:
        async def hear(body: bytes) -> None:
            self._listeners.tell(topic, body)

        while True:
            subscriber = self._kind.subscriber(self._broker, self._url.channel(self._prefix + topic))
            subscriber(hear)
            try:
                await self._timely(subscriber.start())
            except (BrokerUnreachable, BrokerRefused) as error:
                logger.trace("cannot listen to {} yet: {}", topic, error)
                await _stopped(subscriber)
                await asyncio.sleep(_AGAIN)
            else:
                return

    async def _timely(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(_WITHIN):
                return await call
        except TimeoutError:
            raise self._unreachable("no answer") from None
        except Exception as error:  # each of four clients has errors of its own
            if {kind.__name__ for kind in type(error).__mro__} & self._kind.refusals:
                problem = f"the control plane is not ours to use: {error}"
                raise BrokerRefused(url=str(self._url), problem=problem, mend=self._kind.mend) from error
            raise self._unreachable(f"{type(error).__name__}: {error}") from error

    def _unreachable(self, problem: str) -> BrokerUnreachable:
        return BrokerUnreachable(url=str(self._url), after=_WITHIN, problem=problem)


def connect(url: str, *, prefix: str) -> FastStreamControl:
    """Return the control plane of a broker; nothing is imported or connected yet."""
    parsed = BrokerURL.parse(url)
    return FastStreamControl(parsed, KINDS[parsed.scheme], prefix=prefix)


async def _started(broker: Any) -> None:
    await broker.start()
    if not await broker.ping(timeout=_WITHIN / 2):  # some clients connect when they are first used
        raise ConnectionError("it does not answer")


async def _stopped(broker: Any) -> None:
    """Stop a broker or subscriber, whatever state it is in."""
    try:
        async with asyncio.timeout(_WITHIN):
            await broker.stop()
    except Exception as error:  # noqa: BLE001  what was half connected may fail in any way, and is gone all the same
        logger.debug("FastStream did not stop quietly: {!r}", error)
