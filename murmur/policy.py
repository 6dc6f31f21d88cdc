"""What an actor class says about its failures: directives, redelivery, restart intensity.

Frozen values only. Who asks them, and what follows, is decided in `murmur.outcome`.
"""

import enum
from typing import Final

from attrs import field, frozen
from attrs.validators import ge, instance_of

from murmur.errors import BadActorKey, InputError, NeedsStore, OutputError, PayloadLost, Reject, SpawnLimit, TaskFailed
from supervisors import Backoff, Intensity

__all__ = ["Backoff", "Directive", "Intensity", "Redelivery", "default_directive"]


class Directive(enum.Enum):
    """What a failure does to the actor and, through it, to the message."""

    RESUME = "resume"  # the task fails now, the actor lives on
    RESTART = "restart"  # a fresh actor; the task is redelivered with backoff, at last dead-lettered
    STOP = "stop"  # dead-letter now; this worker serves the agent no more
    ESCALATE = "escalate"  # the task is given back uncounted; the parent supervisor decides


@frozen
class Redelivery:
    """How often a task may fail, and how long it waits in between."""

    max_deliveries: int = field(
        default=5, validator=[instance_of(int), ge(1)]
    )  # attempts that end in a retryable error
    max_crashes: int = field(default=3, validator=[instance_of(int), ge(1)])  # deaths of its process it is to blame for
    backoff: Backoff = field(
        factory=lambda: Backoff(initial=0.5, factor=2.0, cap=30.0, jitter=True), validator=instance_of(Backoff)
    )


_WOULD_REPEAT: Final = (Reject, BadActorKey, InputError, OutputError, SpawnLimit, NeedsStore, PayloadLost, TaskFailed)


def default_directive(error: BaseException) -> Directive:
    """`RESUME` for errors that would repeat (rejected, bad input or output, a failed child), else `RESTART`."""
    return Directive.RESUME if isinstance(error, _WOULD_REPEAT) else Directive.RESTART
