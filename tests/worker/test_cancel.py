"""Cancelling reaches the actor that runs, wherever rows are kept and whichever process runs it; nothing is left."""

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from murmur import AgentRuntime
from murmur.errors import GaveUp, TaskCancelled
from murmur.worker import Worker
from tests.worker.pooled_agents import Sleeper

pytestmark = pytest.mark.anyio
_numbers = count()


@pytest.fixture(params=["redis", "memory", "sqlite beside memory", "memory alone", "redis alone"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """A broker, and what stands beside it."""
    of_memory = f"memory://cancel-{next(_numbers)}"
    match request.param:
        case "redis":
            return {"broker": request.getfixturevalue("redis_server").url}
        case "redis alone":
            return {"broker": request.getfixturevalue("redis_server").url, "store": "none"}
        case "sqlite beside memory":
            return {"broker": of_memory, "store": f"sqlite:///{tmp_path}/rows.db"}
        case "memory alone":
            return {"broker": of_memory, "store": "none"}
    return {"broker": of_memory}


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30.0):
        while not holds():
            await asyncio.sleep(0.01)


def running(worker: Worker) -> int:
    assert worker._tree is not None
    return worker._tree.note().running


async def settled(runtime: AgentRuntime) -> None:
    """Wait until the broker holds no message of the agent any more."""
    engine = runtime._engine
    assert engine is not None
    async with asyncio.timeout(30.0):
        while True:
            stats = await engine.queue.transport.stats("sleeper.tasks", "workers")
            if (stats.ready, stats.inflight) == (0, 0):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("processes", [0, 2])
async def test_a_running_task_is_cancelled_where_it_runs(
    where: dict[str, Any], processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, began = tmp_path / "sleeper", tmp_path / "sleeper.began"
    monkeypatch.setenv("SLEEPER", str(noted))
    async with AgentRuntime(**where) as runtime, Worker(agents=(Sleeper,), processes=processes, **where) as worker:
        handle = await runtime.submit(Sleeper, 600.0)
        await until(began.exists)
        await handle.cancel()
        assert isinstance((await handle.result(timeout=30.0)).error, TaskCancelled)
        await until(noted.exists)
        await until(lambda: running(worker) == 0)
        await settled(runtime)
        await handle.cancel()  # again is harmless
        (late,) = await runtime.gather(Sleeper, [600.0], timeout=1.0)
        assert isinstance(late.error, GaveUp)
        await until(lambda: running(worker) == 0)
        await settled(runtime)
        assert (await runtime.run(Sleeper, 0.0, timeout=60.0)).unwrap() == "slept"
