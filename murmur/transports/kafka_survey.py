"""Mailboxes as everybody sees them, members of their groups or not: made where they are missing, and counted."""

import asyncio
import time
from collections.abc import Iterable

from murmur.transport import TopicSpec, TopicStats
from murmur.transports.kafka_ledger import Ledger
from murmur.transports.kafka_link import KafkaLink


async def declare_work(link: KafkaLink, specs: Iterable[TopicSpec], *, is_anew: bool = False) -> None:
    """Make mailboxes and their dead topics. Tasks and dead letters are kept until they are dealt with."""
    topics = [topic for spec in specs for topic in (spec.name, spec.dead_topic) if topic]
    await link.declare(topics, retention=None, is_anew=is_anew)


async def survey(link: KafkaLink, spec: TopicSpec) -> TopicStats:
    """Count what waits, is handed out, and dead. Raises as the link does."""
    now = time.time()
    ledgers = await _ledgers(link, spec.name)
    inflight = sum(ledger.inflight() for ledger, _ in ledgers)
    ready = sum(_open(ledger, end) - ledger.delayed(now) for ledger, end in ledgers) - inflight
    dead = 0 if spec.dead_topic is None else sum(_open(*one) for one in await _ledgers(link, spec.dead_topic))
    return TopicStats(ready, inflight, dead, exact=True)


async def _ledgers(link: KafkaLink, topic: str) -> list[tuple[Ledger, int]]:
    """Return of each partition the ledger, and the offset that comes next."""
    committed = await link.committed(topic, topic)  # first: what comes next is then never before it
    begins, ends = await asyncio.gather(link.begins(topic), link.ends(topic))
    return [(Ledger.of(committed.get(number), begin=begins[number], end=end), end) for number, end in ends.items()]


def _open(ledger: Ledger, end: int) -> int:
    return end - ledger.base - len(ledger.done)
