"""Recycling: when a process has lived, worked or grown enough to be replaced by a fresh one.

Libraries leak and heaps fragment; a process that is replaced in time is not killed by the kernel at a bad time.
Limits are jittered, so that processes started together are not replaced together.
Pure: no clock, no process. Doing it, one at a time and the new one first, is left to `process.child`.
"""

from typing import Any

from attrs import Attribute, evolve, field, frozen

from supervisors.errors import SpecError
from supervisors.validation import or_none, positive, whole_number


def _part(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise SpecError(field=attribute.name, value=value, allowed="a number from 0 to below 1")


@frozen(kw_only=True)
class Recycle:
    """Limits of one process; None means no such limit.

    `tasks`: how many the child may report as done (`ctx.done()`). `age`: seconds since it was ready. `memory`: bytes
    of private memory above what it had when it was ready; resident memory would count what the fork server shares.
    `jitter`: the part by which each limit is shortened at most, drawn anew for each process. `retry`: seconds until
    the next attempt when the fresh process did not start; the old one goes on meanwhile.
    """

    tasks: int | None = field(default=1_000, validator=or_none(whole_number(1)))
    age: float | None = field(default=6 * 3_600.0, validator=or_none(positive))
    memory: int | None = field(default=1 << 30, validator=or_none(whole_number(1)))
    jitter: float = field(default=0.1, validator=_part)
    retry: float = field(default=30.0, validator=positive)

    def jittered(self, random: float) -> "Recycle":
        """Return the limits of one process. `random` in [0, 1) is drawn by the caller."""
        part = 1 - self.jitter * random
        return evolve(
            self,
            tasks=None if self.tasks is None else max(round(self.tasks * part), 1),
            age=None if self.age is None else self.age * part,
            memory=None if self.memory is None else max(round(self.memory * part), 1),
            jitter=0.0,
        )

    def due(self, usage: "Usage") -> str | None:
        """Say which limit is reached, with its value, or None."""
        if self.tasks is not None and usage.tasks >= self.tasks:
            return f"{usage.tasks} tasks done, {self.tasks} allowed"
        if self.age is not None and usage.age >= self.age:
            return f"{usage.age:.0f} s old, {self.age:.0f} s allowed"
        if self.memory is not None and usage.memory >= self.memory:
            return f"{usage.memory} bytes grown, {self.memory} allowed"
        return None


@frozen(kw_only=True)
class Usage:
    """What a process has used up: tasks done, seconds since it was ready, bytes of private memory grown since."""

    tasks: int
    age: float
    memory: int
