"""Worker processes: real ones, that are killed, crash and hang; with the broker within the node, and on Redis."""

import asyncio
import base64
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from murmur import AgentRuntime, TaskSpec
from murmur.envelope import decode_letter
from murmur.errors import BadSetting, MurmurError
from murmur.stores.sqlite_idempotency import SqliteIdempotency
from murmur.worker import Worker
from murmur.worker.pool import Pool
from tests.brokers.redis_server import RedisServer
from tests.worker.pooled_agents import Asker, Deadly, Sleeper, Squarer, Where

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
AGENTS = (Squarer, Where, Deadly, Asker, Sleeper)


def pool_of(worker: Worker) -> Pool:
    assert worker._tree is not None
    (pool,) = worker._tree.pools
    return pool


def node(broker: str, processes: int = 2, concurrency: int = 20, **settings: object) -> Worker:
    return Worker(broker=broker, agents=AGENTS, processes=processes, concurrency=concurrency, drain=5.0, **settings)  # type: ignore[arg-type]


async def until(holds: Callable[[], object], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.01)


async def test_tasks_run_in_all_processes_and_none_in_the_node(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker) as worker:
        results = await runtime.gather(Where, [0.05] * 60, timeout=30.0)
        assert {result.output for result in results} == set(pool_of(worker).seats)
        assert os.getpid() not in {result.output for result in results}
        assert all(result.metadata.attempts == 1 for result in results)
        squares = await runtime.gather(Squarer, range(500), timeout=30.0)
        assert [result.output for result in squares] == [number * number for number in range(500)]


async def test_a_killed_process_has_its_tasks_run_again_at_once_and_no_others(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker) as worker:
        gathering = asyncio.ensure_future(runtime.gather(Squarer, range(10_000, 10_030), timeout=30.0))
        await until(lambda: pool_of(worker).running == 20)
        pid, seat = next(iter(pool_of(worker).seats.items()))
        in_hand = set(seat.in_hand)
        os.kill(pid, signal.SIGKILL)
        results = await gathering
        assert all(result.is_ok() for result in results)
        assert {result.task_id for result in results if result.metadata.attempts > 1} == in_hand
        rows = await pool_of(worker).queue.store.read(list(in_hand))
        assert {(row.crashes, row.failures) for row in rows if row} == {(0, 0)}


@pytest.mark.parametrize("how", ["segfault", "exit"])
async def test_a_task_that_crashes_its_process_is_one_dead_letter_and_innocents_are_answered(
    broker: str, how: str
) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker) as worker:
        tasks = ["slow"] * 4 + [how] + ["slow"] * 4
        results = await runtime.gather(Deadly, tasks, timeout=60.0)
        assert [result.output for result in results if result.is_ok()] == ["slow"] * 8
        (lost,) = [result for result in results if not result.is_ok()]
        assert "died" in str(lost.error) or "exited" in str(lost.error) or "killed" in str(lost.error), lost.error
        letters = [decode_letter(letter) for letter in await pool_of(worker).queue.dead_letters("deadly")]
        assert [(letter.task_id, letter.crashes) for letter in letters] == [(lost.task_id, 2)]
        assert "crashed its process" in letters[0].reason


async def test_a_process_that_hangs_is_found_and_killed_and_the_rest_is_answered(
    broker: str,
) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker, hang_after=1.0):
        results = await runtime.gather(Deadly, ["slow"] * 5 + ["hang"] + ["slow"] * 5, timeout=60.0)
    assert [result.is_ok() for result in results].count(False) == 1
    assert "hung" in str(results[5].error)


async def test_actors_in_processes_ask_others_and_journal_their_steps(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker, concurrency=4):
        results = await runtime.gather(Asker, [10] * 12, timeout=60.0)
    assert [result.unwrap() for result in results] == [385] * 12


