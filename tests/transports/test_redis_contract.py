"""The Redis transport under the contract, on a real server."""

from collections.abc import AsyncIterator, Mapping

import pytest

from murmur.transport import TopicSpec
from murmur.transports import redis
from murmur.transports.redis import CAPS, RedisTransport
from tests.contracts.harness import TransportHarness
from tests.contracts.member import ChildMember, Member
from tests.contracts.transport import TransportContract
from tests.transports.redis_fixture import RedisServer


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
        await self.server.ask("FLUSHALL")

    async def stop_server(self) -> None:
        await self.server.kill()

    async def start_server(self) -> None:
        await self.server.start()

    async def connections(self) -> int | None:
        clients = await self.server.ask("CLIENT", "LIST")
        assert isinstance(clients, bytes)
        return len(clients.splitlines()) - 1

    async def leftovers(self) -> Mapping[str, int]:
        keys = await self.server.ask("KEYS", "*")
        assert isinstance(keys, list)
        lasting = [key for key in keys if await self.server.ask("TTL", key) == -1]
        consumers = 0
        for key in lasting:
            if await self.server.ask("TYPE", key) == b"stream":
                groups = await self.server.ask("XINFO", "GROUPS", key)
                assert isinstance(groups, list)
                consumers += sum(group[3] for group in groups)
        return {"keys": len(lasting), "consumers": consumers}


@pytest.mark.anyio
class TestRedis(TransportContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[TransportHarness]:
        server = RedisServer()
        await server.start()
        harness = RedisHarness(server)
        yield harness
        await harness.close()
        await server.remove()
