"""What the decision core asks of a shell, and what it is told in reply."""

from collections.abc import Generator
from typing import TypeVar

from attrs import frozen

from supervisors.child import StartOutcome
from supervisors.reasons import ExitReason
from supervisors.spec import ChildSpec


@frozen
class Start:
    """Start this incarnation. Reply: its StartOutcome."""

    key: str
    spec: ChildSpec
    incarnation: int


@frozen
class Stopping:
    """One child to stop: `grace` is `ChildSpec.grace`."""

    key: str
    incarnation: int
    grace: float | None


@frozen
class Stop:
    """Stop these, one after another, or all at once. Reply: how each ended, a tuple in the same order."""

    children: tuple[Stopping, ...]
    at_once: bool


@frozen
class Retry:
    """Tell `RetryDue(key)` after `delay` seconds, behind everything that has arrived by then. Reply: None."""

    key: str
    delay: float
    is_pause: bool  # the restarts were too many, and this is the time to calm down


Effect = Start | Stop | Retry
Outcome = StartOutcome | tuple[ExitReason, ...] | None


@frozen
class Reply:
    """What came of an effect, and when that was known."""

    outcome: Outcome
    now: float


T = TypeVar("T")
Decision = Generator[Effect, Reply, T]
"""One decision: yields effects, is sent a reply for each, returns an answer or raises a refusal."""
