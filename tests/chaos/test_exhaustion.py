"""A disk, a memory or a table of files that is full is told, loses nothing, and is over when it is over."""

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from murmur import AgentRuntime, Remote
from murmur.worker import Worker
from tests.brokers.proxy import Proxy
from tests.brokers.redis_server import RedisServer
from tests.chaos.hungry_agents import Hoarder, Large

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
SIZE = 20_000  # bytes of one result


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[RedisServer]:
    """A server whose files cannot grow beyond a limit that the test lifts: writes fail as on a full disk."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("needs redis-server: apt-get install redis-server")
    wrapper = tmp_path / "redis-server"
    wrapper.write_text(f"#!/bin/bash\ntrap '' XFSZ\nexec {found} \"$@\"\n")
    wrapper.chmod(0o755)
    server = RedisServer(tmp_path, aof=True)
    server.binary = str(wrapper)
    with server:
        yield server


async def test_a_full_disk_of_the_server_delays_results_and_loses_none(small_disk: RedisServer) -> None:
    server = small_disk
    async with AgentRuntime(broker=server.url) as runtime, Worker(broker=server.url, agents=[Large], drain=1.0):
        assert (await runtime.run(Large, 10)).is_ok()
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        gathering = asyncio.ensure_future(runtime.gather(Large, [SIZE] * 60, max_concurrency=5))
        async with asyncio.timeout(30):
            while "aof_last_write_status:err" not in info(server):
                await asyncio.sleep(0.1)
        await asyncio.sleep(1.5)
        assert not gathering.done()
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        results = await asyncio.wait_for(gathering, 60)
    assert [len(result.output or "") for result in results if result.is_ok()].count(SIZE) >= 50
    assert all(result.is_ok() or "publish" in str(result.error) for result in results)


def info(server: RedisServer) -> str:
    done = subprocess.run(
        ["redis-cli", "-p", str(server.port), "INFO", "persistence"], capture_output=True, text=True, check=False
    )
    return done.stdout


async def test_a_server_without_memory_refuses_definitely_and_serves_again(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()
    async with AgentRuntime(broker=server.url) as runtime, Worker(broker=server.url, agents=[Large], drain=1.0):
        assert (await runtime.run(Large, 10)).is_ok()
        server.call("CONFIG", "SET", "maxmemory", "1")
        refused = asyncio.ensure_future(runtime.run(Large, 20))
        await asyncio.sleep(1.0)
        assert not refused.done()  # it is tried again for ten seconds
        server.call("CONFIG", "SET", "maxmemory", "0")
        assert (await asyncio.wait_for(refused, 30)).is_ok()


def started(command: str, settings: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "worker.log").open("wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MURMUR_HEARTBEAT": "0", **settings}
        return subprocess.Popen(["bash", "-c", command], cwd=ROOT, env=environment, stdout=log, stderr=log)


async def test_a_worker_without_files_to_open_comes_back_when_it_has_some(
    start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    server = start_redis(aof=True)
    async with Proxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        command = f"ulimit -n 64; exec {sys.executable} -m murmur.cli.main worker start --app tests.chaos.hungry_agents"
        worker = started(command, {"MURMUR_BROKER": url, "MURMUR_RECLAIM_MIN_IDLE_MS": "2000"}, tmp_path)
        try:
            async with AgentRuntime(broker=server.url) as runtime:
                assert (await runtime.run(Large, 10)).is_ok()
                hoarding = asyncio.ensure_future(runtime.run(Hoarder, 3.0))
                await asyncio.sleep(1.0)
                proxy.cut()  # it has to connect again, and cannot
                result = await asyncio.wait_for(hoarding, 60)
                assert result.is_ok()  # in its first attempt, or in a second beside it that found no file left
                assert (await asyncio.wait_for(runtime.run(Remote("large"), 10), 30)).is_ok()
                assert worker.poll() is None
        finally:
            worker.kill()
            worker.wait()
