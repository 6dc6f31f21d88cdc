"""Virtual time: a clock that stands still until a test advances it.

Give it to `MemoryBroker` and `MemoryTables`, and leases, delays and waits happen when the
test says so, in no real time. It knows nothing of tasks: who sleeps on it is woken through
the event loop as usual. One thread only.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable

_TURNS = 20  # of the event loop, for what one alarm sets in motion


class Alarm:
    """One appointment with the clock; `cancel` calls it off."""

    __slots__ = ("is_cancelled", "ring", "when")

    def __init__(self, when: float, ring: Callable[[], object]) -> None:
        self.when = when
        self.ring = ring
        self.is_cancelled = False

    def cancel(self) -> None:
        """Don't ring any more. Idempotent."""
        self.is_cancelled = True


class VirtualClock:
    """Seconds since an arbitrary start. Calling it tells the time."""

    def __init__(self, now: float = 1_000.0) -> None:
        self._now = now
        self._order = itertools.count()
        self._alarms: list[tuple[float, int, Alarm]] = []

    def __call__(self) -> float:
        """Return the time it is now."""
        return self._now

    def call_at(self, when: float, ring: Callable[[], object]) -> Alarm:
        """Have `ring` called by the `advance` that reaches `when`."""
        alarm = Alarm(when, ring)
        heapq.heappush(self._alarms, (when, next(self._order), alarm))
        return alarm

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once: alarms ring in their order, those they wake run when the loop next turns."""
        target = self._now + seconds
        while (alarm := self._due(target)) is not None:
            self._now = max(self._now, alarm.when)
            alarm.ring()
        self._now = target

    async def elapse(self, seconds: float) -> None:
        """Let `seconds` pass alarm by alarm; what each one wakes runs before the next, and may set new ones."""
        target = self._now + seconds
        await self._settle()
        while (alarm := self._due(target)) is not None:
            self._now = max(self._now, alarm.when)
            alarm.ring()
            await self._settle()
        self._now = target
        await self._settle()

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` of this clock have passed."""
        passed = asyncio.get_running_loop().create_future()
        alarm = self.call_at(self._now + seconds, lambda: None if passed.done() else passed.set_result(None))
        try:
            await passed
        finally:
            alarm.cancel()

    def _due(self, target: float) -> Alarm | None:
        """Take the next alarm that rings by `target`; None if there is none."""
        while self._alarms and self._alarms[0][0] <= target:
            alarm = heapq.heappop(self._alarms)[2]
            if not alarm.is_cancelled:
                return alarm
        return None

    async def _settle(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
