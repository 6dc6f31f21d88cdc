"""Waiting for messages: reads that block, each on a connection of its own.

A blocked XREADGROUP is never cancelled: a message that came meanwhile would be handed to
nobody and wait for a lease. It is told to stop by CLIENT UNBLOCK from the link, and what it
returns all the same is its caller's. An inbox is read without a group; what was returned is
deleted with the next read, so a reader that dies in between sees it again.
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
        self, before: Sequence[tuple[Argument, ...]], command: tuple[Argument, ...], *, block: float
    ) -> Reply:
        """Run commands, the last of which blocks for `block` seconds; return its reply.

        Not to be cancelled. Raises `BrokerUnreachable` if nothing was sent, `OutcomeUnknown` if the connection broke.
        """
        self._is_stopped = False
        wire = await self._connected()
        if self._is_stopped:
            return None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + block + DEADLINE
        self._future = loop.create_future()
        late = loop.call_later(block + DEADLINE, wire.abort, "no reply in time")
        calls = [Call(other, _ignore, deadline=deadline) for other in before]
        wire.send(*calls, Call(command, settler(self._future), deadline=deadline))
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
    """The one reader of some inboxes. Begins to read with the first `receive`."""

    def __init__(self, link: RedisLink, inboxes: Sequence[str]) -> None:
        self._link, self._inboxes = link, inboxes
        self._reader = BlockingReader(link)
        self._reading: asyncio.Task[list[Delivery]] | None = None
        self._unread: deque[Delivery] = deque()
        self._returned: list[tuple[bytes, bytes]] = []  # inbox and entry: deleted with the next read

    async def receive(self, *, credit: int, wait: float) -> list[Delivery]:
        """Return up to `credit` results, or none after `wait` seconds. Cancelling loses nothing."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while not self._unread:
            reading = self._reading = self._reading or asyncio.create_task(self._read())
            await asyncio.wait([reading], timeout=max(0.0, deadline - loop.time()))
            if not reading.done():
                return []
            if self._reading is reading:
                self._reading = None
                self._unread.extend(reading.result())
        return [self._unread.popleft() for _ in range(min(credit, len(self._unread)))]

    async def close(self) -> None:
        """Stop reading. What was returned since the last read is seen again by the next reader."""
        if self._reading is not None:
            self._reading.cancel()  # XREAD takes nothing away, so nothing is lost
            await asyncio.gather(self._reading, return_exceptions=True)
        self._reader.close()

    async def _read(self) -> list[Delivery]:
        while True:
            try:
                reply = await self._reader.read(*self._command(), block=LONGEST_BLOCK)
            except (BrokerUnreachable, OutcomeUnknown):
                await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311  jitter, no secret
                await self._link.up(LONGEST_BLOCK)
                continue
            self._returned.clear()
            if reply is not None:
                return self._deliveries(reply)

    def _command(self) -> tuple[list[tuple[Argument, ...]], tuple[Argument, ...]]:
        by_inbox: dict[bytes, list[bytes]] = {}
        for inbox, entry in self._returned:
            by_inbox.setdefault(inbox, []).append(entry)
        # All that is left is unread, so a reading begins at 0: no position can be lost or overtaken by a clock.
        beginnings = ["0"] * len(self._inboxes)
        block = int(LONGEST_BLOCK * 1000)
        return (
            [("XDEL", inbox, *entries) for inbox, entries in by_inbox.items()],
            ("XREAD", "COUNT", INBOX_COUNT, "BLOCK", block, "STREAMS", *self._inboxes, *beginnings),
        )

    def _deliveries(self, reply: Reply) -> list[Delivery]:
        found: list[Delivery] = []
        for inbox, entries in cast(list[tuple[bytes, list[tuple[bytes, list[bytes]]]]], reply):
            topic = inbox.decode()
            for entry, values in entries:
                self._returned.append((inbox, entry))
                if values[0] == b"r":
                    found += [Delivery(topic, body, NO_HEADERS, "", 1, entry) for body in values[1::2]]
                else:
                    task_id, body, headers, _ = unpacked(values)
                    found.append(Delivery(topic, body, headers_of(headers), text(task_id), 1, entry))
        return found


def _ignore(_reply: Reply, _error: Exception | None) -> None:
    """Its outcome shows in the read that follows."""
