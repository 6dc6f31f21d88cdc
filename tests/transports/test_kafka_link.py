"""The options of a URL of Kafka. What may be wrong with what it leads to: tests/cli/test_bad_brokers.py."""

import pytest

from murmur.errors import BadURL
from murmur.transports import kafka

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("options", ["partitions=many", "replication=x", "mechanism=MAGIC"])
async def test_an_option_that_cannot_be_is_told_at_once(options: str) -> None:
    with pytest.raises(BadURL, match=options.partition("=")[0]):
        kafka.connect(f"kafka://localhost?{options}", consumer_id="a", namespace="", lease=None)
