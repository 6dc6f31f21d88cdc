"""`python -m tests.simulation SEED`: play one simulated course, say what it broke, and find the smallest that does.

With `--alone` there is a broker and no store. With `--troubles 0,3`,
`--tasks N`, `--lost SHARE`, `--delay SECONDS` it plays that part of the seed's plan alone.
"""

import argparse
import contextlib
import sys

import attrs

from tests.simulation.course import broken_by, play
from tests.simulation.plan import Plan, drawn, drawn_alone
from tests.simulation.shrink import command, shrunk


def _plan(options: argparse.Namespace) -> Plan:
    plan = (drawn_alone if options.alone else drawn)(options.seed)
    if options.troubles is not None:
        kept = [] if options.troubles == "none" else [int(number) for number in options.troubles.split(",")]
        plan = attrs.evolve(plan, troubles=tuple(plan.troubles[number] for number in kept))
    changes = {name: getattr(options, name) for name in ("tasks", "lost", "delay")}
    return attrs.evolve(plan, **{name: value for name, value in changes.items() if value is not None})


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--troubles")
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--lost", type=float)
    parser.add_argument("--delay", type=float)
    plan = _plan(parser.parse_args())
    print(f"{plan.tasks} tasks, lost {plan.lost:g}, delay {plan.delay:g} s")
    for trouble in plan.troubles:
        print(f"  {trouble.at:6.2f} s  {trouble.kind.value} {trouble.which} for {trouble.length:.2f} s")
    broken = broken_by(plan)
    if not broken:
        print("nothing was broken")
        return 0
    print(*broken, sep="\n")
    small = shrunk(plan, lambda candidate: bool(broken_by(candidate)))
    if small != plan:
        print(f"the smallest course that breaks something:\n  {command(small)}")
    else:
        with contextlib.suppress(TimeoutError):
            print(*play(plan).starts, sep="\n")
    return 1


if __name__ == "__main__":
    sys.exit(_main())
