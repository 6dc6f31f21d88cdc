"""A worker whose code changes: real files, real processes, a real Redis."""

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.brokers.redis_server import RedisServer
from tests.cli.test_commands import MURMUR, environment, starts, until

__all__ = ["environment"]

APP = """
import asyncio, os
from murmur import Actor
import words

class Speaker(Actor[int, str]):
    async def receive(self, number: int) -> str:
        with open(os.environ["STARTS"], "a", encoding="utf-8") as file:
            file.write(f"{self.context.task_id}\\n")
        await asyncio.sleep(0.1)
        return words.SAID
"""
WITHIN = 60.0  # seconds after which a test has waited in vain


class Project:
    """A folder with code, a worker under `--reload` that runs it, and what that said."""

    def __init__(self, folder: Path, environment: dict[str, str], broker: str) -> None:
        self.folder = folder
        self.environment = {**environment, "MURMUR_BROKER": broker}
        (folder / "app.py").write_text(APP)
        self.write("SAID = 'one'")

    def write(self, text: str) -> None:
        """Replace the code in one step, as editors do."""
        (self.folder / "words.new").write_text(text)
        (self.folder / "words.new").rename(self.folder / "words.py")

    def start(self, *arguments: str, log: str) -> "subprocess.Popen[bytes]":
        with (self.folder / log).open("wb") as file:
            command = [*MURMUR, *arguments]
            return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=file, stderr=file)

    def start_worker(self, *options: str) -> "subprocess.Popen[bytes]":
        few = ("--concurrency", "2", "--heartbeat", "0")
        return self.start("worker", "start", "--app", "app.py", "--reload", *few, *options, log="log")

    def gather(self, count: int) -> "subprocess.Popen[bytes]":
        (self.folder / "tasks.jsonl").write_text("1\n" * count)
        return self.start("gather", "speaker", "--tasks", "tasks.jsonl", "--out", "out.jsonl", log="gather.log")

    @property
    def answers(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    def says(self) -> object:
        """Ask the worker for one word."""
        assert self.gather(1).wait(WITHIN) == 0
        return self.answers[0]["output"]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until_said(self, what: str) -> None:
        until(lambda: what in self.log, WITHIN)


@pytest.fixture
def project(tmp_path: Path, environment: dict[str, str], redis_server: RedisServer) -> Project:
    return Project(tmp_path, environment, redis_server.url)


def ended(worker: "subprocess.Popen[bytes]") -> int:
    """End a worker; nothing of it may live on."""
    family = psutil.Process(worker.pid).children(recursive=True)
    assert family
    worker.send_signal(signal.SIGTERM)
    code = worker.wait(WITHIN)
    _, alive = psutil.wait_procs(family, timeout=WITHIN)
    assert not alive
    return code


@pytest.mark.parametrize("processes", [0, 2])
def test_changed_code_takes_over_and_no_task_is_lost_or_runs_twice(project: Project, processes: int) -> None:
    worker = project.start_worker("--processes", str(processes), "--consumer-id", "w")
    try:
        gather = project.gather(150)
        until(lambda: starts(project.folder).total() >= 5, WITHIN)
        project.write("SAID = 'two'")
        project.until_said("generation 2 serves; 1 drains")
        assert gather.wait(WITHIN) == 0
        assert "changed: words.py" in project.log
        assert {answer["output"] for answer in project.answers} >= {"one"}
        assert all(answer["success"] for answer in project.answers)  # a grant given back counts as an attempt
        assert set(starts(project.folder).values()) == {1}
        assert starts(project.folder).total() == 150
        assert project.says() == "two"
        assert ended(worker) == 0
    finally:
        worker.kill()
        worker.wait()


def test_code_that_does_not_import_is_told_once_and_the_old_one_keeps_serving(project: Project) -> None:
    worker = project.start_worker()
    try:
        assert project.says() == "one"
        project.write("1 / 0")
        project.until_said("generation 2 did not start, exit code 3; generation 1 keeps serving")
        assert project.log.count("ZeroDivisionError: ") == 1
        assert project.log.count("Traceback") == 1
        assert project.says() == "one"
        (project.folder / "notes.txt").write_text("no code")
        project.write("SAID = 'three'")
        project.until_said("generation 3 serves; 1 drains")
        assert project.says() == "three"
        assert "notes.txt" not in project.log
        assert ended(worker) == 0
    finally:
        worker.kill()
        worker.wait()


def test_a_killed_keeper_leaves_nobody_behind(project: Project) -> None:
    worker = project.start_worker()
    try:
        project.until_said("murmur worker")
        (generation,) = psutil.Process(worker.pid).children()
    finally:
        worker.kill()
        worker.wait()
        worker.wait()
    _, alive = psutil.wait_procs([generation], timeout=WITHIN)
    assert not alive


def test_a_worker_that_cannot_begin_is_not_kept(project: Project) -> None:
    project.write("1 / 0")
    assert project.start_worker().wait(WITHIN) == 3
    assert "ZeroDivisionError" in project.log
    assert project.start_worker("--reload-dir", "nowhere").wait(WITHIN) == 2
    assert "--reload-dir nowhere: no such folder" in project.log
