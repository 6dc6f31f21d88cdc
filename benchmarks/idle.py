"""What a worker costs that has nothing to do: Redis commands and CPU time of 30 idle agents."""

import time

from benchmarks.clocks import cpu_seconds
from benchmarks.plan import Plan
from benchmarks.redis_server import redis_server
from benchmarks.session import side
from benchmarks.table import Row, Target

AGENTS = 30
SETTLE = 3.0  # seconds after the start before anything counts


def idle(plan: Plan) -> list[Row]:
    """Thirty idle agents on one worker: Redis commands a second, percent of a core."""
    agents = ",".join(f"idle_{number}" for number in range(AGENTS))
    with redis_server() as server, side("worker", "fleet", server.url, agents) as worker:
        time.sleep(SETTLE)
        calls, used, served = server.calls(), cpu_seconds(worker.pid), cpu_seconds(server.pid)
        start = time.monotonic()
        time.sleep(plan.idle_seconds)
        used, served = cpu_seconds(worker.pid) - used, cpu_seconds(server.pid) - served
        seconds = time.monotonic() - start
        asked = server.calls() - calls
    at_most = Target(1.0, "at most", of="murmur")
    return [
        Row(f"idle, {AGENTS} agents: commands", "1/s", (asked / seconds,), target=Target(40.0, "at most", of="murmur")),
        Row("  CPU of the worker", "% core", (used / seconds * 100,), target=at_most),
        Row("  CPU of redis-server", "% core", (served / seconds * 100,)),
    ]
