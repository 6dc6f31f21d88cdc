"""The watchdog: how long a child may be silent before it is taken for hung.

A child beats twice: from its event loop (is it scheduling?) and from a thread (is the interpreter running?).
A blocked loop may only be slow, so it is told of first; code that holds the interpreter lock shows in both.
Pure: no clock, no process. Callers bring counts and times; what follows is done by `process.life`.
"""

import enum
from typing import Any

from attrs import Attribute, evolve, field, frozen

from supervisors.errors import BadCombination
from supervisors.validation import positive


class Verdict(enum.Enum):
    """What silence means."""

    FRESH = "fresh"
    LATE = "late"  # the loop is silent for longer than it should: give it no new work
    LOOP_HUNG = "loop_hung"  # the loop is not scheduling
    FROZEN = "frozen"  # not even a thread runs


def _longer_than_a_beat(owner: "Watchdog", attribute: "Attribute[Any]", value: float) -> None:
    positive(owner, attribute, value)
    if value <= owner.every:
        raise BadCombination(
            field=attribute.name, value=value, allowed=f"longer than one beat, every={owner.every:g} s"
        )


@frozen(kw_only=True)
class Watchdog:
    """Limits on the silence of a process child, seconds, from when it is ready to its end.

    `every`: between two beats. A hung child gets `dump` seconds to write down its stacks, then it is killed.
    """

    every: float = field(default=1.0, validator=positive)
    late: float = field(default=5.0, validator=_longer_than_a_beat)
    loop_silent: float = field(default=30.0, validator=_longer_than_a_beat)
    thread_silent: float = field(default=60.0, validator=_longer_than_a_beat)
    dump: float = field(default=1.0, validator=positive)

    def judge(self, watched: "Watched", *, now: float) -> Verdict:
        """Say what the silence at `now` means, the worst first."""
        if now - watched.thread_at > self.thread_silent:
            return Verdict.FROZEN
        loop_silent = now - watched.loop_at
        if loop_silent > self.loop_silent:
            return Verdict.LOOP_HUNG
        return Verdict.LATE if loop_silent > self.late else Verdict.FRESH


@frozen
class Watched:
    """When the counts of a child were last seen to rise, by the watcher's clock.

    Counts, not the child's times: a watcher that was itself asleep sees at once that they have risen meanwhile.
    """

    loop: int
    thread: int
    loop_at: float
    thread_at: float

    def seen(self, *, loop: int, thread: int, now: float) -> "Watched":
        """Return what is known after reading the counts at `now`."""
        after = self
        if loop != self.loop:
            after = evolve(after, loop=loop, loop_at=now)
        if thread != self.thread:
            after = evolve(after, thread=thread, thread_at=now)
        return after
