"""Backoff: how long to wait before trying again.

A child that fails because something it needs is down fails again at once, and a hundred of them
together keep it down. Exponential delays with full jitter spread the attempts.
Pure: the caller brings the random number, and does the waiting.
"""

from attrs import field, frozen

from supervisors.validation import number, positive, truth


@frozen
class Backoff:
    """The n-th retry waits `initial * factor**n` seconds, at most `cap`; jitter draws from 0 to that.

    A supervisor restarts a child at once the first time; it waits `delay(0)` before the second
    restart in a row, and so on. A child that stayed up for `reset_after` seconds starts afresh.
    """

    initial: float = field(default=0.5, validator=number(0.0))
    factor: float = field(default=2.0, validator=number(1.0))
    cap: float = field(default=30.0, validator=number(0.0))
    jitter: bool = field(default=True, validator=truth)
    reset_after: float = field(default=60.0, validator=positive)

    def delay(self, n: int, *, random: float) -> float:
        """Seconds to wait before retry `n` (0 is the first), `random` in [0, 1) drawn by the caller."""
        longest = self.longest(n)
        return longest * random if self.jitter else longest

    def longest(self, n: int) -> float:
        """The delay before retry `n` without jitter, seconds."""
        try:
            return float(min(self.cap, self.initial * self.factor**n))
        except OverflowError:
            return self.cap
