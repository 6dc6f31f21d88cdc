"""Named actors under test: their modules are imported in worker processes, too."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field

from murmur import Actor, Reject
from murmur.named import Named


@define
class Pages:
    """What a ledger keeps."""

    entries: list[str] = field(factory=list)


class Ledger(Actor[str, list[str]]):
    """Writes down what it is told, and returns all of it. What it is told may also have it do something first."""

    named = Named()
    timeout = 20.0

    def __init__(self) -> None:
        self.pages = Pages()

    def snapshot(self) -> Pages:
        return self.pages

    def restore(self, state: Pages) -> None:
        self.pages = state

    async def receive(self, message: str) -> list[str]:
        word, _, rest = message.partition(" ")
        if word == "look":
            return list(self.pages.entries)
        self.pages.entries.append(message)
        match word:
            case "reject":
                raise Reject("as it was told")
            case "sleep":
                await asyncio.sleep(float(rest))
            case "die":
                if self.context.attempt == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
            case "wreck":
                os._exit(7)
        return list(self.pages.entries)


class Counter(Actor[int, int]):
    """Counts, and keeps nothing."""

    named = Named()

    def __init__(self) -> None:
        self.count = 0

    async def receive(self, number: int) -> int:
        self.count += number
        return self.count


class Where(Actor[float, tuple[int, str | None, float, float]]):
    """Takes so long, and returns where it lives, its name, and when it began and ended."""

    named = Named()

    async def receive(self, seconds: float) -> tuple[int, str | None, float, float]:
        began = time.monotonic()
        await asyncio.sleep(seconds)
        return os.getpid(), self.context.key, began, time.monotonic()


class Asker(Actor[str, list[str]]):
    """Asks a ledger of its own name."""

    named = Named()

    async def receive(self, message: str) -> list[str]:
        found: list[str] = await self.context.runtime.ref(Ledger, self.context.key).ask(message, timeout=20.0)
        return found


class Fragile(Actor[str, str]):
    """Its state is kept, or restored, or not, as it is told."""

    named = Named()
    broken: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        self.state: Any = ""

    def snapshot(self) -> Any:
        if "snapshot" in self.broken:
            raise OSError("no snapshot today")
        return self.state

    def restore(self, state: Any) -> None:
        if "restore" in self.broken:
            raise OSError("cannot be read")
        self.state = state

    async def receive(self, message: str) -> str:
        if message == "no JSON":
            self.state = object()
        elif message == "much":
            self.state = "x" * 2_000_000
        elif message:
            self.state = message
        return str(self.state)[:100]


class Brief(Ledger):
    """A ledger that does not live long. It says so in a file named by its first message."""

    named = Named(idle_after=0.5, max_live=3)
    log: ClassVar[list[str]] = []

    async def started(self) -> None:
        self.log.append("started")

    async def stopped(self, reason: str) -> None:
        self.log.append(reason)


def effects(path: Path) -> list[str]:
    """Return the lines of a file, none if there is no file."""
    return path.read_text().splitlines() if path.exists() else []
