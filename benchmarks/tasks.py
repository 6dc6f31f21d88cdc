"""What a supervised task costs: its restart, from the crash to a fresh one that is ready, and what that leaves behind.

Runs in a process of its own: `python -m benchmarks.tasks RESTARTS` prints its figures as JSON.
"""

import gc
import json
import os
import subprocess
import sys
import time
from typing import Final

import anyio

from benchmarks.clocks import resident_bytes
from benchmarks.plan import Plan
from benchmarks.table import Row, Target
from supervisors import ChildContext, ChildSpec, Intensity, SupervisorSpec, open_supervisor

DEADLINE: Final = 300.0  # seconds
MICRO: Final = 1e6


def tasks(plan: Plan) -> list[Row]:
    """A supervised task that crashes as soon as it is up: time of a restart, memory kept of each."""
    rounds = [_alone(plan.restarts) for _ in range(plan.rounds)]
    quick, flat = Target(100.0, "at most", of="murmur"), Target(64.0, "at most", of="murmur")
    return [
        Row("task restart", "µs", [each["restart"] for each in rounds], target=quick),
        Row("kept per restart", "bytes", [each["kept"] for each in rounds], target=flat),
    ]


async def _measure(restarts: int) -> dict[str, float]:
    goal, reached = 0, anyio.Event()

    async def crash(ctx: ChildContext) -> None:
        ctx.ready()
        if ctx.incarnation >= goal:
            reached.set()
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        raise RuntimeError("again")

    # The window holds a time for each restart within it: short, so that it does not count as kept.
    spec = SupervisorSpec(
        children=[ChildSpec(id="child", start=crash)], intensity=Intensity(max_restarts=10 * restarts, period=0.001)
    )
    warm_up = restarts // 5
    goal = warm_up
    async with open_supervisor(spec) as sup:
        await reached.wait()
        gc.collect()
        before, reached, goal = resident_bytes(os.getpid()), anyio.Event(), warm_up + restarts
        begun = time.perf_counter()
        await sup.terminate_child("child")
        await sup.restart_child("child")
        await reached.wait()
        took = time.perf_counter() - begun
        gc.collect()
        return {"restart": took / restarts * MICRO, "kept": max(0, resident_bytes(os.getpid()) - before) / restarts}


def _alone(restarts: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.tasks", str(restarts)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=DEADLINE)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    print(json.dumps(anyio.run(_measure, int(sys.argv[1]))))
