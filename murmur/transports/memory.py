"""`memory://`: the transport port within one process.

Publisher and worker may live in different event loops and threads. A name is shared by
everybody in the process for as long as somebody holds it (`memory://lab`); without one the
broker is private to the transport. What is promised stands in `MemoryBroker`; this module
waits: for messages, for leases that run out, for a stalled consumer to be resumed.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable
from weakref import WeakValueDictionary

from murmur.bell import Bell
from murmur.errors import BadURL, WrongForm
from murmur.transport import Caps, Delivery, Kept, Outgoing, Receipt, Settled, TopicSpec, TopicStats
from murmur.transports.memory_broker import MemoryBroker
from murmur.transports.memory_topic import Session

CAPS: Final = Caps(
    dedup=True,
    delay=True,
    fencing=True,
    atomic_emit=True,
    stable_identity=True,
    lease="time",
    max_body=None,
    fair=True,
    durable=False,
)
KEPT: Final = Kept(
    when_killed="everything is lost with the process",
    when_power_fails="the same",
    demands=("nothing can be",),
)


class _Alarm(Protocol):
    def cancel(self) -> None: ...


@runtime_checkable
class _Timers(Protocol):
    """A clock that also rings, such as `murmur.testing.VirtualClock`; with any other, waits take real time."""

    def call_at(self, when: float, ring: Callable[[], object], /) -> _Alarm: ...


class MemoryTransport:
    """The transport port on a `MemoryBroker`. Its leases run for as long as it is not closed, killed or stalled."""

    def __init__(self, broker: MemoryBroker, *, consumer_id: str) -> None:
        self.broker = broker
        self._session = Session(consumer_id)
        clock: object = broker.clock
        self._timers = clock if isinstance(clock, _Timers) else None

    @property
    def caps(self) -> Caps:
        """What this broker can promise."""
        return CAPS

    async def open(self, specs: Sequence[TopicSpec]) -> None:
        """Declare topics. A killed consumer of the same name loses to this one what it held, at once."""
        if self._session.is_closed:
            raise WrongForm(used="a MemoryTransport after close()", instead="a new one")
        await self.running()
        self.broker.join(self._session, specs)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Receipt]:
        """Take the messages in; nothing is ever refused."""
        await self.running()
        return self.broker.publish(messages)

    async def receive(
        self,
        group: str,  # noqa: ARG002  a topic has one group here
        topics: Mapping[str, int],
        *,
        credit: int,
        wait: float,
    ) -> Sequence[Delivery]:
        """Return what is ready, or wait for it. Raises `WrongForm` for a topic that was not opened."""
        if self._session.is_closed:
            raise WrongForm(used="receive() after close()", instead="a new MemoryTransport")
        broker, session = self.broker, self._session
        deadline = broker.clock() + wait
        while True:
            await self.running()
            taken = broker.take(session, topics, credit=credit)
            if taken or session.is_closed or broker.clock() >= deadline:
                return taken
            await self._wait(topics, deadline)

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing] = ()) -> Sequence[Settled]:
        """Settle and emit in one step; where no delivery was left to settle, nothing is emitted."""
        await self.running()
        return self.broker.settle(self._session, deliveries, emit)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, counted: bool = False
    ) -> Sequence[Settled]:
        """Give back; what is not counted goes first again."""
        await self.running()
        return self.broker.give_back(self._session, deliveries, delay=delay, counted=counted)

    async def dead(self, delivery: Delivery, letter: bytes) -> Settled:
        """Move to the dead topic, which keeps the newest letters. Raises `WrongForm` where the spec names none."""
        await self.running()
        return self.broker.bury(self._session, delivery, letter)

    def lost(self) -> AsyncIterator[Delivery]:
        """Yield what was lost while this consumer was stalled, or to a wipe. One iterator at a time."""
        return self._session.lost

    async def stats(self, topic: str, group: str) -> TopicStats:  # noqa: ARG002  a topic has one group here
        """Count exactly; what is delayed is not ready."""
        spec = self._session.specs.get(topic)
        return self.broker.stats(topic, spec.dead_topic if spec else None)

    async def close(self, *, grace: float = 5.0) -> None:  # noqa: ARG002  nothing is ever under way
        """Give back what is held. A waiting `receive` returns `()`."""
        self.broker.leave(self._session)

    async def running(self) -> None:
        """Return at once unless this consumer was stalled or killed; then when it is resumed, or never."""
        session = self._session
        while session.gone_at is not None:
            bell = Bell()
            if not self.broker.is_running(session, bell):
                await bell.rung()

    async def _wait(self, topics: Iterable[str], deadline: float) -> None:
        """Wait for a message, the deadline, or whatever else is a reason to look again."""
        bell = Bell()
        is_cancelled = True
        try:
            look = min(self.broker.watch(self._session, topics, bell), deadline)
            await self._rung(bell, by=look)
            is_cancelled = False
        finally:
            # A bell that rang for a cancelled waiter would be a message nobody looks for.
            self.broker.unwatch(self._session, topics, bell, passes_on=is_cancelled)

    async def _rung(self, bell: Bell, *, by: float) -> None:
        """Wait for a bell, at most until the clock shows `by`."""
        now = self.broker.clock()
        if by <= now:
            return
        if by == math.inf:
            await bell.rung()
            return
        alarm: _Alarm
        if self._timers is not None:
            alarm = self._timers.call_at(by, bell.ring)
        else:
            alarm = asyncio.get_running_loop().call_later(by - now, bell.ring)
        try:
            await bell.rung()
        finally:
            alarm.cancel()


def connect(
    url: str,
    *,
    consumer_id: str,
    namespace: str,  # noqa: ARG001  topics bear it already; the wiring calls every adapter alike
    lease: float | None,  # noqa: ARG001  stands in each TopicSpec; the wiring calls every adapter alike
) -> MemoryTransport:
    """Return a transport for `memory://name`, shared within this process, or `memory://`, private to it."""
    return MemoryTransport(_brokers.broker(broker_name(url)), consumer_id=consumer_id)


def broker_name(url: str) -> str:
    """Return the name in a `memory://` URL, `""` if it has none. Raises `BadURL` for any other URL."""
    scheme, separator, name = url.partition("://")
    if scheme != "memory" or not separator:
        raise BadURL(url=url, problem="expected memory:// or memory://name")
    return name.strip("/")


class _Brokers:
    """The named brokers of this process, each for as long as somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._named: WeakValueDictionary[str, MemoryBroker] = WeakValueDictionary()

    def broker(self, name: str) -> MemoryBroker:
        """Return the broker of this name; a new one for the empty name."""
        with self._lock:
            broker = self._named.get(name) or MemoryBroker(clock=time.monotonic)
            if name:
                self._named[name] = broker
            return broker


# The one mutable module state of this adapter: a process is the scope of a memory broker,
# and nothing smaller is known to both a publisher and a worker.
_brokers: Final = _Brokers()
