"""One side of a benchmark in a process of its own: a publisher or a worker, raw or murmur, on uvloop.

Started by `child.py` as `python -m benchmarks.side ROLE SYSTEM URL AGENT,… [STORE]`. It prints `{}`
when it is ready, then answers each line of JSON on stdin with one on stdout, and ends with stdin.
"""

import asyncio
import importlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec
import uvloop

from benchmarks.bodies import ANSWER, INPUT

IN_FLIGHT = 200  # tasks a publisher has out, slots a worker has, tasks one read takes
SLOTS = {"second": 20}  # of a worker with other than that many
KEPT_CHUNK = 2_000  # tasks whose results the memory run holds at once


class Publisher(Protocol):
    """What both systems' publishers do."""

    async def gather(self, inputs: Sequence[str], max_concurrency: int) -> list[str]: ...
    async def run(self, text: str) -> str: ...
    async def attempts(self, inputs: Sequence[str]) -> int: ...


class System(Protocol):
    """What the modules `raw` and `fleet` offer."""

    def publishing(self, url: str, agent: str, *store: str) -> AbstractAsyncContextManager[Publisher]: ...
    def working(
        self, url: str, agents: tuple[str, ...], concurrency: int, *store: str
    ) -> AbstractAsyncContextManager[None]: ...


async def main(role: str, system: str, url: str, agents: tuple[str, ...], *store: str) -> None:
    """Take a role until stdin ends."""
    played: System = importlib.import_module(f"benchmarks.{system}")  # only its own: memory is measured too
    if role == "worker":
        async with played.working(url, agents, SLOTS.get(agents[0], IN_FLIGHT), *store):
            async for _ in _commands():
                pass
        return
    async with played.publishing(url, agents[0], *store) as publisher:
        async for command in _commands():
            await _answer(await _ACTIONS[command["do"]](publisher, command["tasks"]))


async def fan_out(publisher: Publisher, tasks: int) -> dict[str, Any]:
    """Run many tasks at once. Returns seconds."""
    start = time.perf_counter()
    outputs = await publisher.gather([INPUT] * tasks, IN_FLIGHT)
    seconds = time.perf_counter() - start
    if outputs != [ANSWER] * tasks:
        raise RuntimeError(f"{sum(output != ANSWER for output in outputs)} of {tasks} tasks came back wrong")
    return {"seconds": seconds}


async def one_by_one(publisher: Publisher, tasks: int) -> dict[str, Any]:
    """Run tasks one at a time. Returns each one's seconds."""
    seconds = []
    for _ in range(tasks):
        start = time.perf_counter()
        await publisher.run(INPUT)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


async def in_chunks(publisher: Publisher, tasks: int) -> dict[str, Any]:
    """Run many tasks and keep no result."""
    for _ in range(tasks // KEPT_CHUNK):
        await fan_out(publisher, KEPT_CHUNK)
    return {}


async def run_again(publisher: Publisher, tasks: int) -> dict[str, Any]:
    """Run tasks, all at once; only murmur counts. Returns how many executions were not a first one."""
    return {"again": await publisher.attempts([INPUT] * tasks) - tasks}


_ACTIONS = {"fan_out": fan_out, "one_by_one": one_by_one, "in_chunks": in_chunks, "run_again": run_again}


async def _commands() -> AsyncIterator[dict[str, Any]]:
    await _answer({})
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield msgspec.json.decode(line)


async def _answer(answer: dict[str, Any]) -> None:
    print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], tuple(sys.argv[4].split(",")), *sys.argv[5:]))
