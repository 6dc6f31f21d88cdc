"""The benchmark of processes measures what it says, in the order in which it happens."""

from benchmarks.processes import _alone


def test_a_death_is_noticed_before_the_replacement_is_ready() -> None:
    figures = _alone(4)
    assert 0 < figures["noticed_p50"] < figures["ready_p50"]
    assert figures["private"] > 1
