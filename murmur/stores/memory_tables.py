"""The tables behind a memory store: rows, journal, dead letters and keys of one process.

Synchronous, under one lock. What is finished is kept within bounds: the newest rows up to a
count and a size, those of named batches until their retention is over.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from murmur.bell import Feed
from murmur.limits import MEMORY_BYTES_KEPT, MEMORY_LETTERS_KEPT, MEMORY_ROWS_KEPT, MEMORY_STOWED_KEPT
from murmur.store import Claim
from murmur.stores.rows import Rows, TaskRow
from murmur.stowage import PREFIX


class MemoryTables(Rows):
    """What the memory stores of one process share. The oracle that other stores are measured against."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.listeners: dict[Feed[str], None] = {}  # who wants to hear of cancelled tasks
        self._lock = threading.Lock()
        self._rows: dict[str, TaskRow] = {}
        self._active: dict[str, dict[str, TaskRow]] = {}  # topic -> leased or delayed rows: what a sweep looks at
        self._finished: deque[TaskRow] = deque()  # oldest first
        self._kept: deque[TaskRow] = deque()  # of named batches, oldest first
        self._bytes = 0  # of the results in `_finished`
        self._letters: dict[str, deque[bytes]] = {}
        self._values: dict[str, tuple[bytes, float]] = {}  # with when it is forgotten
        self._purge_at = 1_000  # values
        self._stowed: deque[tuple[str, int]] = deque()  # keys of payloads and their sizes, oldest first
        self._stowed_bytes = 0

    def wipe(self) -> None:
        """Forget everything, as a server that lost its data would."""
        with self._lock:
            self._bytes = 0
            for table in (self._rows, self._active, self._finished, self._kept, self._letters, self._values):
                table.clear()

    # -- beside the rows --------------------------------------------------------------------------

    def dead_letters(self, agent: str, limit: int) -> list[bytes]:
        """Return the newest letters, newest first."""
        with self._lock:
            return list(reversed(self._letters.get(agent, ())))[:limit]

    def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Forget letters; return how many there were."""
        with self._lock:
            kept, gone = self._letters.get(agent, deque()), set(letters)
            there = len(kept)
            self._letters[agent] = deque((one for one in kept if one not in gone), maxlen=MEMORY_LETTERS_KEPT)
            return there - len(self._letters[agent])

    def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """Journal a step unless it stands there already."""
        with self._lock:
            row = self._held(claim)
            if row.journal is None:
                row.journal = {}
            return row.journal.setdefault(name, value)

    def recorded(self, task_id: str, name: str) -> bytes | None:
        """Return a journalled step."""
        with self._lock:
            row = self._rows.get(task_id)
            return None if row is None or row.journal is None else row.journal.get(name)

    def put(self, key: str, value: bytes, *, ttl: float) -> None:
        """Keep a value for `ttl` seconds."""
        with self._lock:
            now = self.clock()
            self._values[key] = (value, now + ttl)
            if key.startswith(PREFIX):
                self._bound(key, len(value))
            if len(self._values) > self._purge_at:
                self._values = {key: kept for key, kept in self._values.items() if kept[1] > now}
                self._purge_at = 2 * len(self._values) + 1_000

    def _bound(self, key: str, size: int) -> None:
        """Forget the oldest payloads beyond the bound."""
        self._stowed.append((key, size))
        self._stowed_bytes += size
        while self._stowed_bytes > MEMORY_STOWED_KEPT:
            oldest, size = self._stowed.popleft()
            self._stowed_bytes -= size
            self._values.pop(oldest, None)

    def swap(self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None) -> bytes | None:
        """Keep a value in place of another; return what stands there."""
        with self._lock:
            now = self.clock()
            kept = self._values.get(key)
            stands = None if kept is None or kept[1] <= now else kept[0]
            if stands != expected:
                return stands
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = (value, math.inf if ttl is None else now + ttl)
            return value

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values that are still kept."""
        with self._lock:
            now = self.clock()
            found = [self._values.get(key) for key in keys]
            return [None if kept is None or kept[1] <= now else kept[0] for kept in found]

    def listed(self, prefix: str) -> dict[str, bytes]:
        """Return what is still kept under a prefix."""
        with self._lock:
            now = self.clock()
            return {
                key: value for key, (value, until) in self._values.items() if until > now and key.startswith(prefix)
            }

    def delete(self, keys: Sequence[str]) -> None:
        """Forget keys."""
        with self._lock:
            for key in keys:
                self._values.pop(key, None)

    # -- where rows lie ---------------------------------------------------------------------------

    def _atomic(self) -> AbstractContextManager[object]:
        return self._lock

    def _find(self, task_id: str) -> TaskRow | None:
        return self._rows.get(task_id)

    def _keep(self, row: TaskRow, *, is_active: bool) -> None:
        self._rows[row.task_id] = row
        active = self._active.get(row.topic)
        if is_active:
            if active is None:
                active = self._active[row.topic] = {}
            active[row.task_id] = row
            return
        if active is not None:
            active.pop(row.task_id, None)
        if row.result is not None:  # it is over, and will not change again
            if row.keep:
                self._kept.append(row)
            else:
                self._finished.append(row)
                self._bytes += len(row.result)

    def _active_rows(self, topics: Sequence[str]) -> Iterator[TaskRow]:
        for topic in topics:
            yield from list(self._active.get(topic, {}).values())

    def _keep_letter(self, agent: str, letter: bytes) -> None:
        self._letters.setdefault(agent, deque(maxlen=MEMORY_LETTERS_KEPT)).append(letter)

    def _tell_cancelled(self, task_id: str) -> None:
        for listener in self.listeners:
            listener.give(task_id)

    def _forget(self, now: float) -> None:
        """Drop finished rows whose retention is over, and the oldest beyond the bounds."""
        finished, kept = self._finished, self._kept
        while kept and kept[0].forgotten_at <= now:
            self._drop(kept.popleft())
        while finished and (
            len(finished) > MEMORY_ROWS_KEPT or self._bytes > MEMORY_BYTES_KEPT or finished[0].forgotten_at <= now
        ):
            row = finished.popleft()
            self._bytes -= len(row.result or b"")
            self._drop(row)

    def _drop(self, row: TaskRow) -> None:
        if self._rows.get(row.task_id) is row:
            del self._rows[row.task_id]
