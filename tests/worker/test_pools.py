"""Pools of worker processes: an agent's own, its share of slots, and processes that are replaced."""

import asyncio
import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from murmur import AgentRuntime, SupervisorNode
from murmur.envelope import decode_letter
from murmur.errors import BadSetting
from murmur.registry import AnyActor
from murmur.worker import Worker
from murmur.worker.pools import Pools
from tests.worker.pooled_agents import Apart, Deadly, Deaf, Sleeper, Squarer, Two, Unborn, Where
from tests.worker.test_processes import until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


def node(broker: str, *agents: AnyActor, processes: int = 2, **settings: object) -> Worker:
    return Worker(broker=broker, agents=agents, processes=processes, drain=5.0, **settings)  # type: ignore[arg-type]


def pools(worker: Worker) -> Pools:
    assert worker._tree is not None
    return worker._tree.pools


def pids(worker: Worker) -> set[int]:
    return {pid for pool in pools(worker) for pid in pool.seats}


@pytest.mark.parametrize("processes", [0, 1])
async def test_an_agent_with_processes_of_its_own_harms_nobody_else(broker: str, processes: int) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker, Apart, Squarer, processes=processes) as worker:
        apart = pools(worker).of("apart")
        assert apart is not None
        squares = asyncio.ensure_future(runtime.gather(Squarer, range(10_000, 10_005), timeout=60.0))
        results = await runtime.gather(Apart, ["live", "die", "live"], timeout=60.0)
        assert [result.is_ok() for result in results] == [True, False, True]
        assert results[0].output != os.getpid()
        assert all(result.metadata.attempts == 1 for result in await squares)
        assert (pools(worker).of("squarer") is None) is (processes == 0)
        letters = [decode_letter(raw) for raw in await apart.queue.dead_letters("apart")]
    assert [letter.exit for letter in letters] == ["signal 11 (SIGSEGV)"]


async def test_an_agent_may_have_processes_of_its_own_without_a_broker() -> None:
    async with AgentRuntime() as runtime:
        result = await runtime.run(Apart, "live", timeout=60.0)
        assert result.unwrap() != os.getpid()


async def test_a_poisoned_task_is_told_with_its_exit_its_handler_and_runs_max_crashes_times(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker, Deadly, processes=1, hang_after=1.0) as worker:
        results = await runtime.gather(Deadly, ["slow", "exit", "hang", "slow"], timeout=100.0)
        assert [result.is_ok() for result in results] == [True, False, False, True]
        (pool,) = pools(worker)
        letters = {
            letter.task_id: letter for raw in await pool.queue.dead_letters("deadly") if (letter := decode_letter(raw))
        }
    died, hung = letters[results[1].task_id], letters[results[2].task_id]
    assert (died.exit, died.crashes, hung.exit, hung.crashes) == ("code 3", 2, "hung", 2)
    # Each may also have been taken along once by the other: an attempt, but no crash of its own.
    most = Deadly.redelivery.max_crashes
    assert most <= died.attempts <= 2 * most
    assert most <= hung.attempts <= 2 * most
    assert hung.errors[-1].handler == "tests.worker.pooled_agents:Deadly.receive"
    assert "pooled_agents.py" in (hung.errors[-1].stack or "")


def at_once(spans: Sequence[tuple[float, float]]) -> int:
    """Return how many of the spans overlap at most."""
    changes = sorted(change for began, ended in spans for change in ((began, 1), (ended, -1)))
    return max(itertools.accumulate(change for _, change in changes))


async def test_the_share_of_an_agent_and_the_slots_of_a_worker_hold_over_all_processes(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker, Two, processes=2, concurrency=8):
        results = await runtime.gather(Two, [0.1] * 12, timeout=60.0)
        assert at_once([result.unwrap() for result in results]) == 2
    async with AgentRuntime(broker=broker) as runtime, node(broker, Where, processes=2, concurrency=3) as worker:
        gathering = asyncio.ensure_future(runtime.gather(Where, [0.2] * 9, timeout=60.0))
        most = 0
        while not gathering.done():
            most = max(most, sum(pool.running for pool in pools(worker)))
            await asyncio.sleep(0.01)
        assert most == 3


async def test_an_agent_gets_what_it_has_room_for_while_another_is_full(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker, Two, Squarer, processes=1, concurrency=4):
        slow = asyncio.ensure_future(runtime.gather(Two, [3.0] * 2, timeout=60.0))
        await asyncio.sleep(0.5)
        assert (await runtime.run(Squarer, 3, timeout=60.0)).unwrap() == 9
        assert not slow.done()
        await slow


async def test_a_process_is_replaced_after_so_many_tasks_and_no_task_runs_twice(broker: str) -> None:
    worker, starts = node(broker, Where, processes=2, recycle=10, concurrency=4), list[str]()

    @worker.on_task_start
    async def on_start(task_id: str, agent_name: str) -> None:
        starts.append(task_id)

    async with AgentRuntime(broker=broker) as runtime, worker:
        results = await runtime.gather(Where, [0.01] * 40, timeout=100.0)
    assert all(result.is_ok() for result in results)
    assert len({result.output for result in results}) > 2
    # A grant that met a process being replaced was given back before it began: it counts as an attempt, and ran once.
    assert sorted(starts) == sorted(result.task_id for result in results)


