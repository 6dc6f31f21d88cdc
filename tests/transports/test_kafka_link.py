"""A URL's options, a link that is closed at once. What may be wrong with a cluster: tests/cli/test_bad_brokers.py."""

import pytest

from murmur.broker_url import BrokerURL
from murmur.errors import BadURL
from murmur.transports import kafka
from murmur.transports.kafka_link import KafkaLink

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("options", ["partitions=many", "replication=x", "mechanism=MAGIC"])
async def test_an_option_that_cannot_be_is_told_at_once(options: str) -> None:
    with pytest.raises(BadURL, match=options.partition("=")[0]):
        kafka.connect(f"kafka://localhost?{options}", consumer_id="a", namespace="", lease=None)


async def test_a_link_that_is_closed_at_once_cancels_nobody(shared_kafka: str) -> None:
    link = KafkaLink(BrokerURL.parse(shared_kafka), client_id="brief")
    await link.open()
    await link.close()
