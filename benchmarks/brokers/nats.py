"""NATS: a fan-out written by hand on nats-py, batched as far as that client goes, with JetStream on files.

Publishes of up to 200 tasks are awaited together; fetches take the free slots; every task is
acknowledged on its own, every result returns to the caller over a plain subject: no rows,
retries, leases or reconnects. A floor for the price of a task, not a product.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import nats
from attrs import frozen
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NothingThere
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

from benchmarks.window import BODIES, Reply, Window, decode_task, encode

SERVER = "nats-server"
START_DEADLINE = 10.0  # seconds
STREAM = "raw"


@frozen
class NatsServer:
    """A running server."""

    url: str
    pid: int


@contextmanager
def server() -> Iterator[NatsServer]:
    """Start a server on files of its own, and kill it at the end."""
    binary = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise SystemExit("nats-server is not installed; the benchmarks start their own (apt install nats-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_until_up(port)
            yield NatsServer(url=f"nats://127.0.0.1:{port}", pid=process.pid)
        finally:
            process.kill()
            process.wait()


class RawPublisher(Window):
    """Publishes batches and reads the replies of one subject."""

    def __init__(self, client: Client, agent: str) -> None:
        super().__init__(client.new_inbox())
        self._client, self._js = client, client.jetstream(publish_async_max_pending=4_000)
        self._subject = f"{STREAM}.{agent}"

    async def prepare(self) -> None:
        await self._client.subscribe(self._inbox, cb=self._told)

    async def _send(self, batch: Sequence[bytes]) -> None:
        await asyncio.gather(*[await self._js.publish_async(self._subject, body) for body in batch])

    async def _told(self, message: Msg) -> None:
        self._replied([message.data])


class RawWorker:
    """Runs up to `concurrency` tasks at once."""

    def __init__(self, client: Client, agent: str, concurrency: int) -> None:
        self._client, self._js = client, client.jetstream()
        self._subject, self._body = f"{STREAM}.{agent}", BODIES[agent]
        self._free = concurrency
        self._freed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._consumer: JetStreamContext.PullSubscription | None = None

    async def prepare(self) -> None:
        self._consumer = await self._js.pull_subscribe(
            self._subject, durable="workers", config=ConsumerConfig(max_ack_pending=-1)
        )

    async def consume(self) -> None:
        """Read tasks for ever, never more than there are free slots."""
        assert self._consumer is not None
        while True:
            if not self._free:
                self._freed.clear()
                await self._freed.wait()
            try:
                messages = await self._consumer.fetch(self._free, timeout=1)
            except NothingThere:
                continue
            self._free -= len(messages)
            for message in messages:
                task = asyncio.create_task(self._work(message))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _work(self, message: Msg) -> None:
        task = decode_task(message.data)
        output = await self._body(task.input)
        await self._client.publish(task.reply_to, encode(Reply(task.id, output)))
        await message.ack()
        self._free += 1
        self._freed.set()


@asynccontextmanager
async def publishing(url: str, agent: str) -> AsyncIterator[RawPublisher]:
    """Give a publisher whose replies are being read."""
    client = await _connected(url)
    publisher = RawPublisher(client, agent)
    await publisher.prepare()
    yield publisher
    await client.close()


@asynccontextmanager
async def working(url: str, agents: tuple[str, ...], concurrency: int) -> AsyncIterator[None]:
    """Consume the tasks of one agent until the block is left."""
    (agent,) = agents
    client = await _connected(url)
    worker = RawWorker(client, agent, concurrency)
    await worker.prepare()
    consuming = asyncio.create_task(worker.consume())
    consuming.add_done_callback(_told)
    try:
        yield
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        await client.close()


def _told(consuming: "asyncio.Task[None]") -> None:
    """Say why nobody consumes any more: the publisher would wait for ever."""
    if not consuming.cancelled() and (error := consuming.exception()) is not None:
        print(f"the raw worker broke: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


async def _connected(url: str) -> Client:
    client = await nats.connect(url)
    config = StreamConfig(name=STREAM, subjects=[f"{STREAM}.*"], retention=RetentionPolicy.WORK_QUEUE)
    await client.jetstream().add_stream(config)
    return client


def _wait_until_up(port: int) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
