"""A fleet on a real NATS: what it alone can do (else `test_fleet.py`)."""

import asyncio

import pytest

from murmur import AgentRuntime, Remote
from tests.brokers.fixtures import NatsStarter
from tests.brokers.nats_operator import wipe
from tests.faults.conftest import Fleet, until

pytestmark = pytest.mark.anyio
WORK = Remote("work")
LEASE = ("--reclaim-min-idle-ms", "2000")


async def test_streams_that_are_deleted_end_no_slot_in_silence(start_nats: NatsStarter, fleet: Fleet) -> None:
    server = start_nats()
    fleet.start(server.url, "--concurrency", "10", *LEASE)
    async with AgentRuntime(server.url) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.1] * 100, max_concurrency=30))
        await until(lambda: len(fleet.events("end")) >= 20)
        await wipe(server.url)
        results = await asyncio.wait_for(gathering, 90)
    assert all(result.is_ok() for result in results)
