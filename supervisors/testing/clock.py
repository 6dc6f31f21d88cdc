"""A clock that tests move by hand: hours pass in no time, and everything due happens in order."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count

import anyio
from anyio import CancelScope

_QUIET_TURNS = 3  # of the loop without a runnable task: callbacks that are due may make one


class VirtualClock:
    """Fulfils `supervisors.clock.Clock`. Time stands still but for `advance` and `jump`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[tuple[float, int, CancelScope]] = []
        self._order = count()

    def now(self) -> float:
        """Virtual seconds since the clock was made."""
        return self._now

    @contextmanager
    def timeout(self, seconds: float | None) -> Iterator[CancelScope]:
        """Cancel the body when so many virtual seconds have passed."""
        with CancelScope() as scope:
            if seconds is None:
                yield scope
                return
            entry = (self._now + seconds, next(self._order), scope)
            heappush(self._due, entry)
            if seconds <= 0:
                scope.cancel()
            try:
                yield scope
            finally:
                if entry in self._due:
                    self._due.remove(entry)
                    self._due.sort()  # a sorted list is a heap

    async def advance(self, seconds: float) -> None:
        """Let so many seconds pass, stopping wherever something is due, until all tasks wait again."""
        end = self._now + seconds
        await settle()
        while self._due and self._due[0][0] <= end:
            await self.jump()
        self._now = end

    async def jump(self) -> bool:
        """Go to the next moment at which something is due, and let it happen. False: nothing is."""
        if not self._due:
            return False
        self._now = max(self._now, self._due[0][0])
        while self._due and self._due[0][0] <= self._now:
            heappop(self._due)[2].cancel()
        await settle()
        return True


async def settle() -> None:
    """Return when every other task waits for something: as `anyio.wait_all_tasks_blocked`, without its pauses."""
    try:
        this = asyncio.current_task()
    except RuntimeError:
        await anyio.wait_all_tasks_blocked()  # trio's own, which is quick
        return
    quiet = 0
    while quiet < _QUIET_TURNS:
        await asyncio.sleep(0)
        quiet = 0 if any(_is_runnable(task) for task in asyncio.all_tasks() if task is not this) else quiet + 1


def _is_runnable(task: "asyncio.Task[object]") -> bool:
    # anyio and trio look there too; asyncio has no public way to ask what a task waits for.
    waiter: asyncio.Future[object] | None = getattr(task, "_fut_waiter", None)
    return waiter is None or waiter.done()
