"""The yardstick: a fan-out written by hand on redis-py, as fast as that client allows.

Every task is acknowledged on its own, every result returns to the caller. No retries, errors,
deadlines, rows or reconnects: a floor for the price of a task, not a product.
XADDs of up to 200 tasks a pipeline; XREADGROUP COUNT = free slots on its own connection; the
replies of one loop turn in one pipeline with XACK and XDEL; one reply stream per publisher.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast

from redis.asyncio import Redis

from benchmarks.window import BODIES, Reply, Window, decode_task, encode

GROUP = "workers"
REPLIES_PER_READ = 1_000
BLOCK_MS = 1_000

Entries = list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]  # what redis-py answers: by stream, (id, fields)


class RawPublisher(Window):
    """Publishes in pipelines and reads the replies of one stream."""

    def __init__(self, url: str, agent: str) -> None:
        super().__init__(inbox="inbox")
        self._writer = Redis.from_url(url)
        self._reader = Redis.from_url(url, socket_timeout=None)
        self._stream = f"{agent}.tasks"

    async def _send(self, batch: Sequence[bytes]) -> None:
        pipeline = self._writer.pipeline(transaction=False)
        for body in batch:
            pipeline.xadd(self._stream, {b"d": body})
        await pipeline.execute()

    async def collect(self) -> None:
        """Read replies for ever."""
        seen: str | bytes = "0"
        while True:
            answer = await self._reader.xread({self._inbox: seen}, count=REPLIES_PER_READ, block=BLOCK_MS)
            for _, entries in cast(Entries, answer):
                seen = entries[-1][0]
                self._replied([fields[b"d"] for _, fields in entries])

    async def aclose(self) -> None:
        await self._writer.aclose()
        await self._reader.aclose()


class RawWorker:
    """Runs up to `concurrency` tasks at once; settles the ones of a loop turn together."""

    def __init__(self, url: str, agent: str, concurrency: int) -> None:
        self._writer = Redis.from_url(url)
        self._reader = Redis.from_url(url, socket_timeout=None)
        self._stream = f"{agent}.tasks"
        self._body = BODIES[agent]
        self._free = concurrency
        self._freed = asyncio.Event()
        self._finished: list[tuple[bytes, str, Reply]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def prepare(self) -> None:
        await self._writer.xgroup_create(self._stream, GROUP, id="0", mkstream=True)

    async def consume(self) -> None:
        """Read tasks for ever, never more than there are free slots."""
        while True:
            if not self._free:
                self._freed.clear()
                await self._freed.wait()
            answer = await self._reader.xreadgroup(GROUP, "one", {self._stream: ">"}, count=self._free, block=BLOCK_MS)
            for _, entries in cast(Entries, answer):
                self._free -= len(entries)
                for entry, fields in entries:
                    self._start(self._work(entry, fields[b"d"]))

    async def _work(self, entry: bytes, body: bytes) -> None:
        task = decode_task(body)
        output = await self._body(task.input)
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._flush)
        self._finished.append((entry, task.reply_to, Reply(task.id, output)))
        self._free += 1
        self._freed.set()

    def _flush(self) -> None:
        finished, self._finished = self._finished, []
        self._start(self._settle(finished))

    async def _settle(self, finished: list[tuple[bytes, str, Reply]]) -> None:
        pipeline = self._writer.pipeline(transaction=False)
        for _, reply_to, reply in finished:
            pipeline.xadd(reply_to, {b"d": encode(reply)})
        entries = [entry for entry, _, _ in finished]
        pipeline.xack(self._stream, GROUP, *entries)
        pipeline.xdel(self._stream, *entries)
        await pipeline.execute()

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def aclose(self) -> None:
        await self._writer.aclose()
        await self._reader.aclose()


@asynccontextmanager
async def publishing(url: str, agent: str) -> AsyncIterator[RawPublisher]:
    """Give a publisher whose replies are being read."""
    publisher = RawPublisher(url, agent)
    async with _background(publisher.collect()):
        yield publisher
    await publisher.aclose()


@asynccontextmanager
async def working(url: str, agents: tuple[str, ...], concurrency: int) -> AsyncIterator[None]:
    """Consume the tasks of one agent until the block is left."""
    (agent,) = agents
    worker = RawWorker(url, agent, concurrency)
    await worker.prepare()
    async with _background(worker.consume()):
        yield
    await worker.aclose()


@asynccontextmanager
async def _background(loop: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(loop)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
