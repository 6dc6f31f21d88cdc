"""Kafka: a fan-out written by hand on aiokafka, batched as far as that client goes, on one broker.

Publishes of up to 200 tasks are confirmed together; reads take the free slots; results are confirmed, and four times a
second the offsets below the first unfinished task are committed: no rows, retries, or tasks
settled out of order. A floor for the price of a task, not a product.
"""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.window import BODIES, Reply, Task, Window, decode_task, encode
from tests.brokers.kafka_server import KafkaServer

SERVER = "kafka"
PARTITIONS = 8
COMMIT_EVERY = 0.25  # seconds
INBOX = "raw-inbox"


@contextmanager
def server() -> Iterator[KafkaServer]:
    """Start a broker on files of its own, and kill it at the end."""
    if not KafkaServer.is_installed():
        raise SystemExit("Kafka is not installed; the benchmarks start their own (make brokers)")
    with tempfile.TemporaryDirectory() as folder, KafkaServer(Path(folder)) as running:
        yield running


class RawPublisher(Window):
    """Publishes batches and reads the replies of one topic."""

    def __init__(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, agent: str) -> None:
        super().__init__(INBOX)
        self._producer, self._consumer, self._topic = producer, consumer, f"raw-{agent}"

    async def _send(self, batch: Sequence[bytes]) -> None:
        await asyncio.gather(*[await self._producer.send(self._topic, body) for body in batch])

    async def collect(self) -> None:
        """Read replies for ever."""
        while True:
            for records in (await self._consumer.getmany(timeout_ms=1_000)).values():
                self._replied([record.value for record in records])


class RawWorker:
    """Runs up to `concurrency` tasks at once."""

    def __init__(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, agent: str, concurrency: int) -> None:
        self._producer, self._consumer, self._body = producer, consumer, BODIES[agent]
        self._free = concurrency
        self._freed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._unfinished: dict[TopicPartition, set[int]] = {}
        self._next: dict[TopicPartition, int] = {}

    async def consume(self) -> None:
        """Read tasks for ever, never more than there are free slots."""
        loop = asyncio.get_running_loop()
        commit_at = loop.time() + COMMIT_EVERY
        while True:
            if not self._free:
                self._freed.clear()
                await self._freed.wait()
            came = await self._consumer.getmany(timeout_ms=1_000, max_records=self._free)
            for partition, records in came.items():
                self._free -= len(records)
                self._next[partition] = records[-1].offset + 1
                unfinished = self._unfinished.setdefault(partition, set())
                for record in records:
                    unfinished.add(record.offset)
                    task = asyncio.create_task(self._work(decode_task(record.value), unfinished, record.offset))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
            if loop.time() >= commit_at:
                commit_at = loop.time() + COMMIT_EVERY
                below = {at: min(self._unfinished[at], default=following) for at, following in self._next.items()}
                if below:
                    await self._consumer.commit(below)

    async def _work(self, task: Task, unfinished: set[int], offset: int) -> None:
        output = await self._body(task.input)
        confirmed = await self._producer.send(task.reply_to, encode(Reply(task.id, output)))
        self._free += 1
        self._freed.set()
        await confirmed
        unfinished.discard(offset)


@asynccontextmanager
async def publishing(url: str, agent: str) -> AsyncIterator[RawPublisher]:
    """Give a publisher whose replies are being read."""
    async with _connected(url, agent) as (at, producer):
        consumer = AIOKafkaConsumer(bootstrap_servers=at)
        await consumer.start()
        consumer.assign([TopicPartition(INBOX, 0)])
        await consumer.seek_to_end()
        publisher = RawPublisher(producer, consumer, agent)
        collecting = asyncio.create_task(publisher.collect())
        yield publisher
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        await consumer.stop()


@asynccontextmanager
async def working(url: str, agents: tuple[str, ...], concurrency: int) -> AsyncIterator[None]:
    """Consume the tasks of one agent until the block is left."""
    (agent,) = agents
    async with _connected(url, agent) as (at, producer):
        consumer = AIOKafkaConsumer(
            f"raw-{agent}",
            bootstrap_servers=at,
            group_id=f"raw-{secrets.token_hex(4)}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        consuming = asyncio.create_task(RawWorker(producer, consumer, agent, concurrency).consume())
        try:
            yield
        finally:
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)
            await consumer.stop()


@asynccontextmanager
async def _connected(url: str, agent: str) -> AsyncIterator[tuple[str, AIOKafkaProducer]]:
    at = url.removeprefix("kafka://")
    admin = AIOKafkaAdminClient(bootstrap_servers=at)
    await admin.start()
    await admin.create_topics([NewTopic(f"raw-{agent}", PARTITIONS, 1), NewTopic(INBOX, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=at, acks="all", enable_idempotence=True, max_batch_size=131_072)
    await producer.start()
    yield at, producer
    await producer.stop()
