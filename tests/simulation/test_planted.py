"""A simulation that finds nothing proves nothing: each planted bug is found within a thousand seeds.

The seed that found it last is tried first; where its course is another one by now, all of them follow.
"""

import pytest

from tests.simulation.course import broken_by
from tests.simulation.plan import drawn, drawn_alone
from tests.simulation.planted import BUGS, BUGS_ALONE, Bug

SEEDS = 1_000


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    with bug.planted():
        for seed in (bug.seed, *range(SEEDS)):
            if broken_by(drawn(seed)):
                return
    pytest.fail(f"{SEEDS} seeds did not notice that {bug.name}")


@pytest.mark.parametrize("bug", BUGS_ALONE, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found_without_a_store(bug: Bug) -> None:
    with bug.planted():
        for seed in (bug.seed, *range(SEEDS)):
            if broken_by(drawn_alone(seed)):
                return
    pytest.fail(f"{SEEDS} seeds did not notice that {bug.name}")
