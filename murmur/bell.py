"""Waking a coroutine from any thread: a bell that rings once, and a feed of values.

The memory adapters connect publishers and workers that may live in different event loops
of one process. Nothing here blocks, and a loop that was closed meanwhile is no error: its
bell says that nobody will wake. What is waited for, and how long, is the caller's.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Bell:
    """Wakes the one coroutine that awaits `rung`. Belongs to the loop it was made in."""

    __slots__ = ("_future", "_loop", "_thread")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def ring(self) -> bool:
        """Wake it, from any thread; again is harmless. False: its loop is closed, nobody wakes."""
        if self._loop.is_closed():
            return False
        if threading.get_ident() == self._thread:
            self._wake()
            return True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # closed since we asked
            return False
        return True

    async def rung(self) -> None:
        """Wait until somebody rings."""
        await self._future

    def _wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class Feed(AsyncIterator[T], Generic[T]):
    """Values given from any thread, iterated by one coroutine; ends once it is closed and empty.

    `most` that wait, if a number is given: beyond them the oldest are lost.
    """

    def __init__(self, *, most: int | None = None) -> None:
        self._values: deque[T] = deque(maxlen=most)
        self._bell: Bell | None = None
        self._is_closed = False

    def give(self, value: T) -> None:
        """Add a value for the iterating coroutine. What comes after `close` is dropped."""
        if not self._is_closed:
            self._values.append(value)
            self._ring()

    def close(self) -> None:
        """End the iteration after what was given before."""
        self._is_closed = True
        self._ring()

    async def __anext__(self) -> T:
        """Return the next value, or wait for it. Cancelling loses nothing."""
        while True:
            # The bell is hung up before looking, so a value given in between rings it.
            bell = self._bell = Bell()
            if self._values:
                return self._values.popleft()
            if self._is_closed:
                raise StopAsyncIteration
            await bell.rung()

    def _ring(self) -> None:
        bell = self._bell
        if bell is not None:
            bell.ring()
