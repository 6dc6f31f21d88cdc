"""The clock port: where supervisors get the time, and how they wait.

Tests put a virtual clock here and need not sleep. The real one is the event loop's.
"""

from contextlib import AbstractContextManager
from typing import Protocol

import anyio
from anyio import CancelScope


class Clock(Protocol):
    """Seconds that only go forward."""

    def now(self) -> float:
        """The current time, seconds since some moment in the past."""

    def timeout(self, seconds: float | None) -> AbstractContextManager[CancelScope]:
        """Cancel the body after so many seconds (None: never), like `anyio.move_on_after`."""


class LoopClock:
    """The time of the running event loop."""

    def now(self) -> float:
        """Monotonic seconds."""
        return anyio.current_time()

    def timeout(self, seconds: float | None) -> CancelScope:
        """Cancel the body after so many seconds (None: never)."""
        return anyio.move_on_after(seconds)


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait so many seconds of `clock`."""
    with clock.timeout(seconds):
        await anyio.sleep_forever()
