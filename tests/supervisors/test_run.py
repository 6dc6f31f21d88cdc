"""`run`: a tree as a process, real signals, and exit codes that tell why it ended."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisors import ExitCode, SpecError, SupervisorSpec, run

ROOT = Path(__file__).parents[2]
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture(params=["asyncio", "trio"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(what: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.supervisors.run_script", what, str(request.param)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def up(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("done", ExitCode.OK, ""),
        ("crashes", ExitCode.GAVE_UP, "gave up on 'child' after more than 2 restarts within 5 s; at last it crashed"),
        ("not_started", ExitCode.NOT_STARTED, "program did not start: "),
        ("exits", 3, ""),
    ],
)
def test_the_exit_code_tells_why_it_ended(what: str, code: int, said: str, start: Start) -> None:
    seen, _, err = ended(start(what))
    assert seen == code
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_tree(number: signal.Signals, start: Start) -> None:
    process = start("finishes")
    up(process)
    process.send_signal(number)
    code, out, err = ended(process)
    assert (code, out) == (ExitCode.OK, "finished\n")
    assert f"program: {number.name}, stops within 20 s" in err


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    process = start("ignores")
    up(process)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert "SIGTERM, stops" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert (code, out) == (128 + signal.SIGINT, "")
    assert "SIGINT again" in err


def test_what_does_not_stop_in_time_is_left_and_named(start: Start) -> None:
    process = start("ignores")
    up(process)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == ExitCode.NOT_DRAINED
    assert "not done after 1 s:\nprogram\n└─ child" in err


def test_a_task_that_swallows_its_cancellation_ends_the_process(start: Start) -> None:
    process = start("stuck")
    up(process)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == ExitCode.STUCK
    assert "program/child did not end" in err


def test_a_signal_while_it_starts_is_heard(start: Start) -> None:
    process = start("slow_start")
    up(process)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == ExitCode.OK


def test_its_stacks_are_shown_when_asked_for(start: Start) -> None:
    process = start("finishes")
    up(process)
    process.send_signal(signal.SIGQUIT)
    assert process.stderr is not None
    assert "most recent call first" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == ExitCode.OK


def test_the_stacks_of_children_are_shown_too_when_they_hang(start: Start) -> None:
    process = start("hanging")
    up(process)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    said = ""
    while "most recent call first" not in said:  # on a busy machine it may say nothing within a second
        process.send_signal(signal.SIGQUIT)
        assert any(line == "program/hanging:\n" for line in lines)
        said = next(lines)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == ExitCode.OK


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(SpecError, match="spec must be a SupervisorSpec; got 'tree'"):
        run("tree")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="drain must be a number of seconds above 0; got -1"):
        run(SupervisorSpec(), drain=-1)


def test_the_name_is_the_function_whatever_was_imported_before() -> None:
    script = "from supervisors import ExitCode; import supervisors.program; from supervisors import run; run.__call__"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
