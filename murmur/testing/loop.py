"""An event loop on virtual time: whenever nothing can run, the clock jumps to the next timer.

Everything that waits through the loop (`asyncio.sleep`, `asyncio.timeout`, anyio, the
memory adapters on `clock=loop.time`) then takes no real time and happens in one exact
order, so an hour of leases and retries is a test of milliseconds. Real sockets and threads
are seen only while the clock stands: code that waits for them belongs on a real loop.

    asyncio.run(main(), loop_factory=VirtualLoop)     # Python 3.12; asyncio.Runner before
"""

import asyncio
import selectors
from typing import Final

_PATIENCE: Final = 5.0  # real seconds in which another thread must wake a loop that has no timer
_TURN: Final = (
    1e-10  # seconds that a turn of the loop takes: a timer that rings too early for its owner is not set for ever
)
_UNSEEN: Final = 64  # turns in which something runs, for each of them that looks at sockets and other threads too


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` starts at 1,000 seconds and moves only by jumps, and by a hair with every turn."""

    def __init__(self) -> None:
        self._now = 1_000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return the virtual time, seconds."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let `seconds` pass; what became due runs in the next turn."""
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Where a loop would sleep until its next timer, this one moves the clock there."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; else jump. Raises `RuntimeError` when nothing will ever be ready."""
        self._loop.jump(_TURN)
        if timeout is not None and timeout <= 0:
            self._turns += 1
            if self._turns % _UNSEEN:
                return []
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is not None:
            self._loop.jump(timeout)
            return []
        ready = super().select(_PATIENCE)
        if not ready:
            raise RuntimeError(
                "every coroutine of this VirtualLoop waits, and no timer is set: nothing will ever happen"
            )
        return ready
