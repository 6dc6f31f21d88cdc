"""The life of rows in a bucket: read, let the one state machine decide, write if nobody wrote meanwhile, else again.

Rows of one call are read together and written together. What we granted ourselves is known
already and not read again. Rows that are leased for long, and those that wait for their
time, are marked in a second bucket, which is all that a sweep looks at.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from murmur.store import Claim, State
from murmur.stores.nats_bucket import Bucket, Entry, Write, text_of, token
from murmur.stores.rows import Rows, TaskRow

_KNOWN_AT_MOST: Final = 20_000  # rows remembered that we granted
T = TypeVar("T")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(TaskRow).decode


Found = tuple[Entry | None, TaskRow | None]
Assumed = Mapping[str, tuple[Entry, TaskRow]]  # by task id: how rows most likely stand, and at which revision
_NOTHING: Final[Assumed] = {}


class Scratch(Rows):
    """Rows in hand, for one verb; what it changes is written afterwards."""

    def __init__(self, now: float, rows: Iterable[TaskRow]) -> None:
        self.clock = lambda: now
        self._rows = {row.task_id: row for row in rows}
        self.changed: dict[str, TaskRow] = {}
        self.active: dict[str, bool] = {}
        self.letters: dict[str, bytes] = {}
        self.cancelled: set[str] = set()
        self._letter: bytes | None = None  # of the row that is kept next

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
        if self._letter is not None:
            self.letters[row.task_id], self._letter = self._letter, None

    def _active_rows(self, topics: Sequence[str]) -> Iterator[TaskRow]:
        yield from [row for row in self._rows.values() if row.topic in topics]

    def _keep_letter(self, agent: str, letter: bytes) -> None:  # noqa: ARG002  the row tells it
        self._letter = letter

    def _tell_cancelled(self, task_id: str) -> None:
        self.cancelled.add(task_id)

    def _forget(self, now: float) -> None:
        """The bucket does it."""


class RowBook:
    """Rows in `rows`, their marks and dead letters in `beside`. `tell_cancelled` is called for those that may run."""

    def __init__(self, rows: Bucket, beside: Bucket, *, tell_cancelled: Callable[[str], None]) -> None:
        self._rows, self._beside = rows, beside
        self._tell_cancelled = tell_cancelled
        self._known: dict[str, tuple[Entry, TaskRow]] = {}
        self._marked: set[str] = set()

    async def apply(
        self,
        task_ids: Sequence[str],
        verb: Callable[[Scratch, Sequence[int]], Sequence[T]],
        *,
        assumed: Assumed = _NOTHING,
        is_new: bool = False,
        told: Callable[[T, int], T] | None = None,
    ) -> list[T]:
        """Change rows, each alone and as it stands when that is written, and return what the verb answered for each.

        `verb` is given rows and places in `task_ids`, and answers for those, each once unless somebody wrote meanwhile.
        `assumed`: how rows most likely stand, `is_new`: that they will hardly be there; such are not read first.
        `told`: makes the answer, of what the verb said and the revision that was written.
        """
        answers: dict[int, T] = {}
        todo = list(range(len(task_ids)))
        is_first = True
        while len(answers) < len(task_ids):
            once: dict[str, int] = {}
            for at in todo:  # the same row twice in one call: one after the other
                once.setdefault(task_ids[at], at)
            unknown = [one for one in once if not (is_first and (is_new or one in assumed or one in self._known))]
            found: dict[str, Found] = dict(zip(unknown, await self._read(unknown), strict=True))
            for task_id in once:
                if task_id not in found:
                    is_ours = task_id in self._known
                    found[task_id] = self._known.pop(task_id) if is_ours else assumed.get(task_id, (None, None))
            scratch = Scratch(self._rows.now(), [row for _, row in found.values() if row is not None])
            said = dict(zip(once, verb(scratch, list(once.values())), strict=True))
            revisions = await self._write(scratch, found)
            for task_id, at in once.items():
                revision = revisions.get(task_id, 0)  # 0: nothing to write
                if revision is not None:
                    answer = said[task_id]
                    answers[at] = answer if told is None or not revision else told(answer, revision)
            todo = [at for at in range(len(task_ids)) if at not in answers]
            is_first = False  # from now on everything is read before it is changed
        return [answers[at] for at in range(len(task_ids))]

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
        scratch = Scratch(self._rows.now(), rows)
        due = scratch.sweep(topics)
        lapsed = [
            Write(key_of(row.task_id), encoded(row), entry.revision)
            for entry, row in found
            if entry is not None and row is not None and before[row.task_id] is not row.state
        ]
        await self._rows.put(lapsed, is_telling=True)  # where somebody was faster, he knows better
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

    async def _write(self, scratch: Scratch, found: Mapping[str, Found]) -> dict[str, int | None]:
        """Write what was changed; return the revisions by task id, None where somebody wrote meanwhile."""
        changed = scratch.changed
        if scratch.letters:
            letters = scratch.letters.items()
            await self._beside.put([Write(letter_of(changed[task_id]), letter) for task_id, letter in letters])
        writes: dict[str, Write] = {}
        for task_id, row in changed.items():
            entry = found[task_id][0]
            key, expected = (key_of(task_id), 0) if entry is None else (entry.key, entry.revision)
            writes[task_id] = Write(key, _encode(row), expected, row.forgotten_at if row.state.is_terminal else None)
        revisions = dict(zip(changed, await self._rows.put(list(writes.values()), is_telling=True), strict=True))
        marks, unmarked = [], []
        for task_id, revision in revisions.items():
            row = changed[task_id]
            if revision is None:
                if task_id in scratch.letters:
                    unmarked.append(letter_of(row))
                continue
            if task_id in scratch.cancelled:
                self._tell_cancelled(task_id)
            if row.state is State.LEASED:
                self._known[task_id] = (Entry(writes[task_id].key, b"", revision), row)
            elif scratch.active[task_id]:
                self._marked.discard(task_id)
                marks.append(Write(mark_of(row), b""))
            elif task_id in self._marked:
                self._marked.discard(task_id)
                unmarked.append(mark_of(row))
        while len(self._known) > _KNOWN_AT_MOST:
            self._known.pop(next(iter(self._known)))
        await self._beside.put(marks)
        await self._beside.delete(unmarked)
        return revisions

    async def _read(self, task_ids: Sequence[str]) -> list[Found]:
        """Return entries, and rows where they are not over."""
        found: list[Found] = []
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
