"""Processes that outlived the child they descend from: found in /proc, killed, and never confused with others.

`killpg` removes a child's tools, except those that made a session of their own. Those are adopted by the
fork server (see `preload`), or by the first process when there is none. A stray belongs to a child by its
session, or by the mark that every tool inherits in its environment. Without /proc nothing is found.
Blocking: see `spawner`.
"""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

from attrs import frozen

MARK: Final = "SUPERVISORS_CHILD"
"""Environment variable that holds the pid of the child a tool was started from."""

_PAUSE: Final = 0.002  # seconds a killed process gets to vanish before the table is read again
_PASSES: Final = 100


@frozen
class Row:
    """One line of the process table."""

    pid: int
    parent: int
    session: int
    is_zombie: bool
    threads: int


def kill_strays(owners: Collection[int], *, adopters: Collection[int], spare: Collection[int]) -> None:
    """SIGKILL what descends from dead children and was adopted, until nothing of it is left.

    Args:
        owners: pids of the children that died.
        adopters: who orphans are given to. If our own pid is among them, its dead are reaped, each by its pid.
        spare: pids of the children that live.
    """
    left = 1
    for _ in range(_PASSES):
        found = [row for row in _table() if row.parent in adopters and row.pid not in spare and _is_owned(row, owners)]
        for row in found:
            if row.parent == os.getpid():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(row.pid, os.WNOHANG)
        killed = _kill(row.pid for row in found if not row.is_zombie)
        left = 2 if killed else left - 1  # who was killed may have left children that were listed below it
        if not left:
            return
        time.sleep(_PAUSE)


def kill_descendants(root: int) -> None:
    """SIGKILL everything below `root`, until nothing is left. `root` must be adopting orphans."""
    left = 2
    for _ in range(_PASSES):
        rows = {row.pid: row for row in _table()}
        # The table is not read in one instant: a process may be listed below one that is dead by now. So the
        # dead count as links of the chain, and one look at which nothing is left is not enough.
        parents = {row.pid: row.parent for row in rows.values()}
        killed = _kill(row.pid for row in rows.values() if not row.is_zombie and _is_below(row.pid, root, parents))
        left = 2 if killed else left - 1
        if not left:
            return
        time.sleep(_PAUSE)


def census() -> Counter[int]:
    """Count the processes of each session, with their threads."""
    counted: Counter[int] = Counter()
    for row in _table():
        counted[row.session] += row.threads
    return counted


def _is_below(pid: int, root: int, parents: dict[int, int]) -> bool:
    above = parents.get(pid)
    while above is not None and above != root:
        above = parents.get(above)
    return above == root


def _is_owned(row: Row, owners: Collection[int]) -> bool:
    return row.session in owners or _marked(row.pid) in owners


def _kill(pids: Iterator[int]) -> int:
    count = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            count += 1
    return count


def _table() -> Iterator[Row]:
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            row = _row(int(name)) if name.isdigit() else None
            if row is not None:
                yield row


def _row(pid: int) -> Row | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in brackets may hold anything, brackets and blanks too.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return Row(pid, int(fields[1]), int(fields[3]), fields[0] in (b"Z", b"X"), int(fields[17]))


def _marked(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    start = MARK.encode() + b"="
    mark = next((entry.removeprefix(start) for entry in entries if entry.startswith(start)), b"")
    return int(mark) if mark.isdigit() else None
