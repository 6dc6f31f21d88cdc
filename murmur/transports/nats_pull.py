"""One pull request: what it asks a consumer for, and what it brings.

Each has a subject of its own, so that ending it early takes away the interest the server
needs to serve it: after one round trip nothing of it is under way any more. A consumer that
does not exist answers nothing at all, so silence is an answer, too.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Final

from murmur.transports.nats_link import NatsLink
from murmur.transports.nats_streams import NANOSECONDS
from murmur.transports.nats_wire import Message

SILENCE: Final = 2.0  # seconds after which an answer that should have come is missing
CONSUMER_GONE: Final = (409, 503)
_serials: Final = iter(range(1, 1 << 62))


class Pull:
    """A request for up to `batch` messages, which waits `expires` seconds for them; 0: for none."""

    def __init__(
        self, link: NatsLink, place: str, *, batch: int, expires: float, woken: Callable[[], None] | None = None
    ) -> None:
        self._link, self._batch, self._woken = link, batch, woken
        self.messages: list[Message] = []
        self.asked_at = time.monotonic() if expires <= 0 else None  # one that waits may bring it much later
        self._count = 0
        self.status = 0
        self.status_text = ""
        self.is_over = False
        self.is_silent = False
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._until = asyncio.get_running_loop().time() + expires + SILENCE
        subject = f"{link.inbox}.p.{next(_serials)}"
        self._listening = link.listen(subject, self._came)
        request: dict[str, object] = {"batch": batch}
        request |= {"expires": int(expires * NANOSECONDS)} if expires > 0 else {"no_wait": True}
        if not link.say(f"$JS.API.CONSUMER.MSG.NEXT.{place}", json.dumps(request).encode(), reply=subject):
            self.broken()

    async def over(self) -> None:
        """Wait until it brings no more."""
        while not self.is_over:
            await self._change()

    def taken(self) -> list[Message]:
        """Return what it brought since the last call."""
        messages, self.messages = self.messages, []
        return messages

    async def stop(self) -> None:
        """End it; afterwards nothing of it is under way."""
        await self._link.unlisten(self._listening)
        self.is_over = True

    def broken(self) -> None:
        """The connection it was sent on is gone."""
        self._end()
        self._wake()

    async def _change(self) -> None:
        left = self._until - asyncio.get_running_loop().time()
        await asyncio.wait([self._changed], timeout=max(0.0, left))
        if self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        elif asyncio.get_running_loop().time() >= self._until:
            self.is_silent = True
            await self.stop()

    def _came(self, message: Message) -> None:
        if not message.reply:  # a word of the server, not a message of the stream
            if message.status == 100:
                return
            self.status, self.status_text = message.status, message.status_text
            self._end()
        else:
            self.messages.append(message)
            self._count += 1
            if self._count >= self._batch:
                self._end()
        self._wake()

    def _end(self) -> None:
        self.is_over = True
        self._link.forget(self._listening)

    def _wake(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)
        if self._woken is not None:
            self._woken()
