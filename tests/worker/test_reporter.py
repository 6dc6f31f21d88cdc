"""A worker on the control plane: what it says of itself, whom it obeys, and that none of this ever costs a task."""

import asyncio
import base64
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from loguru import logger

from murmur import Actor, AgentRuntime, wiring
from murmur.beats import BEATS, COMMANDS, Beat, Branch, Command, packed, unpacked
from murmur.cli.options import _ToLoguru
from murmur.errors import BadEnvelope, BadSetting, BadSignature, BrokerUnreachable
from murmur.events.memory import MemoryControl, connect
from murmur.names import Topics
from murmur.signing import Seal
from murmur.watch import Watch, watching
from murmur.worker import Worker, reporter
from tests.brokers.redis_server import RedisServer
from tests.brokers.server import HOST
from tests.runtime.agents import Fails, Sleeper, WordStats, starts
from tests.worker.pooled_agents import Squarer

pytestmark = pytest.mark.anyio

SOON = 30.0  # seconds after which a test has waited in vain
TOPICS = Topics()
OURS = Seal({"a": ("sign", b"a" * 32)})
THEIRS = Seal({"b": ("sign", b"b" * 32)})
_numbers = count()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "_FIRST", 0.0)
    monkeypatch.setattr(reporter, "_AGAIN", 0.05)


@pytest.fixture
def url() -> str:
    return f"memory://reporter-{next(_numbers)}"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(f'[[key]]\nid = "a"\nuse = "sign"\nsecret = "{base64.b64encode(b"a" * 32).decode()}"\n')
    return path


@asynccontextmanager
async def looking(url: str, seal: Seal | None = None) -> AsyncIterator[Watch]:
    async with watching(wiring.control(url, namespace=""), TOPICS, seal) as watch:
        yield watch


async def seen(watch: Watch, worker: Worker, holds: Callable[[Beat], Any] = lambda _: True) -> Beat:
    """Wait for a beat of a worker that is so."""
    async with asyncio.timeout(SOON):
        while True:
            for one in watch.seen():
                if one.beat.worker_id == worker.runtime_id and holds(one.beat):
                    return one.beat
            await asyncio.sleep(0.02)


async def started(times: int) -> None:
    async with asyncio.timeout(SOON):
        while starts.total() < times:
            await asyncio.sleep(0.01)


def flat(branches: tuple[Branch, ...]) -> Iterator[Branch]:
    for branch in branches:
        yield branch
        yield from flat(branch.children)


async def test_a_worker_says_who_it_is_and_how_it_does(broker: str) -> None:
    worker = Worker(broker=broker, agents=[WordStats, Fails], concurrency=7, drain=1.0)
    async with looking(broker) as watch, worker, AgentRuntime(broker=broker) as runtime:
        beat = await seen(watch, worker, lambda beat: beat.state == "serving")
        assert (beat.pid, beat.concurrency) == (os.getpid(), 7)
        assert beat.agents == ("fails", "word_stats")
        await runtime.gather(WordStats, ["a b"] * 5)
        await runtime.gather(Fails, ["reject", "until 3"])
        beat = await seen(watch, worker, lambda beat: beat.ended == 7)
        assert beat.failed == 3
        assert beat.last_error is not None
        assert beat.last_error.error_type in ("Reject", "RuntimeError")
        assert beat.rate > 0
        names = {branch.id for branch in flat(beat.tree)}
        assert {"consumer", "announcer", "reporter", "actors", "word_stats"} <= names
    assert (await seen_gone(watch, worker)).state == "gone"


async def test_a_worker_that_is_replaced_when_its_code_changes_is_found_by_its_id(url: str) -> None:
    ids = ("w", "w.reload-6", "w.reload-7", "w.8", "w2")
    workers = {name: Worker(broker=url, agents=[WordStats], consumer_id=name, drain=1.0) for name in ids}
    async with looking(url) as watch, AsyncExitStack() as stack:
        for name in ids[1:]:
            await stack.enter_async_context(workers[name])
            await seen(watch, workers[name])
        newest = await watch.find("w")
        assert newest is not None
        assert newest.worker_id == "w.reload-7"
        async with workers["w"]:
            await seen(watch, workers["w"])
            exactly = await watch.find("w")
            assert exactly is not None
            assert exactly.worker_id == "w"


async def seen_gone(watch: Watch, worker: Worker) -> Beat:
    return next(one.beat for one in watch.seen() if one.beat.worker_id == worker.runtime_id)


