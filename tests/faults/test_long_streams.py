"""A million tasks through one publisher: what is over leaves nothing behind, in publisher, worker and server."""

import time
from collections.abc import Iterator

import psutil
import pytest

from murmur import AgentRuntime, Remote
from murmur.errors import NoWorkers
from tests.brokers.redis_server import RedisServer
from tests.faults.conftest import Fleet

pytestmark = [pytest.mark.anyio, pytest.mark.soak]

TASKS = 1_000_000
WARM_UP = 20_000
GROWTH = 50_000_000  # bytes
ECHO = Remote("echo")


def resident(pid: int | None = None) -> int:
    return psutil.Process(pid).memory_info().rss


def lazily(count: int) -> Iterator[int]:
    yield from range(count)


async def test_a_million_lazy_inputs_leave_publisher_and_worker_as_they_were(
    redis_server: RedisServer, fleet: Fleet
) -> None:
    worker = fleet.start(redis_server.url, "--concurrency", "200", "--prefetch", "200")
    ours = theirs = seen = 0
    async with AgentRuntime(redis_server.url, retention=20.0) as runtime:
        async for result in runtime.as_completed(ECHO, lazily(TASKS), max_concurrency=500):
            assert result.is_ok(), result.error
            seen += 1
            if seen == WARM_UP:
                ours, theirs = resident(), resident(worker.pid)
        print(f"publisher grew {resident() - ours:,} B, worker {resident(worker.pid) - theirs:,} B")
        assert resident() - ours < GROWTH
        assert resident(worker.pid) - theirs < GROWTH
    assert seen == TASKS


async def test_a_million_lazy_inputs_that_nobody_serves_are_each_told_so(
    redis_server: RedisServer, capfd: pytest.CaptureFixture[str]
) -> None:
    before, seen, begun = resident(), 0, time.monotonic()
    async with AgentRuntime(redis_server.url, no_workers_after=8.0) as runtime:
        async for result in runtime.as_completed(ECHO, lazily(TASKS), max_concurrency=500):
            assert isinstance(result.error, NoWorkers)
            seen += 1
    print(f"grew {resident() - before:,} B in {time.monotonic() - begun:.0f} s")
    assert resident() - before < GROWTH
    assert seen == TASKS
    assert "echo" in capfd.readouterr().err
