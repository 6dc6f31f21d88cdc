"""Named actors on a real Redis, whose workers are killed and frozen: no name is lost, none has two homes for long."""

import asyncio
import os
import secrets
import signal
from typing import Any

import pytest

from murmur import AgentRuntime, Remote
from tests.brokers.redis_server import RedisServer
from tests.faults.conftest import Fleet, until

pytestmark = pytest.mark.anyio
TILL = Remote("till")
LEASE = ("--reclaim-min-idle-ms", "1500", "--agents", "till")


async def test_a_killed_workers_names_live_elsewhere_with_all_that_was_answered(
    redis_server: RedisServer, fleet: Fleet
) -> None:
    workers = [fleet.start(redis_server.url, *LEASE) for _ in range(2)]
    killed = asyncio.Event()
    async with AgentRuntime(redis_server.url) as runtime:
        refs = [runtime.ref(TILL, f"till-{secrets.token_hex(4)}") for _ in range(12)]
        sent: dict[str, list[str]] = {ref.key: [] for ref in refs}

        async def say(ref: Any) -> None:
            words = sent[ref.key]
            words.append(f"0.05 m{len(words)}")
            assert await ref.ask(words[-1], timeout=60.0) == words

        async def ask(ref: Any) -> None:
            while not killed.is_set():
                await say(ref)
            for _ in range(6):
                await say(ref)

        asking = asyncio.gather(*map(ask, refs))
        await until(lambda: len(fleet.events("end")) >= 36)
        doomed = await until(lambda: next((one for one in workers if fleet.running_on(one.pid)), None))
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.wait()
        killed.set()
        await asking


async def test_an_owner_that_was_frozen_wakes_up_to_a_name_that_moved_and_changes_nothing(
    redis_server: RedisServer, fleet: Fleet
) -> None:
    frozen = fleet.start(redis_server.url, *LEASE)
    async with AgentRuntime(redis_server.url) as runtime:
        ref = runtime.ref(TILL, f"till-{secrets.token_hex(4)}")
        assert await ref.ask("0 first", timeout=60.0) == ["0 first"]
        asking = asyncio.ensure_future(ref.ask("0.5 frozen", timeout=100.0))
        await until(lambda: fleet.running_on(frozen.pid))
        os.kill(frozen.pid, signal.SIGSTOP)
        fleet.start(redis_server.url, *LEASE)
        assert await asking == ["0 first", "0.5 frozen"]
        assert await ref.ask("0 second", timeout=60.0) == ["0 first", "0.5 frozen", "0 second"]
        os.kill(frozen.pid, signal.SIGCONT)
        words = ["0 first", "0.5 frozen", "0 second"]
        for number in range(12):  # while it wakes, and would write what it was at
            words.append(f"0.1 m{number}")
            assert await ref.ask(words[-1], timeout=60.0) == words
