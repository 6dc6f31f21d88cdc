"""Thousands of simulated courses, by seed: whatever happens, the invariants of docs/explanation/guarantees.md hold."""

import subprocess
import sys
from collections.abc import Callable

import attrs
import pytest

from tests.simulation.course import broken_by, play
from tests.simulation.plan import Plan, drawn, drawn_alone
from tests.simulation.shrink import command, shrunk

SEEDS = 500
ALONE = 130  # of a broker without a store
CHUNK = 100


def check(seeds: range, draw: Callable[[int], Plan] = drawn) -> None:
    """Fail with the smallest broken course of the first seed that breaks something, and how to play it again."""
    for seed in seeds:
        plan = draw(seed)
        broken = broken_by(plan)
        if broken:
            small = shrunk(plan, lambda candidate: bool(broken_by(candidate)))
            told = "\n".join(broken_by(small) or broken)
            pytest.fail(f"seed {seed} breaks\n{told}\nplay it again with\n  {command(small)}", pytrace=False)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_invariant_holds_whatever_happens(first: int) -> None:
    check(range(first, first + CHUNK))


@pytest.mark.parametrize("first", range(0, ALONE, ALONE // 2))
def test_what_a_broker_alone_can_hold_it_holds_whatever_happens(first: int) -> None:
    check(range(first, first + ALONE // 2), drawn_alone)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(ALONE, 20_000, 1_000))
def test_what_a_broker_alone_can_hold_holds_for_many_more_seeds(first: int) -> None:
    check(range(first, first + 1_000), drawn_alone)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(SEEDS, 50_000, 1_000))
def test_every_invariant_holds_for_many_more_seeds(first: int) -> None:
    check(range(first, first + 1_000))


def test_a_plan_takes_the_same_course_in_every_process() -> None:
    seeds = [3, 7, 11, 27, 261, 412]
    told = (
        f"from tests.simulation import course, plan\nfor seed in {seeds}: print(course.play(plan.drawn(seed)).starts)"
    )
    there = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert there.stdout.splitlines() == [str(play(drawn(seed)).starts) for seed in seeds]


def test_a_broken_course_is_shrunk_to_what_breaks_it() -> None:
    whole = drawn(27)
    assert len(whole.troubles) > 3
    culprit = whole.troubles[1]
    small = shrunk(whole, lambda plan: culprit in plan.troubles and plan.tasks > 2)
    assert small == attrs.evolve(whole, troubles=(culprit,), tasks=3, lost=0.0, delay=0.0)
    assert command(small).startswith("python -m tests.simulation 27 --troubles 1 --tasks 3")


def test_the_command_of_a_course_without_a_store_counts_the_troubles_of_its_own_plan() -> None:
    plan = drawn_alone(244)
    assert 1 < len(plan.troubles) < len(drawn(244).troubles)
    last = attrs.evolve(plan, troubles=plan.troubles[-1:])
    assert command(last) == f"python -m tests.simulation {plan.seed} --alone --troubles {len(plan.troubles) - 1}"


def test_the_command_of_a_course_plays_it() -> None:
    plan = Plan(21, 2, drawn(21).troubles[:1], lost=0.0, delay=0.0)
    done = subprocess.run(
        [sys.executable, *command(plan).split()[1:]], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "nothing was broken")
