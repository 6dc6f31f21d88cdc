"""Agents that take all there is of something, and give it back."""

import asyncio
import contextlib
import os

from murmur import Actor, Backoff, Redelivery


class Hoarder(Actor[float, int]):
    """Opens files until there are no more, holds them for as many seconds as told, and says how many it got."""

    async def receive(self, seconds: float) -> int:
        files: list[int] = []
        with contextlib.suppress(OSError):
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        try:
            await asyncio.sleep(seconds)
        finally:
            for file in files:
                os.close(file)
        return len(files)


class Large(Actor[int, str]):
    """Answers with as many bytes as told."""

    redelivery = Redelivery(max_deliveries=3, backoff=Backoff(initial=0.05, cap=0.1))

    async def receive(self, size: int) -> str:
        return "x" * size
