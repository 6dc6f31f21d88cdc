"""Waiting for messages: reads that block, each on a connection of its own.

A blocked XREADGROUP is never cancelled: a message that came meanwhile would be handed to
nobody and wait for a lease. It is told to stop by CLIENT UNBLOCK from the link, and what it
returns all the same is its caller's. An inbox is read without a group, which takes nothing away;
what was returned is deleted with the next read, so a reader that dies in between sees it again.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import Final, cast

from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transport import Delivery
from murmur.transports.redis_entries import NO_HEADERS, headers_of, text, unpacked
from murmur.transports.redis_link import DEADLINE, RedisLink
from murmur.transports.redis_wire import Argument, Call, Reply, ServerError, Wire, settler

LONGEST_BLOCK: Final = 5.0  # seconds: after that somebody looks whether all is well
INBOX_COUNT: Final = 1_000  # entries of one read
# Turns of the loop that a read is put off, in which what the read before brought may be answered: sending takes 50 µs,
# which whoever waits for that answer would wait longer.
_ANSWERS_FIRST: Final = 6
_AGAIN: Final = 0.05  # seconds between two tries to end a read


class BlockingReader:
    """One connection for one blocking command at a time."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._wire: Wire | None = None
        self._future: asyncio.Future[Reply] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def read(
        self,
        command: tuple[Argument, ...],
        *,
        block: float,
        after: Sequence[Call] = (),
    ) -> Reply:
        """Run a command that blocks for `block` seconds, and calls right `after` it; return its reply.

        Not to be cancelled. Raises `BrokerUnreachable` if nothing was sent, `OutcomeUnknown` if the connection broke.
        """
        self._is_stopped = False
        for _ in range(_ANSWERS_FIRST):
            await asyncio.sleep(0)
        wire = await self._connected()
        if self._is_stopped:
            return None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + block + DEADLINE
        self._future = loop.create_future()
        late = loop.call_later(block + DEADLINE, wire.abort, "no reply in time")
        for call in after:
            call.deadline = deadline
        wire.send(Call(command, settler(self._future), deadline=deadline), *after)
        try:
            return await self._future
        except ServerError as error:
            raise self._link.told(error) from None
        finally:
            late.cancel()
            self._future = None

    def stop(self) -> None:
        """End the read that is under way: it returns at once, with what came or without."""
        self._is_stopped = True
        if self._future is not None and (self._stopping is None or self._stopping.done()):
            self._stopping = asyncio.get_running_loop().create_task(self._stop(self._future))

    def close(self) -> None:
        """Disconnect."""
        if self._wire is not None:
            self._wire.abort("closed")

    async def _stop(self, reading: asyncio.Future[Reply]) -> None:
        # Again and again: the server may see this before the read, which came on another connection.
        while not reading.done() and self._wire is not None and self._wire.client_id is not None:
            try:
                await self._link.ask("CLIENT", "UNBLOCK", self._wire.client_id)
            except (BrokerRefused, BrokerUnreachable, OutcomeUnknown):
                return  # then the block ends by itself
            await asyncio.wait([reading], timeout=_AGAIN)

    async def _connected(self) -> Wire:
        if self._wire is None or self._wire.is_closed:
            self._wire = await self._link.another(on_lost=self._lost)
        return self._wire

    def _lost(self, calls: list[Call], problem: str) -> None:
        for call in calls:
            call.finish(None, OutcomeUnknown(call=call.name, problem=f"the connection broke: {problem}"))


class InboxReader:
    """The one reader of some inboxes."""

    def __init__(self, link: RedisLink, inboxes: Sequence[str]) -> None:
        self._link, self._inboxes = link, inboxes
        self._reader = BlockingReader(link)
        self._is_reading = asyncio.Lock()
        self._unread: deque[Delivery] = deque()
        self._returned: dict[str, list[bytes]] = {}  # entries by inbox: deleted right behind the next read
        self._last: dict[str, bytes] = {}  # the entry that was read last, by inbox

    async def receive(self, *, credit: int, wait: float) -> list[Delivery]:
        """Return up to `credit` results, or none after `wait` seconds. Cancelling loses nothing."""
        if not self._unread:
            async with self._is_reading:
                await self._read(asyncio.get_running_loop().time() + wait)
        return [self._unread.popleft() for _ in range(min(credit, len(self._unread)))]

    async def close(self) -> None:
        """Stop reading. What was returned since the last read is seen again by the next reader."""
        self._reader.close()

    async def _read(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while not self._unread and (left := deadline - loop.time()) > 0:
            try:
                await self._read_once(min(left, LONGEST_BLOCK))
            except (BrokerUnreachable, OutcomeUnknown):
                await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311  jitter, no secret
                await self._link.up(max(0.0, deadline - loop.time()))
            except asyncio.CancelledError:
                self._reader.close()  # XREAD takes nothing away: the next connection reads it again
                raise

    async def _read_once(self, block: float) -> None:
        deadline = asyncio.get_running_loop().time() + block + DEADLINE
        # Behind the read, not before it: so both answers come at once, and wake us once.
        returned = self._returned.items()
        deletions = [Call(("XDEL", inbox, *entries), _ignore, deadline=deadline) for inbox, entries in returned]
        lasts = [self._last.get(inbox, b"0") for inbox in self._inboxes]
        command: tuple[Argument, ...]
        command = ("XREAD", "COUNT", INBOX_COUNT, "BLOCK", max(1, int(block * 1000)), "STREAMS", *self._inboxes, *lasts)
        reply = await self._reader.read(command, block=block, after=deletions)
        self._returned.clear()
        if reply is None:
            self._last.clear()  # a server that came back empty may count from an earlier time
        else:
            self._unread.extend(self._deliveries(reply))

    def _deliveries(self, reply: Reply) -> list[Delivery]:
        found: list[Delivery] = []
        for inbox, entries in cast(list[tuple[bytes, list[tuple[bytes, list[bytes]]]]], reply):
            topic = inbox.decode()
            for entry, values in entries:
                self._returned.setdefault(topic, []).append(entry)
                self._last[topic] = entry
                if values[0] == b"r":
                    found += [Delivery(topic, body, NO_HEADERS, "", 1, entry) for body in values[1::2]]
                else:
                    task_id, body, headers, _ = unpacked(values)
                    found.append(Delivery(topic, body, headers_of(headers), text(task_id), 1, entry))
        return found


def _ignore(_reply: Reply, _error: Exception | None) -> None:
    """Its outcome shows in the read that follows."""
