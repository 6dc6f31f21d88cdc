"""What a supervised process costs: from its death to the notice, to a replacement that is ready, and its own memory.

The fork server has anthropic and faststream preloaded, as a node with real agents would. Each round runs in a
process of its own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Final

import anyio

from benchmarks.clocks import private_bytes
from benchmarks.plan import Plan
from benchmarks.table import Row, Target, part
from supervisors import ChildSpec, Intensity, Isolation, Processes, Supervisor, SupervisorSpec, open_supervisor
from supervisors.events import ChildExited, ChildStarted, EventStream
from supervisors.process import ProcessContext

PRELOADED: Final = ("anthropic", "faststream", "faststream.redis")
CHILDREN: Final = 8
DEADLINE: Final = 300.0  # seconds
MILLI: Final = 1e3


def processes(plan: Plan) -> list[Row]:
    """Eight idle process children with anthropic and faststream preloaded, killed one after another."""
    rounds = [_alone(plan.kills) for _ in range(plan.rounds)]

    def row(measure: str, unit: str, name: str, bound: float | None = None) -> Row:
        target = None if bound is None else Target(bound, "at most", of="murmur")
        return Row(measure, unit, [each[name] for each in rounds], target=target)

    return [
        row("child killed → noticed, p50", "ms", "noticed_p50"),
        row("  p99", "ms", "noticed_p99", 20.0),
        row("child killed → replacement ready, p50", "ms", "ready_p50", 50.0),
        row("  p99", "ms", "ready_p99"),
        row("private memory of an idle child", "MiB", "private", 15.0),
        row("first child ready, all preloaded", "s", "first"),
    ]


async def child(ctx: ProcessContext) -> None:
    """Do nothing."""
    ctx.ready(os.getpid())
    await anyio.sleep_forever()


def report(kills: int) -> None:
    """Print the figures of one round as JSON."""
    print(json.dumps(anyio.run(_measure, kills)))


async def _measure(kills: int) -> dict[str, float]:
    spec = SupervisorSpec(intensity=Intensity(max_restarts=kills, period=DEADLINE))
    children = [ChildSpec(id=f"c{n}", start=child, isolation=Isolation.PROCESS) for n in range(CHILDREN)]
    async with open_supervisor(spec, processes=Processes(preload=PRELOADED)) as sup:
        began = time.perf_counter()
        await sup.start_child(children[0])
        first = time.perf_counter() - began
        for each in children[1:]:
            await sup.start_child(each)
        await anyio.sleep(2.0)  # some beats, and what they touch
        private = sorted(private_bytes(info.info) for info in sup.which_children() if isinstance(info.info, int))
        events = sup.events()
        pairs = [await _kill(sup, events, f"c{n % CHILDREN}") for n in range(kills)]
    noticed, ready = (sorted(column) for column in zip(*pairs, strict=True))
    return {
        "noticed_p50": part(noticed, 0.5),
        "noticed_p99": part(noticed, 0.99),
        "ready_p50": part(ready, 0.5),
        "ready_p99": part(ready, 0.99),
        "private": private[len(private) // 2] / 2**20,
        "first": first,
    }


async def _kill(sup: Supervisor, events: EventStream, name: str) -> tuple[float, float]:
    """Kill one; return the milliseconds to the notice, and to the replacement."""
    pid = next(info.info for info in sup.which_children() if info.id == name)
    assert isinstance(pid, int)
    noticed, began = 0.0, time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    async for event in events:
        if isinstance(event, ChildExited):
            noticed = time.perf_counter() - began
        if isinstance(event, ChildStarted):
            break
    return noticed * MILLI, (time.perf_counter() - began) * MILLI


def _alone(kills: int) -> dict[str, float]:
    # Not `-m`: what is sent to a process is named by the module it can be imported from, which __main__ is not.
    command = [sys.executable, "-c", f"import benchmarks.processes as this; this.report({kills})"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=DEADLINE)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer
