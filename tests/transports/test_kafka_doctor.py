"""The doctor's findings, each on a real cluster that has the trouble."""

from collections.abc import Callable

import pytest
from aiokafka.admin import NewTopic

from murmur.broker_url import BrokerURL
from murmur.doctor import Finding, Severity
from murmur.transport import Outgoing, TopicSpec
from murmur.transports import kafka, kafka_doctor
from murmur.transports.kafka_doctor import examine
from murmur.transports.kafka_link import KafkaLink
from tests.brokers.kafka_server import KafkaServer

pytestmark = pytest.mark.anyio
BAD = {
    "unclean.leader.election.enable": "true",
    "offsets.retention.minutes": "60",
    "offset.metadata.max.bytes": "1000",
    "group.min.session.timeout.ms": "45000",
    "auto.create.topics.enable": "true",
}


def has(found: list[Finding], severity: Severity, invariant: str, what: str) -> bool:
    return any(one.severity is severity and one.invariant == invariant and what in one.what for one in found)


async def test_a_cluster_as_kafka_comes_has_nothing_to_mend_but_its_one_disk(
    shared_kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_doctor, "_SLOW", 60.0)
    found = await examine(shared_kafka, namespace="nobody-here", settings_only=False)
    assert [one.what for one in found if one.severity is not Severity.NOTE] == []
    assert has(found, Severity.NOTE, "I1", "there is one broker")


async def test_each_trouble_of_a_cluster_is_found_with_its_invariant_and_what_mends_it(
    start_kafka: Callable[..., KafkaServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_kafka(settings=BAD)
    monkeypatch.setattr(kafka_doctor, "_MANY", 5)
    link = KafkaLink(BrokerURL.parse(server.url), client_id="operator")
    await link.open()
    await link.admin.create_topics(
        [
            NewTopic("short.tasks", 1, 1, topic_configs={"retention.ms": "3600000", "max.message.bytes": "1000"}),
            NewTopic("odd.tasks", 1, 1, topic_configs={"cleanup.policy": "compact", "retention.bytes": "1000"}),
        ]
    )
    await link.close()
    transport = kafka.connect(server.url, consumer_id="a", namespace="", lease=10.0)
    await transport.open([TopicSpec("short.tasks", dead_topic="short.dead")])
    await transport.publish([Outgoing("short.tasks", b"x", str(number)) for number in range(7)])
    await transport.publish([Outgoing("short.dead", b"x", "dead")])
    await transport.close()
    found = await examine(server.url, namespace="", settings_only=False)
    for severity, invariant, what in (
        (Severity.BROKEN, "I1", "unclean.leader.election.enable=true"),
        (Severity.RISK, "I6", "offsets.retention.minutes=60"),
        (Severity.BROKEN, "I6", "offset.metadata.max.bytes=1000"),
        (Severity.RISK, "I10", "group.min.session.timeout.ms=45000"),
        (Severity.NOTE, "I22", "auto.create.topics.enable=true"),
        (Severity.BROKEN, "I1", "short.tasks deletes what is older than 1 h"),
        (Severity.RISK, "I16", "short.tasks refuses tasks of more than 1,000 bytes"),
        (Severity.BROKEN, "I1", "odd.tasks is compacted"),
        (Severity.BROKEN, "I1", "odd.tasks deletes what is beyond 1000 bytes"),
        (Severity.RISK, "I16", "7 tasks of short wait and nobody reads them"),
        (Severity.NOTE, "I9", "short has 1 dead letters"),
    ):
        assert has(found, severity, invariant, what), (what, [str(one) for one in found])
    assert all(one.mend for one in found)
    assert not any("may not" in one.what for one in found)
    settings = await examine(server.url, namespace="", settings_only=True)
    assert has(settings, Severity.BROKEN, "I6", "offset.metadata.max.bytes")
    assert not has(settings, Severity.RISK, "I16", "nobody reads them")
