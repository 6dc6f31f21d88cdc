"""Who is to blame for the end of a process: the rule alone, without processes."""

import signal

import pytest

from murmur.envelope import ErrorNote
from murmur.store import Claim
from murmur.transport import Delivery
from murmur.worker.death import RETIRED, Blame, blame, deaths, exit_of, is_suspect, was_killed
from supervisors import StartFailed
from supervisors.errors import StartTimeout
from supervisors.reasons import Crashed, Exited, ExitReason, Hung, Killed, Normal, OutOfMemory, Stopped

SEGFAULT = Killed(signal.SIGSEGV)
HUNG = Hung("loop", 30.0)


@pytest.mark.parametrize(
    "reason",
    [Normal(), Stopped(), Killed(), Killed(signal.SIGKILL), Killed(signal.SIGTERM), Exited(RETIRED)],
    ids=str,
)
def test_what_comes_from_outside_or_was_asked_for_blames_nobody(reason: ExitReason) -> None:
    assert blame(reason, {"a"}, at="a") == Blame()


@pytest.mark.parametrize("reason", [SEGFAULT, Exited(3), OutOfMemory(), HUNG, Killed(signal.SIGABRT)], ids=str)
def test_whoever_was_alone_did_it(reason: ExitReason) -> None:
    assert blame(reason, {"a"}, at="") == Blame(guilty="a")


def test_of_several_the_one_that_was_being_executed_is_in_doubt_and_nobody_else() -> None:
    assert blame(SEGFAULT, {"a", "b", "c"}, at="b") == Blame(suspects=frozenset("b"))


@pytest.mark.parametrize("at", ["", "settled-long-ago"])
def test_where_nobody_knows_what_was_executed_all_are_in_doubt(at: str) -> None:
    assert blame(SEGFAULT, {"a", "b"}, at=at) == Blame(suspects=frozenset("ab"))


def test_the_one_that_a_process_hung_at_did_it() -> None:
    assert blame(HUNG, {"a", "b"}, at="b") == Blame(guilty="b")


def test_an_empty_process_blames_nobody() -> None:
    assert blame(SEGFAULT, (), at="a") == Blame()


def note(*, suspect: bool = False, exit: str | None = None) -> ErrorNote:  # noqa: A002
    return ErrorNote(attempt=1, error_type="X", message="", at=0.0, suspect=suspect, exit=exit)


def test_deaths_in_company_count_for_the_limit_too() -> None:
    delivery = Delivery("t", b"", {}, "a", 1, None)
    claim = Claim("a", 4, delivery, None, 4, crashes=1, errors=(note(suspect=True, exit="code 3"), note(exit="code 3")))
    assert deaths(claim) == 2


def test_who_failed_in_peace_since_is_no_suspect_any_more() -> None:
    assert is_suspect([note(exit="code 3")])
    assert not is_suspect([note(exit="code 3"), note()])
    assert not is_suspect([])


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (SEGFAULT, "signal 11 (SIGSEGV)"),
        (Exited(3), "code 3"),
        (OutOfMemory(), "out of memory"),
        (HUNG, "hung"),
        (Killed(), "killed"),
        (Killed(signal=40), "signal 40 (real-time)"),
    ],
)
def test_an_exit_is_told_in_a_few_words(reason: ExitReason, told: str) -> None:
    assert exit_of(reason) == told


def test_a_start_that_was_killed_is_told_from_one_that_cannot_succeed() -> None:
    inner = StartFailed("process-1", Killed(signal.SIGKILL))
    assert was_killed(StartFailed("pool", Crashed(inner)))
    assert not was_killed(StartFailed("pool", Crashed(StartTimeout("process-1", 30.0))))
    assert not was_killed(StartFailed("pool", Crashed(ImportError("no module"))))
