"""Worker processes that end by their own fault with nothing in hand, so that no task is to blame.

What ends soon after it began will do so again. It is told once, with its reason; and where no process of the pool has
ever done anything or lived for long, a few of them are the end of the worker, as a module that does not import is.
Pure but for the log: ages are arguments. What becomes of tasks is decided in `death`.
"""

from collections.abc import Collection
from typing import Final

from attrs import define
from loguru import logger

from murmur.errors import WorkerNotStarted
from supervisors.reasons import Crashed, ExitReason

_SOON: Final = 10.0  # seconds: whoever lives longer can live
_LEAST: Final = 5  # ends
_ROUNDS: Final = 3  # ends of each process


@define(eq=False)
class EarlyEnds:
    """Those of one pool of `count` processes."""

    count: int
    hopeless: WorkerNotStarted | None = None  # why the pool will never serve
    _is_proven: bool = False
    _ends: int = 0
    _elder: frozenset[int] = frozenset()  # pids that lived when the first of these ended
    _told: str = ""

    def worked(self) -> None:
        """A process did what it is for."""
        self._is_proven, self._told = True, ""

    def ended(self, reason: ExitReason, *, pid: int, age: float, alive: Collection[int]) -> None:
        """A process ended with nothing in hand, `age` seconds old; the pids in `alive` live."""
        if (told := str(reason)) != self._told:
            notes = getattr(reason.error, "__notes__", ()) if isinstance(reason, Crashed) else ()
            logger.error("{}", "\n".join((f"worker process {pid or '?'} {told}; it had nothing in hand", *notes)))
            self._told = told
        if age >= _SOON:
            self._is_proven = True
        if self._is_proven:
            return
        if not self._ends:
            self._elder = frozenset(alive)
        self._ends += 1
        if self._ends >= max(_LEAST, _ROUNDS * self.count) and self._elder.isdisjoint(alive):
            self.hopeless = WorkerNotStarted(f"its processes end at once, {self._ends} so far: {reason}")
