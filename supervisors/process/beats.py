"""Signs of life of a child, in memory that it shares with its supervisor.

A message needs a loop to send it, and that is what hangs. Here a beat is a number that a thread or the
loop counts up, and the note of what is being worked on stands there the moment it is written, also if
the very next instruction never returns. The supervisor reads it when it likes; nothing wakes up for it.
What silence means is decided in `watchdog`, what the figures mean in `recycle`.
"""

import mmap
import os
import struct
import tempfile
import threading
from typing import Final

from attrs import frozen

_FIGURES: Final = struct.Struct("=QQQQ")  # beats of the loop, of the thread; tasks done; private bytes
_NUMBER: Final = struct.Struct("=I")  # of notes so far; its last bit says which of two places holds the latest
_LENGTH: Final = struct.Struct("=H")  # before the text of a note
MOST_NOTE: Final = 1_024  # bytes
_NUMBER_AT: Final = _FIGURES.size
_NOTES_AT: Final = tuple(_NUMBER_AT + _NUMBER.size + place * (_LENGTH.size + MOST_NOTE) for place in (0, 1))
_SIZE: Final = _NOTES_AT[1] + _LENGTH.size + MOST_NOTE


@frozen
class Pulse:
    """What stands on the page: counts that only rise, and the private memory in bytes as last measured, or 0."""

    loop: int = 0
    thread: int = 0
    tasks: int = 0
    memory: int = 0


class Page:
    """One child's page. Made by the supervisor with `create`, opened in the child from the file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self._lock = threading.Lock()
        self._notes = 0  # written by us

    @classmethod
    def create(cls) -> "Page":
        """Make a page of zeros."""
        fd = anonymous_file("supervisors-beats")
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def close(self) -> None:
        """Give memory and file descriptor back."""
        self._memory.close()
        os.close(self.fd)

    def read(self) -> Pulse:
        """Return what stands there now."""
        return Pulse(*_FIGURES.unpack_from(self._memory))

    def note(self) -> str:
        """Return what the child last said it was working on; empty when it says so faster than one can read."""
        for _ in range(3):
            (number,) = _NUMBER.unpack_from(self._memory, _NUMBER_AT)
            at = _NOTES_AT[number & 1]
            length = min(_LENGTH.unpack_from(self._memory, at)[0], MOST_NOTE)
            text = self._memory[at + _LENGTH.size : at + _LENGTH.size + length]
            if _NUMBER.unpack_from(self._memory, _NUMBER_AT)[0] == number:
                return text.decode("utf-8", "replace")
        return ""

    def write_note(self, note: str) -> None:
        """Say what is being worked on. From any thread of the child. Killed meanwhile, it leaves the one before."""
        text = note.encode("utf-8", "replace")
        if len(text) > MOST_NOTE:
            text = text[:MOST_NOTE]
        written = _LENGTH.pack(len(text)) + text
        with self._lock:
            self._notes = number = (self._notes + 1) & 0xFFFFFFFF
            at = _NOTES_AT[number & 1]
            self._memory[at : at + len(written)] = written
            _NUMBER.pack_into(self._memory, _NUMBER_AT, number)

    def beat_of_loop(self) -> None:
        """The event loop runs."""
        self._add(0, 1)

    def beat_of_thread(self) -> None:
        """The interpreter runs."""
        self._add(1, 1)

    def add_tasks(self, count: int) -> None:
        """So many more tasks are done."""
        self._add(2, count)

    def set_memory(self, size: int) -> None:
        """The private memory is so many bytes."""
        self._put(3, size)

    def _add(self, index: int, count: int) -> None:
        with self._lock:
            self._put(index, _FIGURES.unpack_from(self._memory)[index] + count)

    def _put(self, index: int, value: int) -> None:
        struct.pack_into("=Q", self._memory, index * 8, value)


def anonymous_file(name: str) -> int:
    """Return a file descriptor of a file that no folder has."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def private_memory() -> int:
    """Return the bytes of memory this process shares with nobody; 0 where the system does not tell."""
    try:
        with open("/proc/self/smaps_rollup", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith((b"Private_", b"SwapPss")))
