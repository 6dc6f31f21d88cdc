"""The end of a node with worker processes: killed, told once or twice, by Ctrl-C; idle, busy, and stuck in C."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from murmur import AgentResult, AgentRuntime, Remote, wiring
from murmur.store import Row
from tests.brokers.redis_server import RedisServer
from tests.chaos.processes import below
from tests.faults.conftest import Fleet

pytestmark = pytest.mark.anyio
APP = str(Path(__file__).with_name("node_agents.py"))
WORK, HOG, BLOCKER = Remote("work"), Remote("hog"), Remote("blocker")
LEASE, DRAIN = 2.0, 1.0  # seconds
NODE = ("--processes", "2", "--drain", str(DRAIN), "--reclaim-min-idle-ms", str(round(LEASE * 1_000)))
ENDED = (0, 70)  # 70: by force, 4.5 s after the drain, where the machine is that slow
BEYOND = 5.0  # seconds a node may take beyond its drain; tests allow a slow machine forty more


async def until(holds: Callable[[], object], within: float = 100.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


class Nodes:
    """Starts nodes of this file's agents, and knows all that descends from them."""

    def __init__(self, fleet: Fleet, url: str) -> None:
        self.fleet = fleet
        self.url = url

    async def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a node, and return when its processes are there."""
        node = self.fleet.start(self.url, *NODE, *arguments, app=APP)
        await until(lambda: len(below(node)) == 2 or node.poll() is not None)
        assert node.poll() is None, self.log(node)
        return node

    def descendants(self, node: "subprocess.Popen[bytes]") -> set[int]:
        """Return the fork server, the worker processes and their tools, those included that made sessions."""
        try:
            return {child.pid for child in psutil.Process(node.pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            return set()

    def tools(self) -> set[int]:
        """Return the tools that actors noted."""
        return {int(pid) for line in self.fleet.events("tool") for pid in line[1:]} - {0}

    async def rows(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        """Return what the store holds of tasks."""
        queue = wiring.connect(self.url, store=None, namespace="", consumer_id="asking", lease=None, retention=86_400.0)
        await queue.open(owner="asking", lease=None)
        try:
            return await queue.store.read(task_ids)
        finally:
            await queue.close()

    def log(self, node: "subprocess.Popen[bytes]") -> str:
        number = self.fleet.workers.index(node)
        return (self.fleet.ledger.parent / f"worker-{number}.log").read_text(errors="replace")


@pytest.fixture
async def nodes(redis_server: RedisServer, fleet: Fleet) -> AsyncIterator[Nodes]:
    made = Nodes(fleet, redis_server.url)
    yield made
    for pid in made.tools():
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def ends_within(node: "subprocess.Popen[bytes]", seconds: float) -> AsyncIterator[None]:
    """Say how long a node took to end from the end of the block, and bound it generously."""
    yield
    began = time.monotonic()
    await until(lambda: node.poll() is not None, within=seconds + 40.0)
    print(f"ended {time.monotonic() - began:.2f} s after the signal, code {node.returncode}; at most {seconds:g}")


async def all_gone(pids: set[int]) -> None:
    """Wait until none of them lives."""
    began = time.monotonic()
    await until(lambda: not any(map(is_alive, pids)), within=45.0)
    print(f"{len(pids)} processes gone after {time.monotonic() - began:.2f} s")


async def test_a_node_killed_amid_hogs_and_their_tools_leaves_nothing_and_its_tasks_run_elsewhere(nodes: Nodes) -> None:
    doomed = await nodes.start("--concurrency", "4")
    async with AgentRuntime(nodes.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(HOG, [3_600.0] * 2))
        await until(lambda: len(nodes.tools()) == 6)
        alive = nodes.descendants(doomed) | nodes.tools()
        await nodes.start()
        doomed.kill()
        began = time.monotonic()
        await all_gone(alive)
        results = await gathering
        print(f"answered elsewhere {time.monotonic() - began:.2f} s after the kill, lease {LEASE:g} s")
    assert [result.output for result in results] == ["done"] * 2
    assert {result.metadata.attempts for result in results} == {2}


async def test_a_node_told_to_end_while_a_process_is_stuck_in_c_ends_and_gives_its_tasks_back(nodes: Nodes) -> None:
    first = await nodes.start("--concurrency", "4")
    async with AgentRuntime(nodes.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(HOG, [3_600.0] * 2))
        await until(lambda: len(nodes.tools()) == 6)
        alive = nodes.descendants(first) | nodes.tools()
        async with ends_within(first, DRAIN + BEYOND):
            first.terminate()
        assert first.returncode in ENDED, nodes.log(first)
        assert "killed, its tasks given back" in nodes.log(first)
        await all_gone(alive)
        await nodes.start()
        results = await gathering
    assert [(result.output, result.metadata.attempts) for result in results] == [("done", 2)] * 2
    rows = await nodes.rows([result.task_id for result in results])
    assert [(row.failures, row.crashes) for row in rows if row] == [(0, 0)] * 2


async def test_a_process_that_cannot_be_asked_to_end_is_ended_all_the_same(nodes: Nodes) -> None:
    first = await nodes.start("--drain", "30")
    async with AgentRuntime(nodes.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(BLOCKER, [0.5] * 2))
        await until(lambda: len(nodes.fleet.events("start")) == 2)
        alive = nodes.descendants(first)
        async with ends_within(first, DRAIN + BEYOND):
            first.terminate()
        assert first.returncode == 0, nodes.log(first)
        await all_gone(alive)
        assert [(result.output, result.metadata.attempts) for result in await gathering] == [("done", 1)] * 2


async def test_ctrl_c_to_the_whole_group_lets_what_runs_in_processes_end(nodes: Nodes) -> None:
    node = await nodes.start(
        "--drain",
        "30",
    )
    async with AgentRuntime(nodes.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [1.5] * 10))
        await until(lambda: len(nodes.fleet.events("start")) == 10)
        alive = nodes.descendants(node)
        os.killpg(node.pid, signal.SIGINT)
        async with ends_within(node, 1.5 + BEYOND):
            pass
        assert node.returncode == 0, nodes.log(node)
        await all_gone(alive)
        assert {(result.is_ok(), result.metadata.attempts) for result in await gathering} == {(True, 1)}


async def test_a_second_signal_ends_a_node_at_once_and_gives_its_tasks_back(nodes: Nodes) -> None:
    first = await nodes.start("--drain", "600")
    async with AgentRuntime(nodes.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [3_600.0] * 4, timeout=None))
        await until(lambda: len(nodes.fleet.events("start")) == 4)
        alive = nodes.descendants(first)
        async with ends_within(first, BEYOND):
            while first.poll() is None:  # two signals at once may be heard as one
                first.terminate()
                await asyncio.sleep(1.0)
        # The last of them may come when it has ended already, but for the interpreter.
        assert first.returncode in (*ENDED, -signal.SIGTERM), nodes.log(first)
        await all_gone(alive)
        await nodes.start()
        await until(lambda: len(nodes.fleet.events("start")) == 8)
        gathering.cancel()


async def test_sigquit_writes_the_stacks_of_a_node_and_ends_nothing(nodes: Nodes) -> None:
    node = await nodes.start()
    workers = below(node)
    os.killpg(node.pid, signal.SIGQUIT)
    await until(lambda: "most recent call first" in nodes.log(node))
    async with AgentRuntime(nodes.url) as runtime:
        assert (await runtime.run(WORK, 0.0)).is_ok()
    assert below(node) == workers


async def _rolled(nodes: Nodes, restarts: int, *, every: float) -> None:
    """Restart two nodes in turn under load, so many times; nothing may be lost, or run in vain."""
    running = [await nodes.start(), await nodes.start()]
    longest, is_over = 0.0, False
    async with AgentRuntime(nodes.url) as runtime:

        async def loaded() -> list[AgentResult[Any]]:
            answers = []
            while not is_over:
                answers += await runtime.gather(WORK, [0.3] * 100, max_concurrency=40, timeout=None)
            return answers

        load = asyncio.ensure_future(loaded())
        for number in range(restarts):
            old, told = running[number % 2], time.monotonic()
            old.terminate()
            await until(lambda old=old: old.poll() is not None)
            longest = max(longest, time.monotonic() - told)
            assert old.returncode in ENDED, nodes.log(old)
            running[number % 2] = await nodes.start()
            await asyncio.sleep(max(every - (time.monotonic() - told), 0.0))
        is_over = True
        answers = await asyncio.wait_for(load, 60.0)
    print(f"{restarts} restarts, {len(answers)} tasks, slowest end {longest:.2f} s; at most {DRAIN + BEYOND:g}")
    assert all(result.is_ok() for result in answers)
    # Where a task of 0.3 s outlives a drain of one, on a slow machine, it is given back: started again, not counted.
    rows = await nodes.rows([result.task_id for result in answers])
    assert {(row.failures, row.crashes) for row in rows if row} == {(0, 0)}


async def test_nodes_restarted_in_turn_under_load_lose_nothing_and_count_nothing(nodes: Nodes) -> None:
    await _rolled(nodes, 2, every=1.0)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_two_minutes_of_rolling_restarts_lose_nothing(nodes: Nodes) -> None:
    await _rolled(nodes, 24, every=5.0)
