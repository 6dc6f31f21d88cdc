"""The slots of one worker: how many tasks run at once, and who goes next.

A task holds a slot while its actor works. A parent that waits for its children parks: it
gives the slot back and later waits for one again, before tasks that have not begun. So
parents can never starve their own children, however deep they nest.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from attrs import define, field


@define
class Slots:
    """`total` slots shared by all agents of a worker. `on_free` is called when one becomes free for new tasks."""

    total: int
    on_free: Callable[[], object] = lambda: None
    used: int = field(default=0, init=False)
    parked: int = field(default=0, init=False)
    _resuming: deque[asyncio.Future[None]] = field(factory=deque, init=False)
    _entering: deque[asyncio.Future[None]] = field(factory=deque, init=False)

    @property
    def free(self) -> int:
        """Slots that a new task may take: none while others wait in line."""
        return 0 if self._resuming or self._entering else max(self.total - self.used, 0)

    def try_enter(self) -> bool:
        """Take a slot for a new task, if one is free."""
        if not self.free:
            return False
        self.used += 1
        return True

    async def enter(self) -> None:
        """Wait for a slot: a parked task went on while this one was being fetched."""
        await self._in_line(self._entering)

    def leave(self) -> None:
        """A task ended or parks: next are parked ones that may go on, then those that were fetched."""
        self.used -= 1
        for line in (self._resuming, self._entering):
            while line and self.used < self.total:
                waiting = line.popleft()
                if not waiting.done():
                    self.used += 1
                    waiting.set_result(None)
        if self.free:
            self.on_free()

    @asynccontextmanager
    async def parking(self) -> AsyncIterator[None]:
        """Give the slot back for the time of the block; leaving waits for one."""
        self.leave()
        self.parked += 1
        try:
            yield
        except BaseException:
            self.take()  # on its way out: it ends like any other task and gives a slot back, so it holds one
            raise
        else:
            await self.resume()
        finally:
            self.parked -= 1

    def take(self) -> None:
        """Take a slot without waiting, free or not: for a moment there may be one more than `total`."""
        self.used += 1

    async def resume(self) -> None:
        """Wait for a slot as a parked task, before those that are new. Cancelled, it has one all the same."""
        if self.used < self.total and not self._resuming:
            self.used += 1
            return
        await self._in_line(self._resuming)

    async def _in_line(self, line: deque[asyncio.Future[None]]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():  # never got its turn; it ends like any other task all the same
                self.used += 1
            raise
