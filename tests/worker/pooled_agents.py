"""Agents for worker processes: quick ones, slow ones, and those that take their process with them."""

import asyncio
import ctypes
import os
import signal
import time

from murmur import Actor, Backoff, Redelivery


class Squarer(Actor[int, int]):
    """Squares; from 10,000 on it takes half a second."""

    async def receive(self, number: int) -> int:
        if number >= 10_000:
            await asyncio.sleep(0.5)
        return number * number


class Where(Actor[float, int]):
    """Says in which process it ran, after so many seconds."""

    async def receive(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return os.getpid()


class Deadly(Actor[str, str]):
    """Dies as it is told."""

    redelivery = Redelivery(max_crashes=2, backoff=Backoff(initial=0.05, cap=0.1))

    async def receive(self, how: str) -> str:
        match how:
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(3_600)  # noqa: ASYNC251  that is the point
            case "spin":
                while True:
                    pass
            case "hold":
                while True:
                    ctypes.PyDLL(None).sleep(3_600)  # in C, holding the interpreter lock
            case "slow":
                await asyncio.sleep(1.0)
        return how


class Asker(Actor[int, int]):
    """Asks others, once, and adds up what they say."""

    async def receive(self, count: int) -> int:
        async def price() -> int:
            return 100

        results = await self.context.runtime.gather(Squarer, range(count))
        return sum(result.unwrap() for result in results) + await self.context.once("price", price)


class Sleeper(Actor[float, str]):
    """Leaves a file when it begins, sleeps until it is cancelled, and leaves another one then."""

    async def receive(self, seconds: float) -> str:
        if "SLEEPER" in os.environ:
            os.close(os.open(f"{os.environ['SLEEPER']}.began", os.O_CREAT))
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            os.close(os.open(os.environ["SLEEPER"], os.O_CREAT))
            raise
        return "slept"


class Apart(Actor[str, int]):
    """Has processes of its own; says in which it ran, or takes it along."""

    isolation = "process"
    redelivery = Redelivery(max_crashes=2, backoff=Backoff(initial=0.05, cap=0.1))

    async def receive(self, how: str) -> int:
        if how == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        return os.getpid()


class Two(Actor[float, tuple[float, float]]):
    """Two of them at once in a whole worker; says from when to when it worked, seconds of the monotonic clock."""

    concurrency = 2

    async def receive(self, seconds: float) -> tuple[float, float]:
        began = time.monotonic()
        await asyncio.sleep(seconds)
        return began, time.monotonic()


class Deaf(Actor[float, int]):
    """Ignores its cancellation."""

    timeout = 0.2

    async def receive(self, seconds: float) -> int:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return os.getpid()


class Greedy(Actor[str, str]):
    """Takes more than is good for others."""

    redelivery = Redelivery(max_deliveries=2, backoff=Backoff(initial=0.05, cap=0.1))

    async def receive(self, what: str) -> str:
        match what:
            case "memory":
                return str(len(bytearray(4 << 30)))
            case "words":
                for _ in range(200_000):
                    print("so many words")
            case "flood":
                for _ in range(100):
                    print("x" * (1 << 20))
            case "variables":
                return ",".join(sorted(os.environ))
        return what


class Unborn(Actor[int, int]):
    """Cannot start."""

    async def started(self) -> None:
        raise RuntimeError("no database here")

    async def receive(self, number: int) -> int:
        return number
