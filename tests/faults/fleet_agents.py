"""Agents for the fault runs. Every start and end is appended to the ledger file, one line each."""

import asyncio
import os
import secrets

from murmur import Actor
from murmur.named import Named


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


class Attempt(Actor[float, str]):
    """Take as many seconds as told, and answer what no other attempt answers."""

    async def receive(self, seconds: float) -> str:
        note(f"start {self.context.task_id} {self.context.token} {os.getpid()}")
        await asyncio.sleep(seconds)
        note(f"end {self.context.task_id} {self.context.token} {os.getpid()}")
        return f"{self.context.token}-{secrets.token_hex(4)}"


class Echo(Actor[int, int]):
    """Return what came."""

    async def receive(self, number: int) -> int:
        return number


class Till(Actor[str, list[str]]):
    """Writes down what it is told, after as many seconds as that begins with, and returns all of it."""

    named = Named()

    def __init__(self) -> None:
        self.entries: list[str] = []

    def snapshot(self) -> list[str]:
        return self.entries

    def restore(self, state: list[str]) -> None:
        self.entries = state

    async def receive(self, message: str) -> list[str]:
        note(f"start {self.context.task_id} {self.context.token} {os.getpid()}")
        await asyncio.sleep(float(message.partition(" ")[0]))
        self.entries.append(message)
        note(f"end {self.context.task_id} {self.context.token} {os.getpid()}")
        return list(self.entries)
