"""The doctor's findings, each on a real server that has the trouble, and none on one that has not."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from murmur import Actor, AgentRuntime, wiring
from murmur.doctor import Finding, Severity
from murmur.errors import Unsafe
from murmur.transports import redis_doctor
from murmur.worker import Worker
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
Start = Callable[..., RedisServer]


class Echo(Actor[str, str]):
    async def receive(self, text: str) -> str:
        return text


async def examined(server: RedisServer, url: str | None = None) -> list[Finding]:
    return await wiring.examine(url or server.url, namespace="")


def has(found: list[Finding], severity: Severity, invariant: str, what: str) -> bool:
    return any(one.severity is severity and one.invariant == invariant and what in one.what for one in found)


async def test_a_server_that_keeps_everything_has_nothing_to_mend(start_redis: Start) -> None:
    server = start_redis(aof=True)
    server.call("CONFIG", "SET", "appendfsync", "always")
    assert [one for one in await examined(server) if one.severity is not Severity.NOTE] == []


async def test_each_trouble_is_found_with_its_invariant_and_a_command_that_mends_it(start_redis: Start) -> None:
    server = start_redis()
    for setting, value, severity, invariant, what in (
        ("save", "", Severity.BROKEN, "I1", "nothing is kept"),
        ("save", "3600 1", Severity.BROKEN, "I1", "only snapshots"),
        ("appendonly", "yes", Severity.NOTE, "I1", "two seconds"),
        ("appendfsync", "no", Severity.RISK, "I1", "a power loss"),
        ("maxmemory-policy", "allkeys-lru", Severity.RISK, "I2", "allkeys-lru"),
        ("maxmemory", "100mb", Severity.BROKEN, "I2", "thrown away"),
        ("timeout", "60", Severity.NOTE, "I10", "idle"),
    ):
        server.call("CONFIG", "SET", setting, value)
        found = await examined(server)
        assert has(found, severity, invariant, what), (setting, value, found)
        assert all(one.mend for one in found)
    for one in [finding for finding in found if finding.mend.startswith("redis-cli CONFIG SET")]:
        words = one.mend.split(",")[0].split()[1:]
        server.call(*words)
    assert not any(one.severity is Severity.BROKEN for one in await examined(server))


async def test_memory_that_runs_out_is_told(start_redis: Start) -> None:
    server = start_redis(aof=True)
    server.call("SET", "big", "x" * 3_000_000)
    server.call("CONFIG", "SET", "maxmemory", "4mb")
    assert has(await examined(server), Severity.RISK, "I1", "of its memory is in use")


async def test_a_replica_that_may_be_written_to_is_found(start_redis: Start) -> None:
    primary, replica = start_redis(aof=True), start_redis(aof=True)
    replica.call("REPLICAOF", "127.0.0.1", str(primary.port))
    replica.call("CONFIG", "SET", "replica-read-only", "no")
    assert has(await examined(replica), Severity.BROKEN, "I1", "this is a replica")


async def test_missing_rights_are_named_with_the_command_that_gives_them(start_redis: Start) -> None:
    server = start_redis(aof=True)
    server.call("ACL", "SETUSER", "weak", "on", ">pass", "~*", "&*", "+@all", "-xadd", "-eval", "-evalsha")
    url = f"redis://weak:pass@127.0.0.1:{server.port}"
    found = [one for one in await examined(server, url) if one.invariant == "I22"]
    assert "weak may not use EVAL, XADD" in found[0].what
    words = found[0].mend.split()
    assert words[:4] == ["redis-cli", "ACL", "SETUSER", "weak"]
    server.call(*words[1:])
    assert not any("may not use" in one.what for one in await examined(server, url))
    assert server.call("DBSIZE") == "0"  # nothing of ours is left


async def test_a_user_without_channels_is_told_what_does_not_work_though_tasks_do(start_redis: Start) -> None:
    server = start_redis(aof=True)
    server.call("ACL", "SETUSER", "deaf", "on", ">pass", "~*", "resetchannels", "+@all")
    url = f"redis://deaf:pass@127.0.0.1:{server.port}"
    async with Worker(broker=url, agents=[Echo], heartbeat=0), AgentRuntime(url) as runtime:
        assert (await runtime.run(Echo, "x")).is_ok()
    (found,) = [one for one in await examined(server, url) if one.invariant == "I22"]
    assert found.severity is Severity.RISK
    assert "neither watched nor commanded, and what runs cannot be cancelled" in found.what
    server.call(*found.mend.split()[1:])
    assert not any(one.invariant == "I22" for one in await examined(server, url))


async def test_consumers_that_hold_tasks_in_silence_and_mailboxes_nobody_reads_are_found(
    start_redis: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_redis(aof=True)
    monkeypatch.setattr(redis_doctor, "_SILENT", 0.05)
    monkeypatch.setattr(redis_doctor, "_MANY", 5)
    server.call("XGROUP", "CREATE", "echo.tasks", "workers", "0", "MKSTREAM")
    for _ in range(7):
        server.call("XADD", "echo.tasks", "*", "d", "x")
    server.call("XREADGROUP", "GROUP", "workers", "gone", "COUNT", "2", "STREAMS", "echo.tasks", ">")
    server.call("XADD", "echo.dead", "*", "d", "x")
    await asyncio.sleep(0.2)
    found = await examined(server)
    assert has(found, Severity.RISK, "I10", "gone holds 2 tasks of echo")
    assert has(found, Severity.RISK, "I16", "7 tasks of echo wait")
    assert has(found, Severity.NOTE, "I9", "1 dead letters")


async def test_a_clock_that_is_off_is_told(start_redis: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_redis(aof=True)
    real = time.time
    monkeypatch.setattr(redis_doctor.time, "time", lambda: real() + 90)
    assert has(await examined(server), Severity.RISK, "I19", "90 s ahead of")


async def test_strict_refuses_by_name_and_a_start_without_it_says_so(
    start_redis: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_redis()
    server.call("CONFIG", "SET", "save", "")
    with pytest.raises(Unsafe, match="I1 broken: nothing is kept"):
        await Worker(broker=server.url, agents=[Echo], strict=True).start()
    async with AgentRuntime(broker=server.url, strict=True) as strict:
        with pytest.raises(Unsafe, match="appendonly yes"):
            await strict.run(Echo, "x")
    capsys.readouterr()
    async with AgentRuntime(broker=server.url) as runtime, Worker(broker=server.url, agents=[Echo]):
        assert (await runtime.run(Echo, "x")).unwrap() == "x"
    assert "I1 broken: nothing is kept" in capsys.readouterr().err
    server.call("CONFIG", "SET", "appendonly", "yes")
    async with (
        AgentRuntime(broker=server.url, strict=True) as runtime,
        Worker(broker=server.url, agents=[Echo], strict=True),
    ):
        assert (await runtime.run(Echo, "x")).unwrap() == "x"


def test_the_command_tells_and_its_exit_code_says_it(start_redis: Start) -> None:
    server = start_redis(password="canary-9")
    server.call("CONFIG", "SET", "save", "")

    def doctor(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "murmur.cli.main", "doctor", "--broker", server.url, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

    done = doctor()
    assert done.returncode == 1
    assert "broken  I1" in done.stdout
    assert "canary-9" not in done.stdout + done.stderr
    assert json.loads(doctor("--json").stdout.splitlines()[0])["severity"] == "broken"
    server.call("CONFIG", "SET", "appendonly", "yes")
    server.call("CONFIG", "SET", "appendfsync", "always")
    assert doctor().returncode == 0
    memory = [sys.executable, "-m", "murmur.cli.main", "doctor", "--broker", "memory://"]
    assert subprocess.run(memory, cwd=ROOT, capture_output=True, text=True, check=False).returncode == 1
