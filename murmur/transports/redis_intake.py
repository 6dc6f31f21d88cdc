"""Receiving work from Redis: exactly the free credit, granted in the same step, nothing lost to a cancelled caller.

A script takes what is ready; when it finds nothing, one blocking read waits over all topics,
and right behind it in the server the script that grants what it brings.
The caller may be cancelled at any point, the reading itself never is: what it brings after
that is given back at once. A reply that was lost with its connection may have handed us
entries nobody here knows of, ghosts: before anything more is read, they are looked for
among what is pending for us and given back too.
"""

import asyncio
import random
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, cast

from attrs import frozen
from loguru import logger

from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown, WrongForm
from murmur.transport import Delivery
from murmur.transports.redis_entries import Hold, delivered, headers_of, text, unpacked
from murmur.transports.redis_reader import LONGEST_BLOCK, BlockingReader
from murmur.transports.redis_scripts import load
from murmur.transports.redis_session import AT_ONCE, CHUNK, Session
from murmur.transports.redis_wire import Argument, Call, Reply, ServerError, settler

_TAKE: Final = load("murmur.transports", "take")
_Read = tuple[int, bytes, list[bytes]]  # index of its topic from 1, reference, fields


class _Reading:
    """One `receive` under way."""

    def __init__(self) -> None:
        self.is_stopped = False
        self.reader: BlockingReader | None = None

    def stop(self) -> None:
        self.is_stopped = True
        if self.reader is not None:
            self.reader.stop()


@frozen
class _Grants:
    """The call that grants what the blocking read before it brings, and its reply to be."""

    calls: Sequence[Call]
    reply: asyncio.Future[Reply]


