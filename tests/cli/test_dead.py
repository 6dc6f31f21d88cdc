"""`murmur dead`: what cannot be run is listed, sent again and thrown away, on a real server."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from murmur import Actor, AgentRuntime, Backoff, Redelivery, wiring
from murmur.dead_letters import read, replay
from murmur.task_queue import TaskQueue
from murmur.transport import Outgoing
from murmur.worker import Worker
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
MURMUR = (sys.executable, "-m", "murmur.cli.main", "dead")
Dead = Callable[..., subprocess.CompletedProcess[str]]


class Moody(Actor[int, int]):
    """Fails as long as it is in a mood: odd numbers one way, even ones another."""

    redelivery = Redelivery(max_deliveries=2, backoff=Backoff(initial=0.01, cap=0.01))
    is_in_a_mood: ClassVar[bool] = True
    keys: ClassVar[list[str]] = []

    async def receive(self, number: int) -> int:
        self.keys.append(self.context.idempotency_key)
        if not self.is_in_a_mood:
            return number
        raise ConnectionError("away") if number % 2 else TimeoutError(f"took {number} s")


@pytest.fixture
def dead(redis_server: RedisServer) -> Dead:
    redis_server.flush()

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*MURMUR, *arguments, "--broker", redis_server.url]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    return call


@pytest.fixture
async def letters(dead: Dead, redis_server: RedisServer) -> AsyncIterator[AgentRuntime]:
    """Six dead letters of Moody, one of bytes that are no task, and a worker in a better mood."""
    Moody.is_in_a_mood, Moody.keys[:] = True, []
    async with (
        AgentRuntime(broker=redis_server.url) as runtime,
        Worker(broker=redis_server.url, agents=[Moody], drain=1.0) as worker,
    ):
        assert not any(result.is_ok() for result in await runtime.gather(Moody, tasks=range(6), batch_id="moods"))
        assert worker._tree is not None
        await worker._tree.queue.transport.publish([Outgoing("moody.tasks", b"\xff no task", "garbage")])
        while len(await worker._tree.queue.dead_letters("moody")) < 7:
            pass
        Moody.is_in_a_mood, Moody.keys[:] = False, []
        yield runtime


def lines(done: subprocess.CompletedProcess[str], code: int = 0) -> list[str]:
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout.splitlines()


async def test_letters_are_counted_by_reason_and_error(dead: Dead, letters: AgentRuntime) -> None:
    told = [line.split(maxsplit=2) for line in lines(dead("list", "moody", "--groups"))]
    counts = {(error, reason): int(count) for count, error, reason in told}
    assert counts["ConnectionError", "failed N times"] == 3
    assert counts["TimeoutError", "failed N times"] == 3
    assert sum(counts.values()) == 7
    assert len(lines(dead("list", "moody", "--error", "TimeoutError"))) == 3
    assert json.loads(dead("show", "moody", "moods.3").stdout)["errors"][-1]["error_type"] == "ConnectionError"


async def test_chosen_tasks_are_sent_again_under_their_keys(dead: Dead, letters: AgentRuntime) -> None:
    assert len(lines(dead("replay", "moody", "--error", "TimeoutError", "--dry-run"))) == 3
    told = lines(dead("replay", "moody", "--error", "TimeoutError", "--rate", "50"))
    assert {line.split()[0] for line in told} == {"moods.0", "moods.2", "moods.4"}
    assert all(".again-" in line for line in told)
    while len(Moody.keys) < 3:
        await letters.run(Moody, 1)
    assert {"moods.0", "moods.2", "moods.4"} <= set(Moody.keys)
    assert len(lines(dead("list", "moody"))) == 4


async def test_what_is_no_task_is_kept_and_told(dead: Dead, letters: AgentRuntime) -> None:
    done = dead("replay", "moody", "--all")
    assert "(no id)  not sent: it holds no task" in done.stdout
    assert done.stderr.strip() == "6 sent again, 1 kept"
    assert done.returncode == 1
    assert len(lines(dead("list", "moody"))) == 1


async def test_letters_are_thrown_away(dead: Dead, letters: AgentRuntime) -> None:
    assert dead("purge", "moody", "--task", "moods.1", "--dry-run").stderr.strip() == "1 would be thrown away"
    assert dead("purge", "moody", "--task", "moods.1").stderr.strip() == "1 thrown away"
    assert dead("purge", "moody", "--older-than", "1h").stderr.strip() == "0 thrown away"
    assert dead("purge", "moody", "--all").stderr.strip() == "6 thrown away"
    assert dead("list", "moody").stderr.strip() == "no dead letters of moody"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("replay", "moody"), "choose letters with --task"),
        (("purge", "moody"), "choose letters with --task"),
        (("purge", "moody", "--all", "--error", "X"), "or take --all"),
        (("purge", "moody", "--older-than", "soon"), "'soon' is no age; write 90s"),
        (("replay", "moody", "--all", "--rate", "0"), "--rate"),
        (("list", "no such agent"), "no such agent"),
    ],
)
def test_what_is_not_meant_does_nothing(dead: Dead, arguments: tuple[str, ...], says: str) -> None:
    done = dead(*arguments)
    assert done.returncode == 2, done
    assert says in done.stderr


async def test_a_replay_that_broke_off_and_is_repeated_sends_nothing_twice(
    letters: AgentRuntime, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = wiring.connect(
        redis_server.url, store=None, namespace="", consumer_id="replay", lease=None, retention=3_600.0
    )
    await queue.open(owner="replay", lease=None)
    found = [one for one in await read(queue, "moody", limit=100) if one.content.task_id]

    async def broken(*_: Any) -> int:
        raise RuntimeError("killed between the sending and the forgetting")

    with monkeypatch.context() as patch:
        patch.setattr(TaskQueue, "forget_letters", broken)
        with pytest.raises(RuntimeError):
            await replay(queue, "moody", found)
    assert all(one.task_id for one in await replay(queue, "moody", found))
    await letters.gather(Moody, tasks=range(100, 110))
    while len(Moody.keys) < 16:
        await letters.run(Moody, 1)
    counts = Counter(key for key in Moody.keys if key.startswith("moods."))
    assert counts == {f"moods.{number}": 1 for number in range(6)}
    await queue.close()