async def test_with_a_key_file_processes_believe_signed_results_alone(broker: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    secret = base64.b64encode(os.urandom(32)).decode()
    keys.write_text(f'[[key]]\nid = "k"\nuse = "sign"\nsecret = "{secret}"\n')
    async with (
        AgentRuntime(broker=broker, signing_keys=keys) as runtime,
        node(broker, concurrency=4, signing_keys=keys) as worker,
    ):
        results = await runtime.gather(Asker, [10] * 6, timeout=60.0)
        assert [result.unwrap() for result in results] == [385] * 6
        assert (
            pool_of(worker).desk.opened(b'{"v":1,"task_id":"x","agent":"squarer","success":true,"output":666}') == b""
        )


async def test_a_cancelled_task_is_cancelled_in_its_process(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = tmp_path / "sleeper"
    monkeypatch.setenv("SLEEPER", str(noted))
    async with AgentRuntime(broker=broker) as runtime, node(broker) as worker:
        handle = await runtime.submit(Sleeper, 60.0)
        await until(lambda: pool_of(worker).running == 1)
        await asyncio.sleep(0.1)
        await handle.cancel()
        await until(noted.exists)
        await until(lambda: pool_of(worker).running == 0)


async def test_a_drained_node_lets_what_runs_end_and_gives_the_rest_back(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime:
        first = node(broker)
        await first.start()
        gathering = asyncio.ensure_future(runtime.gather(Where, [1.0] * 20 + [0.0] * 20, timeout=60.0))
        await until(lambda: pool_of(first).running == 20)
        pids = set(pool_of(first).seats)
        await first.stop()
        assert not any(psutil.pid_exists(pid) for pid in pids)
        async with node(broker):
            results = await gathering
    assert all(result.is_ok() and result.metadata.attempts == 1 for result in results)


async def test_hooks_run_in_the_node_and_the_idempotency_hook_is_asked(broker: str, tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    worker = node(broker, idempotency=SqliteIdempotency(tmp_path / "records.db"))

    @worker.on_task_start
    async def started(task_id: str, agent: str) -> None:
        seen.append(("start", agent))

    @worker.on_task_complete
    async def completed(task_id: str, agent: str, duration_ms: int) -> None:
        seen.append(("complete", agent))

    @worker.on_task_error
    async def failed(task_id: str, agent: str, error: Exception) -> None:
        assert isinstance(error, MurmurError)
        seen.append(("error", agent))

    async with AgentRuntime(broker=broker) as runtime, worker:
        same = [TaskSpec(0.0, idempotency_key="same") for _ in range(2)]
        one, two = await runtime.gather(Where, same, timeout=30.0)
        assert one.output == two.output
        (bad,) = await runtime.gather(Asker, [-1], timeout=30.0)
        assert bad.is_ok()
    assert seen.count(("start", "where")) >= 2
    assert ("complete", "asker") in seen


async def test_a_killed_node_leaves_no_process_behind(redis_server: RedisServer, tmp_path: Path) -> None:
    command = ["-m", "murmur.cli.main", "worker", "start", "--app", "tests.worker.pooled_agents", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MURMUR_BROKER": redis_server.url}
    with (tmp_path / "log").open("wb") as log:
        node = await asyncio.create_subprocess_exec(sys.executable, *command, env=environment, stdout=log, stderr=log)
    async with AgentRuntime(broker=redis_server.url) as runtime:
        pids = {result.output for result in await runtime.gather(Where, [0.2] * 40, timeout=60.0)}
    assert len(pids) == 2
    below = psutil.Process(node.pid).children(recursive=True)
    assert pids <= {child.pid for child in below}
    node.kill()
    await node.wait()
    await until(lambda: not any(child.is_running() and child.status() != "zombie" for child in below), within=30.0)


@pytest.mark.parametrize("processes", [-1, 1.5, True, "2"])
def test_a_number_of_processes_that_is_none_is_refused(processes: object) -> None:
    with pytest.raises(BadSetting, match="processes must be a whole number, 0 or more"):
        Worker(broker="memory://x", agents=AGENTS, processes=processes)  # type: ignore[arg-type]
