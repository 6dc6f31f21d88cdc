"""The RabbitMQ transport under the contract, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from murmur.transport import TopicSpec
from murmur.transports import rabbitmq as adapter
from murmur.transports.rabbitmq import CAPS, RabbitTransport
from tests.brokers.fixtures import RabbitPlace
from tests.contracts.harness import TransportHarness
from tests.contracts.member import ChildMember, Member
from tests.contracts.transport import TransportContract


class RabbitHarness(TransportHarness):
    caps = CAPS
    can_restart = True

    def __init__(self, place: RabbitPlace) -> None:
        super().__init__()
        self.place = place

    @property
    def found_dead(self) -> float:
        return 3.0 * adapter.heartbeat(self.lease) + self.slack

    def make(self, consumer_id: str) -> RabbitTransport:
        return adapter.connect(self.place.url, consumer_id=consumer_id, namespace="", lease=self.lease)

    async def start_member(self, consumer_id: str, specs: list[TopicSpec]) -> Member:
        return await ChildMember.start("murmur.transports.rabbitmq:connect", self.place.url, consumer_id, specs)

    async def wipe(self) -> None:
        await asyncio.to_thread(self.place.server.delete_queues, self.place.vhost)

    async def stop_server(self) -> None:
        await asyncio.to_thread(self.place.server.sync)
        await asyncio.to_thread(self.place.server.kill)

    async def start_server(self) -> None:
        await asyncio.to_thread(self.place.server.start)

    async def leftovers(self) -> Mapping[str, int]:
        return {"queues": len(await asyncio.to_thread(self.place.server.queues, self.place.vhost))}


_KILLS_THE_SERVER = (
    "test_a_killed_server_loses_nothing_it_confirmed",
    "test_while_the_server_is_away_calls_end_in_time_and_nothing_spins",
)


@pytest.mark.anyio
class TestRabbitMQ(TransportContract):
    @pytest.fixture
    async def harness(self, request: pytest.FixtureRequest) -> AsyncIterator[TransportHarness]:
        if request.node.originalname in _KILLS_THE_SERVER:
            place = RabbitPlace(request.getfixturevalue("start_rabbitmq")(), "/")
        else:
            place = request.getfixturevalue("rabbitmq")
        harness = RabbitHarness(place)
        yield harness
        await harness.close()

    @pytest.mark.soak  # a RabbitMQ takes seconds of a processor to start again; each build kills one under a fleet
    async def test_a_killed_server_loses_nothing_it_confirmed(self, harness: TransportHarness) -> None:
        await super().test_a_killed_server_loses_nothing_it_confirmed(harness)
