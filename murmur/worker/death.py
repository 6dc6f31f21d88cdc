"""What the end of a worker process means for the tasks it had in hand: who is to blame, who is in doubt, who is not.

A process that was killed from outside, or ended as it was asked to, blames nobody. One that died of itself (a segfault,
an abort, memory, an odd exit) or hung has one to blame: whoever was alone, or whoever it was at when it hung. Else the
one it was at is in doubt, or all are where that is unknown. Pure: reasons in, names out; acting is left to `pool`.
Source: docs/explanation/guarantees.md, "What a failure means".
"""

import signal
from collections.abc import Collection
from typing import Final

from attrs import frozen

from murmur.envelope import ErrorNote
from murmur.store import Claim
from murmur.worker.failures import innermost
from supervisors import StartFailed
from supervisors.reasons import Exited, ExitReason, Hung, Killed, Normal, OutOfMemory, OverLimit, Stopped

RETIRED: Final = 86  # the exit code of a process that asked to be replaced
_OUTSIDE: Final = (0, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@frozen
class Blame:
    """Task ids: the one that did it, and those of which one may have. All others are given back, uncounted."""

    guilty: str | None = None
    suspects: frozenset[str] = frozenset()


def blame(reason: ExitReason, in_hand: Collection[str], *, at: str) -> Blame:
    """Return who is to blame for the end of a process.

    Args:
        reason: how it ended.
        in_hand: ids of the tasks it had.
        at: id of the task whose code it was executing; empty where it was executing none, or did not say.
    """
    if not in_hand or not is_of_itself(reason):
        return Blame()
    if len(in_hand) == 1:
        return Blame(guilty=next(iter(in_hand)))
    if at in in_hand:
        return Blame(guilty=at) if isinstance(reason, Hung) else Blame(suspects=frozenset([at]))
    return Blame(suspects=frozenset(in_hand))


def is_of_itself(reason: ExitReason) -> bool:
    """Whether a process died of what it did itself, so that a task of it may be to blame."""
    if isinstance(reason, Exited):
        return reason.code != RETIRED
    if isinstance(reason, Killed):
        return reason.signal not in _OUTSIDE
    return not isinstance(reason, Normal | Stopped)


def was_killed(failed: StartFailed) -> bool:
    """Whether a start failed because the process died, which says nothing of whether it can start."""
    return isinstance(innermost(failed), Killed | Exited | OutOfMemory)


def exit_of(reason: ExitReason) -> str:
    """Return how a process ended in a few words, for a dead letter."""
    match reason:
        case Killed():
            return f"signal {reason.signal} ({_name_of(reason.signal)})" if reason.signal else "killed"
        case Exited():
            return f"code {reason.code}"
        case OutOfMemory():
            return "out of memory"
        case Hung():
            return "hung"
        case OverLimit():
            return f"{reason.used} {reason.what}, {reason.allowed} allowed"
        case _:
            return type(reason).__name__.lower()


def _name_of(number: int) -> str:
    return next((known.name for known in signal.Signals if known == number), "real-time")


def deaths(claim: Claim) -> int:
    """Return how many processes a task has taken with it, those included in which it was one of several suspects."""
    return claim.crashes + sum(note.suspect for note in claim.errors)


def is_suspect(errors: Collection[ErrorNote]) -> bool:
    """Whether the last that happened to a task was that its process died: it runs alone until that is cleared up."""
    return bool(errors) and [*errors][-1].exit is not None
