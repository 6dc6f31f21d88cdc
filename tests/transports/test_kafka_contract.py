"""The Kafka transport under the contract, on a real broker: one for all, and one of its own where it dies."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from murmur.broker_url import BrokerURL
from murmur.transport import TopicSpec
from murmur.transports import kafka
from murmur.transports.kafka import CAPS, KafkaTransport
from murmur.transports.kafka_link import KafkaLink
from tests.brokers.kafka_server import KafkaServer
from tests.contracts.harness import TransportHarness
from tests.contracts.member import ChildMember, Member
from tests.contracts.transport import TransportContract

RESTARTS = (
    "test_a_killed_server_loses_nothing_it_confirmed",
    "test_while_the_server_is_away_calls_end_in_time_and_nothing_spins",
)


class KafkaHarness(TransportHarness):
    caps = CAPS
    slack = 15.0  # a partition moves within some heartbeats, and on a busy machine some seconds

    def __init__(self, url: str, server: KafkaServer | None) -> None:
        super().__init__()
        self.url, self.server = url, server
        self.can_restart = server is not None
        self.namespace = f"ns{secrets.token_hex(4)}"

    def topic(self, name: str = "echo") -> str:
        return f"{self.namespace}.{super().topic(name)}"

    def inbox(self, name: str = "p") -> str:
        return f"{self.namespace}.{super().inbox(name)}"

    def make(self, consumer_id: str) -> KafkaTransport:
        return kafka.connect(self.url, consumer_id=consumer_id, namespace=self.namespace, lease=self.lease)

    async def start_member(self, consumer_id: str, specs: list[TopicSpec]) -> Member:
        target = "murmur.transports.kafka:connect"
        return await ChildMember.start(target, self.url, consumer_id, specs, namespace=self.namespace)

    async def wipe(self) -> None:
        link = await self._operator()
        topics = [one for one in await link.admin.list_topics() if one.startswith(f"{self.namespace}.")]
        await link.admin.delete_topics(topics)
        await link.close()

    async def stop_server(self) -> None:
        assert self.server is not None
        await asyncio.to_thread(self.server.kill)

    async def start_server(self) -> None:
        assert self.server is not None
        await asyncio.to_thread(self.server.start)

    async def leftovers(self) -> Mapping[str, int]:
        link = await self._operator()
        topics = [one for one in await link.admin.list_topics() if one.startswith(f"{self.namespace}.")]
        groups = [one for one, _ in await link.admin.list_consumer_groups() if one.startswith(f"{self.namespace}.")]
        await link.close()
        return {"topics": len(topics), "groups": len(groups)}

    async def _operator(self) -> KafkaLink:
        link = KafkaLink(BrokerURL.parse(self.url), client_id="operator")
        await link.open()
        return link


@pytest.mark.anyio
class TestKafka(TransportContract):
    @pytest.fixture
    async def harness(
        self, request: pytest.FixtureRequest, kafka_url: str, start_kafka: Callable[..., KafkaServer]
    ) -> AsyncIterator[TransportHarness]:
        server = start_kafka() if request.node.originalname in RESTARTS else None
        harness = KafkaHarness(f"{server.url}?partitions=4" if server else kafka_url, server)
        yield harness
        await harness.close()
