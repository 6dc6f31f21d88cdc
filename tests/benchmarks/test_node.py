"""The benchmarks of a node measure what they say: kills are noticed, poison is put aside, processes are at work."""

import pytest

from benchmarks import node
from benchmarks.plan import Plan
from benchmarks.table import Row

PLAN = Plan(rounds=1, node_kills=2, fan_out=300, burn=20, poison=101, deaths=5)


def figures(rows: list[Row]) -> dict[str, float]:
    return {row.measure.strip(): row.murmur[0] for row in rows}


def test_killed_processes_have_their_tasks_started_again_and_no_others() -> None:
    found = figures(node.recovery(PLAN))
    assert 0 < found["process killed → its tasks start, p50"] <= found["slowest"]
    assert (found["other tasks started again"], found["crashes counted"]) == (0, 0)
    assert found["private memory of a worker process"] > 1


def test_a_poisonous_task_is_run_again_and_put_aside_and_the_rest_is_answered() -> None:
    found = figures(node.poison(PLAN))
    assert (found["poison: good tasks without an answer"], found["dead letters missing or too many"]) == (0, 0)
    assert 1 < found["runs of a poisonous task, most"] <= 3


@pytest.mark.soak
def test_the_price_of_processes_is_told_for_idle_and_for_busy_tasks() -> None:
    assert [row.ratio is not None and row.ratio > 0 for row in node.price(PLAN)] == [True, True]


@pytest.mark.soak
def test_dead_processes_are_counted_while_tasks_are_answered() -> None:
    assert figures(node.deaths(PLAN))["tasks answered meanwhile"] > 0
