"""Rows, journal, dead letters and keys in one SQLite file, shared by all processes of a host.

Leases run on the host's boot clock, which all its processes share and nobody can set. After
a reboot that clock begins anew, and so does every lease and retention in the file.

Everything here runs in the one thread of a `Writer`, inside its transaction.
"""

import contextlib
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from murmur.envelope import ErrorNote
from murmur.store import Claim, State
from murmur.stores.rows import Rows, TaskRow

VERSION: Final = 1
APPLICATION: Final = 0x6D75726D  # "murm": whose file this is
_FORGET_EVERY: Final = 30.0  # seconds
_FORGET_AT_ONCE: Final = 1_000  # rows
_NEWS_KEPT: Final = 600.0  # seconds a cancellation can be heard of
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_SCHEMA: Final = """
CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY, agent TEXT NOT NULL, topic TEXT NOT NULL, keep INTEGER NOT NULL, state TEXT NOT NULL,
    token INTEGER NOT NULL, attempts INTEGER NOT NULL, failures INTEGER NOT NULL, crashes INTEGER NOT NULL,
    lapses INTEGER NOT NULL, owner TEXT, leased_until REAL NOT NULL, not_before REAL NOT NULL, settled_as TEXT,
    result BLOB, errors BLOB, forgotten_at REAL NOT NULL, active INTEGER NOT NULL
);
CREATE INDEX active_tasks ON tasks (topic) WHERE active;
CREATE INDEX finished_tasks ON tasks (forgotten_at) WHERE forgotten_at > 0;
CREATE TABLE journal (task_id TEXT, name TEXT, value BLOB NOT NULL, PRIMARY KEY (task_id, name)) WITHOUT ROWID;
CREATE TABLE letters (number INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, letter BLOB NOT NULL);
CREATE INDEX letters_of_agent ON letters (agent, number);
CREATE TABLE keys (key TEXT PRIMARY KEY, value BLOB NOT NULL, forgotten_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE cancelled (number INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE boot (id TEXT NOT NULL);
"""
_COLUMNS: Final = tuple(name for name in TaskRow.__struct_fields__ if name != "journal")
_FIND: Final = f"SELECT {', '.join(_COLUMNS)} FROM tasks"  # noqa: S608  our own words
_KEEP: Final = f"REPLACE INTO tasks VALUES ({', '.join('?' * (len(_COLUMNS) + 1))})"  # noqa: S608
_notes: Final = msgspec.json.Decoder(tuple[ErrorNote, ...])


class NotOurs(Exception):
    """The file is another program's, or a later murmur's."""


