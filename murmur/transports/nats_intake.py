"""Receiving work from NATS: exactly the free credit, nothing lost to a cancelled caller.

A look takes what is ready; when it finds nothing, one waiting request to each topic brings
the first that comes, and the others are withdrawn. The caller may be cancelled at any point,
the reading itself never is: what it brings after that is given back at once. Consumers are
looked after here: made when first read, and again when their stream was deleted, with which
everything that was held of it is lost.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, cast

from loguru import logger

from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transport import Delivery
from murmur.transports.nats_answers import JetStreamError
from murmur.transports.nats_pull import Pull
from murmur.transports.nats_session import Hold, Session, delivered
from murmur.transports.nats_streams import CONSUMER, CONSUMER_MISSING, NANOSECONDS, STREAM_MISSING, lease_of, made_at

LONGEST_WAIT: Final = 5.0  # seconds of one waiting request
_AT_ONCE: Final = 0.01  # seconds in which a waiting request brings what was there already
_SAME: Final = 0.1  # seconds between what the server says of one consumer before and after it was killed, at the most
_LOOK_EVERY: Final = 5.0  # seconds between two looks at the consumers, at the most

GiveBack = Callable[[Sequence[Delivery]], Awaitable[object]]


class _Reading:
    """One `receive` under way."""

    def __init__(self) -> None:
        self.is_stopped = False
        self.bell = asyncio.Event()

    def stop(self) -> None:
        self.is_stopped = True
        self.bell.set()


class Intake:
    """The receiving half of a transport. `give_back` releases deliveries, uncounted."""

    def __init__(self, session: Session, *, give_back: GiveBack) -> None:
        self._session, self._give_back = session, give_back
        self._readings: dict[asyncio.Task[list[Delivery]], _Reading] = {}
        self._givings: set[asyncio.Task[None]] = set()
        self._pulls: set[Pull] = set()
        self._made: dict[str, float] = {}  # when the consumer of a topic was made
        self._unsure: set[str] = set()  # topics whose consumer may be another one by now
        self._turn = 0  # which topic is read first
        self._is_trickle = False  # the last look found one at most: wait for the next, do not look first
        self._looking: asyncio.Task[None] | None = None
        session.link.tell(self._told)

    async def receive(self, topics: Mapping[str, int], *, credit: int, wait: float) -> list[Delivery]:
        """Return up to `credit` deliveries, or none after `wait` seconds. Raises `BrokerRefused`, `WrongForm`."""
        if credit <= 0 or not topics:
            return []
        for name in topics:
            self._session.spec(name)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        reading = _Reading()
        task = asyncio.create_task(self._receive(reading, dict(topics), credit, wait))
        self._readings[task] = reading
        task.add_done_callback(self._readings.pop)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            reading.stop()
            task.add_done_callback(self._return)
            raise

    async def close(self) -> None:
        """End what is under way; nothing more is handed to us."""
        await cancelled([self._looking])
        for reading in self._readings.values():
            reading.stop()
        while self._readings or self._givings:
            await asyncio.wait([*self._readings, *self._givings])

    def has_consumer(self, topic: str) -> bool:
        """Whether we made sure of the consumer of a topic."""
        return topic in self._made

    # -- one receive ------------------------------------------------------------------------------------------------

    async def _receive(self, reading: _Reading, topics: dict[str, int], credit: int, wait: float) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            try:
                await self._make_sure(topics)
                left = deadline - loop.time()
                if left <= 0 or not self._is_trickle:
                    taken = await self._take(self._in_turn(topics), credit)
                    left = deadline - loop.time()
                    if taken or reading.is_stopped or left <= 0:
                        return taken
                taken = await self._wait(reading, self._in_turn(topics), credit, min(left, LONGEST_WAIT))
                if taken:
                    return taken
                if loop.time() - deadline + left < _AT_ONCE:
                    await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311  refused at once: not again at once
            except (BrokerUnreachable, OutcomeUnknown):
                await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311  jitter, no secret
            if self._session.link.wire is None:
                self._unsure.update(topics)
                await self._session.link.up(max(0.0, deadline - loop.time()))
            if reading.is_stopped or loop.time() >= deadline:
                return []

    async def _take(self, topics: Sequence[tuple[str, int]], credit: int) -> list[Delivery]:
        """Take what is ready: first an even share of each topic, then, of those that had more, the rest."""
        taken: list[Delivery] = []
        asked = topics
        for _ in range(2):
            room = credit - len(taken)
            shares = [
                (name, min(most, share)) for (name, most), share in zip(asked, _shares(room, len(asked)), strict=True)
            ]
            pulls = {name: self._pull(name, batch=batch, expires=0.0) for name, batch in shares if batch > 0}
            for name, pull in pulls.items():
                await pull.over()
                self._ended(name, pull)
            came = {name: self._handed(name, pull) for name, pull in pulls.items()}
            taken += [one for deliveries in came.values() for one in deliveries]
            of = dict(shares)
            asked = [
                (name, most - of[name])
                for name, most in asked
                if name in pulls and len(pulls[name].messages) == of[name]
            ]
            asked = [(name, most) for name, most in asked if most > 0]
            if len(taken) >= credit or not asked:
                break
        self._is_trickle = not taken
        return taken

    async def _wait(
        self, reading: _Reading, topics: Sequence[tuple[str, int]], credit: int, longest: float
    ) -> list[Delivery]:
        """Wait for the first message of any topic."""
        began = asyncio.get_running_loop().time()
        reading.bell.clear()
        if reading.is_stopped:
            return []
        pulls = {
            name: self._pull(name, batch=1, expires=longest, woken=reading.bell.set)
            for name, most in topics
            if most > 0
        }
        while not reading.is_stopped and all(not one.messages for one in pulls.values()):
            waiting = [one for one in pulls.values() if not one.is_over]
            if len(waiting) < len(pulls):
                break  # one is over without a message: its time is, and that of the others
            reading.bell.clear()
            left = began + longest + 1.0 - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    await reading.bell.wait()
            except TimeoutError:
                self._unsure.update(pulls)  # silence: there may be no such consumer
                break
        await asyncio.gather(*(one.stop() for one in pulls.values() if not one.is_over))
        taken: list[Delivery] = []
        for name, pull in pulls.items():
            self._ended(name, pull)
            taken += self._handed(name, pull)
        self._is_trickle = asyncio.get_running_loop().time() - began > _AT_ONCE
        if len(taken) > credit:
            self._give(taken[credit:])
        return taken[:credit]

    def _pull(self, topic: str, *, batch: int, expires: float, woken: Callable[[], None] | None = None) -> Pull:
        place = f"{self._session.streams.stream(topic)}.{CONSUMER}"
        pull = Pull(self._session.link, place, batch=batch, expires=expires, woken=woken)
        self._pulls.add(pull)
        return pull

    def _ended(self, topic: str, pull: Pull) -> None:
        self._pulls.discard(pull)
        if pull.is_silent or pull.status in (409, 503):
            self._unsure.add(topic)

    def _handed(self, topic: str, pull: Pull) -> list[Delivery]:
        """Return what a request brought as deliveries that are ours now; what comes too early goes back for later."""
        session, taken = self._session, []
        lease = session.spec(topic).lease
        for message in pull.messages:
            delivery, early = delivered(topic, message, lease=lease, asked_at=pull.asked_at)
            known = session.places.get((topic, hold_of(delivery).sequence))
            hold = None if known is None else session.held.get(known)
            if hold is not None:
                # The server thought its lease was over; it is still with us, under a new name.
                hold.reply, hold.beat_at = message.reply, time.monotonic()
                continue
            if early > 0:
                nak = b"-NAK " + json.dumps({"delay": int(early * NANOSECONDS)}).encode()
                session.link.say(message.reply.decode(), nak)
                continue
            session.hold(delivery)
            taken.append(delivery)
        return taken

    def _in_turn(self, topics: Mapping[str, int]) -> list[tuple[str, int]]:
        self._turn += 1
        first = self._turn % len(topics)
        items = list(topics.items())
        return items[first:] + items[:first]

    def _return(self, task: asyncio.Task[list[Delivery]]) -> None:
        """Give back what a cancelled caller did not take."""
        if not task.cancelled() and task.exception() is None and task.result():
            self._give(task.result())

    def _give(self, deliveries: Sequence[Delivery]) -> None:
        async def give() -> None:
            await self._give_back(deliveries)

        giving = asyncio.create_task(give())
        self._givings.add(giving)
        giving.add_done_callback(self._givings.discard)

    # -- consumers --------------------------------------------------------------------------------------------------

    async def _make_sure(self, topics: Mapping[str, int]) -> None:
        for topic in topics:
            if topic not in self._made:  # what may not be settled would be read again and again
                await self._session.link.ask(f"$JS.ACK.{self._session.streams.stream(topic)}.{CONSUMER}.may-we")
            if topic in self._unsure or topic not in self._made:
                made = await self._session.streams.declare_consumer(topic, lease=self._session.spec(topic).lease)
                self._unsure.discard(topic)
                self._seen(topic, made)

    def _seen(self, topic: str, made: float) -> None:
        before = self._made.get(topic)
        self._made[topic] = made
        if before is not None and abs(made - before) > _SAME:
            logger.warning("the stream of {} was deleted and made anew; what was held of it is lost", topic)
            self._session.forget(topic)

    def _told(self, is_back: bool) -> None:
        if is_back:
            self._unsure.update(self._made)
        else:
            for pull in self._pulls:
                pull.broken()

    async def _look(self) -> None:
        """Look now and then whether the streams of what we hold are still those it came from."""
        session = self._session
        while True:
            leases = [hold.lease for hold in session.held.copy().values() if hold.lease is not None]
            await asyncio.sleep(min([_LOOK_EVERY, *(lease / 3 for lease in leases)]))
            for topic in {one.topic for one in session.held}:
                try:
                    stands = await session.link.api(f"CONSUMER.INFO.{session.streams.stream(topic)}.{CONSUMER}")
                except JetStreamError as error:
                    if error.code in (STREAM_MISSING, CONSUMER_MISSING):
                        self._made[topic] = -math.inf
                        session.forget(topic)
                except (BrokerUnreachable, BrokerRefused, OutcomeUnknown):
                    break
                else:
                    self._seen(topic, made_at(stands))
                    if stands["config"]["ack_wait"] < lease_of(session.spec(topic).lease):
                        self._unsure.add(topic)  # somebody shortened it under us


def _shares(credit: int, count: int) -> list[int]:
    """Return `credit` in `count` parts that differ by one at most."""
    return [credit // count + (place < credit % count) for place in range(count)]


def hold_of(delivery: Delivery) -> Hold:
    """Return where a delivery stands with the server."""
    return cast(Hold, delivery.token)
