"""The one reader of some inboxes: requests that stand, so a reply comes as soon as it is there.

What was returned is settled when more is asked for. After a reconnect, and for a new reader,
the consumer is made anew: replies that were under way to the old one come at once. What is
kept elsewhere too comes as a bell, over plain NATS, see `nats_bells`.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from murmur.errors import BrokerUnreachable, OutcomeUnknown
from murmur.transport import Delivery
from murmur.transports.nats_bells import bodies_of
from murmur.transports.nats_pull import Pull
from murmur.transports.nats_session import Session, delivered
from murmur.transports.nats_wire import NO_HEADERS, Message

_BATCH: Final = 1_000  # replies of one request
_WAIT: Final = 5.0  # seconds of one request
ACK: Final = b"+ACK"


class InboxReader:
    """Reads some inboxes for one publisher."""

    def __init__(self, session: Session, inboxes: Sequence[str]) -> None:
        self._session, self._inboxes = session, inboxes
        self._is_reading = asyncio.Lock()
        self._unread: deque[Delivery] = deque()
        self._returned: list[bytes] = []  # where to ack
        self._pulls: dict[str, Pull] = {}
        self._generation = 0  # of the connection that our consumers were made on
        self._bell = asyncio.Event()
        session.link.tell(self._told)
        self._ringing = [
            session.link.listen(session.streams.bell(inbox), partial(self._rang, inbox)) for inbox in inboxes
        ]

    async def receive(self, *, credit: int, wait: float) -> list[Delivery]:
        """Return up to `credit` replies, or none after `wait` seconds. Cancelling loses nothing."""
        link = self._session.link
        if self._returned:
            link.answer_all(self._returned, ACK)
            self._returned.clear()
        self._sort()
        if not self._unread:
            async with self._is_reading:
                await self._read(asyncio.get_running_loop().time() + wait)
        taken = [self._unread.popleft() for _ in range(min(credit, len(self._unread)))]
        self._returned += [one.token for one in taken if isinstance(one.token, bytes)]
        return taken

    async def close(self) -> None:
        """Stop reading; what was returned last is seen again by the next reader."""
        for listening in self._ringing:
            self._session.link.forget(listening)
        await asyncio.gather(*(pull.stop() for pull in self._pulls.values() if not pull.is_over))
        for inbox in self._inboxes:
            await self._session.streams.forget_reader(inbox)

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _read(self, deadline: float) -> None:
        loop, link = asyncio.get_running_loop(), self._session.link
        while not self._unread and (left := deadline - loop.time()) > 0:
            try:
                if self._generation != link.generation:
                    await self._begin()
                self._bell.clear()
                self._ask()
                self._sort()
                if self._unread:
                    return
                async with asyncio.timeout(min(left, _WAIT + 1.0)):
                    await self._bell.wait()
            except TimeoutError:
                self._generation = 0 if left > _WAIT else self._generation  # silence: there may be no such consumer
            except (BrokerUnreachable, OutcomeUnknown):
                await asyncio.sleep(random.uniform(0.05, 0.3))  # noqa: S311  jitter, no secret
            if link.wire is None:
                await link.up(max(0.0, deadline - loop.time()))

    async def _begin(self) -> None:
        """Make the consumers; what they had sent us and we did not settle comes again."""
        generation = self._session.link.generation
        for pull in self._pulls.values():
            if not pull.is_over:
                await pull.stop()
        self._pulls.clear()
        self._returned.clear()
        for inbox in self._inboxes:
            await self._session.streams.declare_reader(inbox)
        self._generation = generation

    def _ask(self) -> None:
        session = self._session
        for inbox in self._inboxes:
            pull = self._pulls.get(inbox)
            if pull is not None and pull.status in (409, 503):
                self._generation = 0
            if pull is None or (pull.is_over and not pull.messages):
                place = f"{session.streams.stream(inbox)}.{session.streams.consumer(inbox)}"
                self._pulls[inbox] = Pull(session.link, place, batch=_BATCH, expires=_WAIT, woken=self._bell.set)

    def _sort(self) -> None:
        for inbox, pull in self._pulls.items():
            for message in pull.taken():
                one, _ = delivered(inbox, message, lease=None)
                self._unread.append(Delivery(inbox, one.body, one.headers, one.id, one.deliveries, message.reply))

    def _rang(self, inbox: str, message: Message) -> None:
        self._unread += [Delivery(inbox, body, NO_HEADERS, "", 1, None) for body in bodies_of(message)]
        self._bell.set()

    def _told(self, is_back: bool) -> None:
        if not is_back:
            for pull in self._pulls.values():
                pull.broken()
        self._bell.set()
