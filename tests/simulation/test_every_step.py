"""Two workers, one task: everything that can happen to any call, and to any two of them, does happen."""

import pytest

from tests.simulation.script import Act, searched

# What moves a task; the other calls look, announce and forget.
DECISIVE = frozenset({"publish", "admit", "grant", "record", "complete", "fail", "ack", "release", "read"})


def check(verbs: frozenset[str] | None, depth: int) -> None:
    """Fail with the first script that breaks something."""
    scripts = 0
    for script, broken in searched(verbs, tuple(Act), depth):
        scripts += 1
        told = [f"{call.node} {call.verb} #{call.nth}: {act.value}" for call, act in script.items()]
        assert not broken, (told, broken)
    assert scripts > 200  # it searched: a course has some thirty calls, and eight things happen to each


def test_nothing_that_happens_to_one_call_breaks_anything() -> None:
    check(None, depth=1)


@pytest.mark.soak
def test_nothing_that_happens_to_two_decisive_calls_breaks_anything() -> None:
    check(DECISIVE, depth=2)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nothing_that_happens_to_any_two_calls_breaks_anything() -> None:
    check(None, depth=2)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_nothing_that_happens_to_three_decisive_calls_breaks_anything() -> None:
    check(DECISIVE, depth=3)
