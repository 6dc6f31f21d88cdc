"""Every faulty spec is refused where it is written: by field, with the value that came and what is allowed."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from supervisors import (
    AutoShutdown,
    Backoff,
    ChildSpec,
    DuplicateChild,
    Exceeded,
    Intensity,
    Isolation,
    Recycle,
    Restart,
    SpecError,
    Strategy,
    SupervisorSpec,
    Watchdog,
)
from supervisors.errors import BadCombination

GOOD: dict[str, Any] = {"id": "a", "start": anyio.sleep_forever}


def child(**fields: Any) -> ChildSpec:
    return ChildSpec(**{**GOOD, **fields})


def tree(*children: ChildSpec, **fields: Any) -> SupervisorSpec:
    return SupervisorSpec(children=children, **fields)


SLOW = Backoff(initial=10.0, factor=2.0, cap=60.0)


@pytest.mark.parametrize(
    ("build", "field", "says"),
    [
        (lambda: child(id=""), "id", "got ''"),
        (lambda: child(id=7), "id", "got 7"),
        (lambda: child(id="a/b"), "id", "got 'a/b'"),
        (lambda: child(start=None), "start", "got None"),
        (lambda: child(start="no colon"), "start", "got 'no colon'"),
        (lambda: child(restart="permanent"), "restart", "Restart.PERMANENT"),
        (lambda: child(type="worker"), "type", "ChildType.WORKER"),
        (lambda: child(shutdown=-1), "shutdown", "got -1"),
        (lambda: child(shutdown=float("nan")), "shutdown", "got nan"),
        (lambda: child(shutdown="infinity"), "shutdown", "got 'infinity'"),
        (lambda: child(significant="yes"), "significant", "True or False"),
        (lambda: child(start_timeout=0), "start_timeout", "above 0"),
        (lambda: child(isolation="process"), "isolation", "Isolation.PROCESS"),
        (lambda: child(backoff=3), "backoff", "a Backoff"),
        (lambda: child(watchdog=Watchdog()), "watchdog", "use Isolation.PROCESS"),
        (lambda: child(recycle=Recycle(tasks=3)), "recycle", "use Isolation.PROCESS"),
        (lambda: child(significant=True), "significant", "False with Restart.PERMANENT"),
        (lambda: Intensity(-1), "max_restarts", "at least 0"),
        (lambda: Intensity(True), "max_restarts", "got True"),
        (lambda: Intensity(1, period=0), "period", "above 0"),
        (lambda: Intensity(1, period=float("inf")), "period", "finite"),
        (lambda: Backoff(initial=-1), "initial", "at least 0"),
        (lambda: Backoff(factor=0.5), "factor", "at least 1"),
        (lambda: tree(strategy="one_for_one"), "strategy", "Strategy.ONE_FOR_ONE"),
        (lambda: tree(auto_shutdown="never"), "auto_shutdown", "AutoShutdown.NEVER"),
        (lambda: tree(max_children=0), "max_children", "at least 1"),
        (lambda: tree(pause=0), "pause", "above 0"),
        (lambda: tree(strategy=Strategy.SIMPLE_ONE_FOR_ONE), "children", "one"),
        (lambda: tree(child(), child(id="b"), strategy=Strategy.SIMPLE_ONE_FOR_ONE), "children", "one"),
        (lambda: tree(child(restart=Restart.TRANSIENT, significant=True)), "significant of child 'a'", "AutoShutdown"),
        (lambda: tree(child(backoff=SLOW), intensity=Intensity(5, period=30.0)), "backoff", "quick enough"),
    ],
)
def test_a_faulty_spec_names_field_value_and_what_is_allowed(
    build: Callable[[], object], field: str, says: str
) -> None:
    with pytest.raises(SpecError) as refused:
        build()
    assert field in str(refused.value)
    assert says in str(refused.value)


def test_two_children_of_one_id_are_refused() -> None:
    with pytest.raises(DuplicateChild, match="'a'"):
        tree(child(), child())


def test_what_excludes_each_other_has_an_error_of_its_own() -> None:
    for build in (
        lambda: child(significant=True),
        lambda: tree(child(restart=Restart.TEMPORARY, significant=True), auto_shutdown=AutoShutdown.NEVER),
    ):
        with pytest.raises(BadCombination):
            build()


def test_what_is_good_passes() -> None:
    tree(
        child(),
        child(id="b", isolation=Isolation.PROCESS, watchdog=Watchdog(), recycle=Recycle(tasks=3)),
        child(id="c", restart=Restart.TRANSIENT, significant=True, backoff=Backoff(initial=0.01, cap=0.1)),
        child(id="d", backoff=SLOW),
        auto_shutdown=AutoShutdown.ANY_SIGNIFICANT,
        intensity=Intensity(2, period=30.0),
        exceeded=Exceeded.PAUSE,
    )
