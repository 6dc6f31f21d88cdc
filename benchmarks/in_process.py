"""What murmur costs without a broker: `gather` in one process, and actors that wait for a message.

Each runs in a process of its own: `python -m benchmarks.in_process WHAT COUNT` prints its figures as JSON.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from functools import partial

import uvloop

from benchmarks.bodies import ANSWER, INPUT
from benchmarks.clocks import resident_bytes
from benchmarks.fleet import Echo
from benchmarks.measures import raw_throughput
from benchmarks.plan import Plan
from benchmarks.side import IN_FLIGHT
from benchmarks.table import Row, Target
from murmur import Actor, AgentRuntime, Named
from murmur.registry import entry_of
from murmur.worker.host import Host

DEADLINE = 300.0  # seconds


def in_process(plan: Plan) -> list[Row]:
    """`gather` without a broker, beside the raw loop over Redis."""
    raw, murmur = [], []
    for _ in range(plan.rounds):
        raw.append(raw_throughput(plan))
        murmur.append(plan.fan_out / _alone("gather", plan.fan_out)["seconds"])
    target = Target(1.0, "at least")
    return [Row("gather in process", "tasks/s", murmur, raw, target, higher_is_better=True)]


def actors(plan: Plan) -> list[Row]:
    """Actors of one class made, kept idle: per second, and bytes each."""
    found = [_alone("spawn", plan.actors) for _ in range(plan.rounds)]
    rate = [plan.actors / each["seconds"] for each in found]
    size = [each["bytes"] / plan.actors for each in found]
    fast, small = Target(100_000, "at least", of="murmur"), Target(2_000, "at most", of="murmur")
    return [
        Row("actors made", "1/s", rate, target=fast, higher_is_better=True),
        Row("an idle actor", "bytes", size, target=small),
    ]


def named(plan: Plan) -> list[Row]:
    """Named actors without a broker: asks of 1,000 callers over 100 names, without a state and with one kept."""
    fast = Target(80_000, "at least", of="murmur")
    return [
        Row(
            f"asks by name{kind}",
            "1/s",
            [plan.asks / _alone(what, plan.asks)["seconds"] for _ in range(plan.rounds)],
            target=target,
            higher_is_better=True,
        )
        for what, kind, target in (("named", "", fast), ("kept", ", state kept", None))
    ]


def _alone(what: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.in_process", what, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=DEADLINE)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


async def _gather(count: int) -> dict[str, float]:
    async with AgentRuntime() as runtime:
        await runtime.gather(Echo, tasks=[INPUT] * (count // 5), max_concurrency=IN_FLIGHT)
        start = time.perf_counter()
        results = await runtime.gather(Echo, tasks=[INPUT] * count, max_concurrency=IN_FLIGHT)
        seconds = time.perf_counter() - start
    if any(result.unwrap() != ANSWER for result in results):
        raise RuntimeError("a task came back wrong")
    return {"seconds": seconds}


async def _spawn(count: int) -> dict[str, float]:
    host = Host(entry_of(Echo), Echo, Echo.redelivery, on_held=lambda _host, _why: None)
    gc.collect()
    before = resident_bytes(os.getpid())
    start = time.perf_counter()
    made = [await host.instance() for _ in range(count)]
    seconds = time.perf_counter() - start
    for instance in made:
        host.give_back(instance)
    return {"seconds": seconds, "bytes": resident_bytes(os.getpid()) - before}


class Counter(Actor[int, int]):
    """Counts what it is asked."""

    named = Named()

    def __init__(self) -> None:
        self.count = 0

    async def receive(self, number: int) -> int:
        self.count += number
        return self.count


class KeptCounter(Counter):
    """The same, and its count is kept."""

    def snapshot(self) -> int:
        return self.count

    def restore(self, state: int) -> None:
        self.count = state


async def _asked(agent: type[Counter], count: int) -> dict[str, float]:
    names, callers = 100, 1_000
    async with AgentRuntime() as runtime:
        refs = [runtime.ref(agent, f"name-{number}") for number in range(names)]

        async def ask(number: int, times: int) -> None:
            for _ in range(times):
                await refs[number % names].ask(1)

        await asyncio.gather(*(ask(number, 5) for number in range(callers)))
        start = time.perf_counter()
        await asyncio.gather(*(ask(number, count // callers) for number in range(callers)))
        seconds = time.perf_counter() - start
        if sum([await ref.ask(0) for ref in refs]) != count // callers * callers + 5 * callers:
            raise RuntimeError("something was counted wrong")
    return {"seconds": seconds}


_WHAT = {"named": partial(_asked, Counter), "kept": partial(_asked, KeptCounter), "gather": _gather, "spawn": _spawn}

if __name__ == "__main__":
    print(json.dumps(uvloop.run(_WHAT[sys.argv[1]](int(sys.argv[2])))))
