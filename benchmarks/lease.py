"""Tasks that outlive their lease beside processes that eat the CPU: none may start twice (I11)."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.plan import Plan
from benchmarks.session import session
from benchmarks.table import Row, Target

BURNERS = 2


def lease(plan: Plan) -> list[Row]:
    """200 tasks of 10 s under a lease of 2 s, beside two CPU burners: executions beyond the first."""
    again = []
    for _ in range(plan.rounds):
        with _burners(), session("fleet", "slow", warm_up=0) as running:
            again.append(float(running.publisher.ask("run_again", plan.lease)["again"]))
    return [Row("run again, 5 leases long", "tasks", again, target=Target(0, "at most", of="murmur"))]


@contextmanager
def _burners() -> Iterator[None]:
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BURNERS)]
    try:
        yield
    finally:
        for burner in burning:
            burner.kill()
            burner.wait()
