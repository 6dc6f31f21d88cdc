"""A URL's options, a link that is closed at once. What may be wrong with a cluster: tests/cli/test_bad_brokers.py."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from murmur.broker_url import BrokerURL
from murmur.errors import BadURL
from murmur.transports import kafka
from murmur.transports.kafka_link import KafkaLink, stopped
from tests.brokers.kafka_server import KafkaServer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("options", ["partitions=many", "replication=x", "mechanism=MAGIC"])
async def test_an_option_that_cannot_be_is_told_at_once(options: str) -> None:
    with pytest.raises(BadURL, match=options.partition("=")[0]):
        kafka.connect(f"kafka://localhost?{options}", consumer_id="a", namespace="", lease=None)


async def test_a_link_that_is_closed_at_once_cancels_nobody(shared_kafka: str) -> None:
    link = KafkaLink(BrokerURL.parse(shared_kafka), client_id="brief")
    await link.open()
    await link.close()


async def test_a_topic_that_is_there_is_neither_made_nor_waited_for(
    shared_kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"there-{secrets.token_hex(4)}"
    async with linked(shared_kafka) as first:
        await first.declare([topic], retention=None)
        ends = await first.ends(topic)  # somebody leads it by now

    async def make(*_: object, **__: object) -> None:
        raise AssertionError("it is there")

    async with linked(shared_kafka) as link:
        monkeypatch.setattr(link.admin, "create_topics", make)
        monkeypatch.setattr(link._surveyor._fetcher, "_retry_backoff", 3_600.0)
        await link.declare([topic], retention=None)
        assert await link.ends(topic) == ends


@pytest.mark.soak
async def test_to_ask_after_a_topic_does_not_make_it(start_kafka: Callable[..., KafkaServer]) -> None:
    server = start_kafka(settings={"auto.create.topics.enable": "true"})
    async with linked(server.url) as link:
        assert await link.count("not-there") == 0
        await link.declare(["made"], retention=None)  # what was to be made before is there by now
        assert await link.topics() == ["made"]


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[KafkaLink]:
    link = KafkaLink(BrokerURL.parse(url), client_id="test")
    await link.open()
    try:
        yield link
    finally:
        await link.close()


class Client:
    """Stops as aiokafka's consumers may: the cancellation of a task of its own comes out."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self._fetcher, self._client = Part("fetcher", self.closed), Part("client", self.closed)

    async def stop(self) -> None:
        task = asyncio.create_task(asyncio.sleep(3_600))
        task.cancel()
        await task


class Part:
    def __init__(self, name: str, closed: list[str]) -> None:
        self.name, self._closed = name, closed

    async def close(self) -> None:
        self._closed.append(self.name)


async def test_what_the_client_library_cancels_of_its_own_ends_nobody_else_and_leaves_nothing_open() -> None:
    client = Client()
    await stopped(client)
    assert sorted(client.closed) == ["client", "fetcher"]
