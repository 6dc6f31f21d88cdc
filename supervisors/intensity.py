"""Restart intensity: how many restarts a supervisor tolerates before it gives up.

Restarting a broken child for ever hides the fault. This module counts the recent restarts and
refuses one too many; what then happens is decided in `core`.
Pure: no task, no clock, no I/O. Callers pass `now`, so tests need not wait.
"""

from attrs import field, frozen

from supervisors.errors import IntensityExceeded
from supervisors.validation import positive, whole_number


@frozen
class Intensity:
    """At most `max_restarts` restarts within any `period` seconds."""

    max_restarts: int = field(default=3, validator=whole_number(0))
    period: float = field(default=5.0, validator=positive)

    def admit(self, past: tuple[float, ...], *, now: float) -> tuple[float, ...]:
        """Return the restarts that count from `now` on, this one included.

        Args:
            past: clock times of earlier restarts, seconds, oldest first; may be empty.
            now: clock time of this restart, seconds; not before the last of `past`.
        Returns: the times at most `period` old, oldest first; 1 to `max_restarts`.
        Raises: IntensityExceeded, when there would be more than `max_restarts`.
        Source: OTP Design Principles, "Maximum Restart Intensity".
        """
        recent = (*(t for t in past if now - t <= self.period), now)
        if len(recent) > self.max_restarts:
            raise IntensityExceeded(restarts=len(recent), max_restarts=self.max_restarts, period=self.period)
        return recent
