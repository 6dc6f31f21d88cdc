"""The life of rows in a bucket: read, let the one state machine decide, write if nobody wrote meanwhile, else again.

Rows of one call are read together and written together. What we granted ourselves is known
already and not read again. Rows that are leased for long, and those that wait for their
time, are marked in a second bucket, which is all that a sweep looks at.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from murmur.store import Claim, State
from murmur.stores.nats_bucket import Bucket, Entry, Write, text_of, token
from murmur.stores.rows import Rows, TaskRow

_KNOWN_AT_MOST: Final = 20_000  # rows remembered that we granted
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(TaskRow).decode


class Change(Struct, frozen=True):
    """What to do to one row. `is_new`: it will hardly be there, so it is not asked for first."""

    task_id: str
    verb: Callable[["Scratch"], Any]
    is_new: bool = False


class Scratch(Rows):
    """Rows in hand, for one verb; what it changes is written afterwards."""

    def __init__(self, now: float, *rows: TaskRow) -> None:
        self.clock = lambda: now
        self._rows = {row.task_id: row for row in rows}
        self.changed: dict[str, TaskRow] = {}
        self.active: dict[str, bool] = {}
        self.letter: bytes | None = None
        self.cancelled: list[str] = []

    def held(self, claim: Claim) -> TaskRow:
        """Return the row that is leased under this very claim. Raises `LeaseLost`."""
        return self._held(claim)

    def keep(self, row: TaskRow) -> None:
        """Write a row that was changed beside the verbs."""
        self._keep(row, is_active=True)

    def _atomic(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()  # the bucket's revision

    def _find(self, task_id: str) -> TaskRow | None:
        return self._rows.get(task_id)

    def _keep(self, row: TaskRow, *, is_active: bool) -> None:
        self._rows[row.task_id] = self.changed[row.task_id] = row
        self.active[row.task_id] = is_active

    def _active_rows(self, topics: Sequence[str]) -> Iterator[TaskRow]:
        yield from [row for row in self._rows.values() if row.topic in topics]

    def _keep_letter(self, agent: str, letter: bytes) -> None:  # noqa: ARG002  the row tells it
        self.letter = letter

    def _tell_cancelled(self, task_id: str) -> None:
        self.cancelled.append(task_id)

    def _forget(self, now: float) -> None:
        """The bucket does it."""


class RowBook:
    """Rows in `rows`, their marks and dead letters in `beside`. `tell_cancelled` is called for those that may run."""

    def __init__(self, rows: Bucket, beside: Bucket, *, tell_cancelled: Callable[[str], None]) -> None:
        self._rows, self._beside = rows, beside
        self._tell_cancelled = tell_cancelled
        self._known: dict[str, tuple[Entry, TaskRow]] = {}
        self._marked: set[str] = set()

    async def apply(self, changes: Sequence[Change]) -> list[Any]:
        """Make changes and return what their verbs answered, in order."""
        answers: list[Any] = [None] * len(changes)
        todo, is_first = list(range(len(changes))), True
        while todo:
            once: dict[str, int] = {}
            for at in todo:  # the same row twice in one call: one after the other
                once.setdefault(changes[at].task_id, at)
            tried = await self._try([changes[at] for at in once.values()], is_first=is_first)
            is_first = False  # from now on everything is read before it is changed
            for at, (is_done, answer) in zip(once.values(), tried, strict=True):
                if is_done:
                    answers[at] = answer
                    todo.remove(at)
        return answers

    async def read(self, task_ids: Sequence[str]) -> list[TaskRow | None]:
        """Return rows as they stand."""
        return [row for _, row in await self._read(task_ids)]

    async def sweep(self, topics: Sequence[str]) -> float | None:
        """Queue again what lapsed; return the seconds until the next delayed row is due."""
        marks = [mark for topic in topics for mark in await self._beside.keys(f"active.{token(topic)}.*")]
        ids = [text_of(mark.rpartition(".")[2]) for mark in marks]
        found = await self._read(ids)
        rows = [row for _, row in found if row is not None]
        before = {row.task_id: row.state for row in rows}
        scratch = Scratch(self._rows.now(), *rows)
        due = scratch.sweep(topics)
        lapsed = [
            Write(key_of(row.task_id), encoded(row), entry.revision)
            for entry, row in found
            if entry is not None and row is not None and before[row.task_id] is not row.state
        ]
        await self._rows.put(lapsed)  # where somebody was faster, he knows better
        for mark, task_id, (_, row) in zip(marks, ids, found, strict=True):
            if row is None or not scratch.active.get(task_id, row.state in (State.LEASED, State.QUEUED)):
                await self._beside.delete([mark])
        return due

    async def mark(self, task_ids: Sequence[str]) -> None:
        """Let sweeps look at these rows, as far as we leased them."""
        rows = [self._known[one][1] for one in task_ids if one in self._known and one not in self._marked]
        await self._beside.put([Write(mark_of(row), b"") for row in rows])
        self._marked.update(row.task_id for row in rows)

    def remember_nothing(self) -> None:
        """The server may have lost what we know."""
        self._known.clear()

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _try(self, changes: Sequence[Change], *, is_first: bool) -> list[tuple[bool, Any]]:
        """Try each change once: whether it is done, and the answer."""
        unknown = [one.task_id for one in changes if not is_first or not (one.is_new or one.task_id in self._known)]
        found: dict[str, tuple[Entry | None, TaskRow | None]] = dict(
            zip(unknown, await self._read(unknown), strict=True)
        )
        writes: list[Write] = []
        scratches: list[tuple[Scratch, Any, int | None]] = []  # with the place of its write
        for one in changes:
            entry, row = found.get(one.task_id) or self._remembered(one.task_id)
            scratch = Scratch(self._rows.now(), *([row] if row is not None else ()))
            answer = one.verb(scratch)
            changed = scratch.changed.get(one.task_id)
            scratches.append((scratch, answer, None if changed is None else len(writes)))
            if changed is not None:
                if scratch.letter is not None:
                    await self._beside.put([Write(letter_of(changed), scratch.letter)])
                until = changed.forgotten_at if changed.state.is_terminal else None
                expected = entry.revision if entry is not None else 0
                writes.append(Write(key_of(one.task_id), encoded(changed), expected, until))
        revisions = await self._rows.put(writes)
        tried: list[tuple[bool, Any]] = []
        for one, (scratch, answer, place) in zip(changes, scratches, strict=True):
            revision = None if place is None else revisions[place]
            if place is None:
                tried.append((True, answer))
            elif revision is None:
                self._known.pop(one.task_id, None)
                if scratch.letter is not None:
                    await self._beside.delete([letter_of(scratch.changed[one.task_id])])
                tried.append((False, None))
            else:
                await self._written(scratch.changed[one.task_id], revision, scratch)
                tried.append((True, answer))
        return tried

    def _remembered(self, task_id: str) -> tuple[Entry | None, TaskRow | None]:
        if task_id not in self._known:
            return None, None
        entry, row = self._known.pop(task_id)
        return entry, row

    async def _written(self, row: TaskRow, revision: int, scratch: Scratch) -> None:
        task_id = row.task_id
        for one in scratch.cancelled:
            self._tell_cancelled(one)
        if row.state is State.LEASED:
            self._known[task_id] = (Entry(key_of(task_id), b"", revision), row)
            while len(self._known) > _KNOWN_AT_MOST:
                self._known.pop(next(iter(self._known)))
        elif scratch.active.get(task_id):
            self._marked.discard(task_id)
            await self._beside.put([Write(mark_of(row), b"")])
        elif task_id in self._marked:
            self._marked.discard(task_id)
            await self._beside.delete([mark_of(row)])

    async def _read(self, task_ids: Sequence[str]) -> list[tuple[Entry | None, TaskRow | None]]:
        """Return entries, and rows where they are not over."""
        found: list[tuple[Entry | None, TaskRow | None]] = []
        for entry in await self._rows.get([key_of(one) for one in task_ids]):
            row = None if entry is None or entry.is_over else decoded(entry.value)
            found.append((entry, row))
        return found


def key_of(task_id: str) -> str:
    """Return where a row stands."""
    return f"row.{token(task_id)}"


def mark_of(row: TaskRow) -> str:
    """Return the key that makes sweeps look at a row."""
    return f"active.{token(row.topic)}.{token(row.task_id)}"


def letter_of(row: TaskRow) -> str:
    """Return where the dead letter of a task stands: one a task, whatever is repeated."""
    return f"letter.{token(row.agent)}.{token(row.task_id)}"


def encoded(row: TaskRow) -> bytes:
    """Return a row as it is kept."""
    return _encode(row)


def decoded(value: bytes) -> TaskRow:
    """Return a row as it was kept."""
    return _decode(value)
