"""`python -m tests.chaos --tasks N --seed S`: one storm, and what it broke."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.brokers.redis_server import RedisServer
from tests.chaos.storm import Storm


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0, help="worker processes of each node; 0: none")
    parser.add_argument("--keep", type=Path, help="a folder for the history, the receiver and the logs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "redis").mkdir(exist_ok=True)
        # `everysec` lets a write wait behind a slow sync, and a kill takes that with it.
        with RedisServer(folder / "redis", aof=True, fsync="always") as server:
            storm = Storm(server, folder, tasks=options.tasks, seed=options.seed, processes=options.processes)
            report = asyncio.run(storm.run())
    print(report)
    print(*report.broken[:50], sep="\n")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(_main())
