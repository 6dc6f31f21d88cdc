"""The pipes through which a child's stdout and stderr, and those of all it starts, come to its supervisor.

They are read as long as the child lives, and what it left in them once after that: a tool that outlives it, until it
is found and killed, keeps nobody waiting. A flood is read, too, or the child would wait in its `write` until it is
taken for hung: in large pieces, with rests between them that leave most of the loop's time to others. What becomes of a
line is decided in `output`.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import anyio

from supervisors.output import Cutter, Line, Output

STREAMS: Final = ("stdout", "stderr")
_READ: Final = 1 << 20  # bytes
_LAST_READS: Final = 4  # of what a dead child left: more does not fit into a pipe, unless somebody still writes
_FLOOD_PAUSE: Final = 0.005  # seconds at least between two reads of a flood
_FLOOD_REST: Final = 3.0  # and for each second that a read took


class Pipes:
    """The two pipes of one child. The child's ends are given away by `theirs`, and closed here by `give`."""

    def __init__(self) -> None:
        both = [os.pipe() for _ in STREAMS]
        self._ours = dict(zip(STREAMS, (ours for ours, _ in both), strict=True))
        self.theirs = [theirs for _, theirs in both]
        for fd in self._ours.values():
            os.set_blocking(fd, False)

    def give(self) -> None:
        """The child has its ends: close ours of them, or the pipes would never end."""
        while self.theirs:
            os.close(self.theirs.pop())

    def close(self) -> None:
        """Give back everything."""
        self.give()
        while self._ours:
            os.close(self._ours.popitem()[1])

    async def read(self, output: Output, tell: Callable[[str, Line], None]) -> None:
        """Tell each line until cancelled, then the last ones."""
        async with anyio.create_task_group() as tasks:
            for stream, fd in self._ours.items():
                tasks.start_soon(self._read, stream, fd, output, tell)

    async def _read(self, stream: str, fd: int, output: Output, tell: Callable[[str, Line], None]) -> None:
        cutter = Cutter(output, now=anyio.current_time())
        is_wide = False
        try:
            while received := await _some(fd):
                began = time.thread_time()
                for line in cutter.feed(received, now=anyio.current_time()):
                    tell(stream, line)
                if cutter.is_flooded and not is_wide:
                    _widen(fd)
                    is_wide = True
                rest = max(_FLOOD_PAUSE, _FLOOD_REST * (time.thread_time() - began))
                await anyio.sleep(rest if cutter.is_flooded else 0)
        finally:
            for received in _left(fd):
                for line in cutter.feed(received, now=anyio.current_time()):
                    tell(stream, line)
            for line in cutter.rest():
                tell(stream, line)


async def _some(fd: int) -> bytes:
    """Wait for the next bytes; none at the end."""
    while True:
        await anyio.wait_readable(fd)
        with suppress(BlockingIOError):
            return os.read(fd, _READ)


def _widen(fd: int) -> None:
    """Let the pipe hold as much as is read at once, where the system allows it."""
    with suppress(OSError, AttributeError):  # too many wide ones; no such system call
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _READ)


def _left(fd: int) -> Iterator[bytes]:
    with suppress(BlockingIOError):
        for _ in range(_LAST_READS):
            received = os.read(fd, _READ)
            if not received:
                return
            yield received