async def test_a_node_shows_its_processes_and_what_became_of_them(url: str) -> None:
    worker = Worker(broker=url, agents=[Squarer], processes=2, drain=1.0)
    async with looking(url) as watch, worker:
        beat = await seen(watch, worker, lambda beat: len(processes(beat)) == 2)
        assert all(branch.rss and branch.rss > 2**20 for branch in processes(beat))
        (actors,) = {tuple(one.id for one in branch.children) for branch in processes(beat)}
        assert actors == ("squarer",)  # also those that have nothing to do
        killed = processes(beat)[0].pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        beat = await seen(
            watch, worker, lambda beat: beat.restarts and len(processes(beat)) == 2 and killed not in pids(beat)
        )
        assert any("signal 9" in (branch.cause or "") for branch in flat(beat.tree))


def processes(beat: Beat) -> list[Branch]:
    return [branch for branch in flat(beat.tree) if branch.pid is not None]


def pids(beat: Beat) -> set[int | None]:
    return {branch.pid for branch in processes(beat)}


class Gated(Actor[int, int]):
    """Waits for its gate."""

    gate: ClassVar[asyncio.Event]

    async def receive(self, number: int) -> int:
        starts[self.context.task_id] += 1
        await self.gate.wait()
        return number


async def test_a_worker_told_to_drain_ends_what_runs_takes_no_more_and_leaves(broker: str) -> None:
    Gated.gate = asyncio.Event()
    worker = Worker(broker=broker, agents=[Gated], concurrency=1, drain=60.0)
    async with looking(broker) as watch, AgentRuntime(broker=broker) as runtime:
        await worker.start()
        running = await runtime.submit(Gated, 1)
        await started(1)
        waiting = await runtime.submit(Gated, 2)
        beat = await seen(watch, worker)
        telling = asyncio.ensure_future(watch.tell(beat, "drain", drain=None, within=2 * SOON))
        await seen(watch, worker, lambda beat: beat.state == "draining" and beat.running == 1)
        assert not telling.done()
        Gated.gate.set()
        assert await telling
        assert (await running.result()).metadata.attempts == 1
        assert starts.total() == 1  # the other one waits
        await worker.stop()  # it has
        async with Worker(broker=broker, agents=[Gated], drain=1.0):
            assert (await waiting.result()).is_ok()


async def test_a_worker_told_to_stop_gives_back_what_runs_uncounted(broker: str) -> None:
    worker = Worker(broker=broker, agents=[Sleeper], drain=600.0)
    async with looking(broker) as watch, AgentRuntime(broker=broker) as runtime:
        await worker.start()
        running = await runtime.submit(Sleeper, 600.0)
        await started(1)
        beat = await seen(watch, worker)
        assert await watch.tell(beat, "stop", drain=None, within=SOON)
        await worker.stop()
        assert Sleeper.cancelled.total() == 1
        await running.cancel()


async def test_what_is_told_to_drain_can_still_be_stopped(url: str) -> None:
    worker = Worker(broker=url, agents=[Sleeper], drain=600.0)
    async with looking(url) as watch, AgentRuntime(broker=url) as runtime:
        await worker.start()
        await runtime.submit(Sleeper, 600.0)
        await started(1)
        beat = await seen(watch, worker)
        assert not await watch.tell(beat, "drain", drain=None, within=0.5)
        await seen(watch, worker, lambda beat: beat.state == "draining" and beat.running == 1)
        assert await watch.tell(beat, "stop", drain=None, within=SOON)


async def test_with_keys_only_signed_commands_are_obeyed_and_others_refused_by_name(url: str, keys: Path) -> None:
    worker = Worker(broker=url, agents=[Sleeper], signing_keys=keys, drain=1.0)
    async with looking(url, OURS) as ours, looking(url, THEIRS) as theirs, looking(url) as nobodys, worker:
        beat = await seen(ours, worker)
        assert theirs.seen() == []  # they cannot verify its beats
        with pytest.raises(BadEnvelope, match=r"BadSignature: .* the command is not signed"):
            await nobodys.tell(await seen(nobodys, worker), "stop", drain=None, within=SOON)
        plane = connect(url, prefix="")
        command = Command(v=1, command_id="c", worker_id=beat.worker_id, incarnation=beat.incarnation, verb="stop")
        for body in (
            packed(command, TOPICS, THEIRS),
            packed(command, TOPICS, OURS).replace(b'"stop"', b'"drain"'),
            OURS.sealed(packed(command, TOPICS, None), kind="command", topic=BEATS),
            OURS.sealed(packed(command, TOPICS, None)),
        ):
            await plane.publish(COMMANDS, body)
        after = await seen(ours, worker, lambda one: one.at > beat.at + 1.0)
        assert after.state == "serving"
        assert await ours.tell(beat, "stop", drain=None, within=SOON)


