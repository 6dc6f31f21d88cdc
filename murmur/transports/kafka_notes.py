"""Notes of a member on what it holds of partitions that others read now: how it ended.

Only who reads a partition writes its ledger. Another member that still runs something of it writes
down the end as the committed offset's text of a group of its own, which has no members; readers look
there every moment, and for good when the member is gone. Kafka forgets such a group by itself, days later.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.structs import OffsetAndMetadata

from murmur.errors import OutcomeUnknown
from murmur.transports.kafka_commit import commit
from murmur.transports.kafka_ledger import Outcome, decode_outcomes, encode_outcomes
from murmur.transports.kafka_link import DEADLINE, KafkaLink, stopped

Outcomes = dict[int, dict[int, Outcome]]  # by partition, by offset


class Notes:
    """What we write."""

    def __init__(self, link: KafkaLink, topic: str) -> None:
        self._link, self._topic = link, topic
        self._owner = b""
        self._outcomes: Outcomes = {}
        self._consumer: Any = None  # AIOKafkaConsumer, which is not typed
        self._is_stale = False  # the consumer writes under an earlier name
        self._is_writing = asyncio.Lock()

    def about(self, owner: bytes, partitions: set[int]) -> Outcomes:
        """From now on we are `owner`. Return what we noted about these partitions, under this name."""
        if owner != self._owner:
            self._owner, self._outcomes, self._is_stale = owner, {}, True
        return {number: noted for number in partitions if (noted := self._outcomes.get(number, {}))}

    async def add(self, noted: Outcomes) -> None:
        """Note how something ended, and return when it is written. Raises `OutcomeUnknown`."""
        for number, outcomes in noted.items():
            self._outcomes.setdefault(number, {}).update(outcomes)
        await self._write()

    async def forget(self, noted: Outcomes) -> None:
        """Take back what `about` returned: it stands in ledgers now. Raises `OutcomeUnknown`."""
        if noted:
            for number in noted:
                self._outcomes.pop(number, None)
            await self._write()

    async def _write(self) -> None:
        async with self._is_writing:
            try:
                async with asyncio.timeout(DEADLINE):
                    consumer = await self._started()
                    texts = {
                        one: encode_outcomes(self._outcomes.get(one.partition, {})) for one in consumer.assignment()
                    }
                    await commit(consumer, {one: OffsetAndMetadata(0, text) for one, text in texts.items()})
            except (kafka_errors.KafkaError, OSError) as error:
                raise OutcomeUnknown(call="commit", problem=str(error) or "no answer in time") from error

    async def close(self) -> None:
        """Disconnect."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stopped(consumer)

    async def _started(self) -> Any:
        if self._is_stale:
            self._is_stale = False
            await self.close()
        if self._consumer is None:
            consumer = self._link.consumer(group_id=_group(self._topic, self._owner))
            consumer.assign([TopicPartition(self._topic, one) for one in range(self._link.known(self._topic))])
            try:
                await consumer.start()
            except BaseException:
                await stopped(consumer)
                raise
            self._consumer = consumer
        return self._consumer


async def read_notes(link: KafkaLink, topic: str, owners: Iterable[bytes]) -> Mapping[bytes, Outcomes]:
    """Return what others noted. Raises as the link does."""
    found = {}
    for owner in owners:
        committed = await link.committed(_group(topic, owner), topic)
        found[owner] = {number: decode_outcomes(one.metadata) for number, one in committed.items()}
    return found


def _group(topic: str, owner: bytes) -> str:
    return f"{topic}.{owner.hex()}"
