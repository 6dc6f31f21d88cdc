"""Joining what many callers of one loop turn want into few calls of one script.

A hundred coroutines that each finish a task in the same turn cost one command, not a hundred,
and each still awaits the answer to its own. The script's arguments and answers are the
caller's business.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from murmur.transports.redis_link import RedisLink
from murmur.transports.redis_wire import Call, Finish, Reply

T = TypeVar("T")
Answer = tuple[Reply, int]  # of a whole call, and where the asker's items begin in it
_Asked = tuple[Sequence[T], asyncio.Future[Answer]]


class Joint(Generic[T]):
    """`call` makes one call of the items of several callers. Cancelling a caller stops nothing that was asked.

    `ended` is told the items and the reply of every call, whether or not somebody still waits for it;
    the reply is None if the call failed.
    """

    def __init__(
        self,
        link: RedisLink,
        call: Callable[[list[T], Finish], Call],
        *,
        most: int,
        ended: Callable[[list[T], Reply], None] | None = None,
    ) -> None:
        self._link, self._call, self._ended = link, call, ended
        self._most = most  # items of one caller that go into one call
        self._asked: list[_Asked[T]] = []

    async def ask(self, items: Sequence[T]) -> list[tuple[Reply, int, Sequence[T]]]:
        """Return (reply, where a part begins in it, the part) for all parts of `items`. Raises as the link does."""
        most = self._most
        if len(items) <= most:
            reply, start = await self._ask(items)
            return [(reply, start, items)]
        parts = [items[first : first + most] for first in range(0, len(items), most)]
        answers = await asyncio.gather(*(self._ask(part) for part in parts))
        return [(reply, start, part) for (reply, start), part in zip(answers, parts, strict=True)]

    def _ask(self, items: Sequence[T]) -> Awaitable[Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._asked.append((items, future))
        if len(self._asked) == 1:
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        asked, self._asked = self._asked, []
        joined: list[T] = []
        askers: list[tuple[int, asyncio.Future[Answer]]] = []
        for items, future in asked:
            askers.append((len(joined), future))
            joined.extend(items)
            if len(joined) >= self._most:
                self._link.send(self._call(joined, partial(self._finish, joined, askers)))
                joined, askers = [], []
        if askers:
            self._link.send(self._call(joined, partial(self._finish, joined, askers)))

    def _finish(
        self,
        items: list[T],
        askers: list[tuple[int, asyncio.Future[Answer]]],
        reply: Reply,
        error: Exception | None,
    ) -> None:
        if self._ended is not None:
            self._ended(items, reply)
        for start, future in askers:
            if future.done():
                continue  # its owner was cancelled
            if error is None:
                future.set_result((reply, start))
            else:
                future.set_exception(error)
