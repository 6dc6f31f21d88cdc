"""How a process ended: its exit code, what it said itself, and whether the kernel was out of memory.

An exit code alone lies: the out-of-memory killer and an operator both leave -9, and 255 also stands for
"nobody knows" when the fork server died. `classify` is pure; reading the kernel's counter is here too.
"""

import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import define, evolve, frozen

from supervisors.reasons import Crashed, Exited, ExitReason, Killed, Normal, OutOfMemory, OverLimit

LOST: Final = None
"""The exit code of a process whose status nobody could read."""

FAULTS: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
"""What a process dies of by its own fault, writing down its stacks."""


@frozen(kw_only=True)
class Evidence:
    """What is known of a dead process.

    `said`: its own last words. `killed`: why its supervisor killed it, empty if it did not; `verdict`: the reason that
    this is for the supervisor, if not just a kill. `note`, `stacks`: what it left behind, see `reasons`.
    """

    code: int | None
    said: ExitReason | None = None
    verdict: ExitReason | None = None
    killed: str = ""
    is_oom: bool = False
    note: str = ""
    stacks: str = ""


def classify(evidence: Evidence) -> ExitReason:
    """Return why the process ended, the most telling evidence first, and what it was at."""
    reason = _cause(evidence)
    match reason:
        case Killed(number) if number in FAULTS:
            return evolve(reason, note=evidence.note, stacks=evidence.stacks)
        case Killed() | Crashed() | Exited() | OutOfMemory() | OverLimit():
            return evolve(reason, note=evidence.note)
    return reason


def _cause(evidence: Evidence) -> ExitReason:
    code = evidence.code
    if evidence.verdict is not None:
        return evidence.verdict
    if code == -signal.SIGKILL and not evidence.killed:
        return OutOfMemory() if evidence.is_oom else Killed(signal.SIGKILL)
    if evidence.said is not None and (code is LOST or code >= 0 or evidence.killed):
        return evidence.said  # also when its exit was slow and it was killed after its last words
    if code is LOST:
        return Killed(detail=evidence.killed or "exit status lost")
    if code < 0:
        return Killed(-code, evidence.killed)
    return Exited(code) if code else Normal()


def from_system_exit(code: object) -> tuple[ExitReason, int]:
    """Return the reason and the exit code that `SystemExit(code)` stands for, as Python has it."""
    if code is None or code == 0:
        return Normal(), 0
    number = code % 256 if isinstance(code, int) else 1
    return Exited(number), number


@define
class OomCounter:
    """The kernel's count of out-of-memory kills in our cgroup, versions 1 and 2. Each kill is blamed on one process.

    The count is the cgroup's: a kill of anything else in it is forgotten at the next `forget`.
    """

    file: Path | None
    seen: int = 0

    @classmethod
    def here(cls, *, proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")) -> "OomCounter":
        """Find the counter; without one nothing is ever taken for out of memory."""
        counter = cls(_find(proc / "cgroup", root))
        counter.forget()
        return counter

    def take(self) -> bool:
        """Say whether there was a kill that nobody was blamed for, and blame it."""
        is_risen = self._count() > self.seen
        self.seen += is_risen
        return is_risen

    def forget(self) -> None:
        """Take what was counted so far for known."""
        self.seen = self._count()

    def _count(self) -> int:
        if self.file is not None:
            with suppress(OSError):
                counts = dict(line.split(None, 1) for line in self.file.read_text().splitlines() if " " in line)
                return int(counts.get("oom_kill", 0))
        return self.seen


def _find(cgroup: Path, root: Path) -> Path | None:
    """Each line is "number:controllers:path"; version 2 has no controllers."""
    with suppress(OSError):
        for line in cgroup.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            inside = path.lstrip("/")
            places: tuple[Path, ...] = ()
            if not controllers:
                places = (root / inside / "memory.events", root / "unified" / inside / "memory.events")
            elif "memory" in controllers.split(","):
                places = (root / "memory" / inside / "memory.oom_control", root / "memory" / "memory.oom_control")
            for place in places:
                if place.is_file():
                    return place
    return None