class Intake:
    """The receiving half of a transport."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._readers: list[BlockingReader] = []  # that nobody uses now
        self._readings: dict[asyncio.Task[list[Delivery]], _Reading] = {}
        self._givings: set[asyncio.Task[None]] = set()
        self._turn = 0  # which topic is read first
        self._is_trickle = False  # the last look found one entry at most: wait for the next, do not look first
        self._last: dict[str, bytes] = {}  # the id that was read last from each stream
        self._has_ghosts = False
        self._search: asyncio.Task[None] | None = None  # for ghosts
        self._at_server = 0  # reads under way
        self._is_quiet = asyncio.Event()  # set when none is

    async def receive(self, topics: Mapping[str, int], *, credit: int, wait: float) -> list[Delivery]:
        """Return up to `credit` deliveries, or none after `wait` seconds. Raises `BrokerRefused`, `WrongForm`."""
        if credit <= 0 or not topics:
            return []
        if len({self._session.consumer(name) for name in topics}) > 1:
            raise WrongForm(
                used="one receive() over topics of different leases", instead="one receive() for each lease"
            )
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
        for reading in self._readings.values():
            reading.stop()
        while self._readings or self._givings:
            await asyncio.wait([*self._readings, *self._givings])
        for reader in self._readers:
            reader.close()

    # -- one receive ------------------------------------------------------------------------------------------------

    async def _receive(self, reading: _Reading, topics: dict[str, int], credit: int, wait: float) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            try:
                if self._has_ghosts:
                    await self._lay_ghosts()
                left = deadline - loop.time()
                if left <= 0 or not self._is_trickle:
                    taken = await self._alone(self._take(self._in_turn(topics), credit))
                    left = deadline - loop.time()
                    if taken or reading.is_stopped or left <= 0:
                        return taken
                waited = self._wait(reading, self._in_turn(topics), credit, min(left, LONGEST_BLOCK))
                if taken := await self._alone(waited):
                    return taken
            except (BrokerUnreachable, OutcomeUnknown):
                self._has_ghosts = True
                await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311  jitter, no secret
                await self._session.link.up(max(0.0, deadline - loop.time()))
            except BrokerRefused:
                self._has_ghosts = True  # the read may have been allowed, and what it needs beyond that not
                raise
            if reading.is_stopped or loop.time() >= deadline:
                return []

    async def _take(self, topics: Sequence[tuple[str, int]], credit: int, read: Sequence[_Read] = ()) -> list[Delivery]:
        """Take up to `credit` entries, those `read` before among them."""
        places = [argument for index, ref, values in read for argument in (index, ref, unpacked(values)[0])]
        arguments = [*self._taking(topics, credit, len(read)), *places]
        names = [name for name, _ in topics]
        return self._taken(await self._session.link.run(_TAKE, names, arguments), names, read)

    async def _wait(
        self, reading: _Reading, topics: Sequence[tuple[str, int]], credit: int, block: float
    ) -> list[Delivery]:
        """Wait for the first entry of any topic, and take what there is by then."""
        session = self._session
        self._is_trickle = False
        names = [name for name, _ in topics]
        spare: Sequence[_Read]
        grants = self._granting(topics, credit) if session.rows.prefix else None
        read = await self._read(reading, names, block, after=grants.calls if grants else ())
        if grants is None:
            found, spare = _within(read, dict(topics), credit, names)
            granted = [
                _delivery(names[index - 1], session.consumer(names[0]), ref, values) for index, ref, values in found
            ]
            session.hold(granted)
        elif grants.calls[0].was_sent:
            granted, spare = await self._granted(grants, topics, credit, read)
        else:
            return []
        if spare:
            entries = [(names[index - 1], ref) for index, ref, _ in spare]
            await session.give_back(entries, consumer=session.consumer(names[0]), how=AT_ONCE)
        return granted

    async def _read(
        self, reading: _Reading, names: Sequence[str], block: float, *, after: Sequence[Call]
    ) -> list[_Read]:
        """Block until there is an entry in any stream; return at most one of each."""
        session = self._session
        command: list[Argument] = ["XREADGROUP", "GROUP", "workers", session.consumer(names[0])]
        streams = _streams(names)
        command += ["COUNT", 1, "BLOCK", max(1, int(block * 1000)), "STREAMS", *streams, *(">" for _ in streams)]
        reader = reading.reader = self._readers.pop() if self._readers else BlockingReader(session.link)
        try:
            reply = None if reading.is_stopped else await reader.read(tuple(command), block=block, after=after)
        except ServerError as error:
            if error.code not in ("NOGROUP", "UNBLOCKED"):
                raise
            return []  # the stream was deleted: the next take makes it anew
        finally:
            reading.reader = None
            self._readers.append(reader)
        return [] if reply is None else _entries(reply, names)

    def _taking(self, topics: Sequence[tuple[str, int]], credit: int, count_before: int) -> list[Argument]:
        rows, consumer = self._session.rows, self._session.consumer(topics[0][0])
        head: list[Argument] = [rows.prefix, rows.owner, rows.retention, consumer, min(credit, CHUNK), count_before]
        return [*head, *(most for _, most in topics)]

    def _taken(self, reply: Reply, names: Sequence[str], read: Sequence[_Read]) -> list[Delivery]:
        """Hold what the script answered."""
        session = self._session
        consumer = session.consumer(names[0])
        made, count_before, items = cast(tuple[int, int, list[list[Reply]]], reply)
        if made:
            logger.warning("made {} groups anew: the server had lost them", made)
        values_of = {(index, ref): values for index, ref, values in read}
        found: list[Delivery] = []
        for at, item in enumerate(items):
            values = None
            if at < count_before:
                values = values_of.get((cast(int, item[0]), cast(bytes, item[1])))
                if values is None:
                    continue  # another read's: it asks for it itself
            found.append(delivered(names, consumer, item, values))
        session.hold(found)
        self._is_trickle = len(found) <= 1
        for one in found:
            ref = cast(Hold, one.token).ref
            is_again = ref.startswith(b"+")
            self._last[f"{one.topic}:again" if is_again else one.topic] = ref[is_again:]
        return found

    def _granting(self, topics: Sequence[tuple[str, int]], credit: int) -> _Grants:
        """Return what is to grant what the blocking read right before it brings."""
        names = [name for name, _ in topics]
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(_look_at)
        arguments = [*self._taking(topics, credit, -1), *(self._last.get(one, b"0-0") for one in _streams(names))]
        call = self._session.link.script_call(_TAKE, names, arguments, settler(reply), is_repeatable=False)
        return _Grants((call,), reply)

    async def _granted(
        self, grants: _Grants, topics: Sequence[tuple[str, int]], credit: int, read: Sequence[_Read]
    ) -> tuple[list[Delivery], Sequence[_Read]]:
        """Return what was read and granted, and what of it there is no credit for."""
        names = [name for name, _ in topics]
        try:
            found = self._taken(await grants.reply, names, read)
        except ServerError:
            found = []  # what is wrong shows when it is asked for again
        known = {(one.topic, cast(Hold, one.token).ref) for one in found}
        others = [one for one in read if (names[one[0] - 1], one[1]) not in known]
        room = dict(topics)
        for one in found:
            room[one.topic] -= 1
        wanted, spare = _within(others, room, credit - len(found), names)
        if wanted:
            found += await self._take(topics, len(wanted), wanted)
        return found, spare

    def _in_turn(self, topics: dict[str, int]) -> list[tuple[str, int]]:
        """Return the topics, each time another one first."""
        names = list(topics.items())
        self._turn = (self._turn + 1) % len(names)
        return names[self._turn :] + names[: self._turn]

    # -- what nobody waits for --------------------------------------------------------------------------------------

    def _return(self, task: "asyncio.Task[list[Delivery]]") -> None:
        """Give back what an abandoned receive brought."""
        if not task.cancelled() and task.exception() is None and task.result():
            giving = asyncio.create_task(self._give_back(task.result()))
            self._givings.add(giving)
            giving.add_done_callback(self._givings.discard)

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        session = self._session
        holds = [(one.topic, session.held.pop(one)) for one in deliveries if one in session.held]
        try:
            for consumer in {hold.consumer for _, hold in holds}:
                entries = [(topic, hold.ref) for topic, hold in holds if hold.consumer == consumer]
                await session.give_back(entries, consumer=consumer, how=AT_ONCE)
        except (BrokerRefused, BrokerUnreachable, OutcomeUnknown):
            self._has_ghosts = True

    # -- ghosts -----------------------------------------------------------------------------------------------------

    async def _alone(self, read: Awaitable[list[Delivery]]) -> list[Delivery]:
        """Await a read, but not beside a search for ghosts, which would take for one what it brings."""
        while self._search is not None:
            await asyncio.wait([self._search])
        self._at_server += 1
        try:
            return await read
        finally:
            self._at_server -= 1
            if not self._at_server:
                self._is_quiet.set()

    async def _lay_ghosts(self) -> None:
        """Give back what is pending for us and unknown here. Raises as the link does."""
        if self._search is None:
            self._search = asyncio.create_task(self._search_ghosts())
        search = self._search
        try:
            await asyncio.shield(search)
        finally:
            if self._search is search:
                self._search = None

    async def _search_ghosts(self) -> None:
        session = self._session
        while self._at_server:
            self._is_quiet.clear()
            for reading in self._readings.values():
                if reading.reader is not None:
                    reading.reader.stop()
            await self._is_quiet.wait()
        for topic, consumer in session.places():
            pending = await session.pending(topic, consumer)
            known = {hold.ref for one, hold in session.held.items() if one.topic == topic}
            ghosts = [(topic, ref) for ref in pending if ref not in known]
            if ghosts:
                logger.info("gives back {} entries of {} whose delivery was lost on the way", len(ghosts), topic)
                await session.give_back(ghosts, consumer=consumer, how=AT_ONCE)
        self._has_ghosts = False


def _entries(reply: Reply, names: Sequence[str]) -> list[_Read]:
    """Return what a blocking read brought."""
    index_of = {name: index for index, name in enumerate(names, 1)}
    found: list[_Read] = []
    for stream, entries in cast(list[tuple[bytes, list[tuple[bytes, list[bytes]]]]], reply):
        name = stream.decode()
        topic = name.removesuffix(":again")
        mark = b"+" if topic != name else b""
        found += [(index_of[topic], mark + entry, values) for entry, values in entries]
    return found


def _within(
    read: Sequence[_Read], room: dict[str, int], credit: int, names: Sequence[str]
) -> tuple[list[_Read], list[_Read]]:
    """Part what was read into what there is room for, of its topic and in all, and the rest: COUNT is per stream."""
    wanted: list[_Read] = []
    spare: list[_Read] = []
    for one in read:
        topic = names[one[0] - 1]
        if len(wanted) < credit and room[topic] > 0:
            room[topic] -= 1
            wanted.append(one)
        else:
            spare.append(one)
    return wanted, spare


def _delivery(topic: str, consumer: str, ref: bytes, values: list[bytes]) -> Delivery:
    """Return the delivery of an entry that needs no grant."""
    task_id, body, headers, count = unpacked(values)
    return Delivery(topic, body, headers_of(headers), text(task_id), count + 1, Hold(ref, consumer))


def _streams(names: Sequence[str]) -> list[str]:
    return [stream for name in names for stream in (f"{name}:again", name)]


def _look_at(future: asyncio.Future[Reply]) -> None:
    """An error that nobody asks for any more, because the read before it failed as well, is none."""
    if not future.cancelled():
        future.exception()
