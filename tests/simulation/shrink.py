"""From a failing course to the smallest one that still fails: fewer troubles, fewer tasks, a better network."""

from collections.abc import Callable, Iterator

import attrs

from tests.simulation.plan import Plan, drawn, drawn_alone


def shrunk(plan: Plan, is_broken: Callable[[Plan], bool]) -> Plan:
    """Return a smaller plan that is broken too, of which no part can be left out any more."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _simpler(plan):
            if is_broken(candidate):
                plan, smaller = candidate, True
                break
    return plan


def command(plan: Plan) -> str:
    """Return the command that plays this plan again."""
    whole = (drawn if plan.has_store else drawn_alone)(plan.seed)
    words = [f"python -m tests.simulation {plan.seed}"]
    if not plan.has_store:
        words.append("--alone")
    if plan.troubles != whole.troubles:
        words.append(
            f"--troubles {','.join(str(whole.troubles.index(trouble)) for trouble in plan.troubles) or 'none'}"
        )
    if plan.tasks != whole.tasks:
        words.append(f"--tasks {plan.tasks}")
    if plan.lost != whole.lost:
        words.append(f"--lost {plan.lost}")
    if plan.delay != whole.delay:
        words.append(f"--delay {plan.delay}")
    return " ".join(words)


def _simpler(plan: Plan) -> Iterator[Plan]:
    for tasks in sorted({1, plan.tasks // 2, plan.tasks - 1}):
        if 0 < tasks < plan.tasks:
            yield attrs.evolve(plan, tasks=tasks)
    for at in range(len(plan.troubles)):
        yield attrs.evolve(plan, troubles=plan.troubles[:at] + plan.troubles[at + 1 :])
    if plan.lost:
        yield attrs.evolve(plan, lost=0.0)
    if plan.delay:
        yield attrs.evolve(plan, delay=0.0)
