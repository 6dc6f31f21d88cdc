"""One node as a member of one mailbox's group: which partitions it reads, and what it and others hold of them.

The group moves partitions as members come, go and fill up. What a member runs does not move: it
stays the member's own until it is settled, whoever reads the partition meanwhile, and is noted as such in
the ledger. How it ended is then told by a note of the member's own (`kafka_notes`). A member the group has
given up holds nothing any more, and gets another identity when it comes back. This module follows the group,
loads ledgers and writes them; `kafka_intake` reads, hands out and settles.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.structs import OffsetAndMetadata
from loguru import logger

from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transports.kafka_assignor import Assignor, Wish, identity
from murmur.transports.kafka_commit import commit, heard
from murmur.transports.kafka_ledger import Ledger
from murmur.transports.kafka_link import DEADLINE, KafkaLink, stopped
from murmur.transports.kafka_notes import Notes, Outcomes, read_notes

_LONGEST_BEAT: Final = 0.5  # seconds between two heartbeats: what a rebalance takes
_LEAST_REBALANCE: Final = 10.0  # seconds that members have to join again, if they live
_LINGER, _BUSY = 0.002, 0.01  # seconds a commit waits for others, if the last one is not longer ago than that
_NEVER: Final = 2**31 - 1


class Moved(Exception):
    """The group is about to move partitions, or has: what was to be committed was not."""


class Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """Follows the group of one topic, whose name is the topic's."""

    def __init__(
        self, link: KafkaLink, topic: str, *, session: float, wish: Callable[[], bool], on_news: Callable[[], None]
    ) -> None:
        self.link, self.topic = link, topic
        self.me = b""  # our identity in ledgers; empty before we joined
        self.ledgers: dict[int, Ledger] = {}  # of the partitions we read
        self.written: dict[int, int] = {}  # what we committed since we read these: all before it is done for good
        self.is_settled = asyncio.Event()  # cleared while partitions move
        self.is_gone = False  # the topic was deleted, and all in it
        self.refusal: BrokerRefused | None = None
        self.consumer: Any = None  # AIOKafkaConsumer, which is not typed
        self.notes = Notes(link, topic)
        self._session = session
        self._on_news = on_news  # ledgers were loaded: read from their bases
        self._assignor = Assignor(lambda: Wish(wish(), sorted(self.ledgers)))
        self._round = 0
        self._is_stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing: asyncio.Task[None] | None = None
        self._committing: asyncio.Future[None] | None = None
        self._dirty: set[int] = set()
        self._is_dirty = asyncio.Event()
        self._written: asyncio.Future[None] | None = None  # when what is dirty now has been written

    async def begin(self) -> None:
        """Begin to join the group. Raises `BrokerUnreachable`, `BrokerRefused`."""
        least, most = await self.link.session_bounds()
        session = min(max(self._session, least), most)
        consumer = self.link.consumer(
            group_id=self.topic,
            session_timeout_ms=int(session * 1000),
            rebalance_timeout_ms=int(max(session, _LEAST_REBALANCE) * 1000),
            heartbeat_interval_ms=int(min(session / 6, _LONGEST_BEAT) * 1000),
            max_poll_interval_ms=_NEVER,  # whether we live is told by heartbeats; what is read waits for free slots
            partition_assignment_strategy=(self._assignor,),
        )
        await self.link.start(consumer)
        self.consumer = consumer
        consumer.subscribe([self.topic], listener=self)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_forever())

    async def end(self) -> None:
        """Leave the group; `begin` may be called again."""
        self._round += 1
        self.is_settled.clear()
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            await stopped(consumer)

    async def stop(self) -> None:
        """Leave the group at once, so that others take over."""
        self._is_stopped = True
        self._round += 1
        await cancelled([*self._tasks, self._writing])
        if self._written is not None:
            _fail(self._written, OutcomeUnknown(call="commit", problem="closed"))
        await self.end()
        await self.notes.close()

    def rejoin(self) -> None:
        """Have the group share out the partitions anew."""
        if self.consumer is not None:  # else we are about to
            self.consumer._coordinator.request_rejoin()  # aiokafka offers no public way

    async def is_member(self) -> bool | None:
        """Ask the group whether we still belong to it; None if nobody knows."""
        if self.consumer is None:
            return None
        coordinator = self.consumer._coordinator  # aiokafka offers no public way
        me = self.me
        with contextlib.suppress(kafka_errors.KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(DEADLINE):
                if await coordinator._do_heartbeat():
                    return me == self.me
        return None if coordinator.member_id and me == self.me else False

    # -- writing ----------------------------------------------------------------------------------------------------

    async def write(self, partitions: Collection[int]) -> None:
        """Commit the ledgers of partitions, together with what others write now.

        Raises: Moved, if they are not ours to write now; OutcomeUnknown.
        """
        self._dirty |= set(partitions)
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
            self._is_dirty.set()
        await asyncio.shield(self._written)

    async def _write_forever(self) -> None:
        loop, wrote_at = asyncio.get_running_loop(), 0.0
        while True:
            await self._is_dirty.wait()
            self._is_dirty.clear()
            # Whoever settles in this turn of the loop joins; where one commit follows another, in the next moment too.
            await asyncio.sleep(_LINGER if loop.time() - wrote_at < _BUSY else 0)
            dirty, written = self._dirty, self._written
            self._dirty, self._written = set(), None
            assert written is not None
            try:
                await self._write(dirty)
            except (Moved, OutcomeUnknown) as error:
                _fail(written, error)
            except asyncio.CancelledError:
                _fail(written, OutcomeUnknown(call="commit", problem="closed"))
                raise
            else:
                written.set_result(None)
            wrote_at = loop.time()

    async def _write(self, partitions: set[int]) -> None:
        if not self.is_settled.is_set() or not partitions <= self.ledgers.keys():
            raise Moved
        await self._commit({one: self.ledgers[one] for one in partitions})

    async def _commit(self, ledgers: Mapping[int, Ledger]) -> None:
        offsets = {
            TopicPartition(self.topic, number): OffsetAndMetadata(ledger.base, ledger.encoded())
            for number, ledger in ledgers.items()
        }
        if not offsets:
            return
        if self.consumer is None or not self.consumer._coordinator.member_id:
            raise Moved  # the cluster would take it from anybody, once the group has no members
        committing = self._committing = asyncio.ensure_future(commit(self.consumer, offsets))
        committing.add_done_callback(heard)
        try:
            await asyncio.wait([committing])
            await committing
        except asyncio.CancelledError:
            if committing.cancelled() and not _is_cancelling():
                raise Moved from None
            raise
        except (kafka_errors.CommitFailedError, kafka_errors.IllegalStateError) as error:
            raise Moved from error
        except (kafka_errors.KafkaError, OSError) as error:
            raise OutcomeUnknown(call="commit", problem=str(error) or "no answer in time") from error
        finally:
            committing.cancel()
        self.written |= {place.partition: one.offset for place, one in offsets.items()}

    # -- the group moves --------------------------------------------------------------------------------------------

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:  # noqa: ARG002  aiokafka calls it so
        """Hand nothing out until it is known who reads what."""
        self._round += 1
        self.is_settled.clear()
        if self._committing is not None:
            self._committing.cancel()  # what it waits for may not come before the next generation does

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Load what is known of our partitions; not here, for until this returns nobody sends heartbeats."""
        self._round += 1
        self._load_soon({one.partition for one in assigned})

    def _load_soon(self, partitions: set[int]) -> None:
        self.written.clear()
        if not self._is_stopped:
            self._run(self._load_patiently(self._round, partitions))

    async def is_forgotten(self) -> bool:
        """Whether the cluster does not know any more what we committed: then the topic was made anew. Raises as the
        link does."""
        round_number, written = self._round, set(self.written)
        return not written <= (await self.link.committed(self.topic, self.topic)).keys() and round_number == self._round

    def reload(self) -> None:
        """Look again: the partitions are others than we thought, for instance made anew."""
        self.is_settled.clear()
        self._round += 1
        self._load_soon({one.partition for one in self.consumer.assignment()})

    async def _load_patiently(self, round_number: int, partitions: set[int]) -> None:
        while self._round == round_number and self.consumer is not None:
            try:
                await self._load(round_number, partitions)
            except BrokerRefused as error:
                self.refusal = error
            except (BrokerUnreachable, OutcomeUnknown, Moved, kafka_errors.IllegalStateError) as error:
                logger.debug("cannot read the ledgers of {} yet: {!r}", self.topic, error)
            else:
                self.refusal = None
                return
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311  jitter, no secret

    async def _load(self, round_number: int, partitions: set[int]) -> None:
        me = identity(self.consumer._coordinator.member_id)
        is_gone = not await self.link.know(self.topic)
        ledgers = await self._loaded(partitions)
        absent = {owner for ledger in ledgers.values() for owner in ledger.owners()} - self._assignor.members - {me}
        notes = dict(await read_notes(self.link, self.topic, absent))
        notes[me] = self.notes.about(me, partitions)
        changed = {number for number, ledger in ledgers.items() if _caught_up(number, ledger, absent, notes)}
        if self._round != round_number:
            return
        await self._commit({number: ledgers[number] for number in changed})
        # Only now: who takes over while this was under way must find there what is not in the ledger yet. And not
        # later: a note about an earlier hand-out must not be taken for one about the next.
        await self.notes.forget(notes[me])
        if self._round != round_number or self.consumer is None:
            return
        for number, ledger in ledgers.items():
            self.consumer.seek(TopicPartition(self.topic, number), ledger.base)
        self.ledgers, self.me, self.is_gone = ledgers, me, is_gone
        self.is_settled.set()
        self._on_news()

    async def _loaded(self, partitions: set[int]) -> dict[int, Ledger]:
        if not partitions:
            return {}
        committed, begins, ends = await asyncio.gather(
            self.link.committed(self.topic, self.topic), self.link.begins(self.topic), self.link.ends(self.topic)
        )
        return {one: Ledger.of(committed.get(one), begin=begins[one], end=ends[one]) for one in partitions}

    async def hear(self) -> tuple[set[int], set[int]]:
        """Look how what others hold of our partitions ended.

        Return the partitions where something did, and those where something came back.
        """
        others = {owner for ledger in self.ledgers.values() for owner in ledger.owners()} - {self.me}
        changed, again = set[int](), set[int]()
        if not others or not self.is_settled.is_set():
            return changed, again
        round_number = self._round
        notes = await read_notes(self.link, self.topic, others)
        if self._round != round_number:
            return changed, again
        for owner, theirs in notes.items():
            for number, outcomes in theirs.items():
                for offset, outcome in outcomes.items():
                    if number in self.ledgers and self.ledgers[number].apply(owner, offset, outcome):
                        changed.add(number)
                        if outcome.back is not None:
                            again.add(number)
        return changed, again

    def read_again(self, number: int) -> None:
        """Read a partition again from its base."""
        self.consumer.seek(TopicPartition(self.topic, number), self.ledgers[number].base)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _run(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # somebody may have stopped waiting


def _caught_up(number: int, ledger: Ledger, absent: Collection[bytes], notes: Mapping[bytes, Outcomes]) -> bool:
    """Apply what is noted, and free what nobody holds any more; whether that changed the ledger."""
    is_changed = False
    for owner, noted in notes.items():
        for offset, outcome in noted.get(number, {}).items():
            is_changed |= ledger.apply(owner, offset, outcome)
    for owner in absent:
        for offset, entry in ledger.held_by(owner):
            ledger.put_back(offset, entry.count)
            is_changed = True
    return is_changed
