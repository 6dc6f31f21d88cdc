"""The replies of one publisher: one partition of the topic that all inboxes of a namespace share.

A publisher reads the partition of its key and passes over what is for others. How far it has read is
committed under the inbox's name with the next read, so whoever reads on sees again what may not have been dealt with.
"""

import asyncio
import random
from collections import deque
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.structs import OffsetAndMetadata
from loguru import logger

from murmur.errors import BrokerRefused
from murmur.names import Topics
from murmur.transport import Delivery
from murmur.transports.kafka_commit import commit
from murmur.transports.kafka_link import DEADLINE, KafkaLink, stopped
from murmur.transports.kafka_outlet import INBOX_RETENTION
from murmur.transports.kafka_records import item_of, partition_of, place_of

_AT_ONCE: Final = 1_000  # results of one read


class Inbox:
    """The one reader of an inbox."""

    def __init__(self, link: KafkaLink, name: str, topics: Topics) -> None:
        self._link, self._name = link, name
        topic, key = place_of(name, topics)
        self._topic, self._key = topic, key or b""
        self._place = TopicPartition(topic, 0)
        self._consumer: Any = None  # AIOKafkaConsumer, which is not typed
        self._is_reading = asyncio.Lock()
        self._unread: deque[tuple[int, Delivery]] = deque()
        self._returned = self._committed = -1  # offsets that come next
        self._committing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin where the last reader ended, else now. Raises as the link does. Idempotent."""
        async with self._is_reading:
            if self._consumer is not None:
                return
            link = self._link
            await link.declare([self._topic], retention=INBOX_RETENTION)
            self._place = TopicPartition(self._topic, partition_of(self._key, link.known(self._topic)))
            number = self._place.partition
            known = (await link.committed(self._name, self._topic)).get(number)
            end = (await link.ends(self._topic))[number]
            consumer = link.consumer(group_id=self._name)
            consumer.assign([self._place])
            await link.start(consumer)
            self._consumer = consumer
            start = end if known is None or known.offset > end else known.offset
            consumer.seek(self._place, start)
            self._returned, self._committed = start, start if known is not None else -1
        await self._commit(self._returned)

    async def receive(self, *, credit: int, wait: float) -> list[Delivery]:
        """Return up to `credit` results, or none after `wait` seconds. Cancelling loses nothing."""
        self._settle()
        if not self._unread:
            async with self._is_reading:
                await self._read(asyncio.get_running_loop().time() + wait)
        found = [self._unread.popleft() for _ in range(min(credit, len(self._unread)))]
        if found:
            self._returned = found[-1][0] + 1
        return [one for _, one in found]

    async def close(self) -> None:
        """Stop reading."""
        if self._committing is not None:
            await asyncio.wait([self._committing], timeout=DEADLINE)
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stopped(consumer)

    async def _read(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while not self._unread and self._consumer is not None and (left := deadline - loop.time()) > 0:
            try:
                batches = await self._consumer.getmany(timeout_ms=int(min(left, 5.0) * 1000), max_records=_AT_ONCE)
            except kafka_errors.OffsetOutOfRangeError:
                begins = await self._link.begins(self._topic)  # the topic was made anew, or we were away for long
                self._consumer.seek(self._place, begins[self._place.partition])
                self._returned = self._committed = -1
            except kafka_errors.KafkaError as error:
                told = self._link.told(error)
                if isinstance(told, BrokerRefused):
                    raise told from None
                logger.debug("reading {}: {}", self._name, told)
                await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311  jitter, no secret
            else:
                for records in batches.values():
                    self._unread.extend((one.offset, self._delivery(one)) for one in records if one.key == self._key)

    def _delivery(self, record: Any) -> Delivery:
        item = item_of(record)
        return Delivery(self._name, item.body, item.headers, item.id, 1, item.offset)

    def _settle(self) -> None:
        """Commit what was returned before; what the broker makes of it is told by what the next reader sees."""
        if self._returned > self._committed and (self._committing is None or self._committing.done()):
            self._committing = asyncio.create_task(self._commit(self._returned))

    async def _commit(self, offset: int) -> None:
        if offset <= self._committed or self._consumer is None:
            return
        try:
            await commit(self._consumer, {self._place: OffsetAndMetadata(offset, "")})
            self._committed = max(self._committed, offset)
        except (kafka_errors.KafkaError, OSError) as error:
            logger.debug("how far {} was read could not be written: {!r}", self._name, error)
