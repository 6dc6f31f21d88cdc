"""A table of figures says what it was given: ratios by round, bests by direction, targets kept or missed."""

from benchmarks.table import Row, Target, rendered


def test_a_ratio_is_the_median_of_the_rounds_and_not_of_the_medians() -> None:
    assert Row("rate", "1/s", (10.0, 30.0, 20.0), (10.0, 10.0, 40.0)).ratio == 1.0


def test_a_target_bounds_the_ratio_where_there_is_a_raw_loop() -> None:
    assert Row("CPU", "µs", (60.0,), (50.0,), Target(1.5, "at most")).is_met is True
    assert Row("CPU", "µs", (90.0,), (50.0,), Target(1.5, "at most")).is_met is False


def test_a_target_of_murmur_alone_bounds_its_own_figure() -> None:
    assert Row("idle", "1/s", (41.0,), target=Target(40.0, "at most", of="murmur")).is_met is False
    assert Row("made", "1/s", (2e5,), target=Target(1e5, "at least", of="murmur")).is_met is True


def test_a_row_without_a_target_is_neither_met_nor_missed() -> None:
    assert Row("p95", "ms", (1.0,), (1.0,)).is_met is None


def test_the_best_is_the_highest_rate_and_the_lowest_cost() -> None:
    assert Row("rate", "1/s", (1.0, 2.0), higher_is_better=True).cells()[5] == "2.00"
    assert Row("cost", "µs", (1.0, 2.0)).cells()[5] == "1.00"


def test_a_missed_target_is_told_in_the_table() -> None:
    table = rendered([Row("throughput", "tasks/s", (50.0,), (100.0,), Target(0.6, "at least", stretch=1.0))])
    assert "≥ 0.60 x (1.00)" in table
    assert "MISSED" in table
