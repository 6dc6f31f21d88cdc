"""`python -m benchmarks [NAME…]`: run benchmarks, print one table, store the figures in .bench/."""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Final

from benchmarks import measures, node
from benchmarks.idle import idle
from benchmarks.in_process import actors, in_process, named
from benchmarks.lease import lease
from benchmarks.plan import Plan
from benchmarks.processes import processes
from benchmarks.side_by_side import ALL, WAYS, brokers
from benchmarks.table import rendered
from benchmarks.tasks import tasks

BENCHMARKS: Final = {
    "fan_out": measures.fan_out,
    "latency": measures.latency,
    "waiting": measures.waiting,
    "memory": measures.memory,
    "idle": idle,
    "in_process": in_process,
    "actors": actors,
    "named": named,
    "tasks": tasks,
    "processes": processes,
    "recovery": node.recovery,
    "price": node.price,
    "poison": node.poison,
}
ON_ALL: Final = ("fan_out", "latency", "waiting", "brokers")  # that are measured on other brokers too
# Minutes, and some take the whole machine: only when named.
ON_DEMAND: Final = {"lease": lease, "deaths": node.deaths, "brokers": brokers}


def main() -> None:
    """Run what was asked for."""
    asked = _arguments()
    broker, store = asked.broker or (ALL if asked.names == ["brokers"] else "redis"), asked.store
    plan = (
        Plan.quick(asked.rounds, broker=broker, store=store)
        if asked.quick
        else Plan(broker=broker, store=store, rounds=asked.rounds)
    )
    rows = []
    for name in asked.names or (BENCHMARKS if broker == "redis" else ON_ALL[:3]):
        measure = {**BENCHMARKS, **ON_DEMAND}[name]
        print(f"{name}: {measure.__doc__}", flush=True)
        rows += measure(plan)
    print(f"\n{rendered(rows)}")
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(
        json.dumps({**_machine(), "rounds": asked.rounds, "rows": [row.as_json() for row in rows]}, indent=1)
    )
    print(f"\nstored in {asked.json}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; if named: {', '.join(ON_DEMAND)}"
    )
    parser.add_argument(
        "--json", type=Path, default=Path(f".bench/{time.strftime('%Y%m%d-%H%M%S')}.json"), metavar="FILE"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--broker", choices=sorted(WAYS), help=f"for {', '.join(ON_ALL)}")
    parser.add_argument("--store", choices=("redis", "none"), default="", help="rows: in a Redis beside, or nowhere")
    parser.add_argument("--quick", action="store_true", help="few tasks: seconds instead of minutes, rough figures")
    asked = parser.parse_args()
    known = {**BENCHMARKS, **ON_DEMAND}
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if asked.broker not in (None, "redis") and (others := [name for name in asked.names if name not in ON_ALL]):
        parser.error(f"{', '.join(others)} is measured on Redis only")
    return asked


def _machine() -> dict[str, object]:
    return {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg(), "at": time.time()}


if __name__ == "__main__":
    main()
