"""The decisions about a task: may it start, and what follows when an attempt ended.

Pure functions over frozen values. Time and randomness are arguments. The worker acts.
Source: docs/explanation/guarantees.md, and the table of failures there.
"""

from attrs import frozen

from murmur.envelope import TaskMessage
from murmur.limits import LAPSES_BEYOND_DELIVERIES
from murmur.policy import Directive, Redelivery
from murmur.store import Claim


@frozen
class Start:
    """Run it."""


@frozen
class Expire:
    """Its deadline passed before it began: answer so."""


@frozen
class Answer:
    """Answer with the error now; trying again would not help."""


@frozen
class Retry:
    """Try again after `delay` seconds."""

    delay: float
    crashed: bool = False


@frozen
class Bury:
    """Nobody tries again: a dead letter with this reason, and an error result."""

    reason: str


@frozen
class GiveBack:
    """Somebody else's turn, nothing counted."""

    delay: float = 0.0


def before_start(claim: Claim, message: TaskMessage, redelivery: Redelivery, *, now: float) -> Start | Expire | Bury:
    """Return whether a granted task may start.

    Args:
        claim: the grant; its counters tell of earlier attempts.
        message: the task; `deadline` in UTC seconds.
        redelivery: the limits of its agent, as this worker sees them.
        now: UTC seconds.
    """
    if message.deadline is not None and now > message.deadline:
        return Expire()
    if claim.failures >= redelivery.max_deliveries:
        return Bury(f"failed {claim.failures} times")
    if claim.crashes >= redelivery.max_crashes:
        return Bury(f"crashed its process {claim.crashes} times")
    if claim.lapses >= redelivery.max_deliveries + LAPSES_BEYOND_DELIVERIES:
        return Bury(f"its lease ran out {claim.lapses} times in a row")
    return Start()


def after_failure(
    directive: Directive, claim: Claim, redelivery: Redelivery, *, random: float
) -> Answer | Retry | Bury | GiveBack:
    """Return what becomes of a task whose attempt raised.

    Args:
        directive: what its actor says the error does.
        claim: the grant of the attempt that failed; `failures` counts the earlier ones.
        redelivery: the limits and the backoff.
        random: in [0, 1), for the jitter.
    """
    match directive:
        case Directive.RESUME:
            return Answer()
        case Directive.STOP:
            return Bury("its agent was stopped by the error")
        case Directive.ESCALATE:
            return GiveBack()
        case Directive.RESTART:
            failures = claim.failures + 1
            if failures >= redelivery.max_deliveries:
                return Bury(f"failed {failures} times")
            return Retry(redelivery.backoff.delay(claim.failures, random=random))
