"""The Redis transport under the contract, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from murmur.transport import TopicSpec
from murmur.transports import redis
from murmur.transports.redis import CAPS, RedisTransport
from tests.brokers.fixtures import RedisStarter
from tests.brokers.redis_operator import operator
from tests.brokers.redis_server import RedisServer
from tests.contracts.harness import TransportHarness
from tests.contracts.member import ChildMember, Member
from tests.contracts.transport import TransportContract


class RedisHarness(TransportHarness):
    caps = CAPS
    can_restart = True

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server

    def make(self, consumer_id: str) -> RedisTransport:
        return redis.connect(self.server.url, consumer_id=consumer_id, namespace="", lease=self.lease)

    async def start_member(self, consumer_id: str, specs: list[TopicSpec]) -> Member:
        return await ChildMember.start("murmur.transports.redis:connect", self.server.url, consumer_id, specs)

    async def wipe(self) -> None:
        await asyncio.to_thread(self.server.flush)

    async def stop_server(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def start_server(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def connections(self) -> int | None:
        async with operator(self.server.url) as client:
            return len(await client.client_list()) - 1

    async def leftovers(self) -> Mapping[str, int]:
        async with operator(self.server.url) as client:
            lasting = [key for key in await client.keys("*") if await client.ttl(key) == -1]
            streams = [key for key in lasting if await client.type(key) == b"stream"]
            groups = [group for key in streams for group in await client.xinfo_groups(key)]
        return {"keys": len(lasting), "consumers": sum(group["consumers"] for group in groups)}


@pytest.mark.anyio
class TestRedis(TransportContract):
    @pytest.fixture
    async def harness(self, start_redis: RedisStarter) -> AsyncIterator[TransportHarness]:
        harness = RedisHarness(start_redis(aof=True))
        yield harness
        await harness.close()
