"""What a supervisor node holds to: recovery of killed processes, the price of processes, poison, and memory.

Each part has a redis-server and a node of its own; the publisher runs here. What the parts find is told in
docs/benchmarks.md, with what is asked of each.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop
from attrs import frozen

from benchmarks.clocks import private_bytes, resident_bytes
from benchmarks.node_agents import WAYS, Burn, Hold, Noop, Risky
from benchmarks.plan import Plan
from benchmarks.redis_server import redis_server
from benchmarks.table import Row, Target, part
from murmur import AgentRuntime, wiring
from murmur.envelope import decode_letter
from murmur.ids import task_id_in_batch
from murmur.task_queue import TaskQueue

PROCESSES: Final = 2
SHARE: Final = 20  # tasks one process holds
PACE: Final = 0.2  # seconds between kills: a pool whose processes die more than thrice a second each is paused
DEADLINE: Final = 300.0  # seconds
MILLI: Final = 1e3
MIB: Final = 2**20


@frozen
class Node:
    """A node under test: itself, and what its actors noted."""

    url: str
    process: "subprocess.Popen[bytes]"
    ledger: Path

    def workers(self) -> list[int]:
        """Return the pids of its worker processes: the children of its fork server."""
        return [below.pid for child in psutil.Process(self.process.pid).children() for below in child.children()]

    def starts(self, since: int = 0) -> tuple[list[tuple[str, int, float]], int]:
        """Return the starts noted from a byte on, as task id, pid and time, and the byte after them."""
        if not self.ledger.exists():
            return [], 0
        with self.ledger.open("rb") as file:
            file.seek(since)
            whole = file.read().rpartition(b"\n")[0]
        lines = (line.split() for line in whole.decode().splitlines())
        return [(task, int(pid), float(at)) for task, pid, at in lines], since + len(whole) + bool(whole)


@contextmanager
def node_of(**settings: object) -> Iterator[Node]:
    """Start a server and a node with these settings; end both."""
    with tempfile.TemporaryDirectory() as folder, redis_server() as server:
        ledger = Path(folder) / "ledger"
        command = [sys.executable, "-m", "benchmarks.node_side", server.url, json.dumps({"drain": 1.0, **settings})]
        process = subprocess.Popen(command, env={**os.environ, "LEDGER": str(ledger)}, stderr=subprocess.DEVNULL)
        try:
            yield Node(server.url, process, ledger)
        finally:
            process.kill()
            process.wait()


def recovery(plan: Plan) -> list[Row]:
    """SIGKILL a process that holds 20 tasks, again and again: seconds until each of them is started elsewhere."""
    with node_of(processes=PROCESSES, concurrency=PROCESSES * SHARE, prefetch=PROCESSES * SHARE) as node:
        waits, others, crashes = uvloop.run(_recovered(node, plan.node_kills))
        own, each = resident_bytes(node.process.pid), [private_bytes(pid) for pid in node.workers()]
    waits.sort()
    return [
        _row("process killed → its tasks start, p50", "ms", [part(waits, 0.5) * MILLI], at_most=100.0),
        _row("  p99", "ms", [part(waits, 0.99) * MILLI], at_most=1_000.0),
        _row("  slowest", "ms", [waits[-1] * MILLI]),
        _row("  other tasks started again", "tasks", [others], at_most=0.0),
        _row("  crashes counted", "crashes", [crashes], at_most=0.0),
        _row("resident memory of the node itself", "MiB", [own / MIB], at_most=80.0),
        _row("private memory of a worker process", "MiB", [max(each) / MIB], at_most=15.0),
    ]


async def _recovered(node: Node, kills: int) -> tuple[list[float], int, int]:
    """Return the seconds each task waited, how many others were started again, and how many crashes are counted."""
    held = PROCESSES * SHARE
    waits, others = [], 0
    async with AgentRuntime(broker=node.url) as runtime:
        holding = asyncio.ensure_future(runtime.gather(Hold, [10 * DEADLINE] * held, timeout=None))
        await _until(lambda: len(node.starts()[0]) == held)
        first, read = node.starts()
        where = {task: pid for task, pid, _ in first}
        for number in range(kills):
            doomed = sorted(set(where.values()))[number % PROCESSES]
            lost = {task for task, pid in where.items() if pid == doomed}
            began = time.monotonic()
            os.kill(doomed, signal.SIGKILL)
            await _until(lambda lost=lost, read=read: lost <= {task for task, _, _ in node.starts(read)[0]})
            await asyncio.sleep(max(began + PACE - time.monotonic(), 0.0))
            again, read = node.starts(read)
            waits += [at - began for task, _, at in again if task in lost]
            others += len(again) - len(lost)
            where |= {task: pid for task, pid, _ in again}
        rows = await asked(node.url, lambda queue: queue.store.read(list(where)))
        holding.cancel()
    return waits, others, sum(row.crashes for row in rows if row is not None)


def price(plan: Plan) -> list[Row]:
    """No-op tasks, and tasks that compute for 10 ms, in two processes and in the node's own, by turns."""
    sizes: dict[type[Noop] | type[Burn], int] = {Noop: plan.fan_out // 4, Burn: plan.burn}
    rates: dict[tuple[type, int], list[float]] = defaultdict(list)
    for _ in range(plan.rounds):
        for processes in (0, PROCESSES):
            with node_of(processes=processes, concurrency=200, prefetch=200) as node:
                for agent, tasks in sizes.items():
                    rates[agent, processes].append(uvloop.run(_rate(node, agent, tasks)))
    return [
        Row(
            f"{agent.name}: processes={PROCESSES} by processes=0",
            "tasks/s",
            rates[agent, PROCESSES],
            rates[agent, 0],
            Target(bound, "at least"),
            higher_is_better=True,
        )
        for agent, bound in ((Noop, 0.5), (Burn, 1.8))
    ]


async def _rate(node: Node, agent: type[Noop] | type[Burn], tasks: int) -> float:
    async with AgentRuntime(broker=node.url) as runtime:
        await runtime.gather(agent, range(200))
        began = time.monotonic()
        results = await runtime.gather(agent, range(tasks), max_concurrency=400)
        seconds = time.monotonic() - began
    if [result.output for result in results] != list(range(tasks)):
        raise RuntimeError("tasks came back wrong")
    return tasks / seconds


def poison(plan: Plan) -> list[Row]:
    """One task in a hundred exits, crashes, has no memory or never returns: what becomes of it and of the rest."""
    bad = {number: WAYS[number // 100 % len(WAYS)] for number in range(50, plan.poison, 100)}
    inputs = [bad.get(number, "good") for number in range(plan.poison)]
    with node_of(processes=PROCESSES, concurrency=PROCESSES * SHARE, prefetch=SHARE, hang_after=1.0) as node:
        uvloop.run(_rest(node, "first", ["good"] * SHARE))  # until it is up
        calm, _ = uvloop.run(_rest(node, "calm", ["good"] * plan.poison))
        beside, lost = uvloop.run(_rest(node, "poisoned", inputs))
        letters = uvloop.run(asked(node.url, lambda queue: queue.dead_letters("risky", limit=plan.poison)))
        runs = Counter(task for task, _, _ in node.starts()[0])
    dead = Counter(decode_letter(letter).task_id for letter in letters)
    poisonous = {task_id_in_batch("poisoned", number) for number in bad}
    return [
        _row("poison: good tasks without an answer", "tasks", [lost], at_most=0.0),
        _row("  dead letters missing or too many", "letters", [sum((dead - Counter(poisonous)).values())
             + sum((Counter(poisonous) - dead).values())], at_most=0.0),
        _row("  runs of a poisonous task, most", "runs", [max(runs[task] for task in poisonous)]),
        _row("  runs of a good task, most", "runs", [max(runs[task] for task in runs.keys() - poisonous)]),
        Row("  throughput of the rest by that without poison", "tasks/s", [beside], [calm], Target(0.5, "at least"),
            higher_is_better=True),
    ]  # fmt: skip


async def _rest(node: Node, batch: str, inputs: Sequence[str]) -> tuple[float, int]:
    """Run all; return the rate of good ones until the last of them, and how many of them were lost."""
    good = {task_id_in_batch(batch, number) for number, how in enumerate(inputs) if how == "good"}
    began, last, right = time.monotonic(), 0.0, 0
    async with AgentRuntime(broker=node.url) as runtime:
        async for result in runtime.as_completed(Risky, inputs, max_concurrency=400, timeout=None, batch_id=batch):
            if result.task_id in good:
                right += result.is_ok()
                last = time.monotonic()
    return right / (last - began), len(good) - right


def deaths(plan: Plan) -> list[Row]:
    """Kill processes that work, a thousand times: what the node keeps of each."""
    with node_of(processes=4 * PROCESSES, concurrency=SHARE, prefetch=SHARE) as node:
        grown, answered = uvloop.run(_grown(node, plan.deaths))
    return [
        _row("deaths: kept by the node per dead process", "bytes", [grown], at_most=1_024.0),
        _row("  tasks answered meanwhile", "tasks", [answered]),
    ]


async def _grown(node: Node, count: int) -> tuple[float, int]:
    """Return the growth of the node's memory per death, the first fifth left out; and the tasks that were answered."""
    before, answered, is_over = 0, 0, False

    async def load() -> None:
        nonlocal answered
        while not is_over:
            results = await runtime.gather(Hold, [0.05] * 100, timeout=None)
            answered += sum(result.is_ok() for result in results)

    async with AgentRuntime(broker=node.url) as runtime:
        loading = asyncio.ensure_future(load())
        await _until(lambda: len(node.workers()) == 4 * PROCESSES and answered)
        for number in range(count):
            if number == count // 5:
                before = resident_bytes(node.process.pid)
            pids = sorted(node.workers())
            os.kill(pids[number % len(pids)], signal.SIGKILL)
            await asyncio.sleep(PACE)
        after = resident_bytes(node.process.pid)
        is_over = True
        await loading
    return (after - before) / (count - count // 5), answered


async def asked(url: str, question: Callable[[TaskQueue], Awaitable[Sequence[Any]]]) -> Sequence[Any]:
    """Return what the store of a node answers."""
    queue = wiring.connect(url, store=None, namespace="", consumer_id="asking", lease=None, retention=86_400.0)
    await queue.open(owner="asking", lease=None)
    try:
        return await question(queue)
    finally:
        await queue.close()


async def _until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():  # noqa: ASYNC110  what is waited for happens in other processes
            await asyncio.sleep(0.005)


def _row(measure: str, unit: str, values: Sequence[float], *, at_most: float | None = None) -> Row:
    return Row(measure, unit, values, target=None if at_most is None else Target(at_most, "at most", of="murmur"))