async def test_a_handler_that_ignores_its_cancellation_costs_its_process_alone(broker: str) -> None:
    async with (
        AgentRuntime(broker=broker) as runtime,
        node(broker, Deaf, Sleeper, processes=1, concurrency=4) as worker,
    ):
        (before,) = pids(worker)
        beside = asyncio.ensure_future(runtime.run(Sleeper, 8.0, timeout=60.0))
        await until(lambda: sum(pool.running for pool in pools(worker)) == 1)
        result = await runtime.run(Deaf, 3_600.0, timeout=60.0)
        assert "TaskTimeout" in type(result.error).__name__ or "longer than" in str(result.error)
        assert (await beside).metadata.attempts == 1
        await until(lambda: pids(worker) and before not in pids(worker))
        assert (await runtime.run(Sleeper, 0.0, timeout=60.0)).unwrap() == "slept"


async def test_an_agent_that_cannot_start_is_told_and_the_others_are_served(broker: str) -> None:
    async with AgentRuntime(broker=broker) as runtime, node(broker, Unborn, Squarer, processes=1) as worker:
        lost = asyncio.ensure_future(runtime.run(Unborn, 1, timeout=30.0))
        (pool,) = pools(worker)
        await until(lambda: "no database here" in pool.broken.get("unborn", ""))
        assert (await runtime.run(Squarer, 3, timeout=60.0)).unwrap() == 9
        lost.cancel()


async def test_a_process_killed_while_the_node_starts_does_not_end_it(broker: str) -> None:
    worker = SupervisorNode(broker=broker, agents=[Squarer], processes=2, drain=5.0)
    starting = asyncio.ensure_future(worker.start())
    killed: set[int] = set()
    while not starting.done() and len(killed) < 2:
        for pid in children_of(os.getpid()):
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.002)
    await starting
    async with AgentRuntime(broker=broker) as runtime:
        assert (await runtime.run(Squarer, 3, timeout=60.0)).unwrap() == 9
    await worker.stop()


def children_of(pid: int) -> list[int]:
    """Return the worker processes below, which are children of the fork server."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(below) for child in listed for below in grandchildren(child)]


def grandchildren(child: str) -> list[str]:
    try:
        return Path(f"/proc/{child}/task/{child}/children").read_text().split()
    except OSError:
        return []


def test_actors_of_a_script_run_in_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, os
            from murmur import Actor, AgentRuntime, Worker

            class Doubler(Actor[int, tuple[int, bool]]):
                async def receive(self, number):
                    return number * 2, os.getpid() == NODE

            NODE = os.getpid()

            async def main():
                async with AgentRuntime(broker="memory://script") as runtime:
                    async with Worker(broker="memory://script", agents=[Doubler], processes=1):
                        print((await runtime.run(Doubler, 21, timeout=60.0)).unwrap())

            if __name__ == "__main__":
                asyncio.run(main())
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "(42, False)", done.stderr


def test_a_class_that_cannot_be_sent_is_refused_with_what_to_do() -> None:
    class Local(Squarer):
        name = "local"

    with pytest.raises(BadSetting, match="move it to a module"):
        node("memory://x", Local)


async def test_there_are_no_more_processes_than_tasks_at_once_and_the_banner_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with node("memory://few", Squarer, processes=999_999_999, concurrency=1) as worker:
        assert len(pids(worker)) == worker.processes == 1
    assert "processes    1  (not 999999999: no more than tasks at once)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"hang_after": 0},
        {"hang_after": math.nan},
        {"hang_after": math.inf},
        {"hang_after": "3"},
        {"recycle": 0},
        {"recycle": 1.5},
        {"recycle": True},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(BadSetting, match=f"{name} must be"):
        node("memory://x", Squarer, **settings)


def test_a_node_without_processes_is_none() -> None:
    with pytest.raises(BadSetting, match="at least 1 for a SupervisorNode"):
        SupervisorNode(broker="memory://x", agents=[Squarer], processes=0)
    assert SupervisorNode(broker="memory://x", agents=[Squarer]).processes >= 1


def test_a_module_that_no_process_can_import_is_told_once_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(
        textwrap.dedent(
            """
            from pathlib import Path
            from murmur import Actor

            seen = Path(__file__).with_suffix(".seen")
            if seen.exists():
                raise RuntimeError("works on my machine")
            seen.touch()

            class Half(Actor[int, int]):
                async def receive(self, number):
                    return number
            """
        )
    )
    command = ["worker", "start", "--app", str(tmp_path / "half.py"), "--broker", "memory://half", "--processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "murmur.cli.main", *command],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 3, done.stderr
    assert "E502" in done.stderr
    assert done.stderr.count("works on my machine") <= 2  # in the sentence, and in the traceback of the process
    assert 'half.py", line' in done.stderr
