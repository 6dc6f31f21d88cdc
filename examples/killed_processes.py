"""Kill -9 whatever you like of this: work goes on in supervised processes, and every answer comes.

    python killed_processes.py                              # two processes, one of them killed every second
    python killed_processes.py --spare --seconds 60         # kill them yourself: kill -9 any pid that it names
    python killed_processes.py --processes 4 --broker redis://localhost:6379

The actors run in processes below this one, which alone talks to the broker. One that is killed is replaced within
milliseconds, what it had in hand starts again elsewhere, and nothing is held against those tasks.
"""

import argparse
import asyncio
import os
import random
import signal

from attrs import frozen

from murmur import Actor, AgentRuntime
from murmur.worker import Worker

AT_ONCE = 10  # tasks
TAKES = 0.5  # seconds each


@frozen
class Shift:
    """Who did it."""

    pid: int


class Clerk(Actor[int, Shift]):
    """Takes half a second, and says in which process it worked."""

    async def receive(self, number: int) -> Shift:
        await asyncio.sleep(TAKES)
        return Shift(os.getpid())


async def run(processes: int, seconds: float, broker: str, *, spare: bool) -> int:
    """Have tasks done for so long while processes die; return the exit code."""
    count = round(seconds / TAKES * AT_ONCE)
    seen: set[int] = set()
    killed: set[int] = set()
    answers = again = 0
    async with (
        AgentRuntime(broker=broker) as runtime,
        Worker(broker=broker, agents=[Clerk], processes=processes, concurrency=AT_ONCE, prefetch=AT_ONCE),
    ):
        killing = None if spare else asyncio.create_task(kill_one_a_second(seen, killed))
        async for result in runtime.as_completed(Clerk, range(count), timeout=60 + 10 * seconds):
            answers += result.is_ok()
            again += result.metadata.attempts > 1
            if result.is_ok() and (pid := result.unwrap().pid) not in seen:
                seen.add(pid)
                print(f"  pid {pid} works" + (f"; try: kill -9 {pid}" if spare else ""), flush=True)
        if killing is not None:
            killing.cancel()
    print(f"{answers} of {count} answers from {len(seen)} processes; {again} tasks were in a process that was killed")
    return 0 if answers == count else 1


async def kill_one_a_second(seen: set[int], killed: set[int]) -> None:
    """Kill a process that has worked, as an operator or a kernel out of memory would."""
    while True:
        await asyncio.sleep(1.0)
        if victims := sorted(seen - killed):
            pid = random.choice(victims)  # noqa: S311  any of them
            killed.add(pid)
            print(f"  kill -9 {pid}", flush=True)
            os.kill(pid, signal.SIGKILL)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Work in processes that may be killed.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="for which there is work")
    parser.add_argument("--broker", default="memory://killed", help="for instance redis://localhost:6379")
    parser.add_argument("--spare", action="store_true", help="kill none: you do")
    asked = parser.parse_args()
    return asyncio.run(run(asked.processes, asked.seconds, asked.broker, spare=asked.spare))


if __name__ == "__main__":
    raise SystemExit(main())
