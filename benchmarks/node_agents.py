"""What a benchmarked node serves: agents that do nothing, burn, hold on, and take their process with them.

LEDGER names a file to which `Hold` and `Risky` append a line at each start, with the time of the monotonic clock,
which all processes of a host share.
"""

import asyncio
import os
import signal
import time

from murmur import Actor, Backoff, Redelivery

BURN = 0.01  # seconds of CPU time
WAYS = ("exit", "segfault", "memory", "loop")


class Noop(Actor[int, int]):
    """Answers at once."""

    async def receive(self, number: int) -> int:
        return number


class Burn(Actor[int, int]):
    """Computes for ten milliseconds."""

    async def receive(self, number: int) -> int:
        until = time.thread_time() + BURN
        while time.thread_time() < until:
            pass
        return number


class Hold(Actor[float, float]):
    """Takes as many seconds as told."""

    async def receive(self, seconds: float) -> float:
        _note(self.context.task_id)
        await asyncio.sleep(seconds)
        return seconds


class Risky(Actor[str, str]):
    """Takes a tenth of a second, or takes its process with it in one of four ways."""

    redelivery = Redelivery(max_deliveries=3, max_crashes=3, backoff=Backoff(initial=0.05, cap=0.1))

    async def receive(self, how: str) -> str:
        _note(self.context.task_id)
        await asyncio.sleep(0.1)
        match how:
            case "exit":
                os._exit(7)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "memory":
                raise MemoryError("pretending")
            case "loop":
                while True:
                    pass
        return how


def _note(task_id: str) -> None:
    line = f"{task_id} {os.getpid()} {time.monotonic()}\n".encode()
    file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)
