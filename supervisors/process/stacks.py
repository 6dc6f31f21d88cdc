"""The file in which a process child writes down what its threads are at: on request, or when it dies of a fault.

faulthandler writes it, without the interpreter lock. Both processes share the file and the place where the next byte
goes, so whoever has read it can clear it. When it is asked for is left to `life`, what it means to `exits`.
"""

import os
from collections.abc import Callable
from typing import Final

import anyio

from supervisors.process.beats import anonymous_file

MOST_STACKS: Final = 1 << 14  # bytes
_MOST_READ: Final = 1 << 20  # bytes
_POLL: Final = 0.02  # seconds


class StackFile:
    """One child's file, in its supervisor. The child is given `fd`."""

    def __init__(self) -> None:
        self.fd = anonymous_file("supervisors-stacks")

    def close(self) -> None:
        """Give it back."""
        os.close(self.fd)

    def text(self) -> str:
        """Return what stands there; of too many threads the one that got the signal, and those after it."""
        written = os.pread(self.fd, _MOST_READ, 0)
        if len(written) > MOST_STACKS:
            written = written[max(written.find(b"Current thread"), 0) :][:MOST_STACKS]
        return written.decode("utf-8", "replace")

    async def dumped(self, ask: Callable[[], None], patience: float) -> str:
        """Clear it, ask for stacks, and return them once nothing more is written, or after `patience` seconds."""
        self._clear()
        ask()
        size = -1
        with anyio.move_on_after(patience):
            while size <= 0 or size != os.fstat(self.fd).st_size:
                size = os.fstat(self.fd).st_size
                await anyio.sleep(_POLL)
        stacks = self.text()
        self._clear()
        return stacks

    def _clear(self) -> None:
        os.lseek(self.fd, 0, os.SEEK_SET)
        os.ftruncate(self.fd, 0)
