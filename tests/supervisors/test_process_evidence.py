"""The pure parts of the process shell: what silence, exit codes and counts mean, and how errors cross."""

import os
import signal
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from supervisors import Recycle, Watchdog
from supervisors.process.beats import MOST_NOTE, Page, Pulse
from supervisors.process.exits import Evidence, OomCounter, classify, from_system_exit
from supervisors.process.messages import Ended, Said, encode, from_child
from supervisors.reasons import (
    Crashed,
    Escalated,
    Exited,
    ExitReason,
    Hung,
    Killed,
    Normal,
    OutOfMemory,
    Stopped,
    Stuck,
)
from supervisors.recycle import Usage
from supervisors.remote_error import MOST_DEEP, MOST_TEXT, RemoteError, record_error
from supervisors.watchdog import Verdict, Watched

HUNG = Hung("loop", 31.0)


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (Evidence(code=0), Normal()),
        (Evidence(code=0, said=Stopped("by wish")), Stopped("by wish")),
        (Evidence(code=3), Exited(3)),
        (Evidence(code=1, said=Exited(1)), Exited(1)),
        (Evidence(code=-9), Killed(9)),
        (Evidence(code=-9, is_oom=True), OutOfMemory()),
        (Evidence(code=-9, is_oom=True, killed="too slow"), Killed(9, "too slow")),
        (Evidence(code=-9, said=Normal(), killed="slow exit"), Normal()),
        (Evidence(code=-9, killed="hung", verdict=HUNG), HUNG),
        (Evidence(code=-11, said=Normal()), Killed(11)),
        (Evidence(code=None), Killed(detail="exit status lost")),
        (Evidence(code=None, said=Stopped()), Stopped()),
        (Evidence(code=None, killed="by us"), Killed(detail="by us")),
    ],
)
def test_the_most_telling_evidence_decides(evidence: Evidence, reason: ExitReason) -> None:
    assert classify(evidence) == reason


