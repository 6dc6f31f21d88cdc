"""The KEDA triggers on the pages of the brokers count what murmur's own figures count.

What a scaler of KEDA reads is written down here in a line each; its sources are the scalers' documents.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from murmur import wiring
from murmur.broker_url import BrokerURL
from murmur.transport import Outgoing, TopicSpec
from murmur.transports.kafka_link import KafkaLink
from murmur.transports.rabbitmq_outlet import Outlet
from tests.brokers.nats_operator import operator
from tests.contracts.harness import collect, until
from tests.docs.snippets import ROOT, blocks

pytestmark = pytest.mark.anyio

Trigger = Mapping[str, str]


async def redis_counts(trigger: Trigger, url: str) -> int:
    """Scaler `redis-streams`: without a consumerGroup the length of the stream."""
    assert set(trigger) == {"address", "stream", "streamLength"}
    server = BrokerURL.parse(url)
    queue = wiring._adapter(url, wiring._TRANSPORTS).connect(str(server), consumer_id="keda", namespace="", lease=None)
    await queue.open([])
    try:
        return int(await queue.session.link.ask("XLEN", trigger["stream"]))
    finally:
        await queue.close()


async def nats_counts(trigger: Trigger, url: str) -> int:
    """Scaler `nats-jetstream`: what the consumer has pending, and pending an ack."""
    async with operator(url) as link:
        found = await link.api(f"CONSUMER.INFO.{trigger['stream']}.{trigger['consumer']}")
    return int(found["num_pending"]) + int(found["num_ack_pending"])


async def kafka_counts(trigger: Trigger, url: str) -> int:
    """Scaler `kafka`: what lies between the group's offsets and the ends; all where it has none, by `earliest`."""
    assert trigger["offsetResetPolicy"] == "earliest"
    link = KafkaLink(BrokerURL.parse(url), client_id="keda")
    await link.open()
    try:
        await link.know(trigger["topic"])
        ends = await link.ends(trigger["topic"])
        committed = await link.committed(trigger["consumerGroup"], trigger["topic"])
    finally:
        await link.close()
    return sum(end - (committed[number].offset if number in committed else 0) for number, end in ends.items())


async def rabbitmq_counts(trigger: Trigger, url: str) -> int:
    """Scaler `rabbitmq` over AMQP: what is ready in the queue."""
    assert (trigger["protocol"], trigger["mode"]) == ("amqp", "QueueLength")
    outlet = Outlet(url, name="keda", boot="keda", heartbeat=10, prefix="")
    await outlet.link.open()
    try:
        return await outlet.count(trigger["queueName"])
    finally:
        await outlet.link.close()


BROKERS = {
    "redis": ("redis_server", "redis-streams", redis_counts, 5),
    "nats": ("nats_server", "nats-jetstream", nats_counts, 5),
    "kafka": ("kafka_url", "kafka", kafka_counts, 5),
    "rabbitmq": ("rabbitmq", "rabbitmq", rabbitmq_counts, 3),  # what runs it cannot see, which its page says
}


def triggers(page: str, agent: str) -> tuple[str, list[Trigger]]:
    """Return the kind and the settings of the triggers on a page, with another agent's name for `researcher`."""
    (block,) = [
        one for one in blocks(ROOT / "docs" / "how-to" / "brokers" / f"{page}.md") if "scaled-object" in one.info
    ]
    found: dict[str, Any] = yaml.safe_load(block.text.replace("researcher", agent))
    assert (found["apiVersion"], found["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    (kind,) = {one["type"] for one in found["spec"]["triggers"]}
    return kind, [one["metadata"] for one in found["spec"]["triggers"]]


@pytest.mark.parametrize("broker", BROKERS)
async def test_a_trigger_counts_what_waits_and_runs(broker: str, request: pytest.FixtureRequest) -> None:
    fixture, kind, count, expected = BROKERS[broker]
    server = request.getfixturevalue(fixture)
    url = server if isinstance(server, str) else server.url
    agent = f"keda-{secrets.token_hex(4)}"
    found, settings = triggers(broker, agent)
    assert found == kind
    topic = f"{agent}.tasks"

    async def counted() -> int:
        return sum([await count(one, url) for one in settings])

    transport = wiring._transport(url, consumer_id="w", namespace="", lease=30.0)
    await transport.open([TopicSpec(topic, dead_topic=f"{agent}.dead")])
    try:
        await transport.publish([Outgoing(topic, b"{}", f"{agent}-{number}") for number in range(5)])
        held = await collect(transport, topic, 2, within=60.0)

        async def agrees() -> bool:
            stats = await transport.stats(topic, "workers")
            return (stats.ready, stats.inflight or 2, await counted()) == (3, 2, expected)  # RabbitMQ tells no more

        assert await until(agrees, within=30.0), (await transport.stats(topic, "workers"), await counted())
        await transport.release(held[:1])  # on Redis into the second stream
        assert await until(lambda: _is(counted, expected + (broker == "rabbitmq")), within=30.0), await counted()
        rest = await collect(transport, topic, 4, within=60.0)
        await transport.ack([held[1], *rest])
        assert await until(lambda: _is(counted, 0), within=30.0), await counted()
    finally:
        await transport.close()


async def _is(counted: Any, expected: int) -> bool:
    return bool(await counted() == expected)
