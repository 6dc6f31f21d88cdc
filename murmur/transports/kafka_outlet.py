"""Publishing to Kafka: each message answered by its own receipt, once all in-sync copies have it.

The producer batches what is sent in one turn of the loop and sends it again by itself while the cluster is
away. What has no answer in time is *unknown*: it may still arrive. A topic that the cluster lost is made anew.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiokafka import errors as kafka_errors

from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.transport import Outgoing, Receipt, Refusal
from murmur.transports.kafka_link import DEADLINE, MAX_MESSAGE, NO_RIGHTS, KafkaLink, stopped
from murmur.transports.kafka_records import headers_of

MAX_BODY: Final = MAX_MESSAGE - 65_536  # bytes; the rest is for headers and what Kafka puts around it
INBOX_RETENTION: Final = 86_400.0  # seconds
_MOST_HEADERS: Final = 60_000  # bytes
_SLOW: Final = 1.0  # seconds until we look whether the topic is still there


class Outlet:
    """The publishing half of a transport."""

    def __init__(self, link: KafkaLink, place: Callable[[str], tuple[str, bytes | None]]) -> None:
        self._link, self._place = link, place
        self._producer: Any = None  # AIOKafkaProducer, which is not typed
        self._starting = asyncio.Lock()

    async def publish(self, messages: Sequence[Outgoing]) -> list[Receipt | Refusal]:
        """Publish; one answer each, in order, within ten seconds."""
        answers: list[Receipt | Refusal | None] = [None] * len(messages)
        sent: dict[int, asyncio.Future[Any]] = {}
        try:
            async with asyncio.timeout(DEADLINE):
                await self._send(messages, answers, sent)
                await self._confirmed(messages, sent)
        except TimeoutError:
            pass
        except (BrokerUnreachable, BrokerRefused) as error:
            problem, definite = str(error), isinstance(error, BrokerRefused)
            answers = [
                Refusal(one.id, problem, definite) if at not in sent and answers[at] is None else answers[at]
                for at, one in enumerate(messages)
            ]
        for at, future in sent.items():
            answers[at] = self._answer(messages[at], future)
        return [
            Refusal(one.id, "no answer in time", definite=False) if answer is None else answer
            for one, answer in zip(messages, answers, strict=True)
        ]

    async def close(self) -> None:
        """Send what is under way, and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stopped(producer)

    async def _send(
        self,
        messages: Sequence[Outgoing],
        answers: list[Receipt | Refusal | None],
        sent: dict[int, asyncio.Future[Any]],
    ) -> None:
        producer, now = await self._started(), time.time()
        for at, message in enumerate(messages):
            headers = headers_of(message, now=now)
            size = len(message.body)
            if size > MAX_BODY or sum(len(name) + len(value) for name, value in headers) > _MOST_HEADERS:
                problem = f"{size:,} bytes, and its headers, are more than {MAX_BODY:,} bytes"
                answers[at] = Refusal(message.id, problem, definite=True)
                continue
            topic, key = self._place(message.topic)
            await self._link.declare([topic], retention=None if key is None else INBOX_RETENTION)
            try:
                sent[at] = await producer.send(topic, message.body, key=key, headers=headers)
            except kafka_errors.KafkaError as error:
                answers[at] = Refusal(message.id, str(error) or type(error).__name__, definite=False)
                if producer.client is not None and producer._sender.sender_task.done():  # it does not come back
                    await self.close()
                    return

    async def _confirmed(self, messages: Sequence[Outgoing], sent: dict[int, asyncio.Future[Any]]) -> None:
        if not sent:
            return
        _, slow = await asyncio.wait(sent.values(), timeout=_SLOW)
        if slow:
            for at, future in sent.items():
                topic, key = self._place(messages[at].topic)
                if future in slow and not await self._link.count(topic):
                    retention = None if key is None else INBOX_RETENTION
                    await self._link.declare([topic], retention=retention, is_anew=True)
            await asyncio.wait(slow)

    def _answer(self, message: Outgoing, future: "asyncio.Future[Any]") -> Receipt | Refusal:
        if not future.done():
            future.add_done_callback(_look_at)
            return Refusal(message.id, "no answer in time", definite=False)
        error = future.exception()
        if error is None:
            done = future.result()
            return Receipt(message.id, f"{done.partition}:{done.offset}")
        if isinstance(error, kafka_errors.MessageSizeTooLargeError):
            size, topic = len(message.body), self._place(message.topic)[0]
            problem = f"{topic} takes no message of {size:,} bytes: raise its max.message.bytes, see murmur doctor"
            return Refusal(message.id, problem, definite=True)
        definite = isinstance(error, NO_RIGHTS)
        problem = str(self._link.told(error)) if definite else str(error) or type(error).__name__
        return Refusal(message.id, problem, definite)

    async def _started(self) -> Any:
        async with self._starting:
            if self._producer is None:
                producer = self._link.producer()
                await self._link.start(producer)
                self._producer = producer
        return self._producer


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Take note of an outcome nobody waits for."""
    if not future.cancelled():
        future.exception()
