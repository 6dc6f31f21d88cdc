"""The benchmark of task restarts restarts as often as it says."""

from benchmarks.tasks import _alone


def test_a_restart_takes_some_time_and_keeps_next_to_nothing() -> None:
    figures = _alone(500)
    assert figures["restart"] > 1
    assert figures["kept"] < 4_096  # pages of the allocator, over few restarts