class SqliteTables(Rows):
    """One namespace's rows in an open file. `connection` is in autocommit mode: transactions are begun by hand."""

    def __init__(self, connection: sqlite3.Connection, *, namespace: str, retention: float) -> None:
        self._sql = connection
        self._space = f"{namespace}/"
        self._retention = retention
        self._forgot_at = -_FORGET_EVERY
        self._news_seen = 0
        self.clock = boot_clock

    def set_up(self) -> None:
        """Make the tables of a new file, and begin leases anew after a reboot. Raises `NotOurs`."""
        ((whose,),) = self._sql.execute("PRAGMA application_id")
        ((version,),) = self._sql.execute("PRAGMA user_version")
        ((count,),) = self._sql.execute("SELECT count(*) FROM sqlite_master")
        if whose != APPLICATION and count:
            raise NotOurs("it is another program's database")
        if version > VERSION:
            raise NotOurs(f"it was written by a later murmur (layout {version}, this one reads {VERSION})")
        if not version:
            for statement in _SCHEMA.split(";"):
                self._sql.execute(statement)
            self._sql.execute(f"PRAGMA application_id = {APPLICATION}")
            self._sql.execute(f"PRAGMA user_version = {VERSION}")
        boot = _boot_id()
        if self._sql.execute("SELECT id FROM boot").fetchall() != [(boot,)]:
            self._begin_anew(boot)
        ((self._news_seen,),) = self._sql.execute("SELECT coalesce(max(number), 0) FROM cancelled")

    # -- beside the rows --------------------------------------------------------------------------

    def cancelled(self) -> list[str]:
        """Return the tasks that anybody cancelled while they were leased, since the last call."""
        found = self._sql.execute(
            "SELECT number, task_id FROM cancelled WHERE number > ?", (self._news_seen,)
        ).fetchall()
        if found:
            self._news_seen = found[-1][0]
        return [task_id[len(self._space) :] for _, task_id in found if task_id.startswith(self._space)]

    def dead_letters(self, agent: str, limit: int) -> list[bytes]:
        """Return the newest letters, newest first."""
        asked = "SELECT letter FROM letters WHERE agent = ? ORDER BY number DESC LIMIT ?"
        return [letter for (letter,) in self._sql.execute(asked, (self._space + agent, limit))]

    def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Forget letters; return how many there were."""
        gone = [(self._space + agent, letter) for letter in letters]
        return self._sql.executemany("DELETE FROM letters WHERE agent = ? AND letter = ?", gone).rowcount

    def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """Journal a step unless it stands there already."""
        self._held(claim)
        self._sql.execute("INSERT OR IGNORE INTO journal VALUES (?, ?, ?)", (self._space + claim.task_id, name, value))
        return self.recorded(claim.task_id, name) or b""

    def recorded(self, task_id: str, name: str) -> bytes | None:
        """Return a journalled step."""
        asked = "SELECT value FROM journal WHERE task_id = ? AND name = ?"
        for (value,) in self._sql.execute(asked, (self._space + task_id, name)):
            return bytes(value)
        return None

    def put(self, key: str, value: bytes, *, ttl: float | None) -> None:
        """Keep a value for `ttl` seconds, or the retention."""
        until = self.clock() + (self._retention if ttl is None else ttl)
        self._sql.execute("REPLACE INTO keys VALUES (?, ?, ?)", (self._space + key, value, until))

    def swap(self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None) -> bytes | None:
        """Keep a value in place of another; return what stands there."""
        (stands,) = self.get([key])
        if stands != expected:
            return stands
        if value is None:
            self.delete([key])
        else:
            until = math.inf if ttl is None else self.clock() + ttl
            self._sql.execute("REPLACE INTO keys VALUES (?, ?, ?)", (self._space + key, value, until))
        return value

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values that are still kept."""
        asked = "SELECT value FROM keys WHERE key = ? AND forgotten_at > ?"
        found = [self._sql.execute(asked, (self._space + key, self.clock())).fetchone() for key in keys]
        return [one and one[0] for one in found]

    def listed(self, prefix: str) -> dict[str, bytes]:
        """Return what is still kept under a prefix."""
        start = self._space + prefix
        asked = "SELECT key, value FROM keys WHERE key >= ? AND substr(key, 1, ?) = ? AND forgotten_at > ? ORDER BY key"
        found = self._sql.execute(asked, (start, len(start), start, self.clock()))
        return {key[len(self._space) :]: value for key, value in found}

    def delete(self, keys: Sequence[str]) -> None:
        """Forget keys."""
        self._sql.executemany("DELETE FROM keys WHERE key = ?", [(self._space + key,) for key in keys])

    # -- where rows lie ---------------------------------------------------------------------------

    def _atomic(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()  # the Writer's transaction

    def _find(self, task_id: str) -> TaskRow | None:
        found = self._sql.execute(f"{_FIND} WHERE task_id = ?", (self._space + task_id,)).fetchone()
        return None if found is None else self._row(found)

    def _keep(self, row: TaskRow, *, is_active: bool) -> None:
        values: dict[str, Any] = {column: getattr(row, column) for column in _COLUMNS}
        values["task_id"] = self._space + row.task_id
        values["state"] = row.state.value
        values["errors"] = msgspec.json.encode(row.errors) if row.errors else None
        self._sql.execute(_KEEP, (*values.values(), is_active))

    def _active_rows(self, topics: Sequence[str]) -> Iterator[TaskRow]:
        for topic in topics:
            for found in self._sql.execute(f"{_FIND} WHERE active AND topic = ?", (topic,)).fetchall():
                if found[0].startswith(self._space):
                    yield self._row(found)

    def _keep_letter(self, agent: str, letter: bytes) -> None:
        self._sql.execute("INSERT INTO letters (agent, letter) VALUES (?, ?)", (self._space + agent, letter))

    def _tell_cancelled(self, task_id: str) -> None:
        told = (self._space + task_id, self.clock())
        self._sql.execute("INSERT INTO cancelled (task_id, at) VALUES (?, ?)", told)

    def _forget(self, now: float) -> None:
        if now - self._forgot_at < _FORGET_EVERY and self._retention >= _FORGET_EVERY:
            return
        self._forgot_at = now
        asked = "SELECT task_id FROM tasks WHERE forgotten_at > 0 AND forgotten_at <= ? LIMIT ?"
        over = self._sql.execute(asked, (now, _FORGET_AT_ONCE)).fetchall()
        self._sql.executemany("DELETE FROM journal WHERE task_id = ?", over)
        self._sql.executemany("DELETE FROM tasks WHERE task_id = ?", over)
        self._sql.execute("DELETE FROM keys WHERE forgotten_at <= ?", (now,))
        self._sql.execute("DELETE FROM cancelled WHERE at <= ?", (now - _NEWS_KEPT,))

    # -- inside -----------------------------------------------------------------------------------

    def _row(self, found: Sequence[Any]) -> TaskRow:
        values = dict(zip(_COLUMNS, found, strict=True))
        values["task_id"] = values["task_id"][len(self._space) :]
        values["keep"] = bool(values["keep"])
        values["state"] = State(values["state"])
        values["errors"] = _notes.decode(values["errors"]) if values["errors"] else ()
        return TaskRow(**values)

    def _begin_anew(self, boot: str) -> None:
        """The host was started again: who leased anything is dead, and times of the old clock mean nothing."""
        self._sql.execute("DELETE FROM boot")
        self._sql.execute("INSERT INTO boot VALUES (?)", (boot,))
        self._sql.execute("UPDATE tasks SET leased_until = 0 WHERE state = 'leased' AND leased_until < 9e999")
        self._sql.execute("UPDATE tasks SET not_before = 0")
        until = self.clock() + self._retention
        self._sql.execute("UPDATE tasks SET forgotten_at = ? WHERE forgotten_at > 0", (until,))
        self._sql.execute("UPDATE keys SET forgotten_at = ? WHERE forgotten_at < 9e999", (until,))
        self._sql.execute("DELETE FROM cancelled")


def boot_clock() -> float:
    """Return seconds since the host was started; where no such clock can be had, those of the wall clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if clock is None else time.clock_gettime(clock)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "wall clock"