@pytest.mark.parametrize(("code", "number"), [(None, 0), (0, 0), (3, 3), (259, 3), ("told", 1), (True, 1)])
def test_system_exit_means_what_python_means(code: object, number: int) -> None:
    reason, exit_code = from_system_exit(code)
    assert exit_code == number
    assert reason == (Exited(number) if number else Normal())


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("0::/app", "app/memory.events"),
        ("3:cpu:/x\n2:memory:/app", "memory/app/memory.oom_control"),
        ("2:memory:/elsewhere", "memory/memory.oom_control"),
    ],
)
def test_each_kill_by_the_kernel_is_blamed_on_one_process(tmp_path: Path, cgroup: str, file: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(cgroup + "\n")
    count = tmp_path / "fs" / file
    count.parent.mkdir(parents=True)
    count.write_text("oom 9\noom_kill 4\n")
    counter = OomCounter.here(proc=tmp_path / "proc", root=tmp_path / "fs")
    assert not counter.take()
    count.write_text("oom 9\noom_kill 6\n")
    assert [counter.take() for _ in range(3)] == [True, True, False]
    count.write_text("oom 9\noom_kill 7\n")
    counter.forget()
    assert not counter.take()


def test_without_a_counter_nothing_is_out_of_memory(tmp_path: Path) -> None:
    assert not OomCounter.here(proc=tmp_path, root=tmp_path).take()


DOG = Watchdog(every=1.0, late=5.0, loop_silent=30.0, thread_silent=60.0)


@pytest.mark.parametrize(
    ("loop_at", "thread_at", "verdict"),
    [
        (100.0, 100.0, Verdict.FRESH),
        (95.0, 100.0, Verdict.FRESH),
        (94.9, 100.0, Verdict.LATE),
        (69.9, 100.0, Verdict.LOOP_HUNG),
        (100.0, 39.9, Verdict.FROZEN),
        (39.0, 39.9, Verdict.FROZEN),
    ],
)
def test_what_silence_means(loop_at: float, thread_at: float, verdict: Verdict) -> None:
    assert DOG.judge(Watched(1, 1, loop_at, thread_at), now=100.0) is verdict


def test_a_watcher_that_slept_sees_that_the_counts_have_risen() -> None:
    watched = Watched(loop=5, thread=5, loop_at=0.0, thread_at=0.0).seen(loop=6, thread=6, now=500.0)
    assert DOG.judge(watched, now=500.0) is Verdict.FRESH
    assert DOG.judge(watched.seen(loop=6, thread=7, now=531.0), now=531.0) is Verdict.LOOP_HUNG


@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_jitter_only_shortens_and_by_no_more_than_it_may(jitter: float, random: float) -> None:
    limits = Recycle(tasks=1_000, age=100.0, memory=1 << 20, jitter=jitter).jittered(random)
    assert limits.tasks is not None
    assert limits.age is not None
    assert 1_000 * (1 - jitter) - 1 <= limits.tasks <= 1_000
    assert 100.0 * (1 - jitter) - 0.01 <= limits.age <= 100.0


def test_each_limit_is_reached_at_its_value_and_none_is_none() -> None:
    limits, used = Recycle(tasks=10, age=10.0, memory=10), Usage(tasks=9, age=9.0, memory=9)
    assert limits.due(used) is None
    for name in ("tasks", "age", "memory"):
        assert str(limits.due(evolve(used, **{name: 10}))).startswith("10 ")
        assert Recycle(tasks=None, age=None, memory=None).due(evolve(used, **{name: 1 << 60})) is None


REASONS = st.recursive(
    st.one_of(
        st.just(Normal()),
        st.builds(Stopped, st.text()),
        st.builds(Killed, st.integers(0, 64), st.text()),
        st.builds(Exited, st.integers(0, 255)),
    ),
    lambda causes: st.builds(Escalated, st.text(), causes, st.integers(0, 99), st.floats(0, 99)),
)


@given(REASONS)
def test_reasons_cross_unchanged(reason: ExitReason) -> None:
    message = from_child.decode(encode(Ended(Said.of(reason))))
    assert isinstance(message, Ended)
    assert message.said.reason() == reason


def test_what_means_nothing_elsewhere_crosses_as_a_crash() -> None:
    reason = Said.of(Stuck("root/a", 2.0)).reason()
    assert isinstance(reason, Crashed)
    assert "Stuck: root/a did not end 2 s after" in str(reason.error)


class Awkward(Exception):
    """Cannot even be printed."""

    retryable = True

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_any_error_becomes_a_bounded_record_and_comes_back() -> None:
    error: BaseException = Awkward()
    for n in range(50):
        outer = ValueError("x" * 100_000 + str(n))
        outer.__cause__ = error
        error = outer
    group = ExceptionGroup("all", [error, Awkward(), KeyError("\ud800")])
    record = record_error(group)
    assert len(encode(Ended(Said.of(Crashed(group))))) < 3 * MOST_TEXT * (MOST_DEEP + 2)
    assert record.members[1].message == "<its text cannot be told: RuntimeError>"
    assert record.members[1].is_retryable is True
    assert record.is_retryable is None
    arrived = Said.of(Crashed(group)).reason()
    assert isinstance(arrived, Crashed)
    assert isinstance(arrived.error, RemoteError)
    assert record_error(arrived.error) == arrived.error.record  # sent on, it stays what it was


def test_a_page_shows_what_was_written_through_another_descriptor() -> None:
    page = Page.create()
    child = Page(os.dup(page.fd))
    child.beat_of_loop()
    child.beat_of_thread()
    child.beat_of_thread()
    child.add_tasks(7)
    child.set_memory(8 << 20)
    child.write_note("é" * MOST_NOTE)
    child.close()
    assert page.read() == Pulse(loop=1, thread=2, tasks=7, memory=8 << 20)
    assert page.note() == "é" * (MOST_NOTE // 2)
    page.close()


def test_the_watchdog_s_reason_says_what_the_child_was_doing() -> None:
    assert str(Hung("loop", 31.04, "task 7")) == "hung at 'task 7': its loop was silent for 31.0 s"
    assert str(Killed(signal.SIGTERM)) == "killed by signal 15"
    assert str(Exited(86)) == "exited with code 86"
