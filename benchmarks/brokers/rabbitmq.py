"""RabbitMQ: a fan-out written by hand on aio-pika, batched as far as that client goes, on one node.

Publishes of up to 200 tasks are confirmed together; prefetch is the free slots; a task is acknowledged on its own once
its result is confirmed. Both queues are quorum queues, as murmur's are: what is confirmed is on disk. No rows, retries,
delays or reconnects. A floor for the price of a task, not a product.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage

from benchmarks.window import BODIES, Reply, Window, decode_task, encode
from tests.brokers.rabbitmq_server import RabbitServer

SERVER = "rabbitmq"
INBOX = "raw-inbox"


@contextmanager
def server() -> Iterator[RabbitServer]:
    """Start a node on files of its own, and kill it at the end."""
    if not RabbitServer.is_installed():
        raise SystemExit("RabbitMQ is not installed; the benchmarks start their own (apt install rabbitmq-server)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, RabbitServer(Path(folder)) as running:
        yield running


class RawPublisher(Window):
    """Publishes batches and reads the replies of one queue."""

    def __init__(self, exchange: AbstractExchange, agent: str) -> None:
        super().__init__(INBOX)
        self._exchange, self._queue = exchange, f"raw-{agent}"

    async def _send(self, batch: Sequence[bytes]) -> None:
        await asyncio.gather(*(_publish(self._exchange, self._queue, body) for body in batch))

    async def replied(self, message: AbstractIncomingMessage) -> None:
        """Take a reply in."""
        self._replied([message.body])
        await message.ack()


class RawWorker:
    """Runs what is pushed, up to the prefetch, at once."""

    def __init__(self, exchange: AbstractExchange, agent: str) -> None:
        self._exchange, self._body = exchange, BODIES[agent]
        self._running: set[asyncio.Task[None]] = set()

    async def begin(self, message: AbstractIncomingMessage) -> None:
        """Begin a task."""
        task = asyncio.create_task(self._work(message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _work(self, message: AbstractIncomingMessage) -> None:
        task = decode_task(message.body)
        output = await self._body(task.input)
        await _publish(self._exchange, task.reply_to, encode(Reply(task.id, output)))
        await message.ack()


@asynccontextmanager
async def publishing(url: str, agent: str) -> AsyncIterator[RawPublisher]:
    """Give a publisher whose replies are being read."""
    connection, channel = await _connected(url, agent)
    publisher = RawPublisher(channel.default_exchange, agent)
    replies = await connection.channel(publisher_confirms=False)
    await replies.set_qos(prefetch_count=1_000)
    await (await replies.get_queue(INBOX)).consume(publisher.replied)
    yield publisher
    await connection.close()


@asynccontextmanager
async def working(url: str, agents: tuple[str, ...], concurrency: int) -> AsyncIterator[None]:
    """Consume the tasks of one agent until the block is left."""
    (agent,) = agents
    connection, channel = await _connected(url, agent)
    tasks = await connection.channel(publisher_confirms=False)
    await tasks.set_qos(prefetch_count=concurrency)
    await (await tasks.get_queue(f"raw-{agent}")).consume(RawWorker(channel.default_exchange, agent).begin)
    yield
    await connection.close()


async def _connected(url: str, agent: str) -> tuple[AbstractConnection, AbstractChannel]:
    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    for name in (f"raw-{agent}", INBOX):
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
    return connection, channel


async def _publish(exchange: AbstractExchange, queue: str, body: bytes) -> None:
    await exchange.publish(aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT), queue)
