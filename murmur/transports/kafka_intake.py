"""One mailbox as this process works on it: read ahead, handed out under credit, settled in any order.

What is read ahead is nobody's: it is handed out once the ledger that says so is written, so that whoever
comes after us knows how often a message was. A settle is answered once it is written, too; those of
one moment share a write. Settling what the group has given to others is refused by the broker.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Literal

from aiokafka import errors as kafka_errors
from loguru import logger
from msgspec import Struct

from murmur.bell import Feed
from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transport import Delivery, Settled, TopicSpec
from murmur.transports.kafka_ahead import Ahead
from murmur.transports.kafka_ledger import Outcome
from murmur.transports.kafka_link import DEADLINE, KafkaLink, pause
from murmur.transports.kafka_member import Member, Moved
from murmur.transports.kafka_notes import Outcomes
from murmur.transports.kafka_records import Item, item_of
from murmur.transports.kafka_survey import declare_work, survey

_AHEAD: Final = 1_000  # messages read before they are asked for
_BYTES_AHEAD: Final = 32 * 1024 * 1024  # of their bodies
_AT_ONCE: Final = 500  # messages of one read
_TICK: Final = 0.2  # seconds between two looks after what nobody tells us
_ROOM_FOR: Final = 0.5  # seconds since the last receive for which we still count as having room
_HUNGRY_AFTER: Final = 0.4  # seconds without a message, until we look whether others have some for us
_HUNGRY_AGAIN: Final = 8.0  # seconds, at most, until we look again
_REFUSED_FOR: Final = 5.0  # seconds until we ask again whether we may
_CLEAN_EVERY: Final = 30.0  # seconds between two deletions of what is done
_SESSION: Final = 10.0  # seconds a member may be silent that was given no lease

State = Literal["held", "done", "lost"]


class Hold(Struct, eq=False):
    """What a delivery stands for."""

    intake: "Intake"
    partition: int
    item: Item
    owner: bytes  # who we were when it was taken
    count: int
    state: State = "held"
    outcome: Outcome | None = None  # how it is being settled; whether that is written is not known


class Intake:
    """The working half of a transport, for one topic."""

    def __init__(self, link: KafkaLink, spec: TopicSpec, *, lost: Feed[Delivery], on_news: Callable[[], None]) -> None:
        self.spec = spec
        self.held: dict[Delivery, Hold] = {}
        self._link, self._lost, self._on_news = link, lost, on_news
        self._member = Member(
            link, spec.name, session=spec.lease or _SESSION, wish=self._has_room, on_news=self._loaded
        )
        self._parts: dict[int, Ahead] = {}
        self._waiting = 0  # receives that want something of this topic
        self._wanted_at = self._fed_at = asyncio.get_running_loop().time()
        self._patience = _HUNGRY_AFTER
        self._turn = 0
        self._has_space = asyncio.Event()
        self.joined = asyncio.Event()  # set once we know for the first time what is ours to read, or that nothing is
        self._tasks: set[asyncio.Task[None]] = set()
        self._loops: dict[asyncio.Task[None], Callable[[], Coroutine[Any, Any, None]]] = {}
        self._failures: list[BaseException] = []  # of loops, to be told to whoever receives

    def start(self) -> None:
        """Begin to join, and to read."""
        for loop in (self._read_forever, self._look_forever):
            self._loops[self._run(loop())] = loop

    async def stop(self) -> None:
        """Leave; what is held is to be given back before."""
        await cancelled(self._tasks)
        await self._member.stop()

    # -- handing out ------------------------------------------------------------------------------------------------

    def want(self, change: int) -> None:
        """Somebody begins (1) or ends (-1) to wait for a message of this topic."""
        now = asyncio.get_running_loop().time()
        if change > 0 and now - self._wanted_at > _ROOM_FOR and not self._waiting:
            self._fed_at, self._patience = now, _HUNGRY_AFTER
        self._waiting += change
        self._wanted_at = now

    def pick(self, most: int) -> list[Delivery]:
        """Take up to `most` messages; they are the caller's once `grant` says so. Raises `BrokerRefused`."""
        if self._failures:
            self._begin_anew()
            raise self._failures.pop()
        if self._member.refusal is not None:
            raise self._member.refusal
        if not self._member.is_settled.is_set():
            return []
        picked: list[Delivery] = []
        now = time.time()
        numbers = sorted(self._parts)
        self._turn += 1
        for number in numbers[self._turn % len(numbers) :] + numbers[: self._turn % len(numbers)] if numbers else ():
            part, ledger = self._parts[number], self._member.ledgers[number]
            part.promote(now)
            while part.ready and len(picked) < most and ledger.has_room(part.ready[0].offset):
                item = part.take()
                count = ledger.take(item.offset, self._member.me)
                hold = Hold(self, number, item, self._member.me, count)
                picked.append(Delivery(self.spec.name, item.body, item.headers, item.id, count, hold))
        self.held |= {one: one.token for one in picked if isinstance(one.token, Hold)}
        if picked:
            self._fed_at, self._patience = asyncio.get_running_loop().time(), _HUNGRY_AFTER
            self._has_space.set()
        return picked

    async def grant(self, picked: Sequence[Delivery]) -> list[Delivery]:
        """Write down that these are handed out; return those that are. Not to be cancelled."""
        try:
            await self._member.write({self.held[one].partition for one in picked if one in self.held})
        except (Moved, OutcomeUnknown):
            self.take_back(picked)  # if it was written all the same, nobody but us can undo it
            return []
        return [one for one in picked if one in self.held]

    def take_back(self, deliveries: Sequence[Delivery]) -> None:
        """Give back what its receiver never got, however long that takes."""
        self._run(self._take_back(deliveries))

    async def _take_back(self, deliveries: Sequence[Delivery]) -> None:
        is_known = False
        while not is_known:
            settled = await self.settle(deliveries, back=lambda hold: hold.count - 1)
            is_known = all(one.reason != "unknown" for one in settled)

    # -- settling ---------------------------------------------------------------------------------------------------

    async def settle(
        self, deliveries: Sequence[Delivery], *, back: Callable[[Hold], int] | None = None, delay: float = 0.0
    ) -> list[Settled]:
        """Settle for good; with `back`, give back as handed out so many times before. Not to be cancelled."""
        holds = {one: one.token for one in deliveries if isinstance(one.token, Hold)}
        due = time.time() + delay if delay > 0 else 0.0
        for hold in holds.values():
            if hold.state == "held":
                hold.outcome = Outcome(hold.count, None if back is None else back(hold), due)
        deadline = asyncio.get_running_loop().time() + DEADLINE
        is_known = True
        while is_known and (open_ := [hold for hold in holds.values() if hold.state == "held"]):
            try:
                async with asyncio.timeout_at(deadline):
                    await self._member.is_settled.wait()
                    await self._settle(open_)
            except Moved:
                await asyncio.sleep(0.02)  # until it is settled again
            except (OutcomeUnknown, TimeoutError):
                is_known = False
        for one, hold in holds.items():
            if hold.state != "held":
                self.held.pop(one, None)
        return [_answer(one, holds[one].state if one in holds else "lost") for one in deliveries]

    async def confirm(self, hold: Hold) -> State | None:
        """Return what became of it up to this moment; None if nobody knows."""
        try:
            async with asyncio.timeout(DEADLINE):
                await self._member.is_settled.wait()
                is_member = await self._member.is_member()
        except TimeoutError:
            return None
        return hold.state if is_member or hold.state != "held" else None if is_member is None else "lost"

    async def _settle(self, holds: Sequence[Hold]) -> None:
        member = self._member
        ours = [hold for hold in holds if hold.partition in member.ledgers]
        for hold in ours:
            assert hold.outcome is not None
            member.ledgers[hold.partition].apply(member.me, hold.item.offset, hold.outcome)
        if ours:
            await member.write({hold.partition for hold in ours})
            self._over(ours)
        theirs = [hold for hold in holds if hold.state == "held"]
        if not theirs:
            return
        is_member = await member.is_member()
        if is_member is None:
            raise OutcomeUnknown(call="heartbeat", problem="no answer in time")
        if not is_member:
            raise Moved
        noted: Outcomes = {}
        for hold in theirs:
            assert hold.outcome is not None
            noted.setdefault(hold.partition, {})[hold.item.offset] = hold.outcome
        await member.notes.add(noted)
        self._over(theirs)

    def _over(self, holds: Iterable[Hold]) -> None:
        for hold in holds:
            if hold.state != "held" or hold.outcome is None:
                continue
            hold.state = "done"
            part, ledger = self._parts.get(hold.partition), self._member.ledgers.get(hold.partition)
            if hold.outcome.back is not None and part is not None and ledger is not None:
                part.put_back(hold.item, hold.outcome.due, ledger)
                self._on_news()

    # -- what the group says ----------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._waiting > 0 or asyncio.get_running_loop().time() - self._wanted_at < _ROOM_FOR

    def _loaded(self) -> None:
        """The partitions are others, or their ledgers."""
        member = self._member
        self._parts = {number: Ahead(ledger) for number, ledger in member.ledgers.items()}
        for delivery, hold in list(self.held.items()):
            if self._is_ours(hold):
                continue
            hold.state = "done" if self._is_written(hold) else "lost"
            del self.held[delivery]
            if hold.outcome is None:
                self._lost.give(delivery)
        self._has_space.set()
        self.joined.set()
        self._on_news()

    def _is_ours(self, hold: Hold) -> bool:
        """Whether we hold it still: the group kept us, and nobody who reads its partition freed it."""
        if hold.owner != self._member.me or self._member.is_gone:
            return False
        ledger = self._member.ledgers.get(hold.partition)
        if ledger is None:
            return True
        entry = ledger.entries.get(hold.item.offset)
        return entry is not None and entry.owner == hold.owner and entry.count == hold.count

    def _is_written(self, hold: Hold) -> bool:
        """Whether what we meant to write about it stands in the ledger."""
        ledger = self._member.ledgers.get(hold.partition)
        if ledger is None or hold.outcome is None or hold.owner != self._member.me:
            return False
        if hold.outcome.back is None:
            return ledger.is_done(hold.item.offset)
        entry = ledger.entries.get(hold.item.offset)
        return not ledger.is_done(hold.item.offset) and (entry.count if entry else 0) == hold.outcome.back

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _read_forever(self) -> None:
        while True:
            if self._member.consumer is None:
                await self._begin()
                continue
            if self._is_far_ahead():
                self._has_space.clear()
                await self._has_space.wait()
                continue
            try:
                batches = await self._member.consumer.getmany(timeout_ms=1_000, max_records=_AT_ONCE)
            except kafka_errors.NoOffsetForPartitionError:
                await asyncio.sleep(0.02)  # its ledger says where to begin, once it is loaded
            except kafka_errors.OffsetOutOfRangeError:
                self._member.reload()
                await asyncio.sleep(0.1)
            except kafka_errors.KafkaError as error:
                await self._mend(error)
            else:
                for place, records in batches.items():
                    self._arrived(place.partition, records)

    def _is_far_ahead(self) -> bool:
        parts = self._parts.values()
        return sum(len(part.known) for part in parts) >= _AHEAD or sum(part.size for part in parts) >= _BYTES_AHEAD

    def _arrived(self, number: int, records: Sequence[Any]) -> None:
        part, ledger = self._parts.get(number), self._member.ledgers.get(number)
        if part is None or ledger is None or not self._member.is_settled.is_set():
            return  # it is read again from its ledger's base
        for record in records:
            if record.offset >= part.next:
                ledger.finish(*range(part.next, record.offset))  # offsets that are no messages
                part.next = record.offset + 1
                part.arrive(item_of(record), ledger)
        self._on_news()

    async def _mend(self, error: kafka_errors.KafkaError) -> None:
        """Leave and join anew, for what the client library does not come back from."""
        told = self._link.told(error)
        if isinstance(told, BrokerRefused):  # whoever reads is told
            self._refused(told)
            await self._member.end()
            await asyncio.sleep(_REFUSED_FOR)
            return
        logger.warning("reading {} failed, begins anew: {}", self.spec.name, told)
        await self._member.end()

    def _refused(self, error: BrokerRefused) -> None:
        self._member.refusal = error
        self.joined.set()
        self._on_news()

    async def _begin(self) -> None:
        began = asyncio.get_running_loop().time()
        while self._member.consumer is None:
            try:
                await self._member.begin()
            except BrokerUnreachable:
                away = asyncio.get_running_loop().time() - began
                await asyncio.sleep(pause(away, random.random()))  # noqa: S311  jitter, no secret
            except BrokerRefused as error:
                self._refused(error)
                await asyncio.sleep(_REFUSED_FOR)
            else:
                self._member.refusal = None

    # -- looking after what nobody tells us -------------------------------------------------------------------------

    async def _look_forever(self) -> None:
        loop = asyncio.get_running_loop()
        clean_at = loop.time() + _CLEAN_EVERY
        while True:
            await asyncio.sleep(_TICK)
            try:
                await self._look()
                if loop.time() >= clean_at:
                    clean_at = loop.time() + _CLEAN_EVERY
                    await self._link.forget(self.spec.name, dict(self._member.written))
            except (BrokerUnreachable, BrokerRefused, Moved, OutcomeUnknown, kafka_errors.KafkaError) as error:
                logger.debug("looking after {}: {!r}", self.spec.name, error)

    async def _look(self) -> None:
        member, now = self._member, time.time()
        if any(part.later and part.later[0][0] <= now for part in self._parts.values()):
            self._on_news()
        changed, again = await member.hear()
        for number in again:
            self._parts[number] = Ahead(member.ledgers[number])
            member.read_again(number)
        if changed:
            await member.write(changed)
        if self._is_hungry() and member.is_settled.is_set():
            if not await self._link.count(self.spec.name):
                logger.warning("made {} anew: the cluster had lost it", self.spec.name)
                await declare_work(self._link, [self.spec], is_anew=True)
                return
            if await member.is_forgotten():
                member.reload()
                return
            stats = await survey(self._link, self.spec)
            if (stats.ready or 0) > sum(len(part.known) for part in self._parts.values()):
                member.rejoin()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """What nobody expected is told to whoever receives."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)
            self.joined.set()
            self._on_news()

    def _begin_anew(self) -> None:
        """Begin the loops again that broke: how often that may be is left to whoever is told."""
        for task, loop in list(self._loops.items()):
            if task.done():
                del self._loops[task]
                self._loops[self._run(loop())] = loop

    def _is_hungry(self) -> bool:
        now = asyncio.get_running_loop().time()
        if not self._waiting or now - self._fed_at < self._patience:
            return False
        self._fed_at, self._patience = now, min(2 * self._patience, _HUNGRY_AGAIN)
        return True


def _answer(delivery: Delivery, state: State) -> Settled:
    if state == "held":
        return Settled(delivery.id, ok=False, reason="unknown")
    return Settled(delivery.id, ok=state == "done", reason=state)
