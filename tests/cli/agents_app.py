"""Agents for the tests of the command line. Every start is noted in the file named by STARTS."""

import asyncio
import os

from murmur import Actor


def note(task_id: str) -> None:
    path = os.environ.get("STARTS")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{task_id}\n")


class Echo(Actor[str, str]):
    """Say it again, louder."""

    async def receive(self, text: str) -> str:
        note(self.context.task_id)
        return text.upper()


class Napper(Actor[float, float]):
    """Sleep for as many seconds as it is told."""

    async def receive(self, seconds: float) -> float:
        note(self.context.task_id)
        await asyncio.sleep(seconds)
        return seconds
