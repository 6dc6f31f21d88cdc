"""Agents for the fault runs. Every start and end is appended to the ledger file, one line each."""

import asyncio
import os

from murmur import Actor


def note(line: str) -> None:
    with open(os.environ["LEDGER"], "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class Work(Actor[float, float]):
    """Take as many seconds as told."""

    async def receive(self, seconds: float) -> float:
        note(f"start {self.context.task_id} {self.context.token} {os.getpid()}")
        await asyncio.sleep(seconds)
        note(f"end {self.context.task_id} {self.context.token} {os.getpid()}")
        return seconds


class Echo(Actor[int, int]):
    """Return what came."""

    async def receive(self, number: int) -> int:
        return number