async def test_a_command_for_an_earlier_boot_or_another_worker_is_not_for_this_one(url: str) -> None:
    plane = connect(url, prefix="")
    worker = Worker(broker=url, agents=[Sleeper], drain=1.0)
    async with looking(url) as watch, worker:
        beat = await seen(watch, worker)
        for worker_id, incarnation in ((beat.worker_id, "00000000"), ("another", beat.incarnation)):
            command = Command(v=1, command_id="c", worker_id=worker_id, incarnation=incarnation, verb="stop")
            await plane.publish(COMMANDS, packed(command, TOPICS, None))
        after = await seen(watch, worker, lambda one: one.at > beat.at + 1.0)
        assert after.state == "serving"


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"{}", b"[" * 100_000, b'{"v":2}', b'{"v":1,"worker_id":5}', b"x" * 2_000_000]
)
async def test_bytes_that_are_no_message_harm_neither_worker_nor_watcher(url: str, body: bytes) -> None:
    plane = connect(url, prefix="")
    worker = Worker(broker=url, agents=[Sleeper], drain=1.0)
    async with looking(url) as watch, worker:
        beat = await seen(watch, worker)
        for topic in (COMMANDS, BEATS, "murmur.answers"):
            await plane.publish(topic, body)
        assert await watch.tell(beat, "drain", drain=None, within=SOON)


class _Broken(MemoryControl):
    """A plane that fails in turn in every way it may, and in one it may not."""

    calls = 0

    async def open(self) -> None:
        type(self).calls += 1
        raise (BrokerUnreachable(url="x", after=0.0, problem="away"), ZeroDivisionError())[self.calls % 2]


async def test_a_plane_that_is_away_or_broken_costs_no_task(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Broken, "calls", 0)
    monkeypatch.setattr(wiring, "control", lambda url, **_: _Broken(connect(url, prefix="")._everybody, prefix=""))
    async with Worker(broker=url, agents=[WordStats], drain=1.0), AgentRuntime(broker=url) as runtime:
        async with asyncio.timeout(SOON):
            while _Broken.calls < 15:  # more than restarts a tree stands
                results = await runtime.gather(WordStats, ["a"] * 20)
                assert all(result.metadata.attempts == 1 for result in results)


async def test_without_a_heartbeat_there_is_no_plane(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "control", lambda *_, **__: pytest.fail("asked for a control plane"))
    async with Worker(broker=url, agents=[WordStats], heartbeat=0):
        pass
    with pytest.raises(BadSetting, match="heartbeat must be seconds"):
        Worker(broker=url, agents=[WordStats], heartbeat=0.1)


def test_what_was_signed_for_one_namespace_is_nothing_in_another() -> None:
    command = Command(v=1, command_id="c", worker_id="w", incarnation="i", verb="stop")
    body = packed(command, Topics("a"), OURS)
    assert unpacked(body, Command, Topics("a"), OURS) == command
    with pytest.raises(BadSignature):
        unpacked(body, Command, Topics("b"), OURS)


async def test_a_worker_whose_control_plane_is_refused_says_so_once_and_serves(redis_server: RedisServer) -> None:
    redis_server.call("ACL", "SETUSER", "deaf", "on", ">pass", "~*", "resetchannels", "+@all")
    url = f"redis://deaf:pass@{HOST}:{redis_server.port}"
    refused: list[str] = []
    told = logger.add(
        lambda line: refused.append(line.record["level"].name),
        filter=lambda record: "not ours" in record["message"],
        level=0,
    )
    async with Worker(broker=url, agents=[Sleeper], heartbeat=1.0), AgentRuntime(url) as runtime:
        async with asyncio.timeout(SOON):
            while len(refused) < 3:
                await asyncio.sleep(0.02)
        assert (await runtime.run(Sleeper, 0.0)).is_ok()
    logger.remove(told)
    assert [level for level in refused if level != "TRACE"] == ["WARNING"]


def test_a_line_that_a_library_repeats_is_logged_once() -> None:
    lines: list[str] = []
    told = logger.add(lambda line: lines.append(line.record["message"]))
    library, handler = logging.Logger("a.client"), _ToLoguru()
    library.addHandler(handler)
    for what in ("not authorized", "not authorized", "gone", "not authorized"):
        library.error(what)
    logger.remove(told)
    assert lines == ["a.client: not authorized", "a.client: gone"]
