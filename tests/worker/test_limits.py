"""Limits on worker processes: an actor that takes too much hurts itself only, and is told no secret of the node."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from murmur import AgentRuntime
from murmur.errors import BadSetting
from murmur.worker import Worker
from murmur.worker.setting import Keeping
from supervisors import Limits
from tests.brokers.redis_server import RedisServer
from tests.worker.pooled_agents import Greedy, Sleeper, Squarer
from tests.worker.test_pools import node

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


async def test_an_actor_that_eats_memory_gets_an_error_and_its_process_lives_on() -> None:
    limits = Limits(memory=1 << 30)
    async with (
        AgentRuntime(broker="memory://greedy") as runtime,
        node("memory://greedy", Greedy, Squarer, processes=1, limits=limits),
    ):
        before = await runtime.run(Greedy, "nothing", timeout=60.0)
        result = await runtime.run(Greedy, "memory", timeout=60.0)
        assert "MemoryError" in repr(result.error)
        assert (await runtime.run(Squarer, 3, timeout=60.0)).unwrap() == 9
        assert before.is_ok()


async def test_an_actor_that_floods_its_output_is_cut_short_and_the_rest_goes_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with AgentRuntime(broker="memory://flood") as runtime, node("memory://flood", Greedy, Squarer, processes=1):
        assert (await runtime.run(Greedy, "words", timeout=60.0)).is_ok()
        assert (await runtime.run(Squarer, 3, timeout=60.0)).unwrap() == 9
    told = capfd.readouterr().err
    assert "process-1 | so many words" in told
    assert told.count("so many words") < 20_000


async def test_an_actor_that_prints_a_flood_is_not_taken_for_hung() -> None:
    async with (
        AgentRuntime(broker="memory://flood") as runtime,
        node("memory://flood", Greedy, processes=1, hang_after=6.0),
    ):
        result = await runtime.run(Greedy, "flood", timeout=60.0)
    assert (result.is_ok(), result.metadata.attempts) == (True, 1)


async def test_processes_are_not_told_the_credentials_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMUR_BROKER", "redis://:s3cret@host")
    monkeypatch.setenv("AGENTS_KEY", "theirs")
    async with AgentRuntime(broker="memory://names") as runtime, node("memory://names", Greedy, processes=1):
        names = (await runtime.run(Greedy, "variables", timeout=60.0)).unwrap().split(",")
    assert "AGENTS_KEY" in names
    assert "MURMUR_BROKER" not in names


def test_a_list_of_variables_leaves_what_python_needs() -> None:
    confined = Keeping(limits=Limits(environment=("AGENTS_*",))).confined(["AGENTS_KEY", "OTHER", "PATH"])
    assert confined.environment is not None
    assert {"AGENTS_*", "PATH"} <= set(confined.environment)
    assert "OTHER" not in confined.environment


def test_limits_that_are_none_are_refused() -> None:
    with pytest.raises((BadSetting, TypeError)):
        Worker(broker="memory://x", agents=[Squarer], processes=1, limits={"memory": 1})  # type: ignore[arg-type]


@contextmanager
def command(log: Path, *more: str) -> Iterator["subprocess.Popen[bytes]"]:
    arguments = ["worker", "start", "--app", "tests.worker.pooled_agents", "--processes", "1", "--drain", "1", *more]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "murmur.cli.main", *arguments], cwd=ROOT, stdout=file, stderr=file
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def holds(log: Path, text: str, within: float = 60.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if text in log.read_text(errors="replace"):
            return True
        time.sleep(0.05)
    return False


async def test_sigquit_tells_what_node_and_processes_are_at_and_they_go_on(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MURMUR_BROKER", redis_server.url)
    monkeypatch.setenv("SLEEPER", str(tmp_path / "slept"))
    log = tmp_path / "log"
    with command(log, "--memory", "2GiB", "--hang-after", "20") as process:
        async with AgentRuntime(broker=redis_server.url) as runtime:
            assert (await runtime.run(Squarer, 3, timeout=60.0)).unwrap() == 9
            process.send_signal(signal.SIGQUIT)
            assert holds(log, "root/pool/process-1")
            assert holds(log, "inside.py")
            assert (await runtime.run(Sleeper, 0.0, timeout=60.0)).unwrap() == "slept"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60.0) == 0


@pytest.mark.parametrize("memory", ["lots", "2 TiBs", "0", ""])
def test_an_amount_of_memory_that_is_none_is_refused(memory: str) -> None:
    arguments = ["worker", "start", "--app", "tests.worker.pooled_agents", "--broker", "memory://x", "--memory", memory]
    done = subprocess.run(
        [sys.executable, "-m", "murmur.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ},
    )
    assert (done.returncode, "such as 512MiB or 2GiB" in done.stderr) == (2, True), done.stderr
