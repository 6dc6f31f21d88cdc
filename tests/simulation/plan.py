"""What happens in one simulated course: how many tasks, and which troubles when. Drawn by seed, or written down."""

import enum
import random
from typing import Final

from attrs import evolve, frozen

LEASE: Final = 2.0  # seconds
WORKERS: Final = ("w0", "w1", "w2")


class Kind(enum.Enum):
    """A trouble."""

    KILL = "kill"  # a worker's host; its next boot follows
    STALL = "stall"  # a worker's host stands still, up to three leases, and goes on
    DRAIN = "drain"  # a worker is stopped in order, and started again
    PUBLISHER = "publisher"  # the publisher dies, and the batch is resumed
    RESUMER = "resumer"  # somebody resumes the batch while its publisher lives
    STRANGER = "stranger"  # a message is published once more, under another message id
    CLOCK = "clock"  # the wall clocks jump
    WIPE = "wipe"  # the broker comes back empty


@frozen
class Trouble:
    """One trouble: `at` and `length` in virtual seconds, `which` picks what it happens to."""

    at: float
    kind: Kind
    which: int
    length: float


@frozen
class Plan:
    """One course. The same plan takes the same course."""

    seed: int
    tasks: int
    troubles: tuple[Trouble, ...]
    lost: float  # share of calls whose request or reply the network loses, or which it repeats
    delay: float  # seconds a call travels at most, each way
    has_store: bool = True  # False: the broker alone

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong but what the actors do."""
        return not self.troubles and not self.lost

    @property
    def forgets(self) -> bool:
        """Whether the broker loses what it knew."""
        return any(trouble.kind is Kind.WIPE for trouble in self.troubles)


def drawn(seed: int) -> Plan:
    """Return the plan of a seed. One in ten is calm, one in ten has a broker that comes back empty.

    Troubles begin while there is work to trouble: most courses are answered after 2 virtual seconds, and 1.5 a task.
    """
    dice = random.Random(seed)
    tasks = dice.randint(1, 12)
    if seed % 10 == 0:
        return Plan(seed, tasks, (), lost=0.0, delay=dice.choice((0.0, 0.05)))
    span = 6.0 + 2.0 * tasks
    kinds = [kind for kind in Kind if kind is not Kind.WIPE]
    troubles = [
        Trouble(dice.uniform(0.0, span), dice.choice(kinds), dice.randrange(1_000), dice.uniform(0.0, 3 * LEASE))
        for _ in range(dice.randint(1, 8))
    ]
    if seed % 10 == 1:
        troubles.append(Trouble(dice.uniform(0.0, span / 2), Kind.WIPE, 0, 0.0))
    troubles.sort(key=lambda trouble: trouble.at)
    return Plan(seed, tasks, tuple(troubles), lost=dice.choice((0.0, 0.02, 0.1)), delay=dice.choice((0.0, 0.01, 0.2)))


def drawn_alone(seed: int) -> Plan:
    """Return the plan of a seed for a broker alone: what such a fleet survives happens to it. One in ten is calm."""
    plan = drawn(seed)
    survived = (Kind.KILL, Kind.STALL, Kind.DRAIN, Kind.STRANGER, Kind.CLOCK)
    return evolve(plan, troubles=tuple(one for one in plan.troubles if one.kind in survived), has_store=False)
