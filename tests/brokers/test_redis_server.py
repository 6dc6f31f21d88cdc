"""The Redis launcher does what tests of crashes rely on."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.brokers.fixtures import RedisStarter, require
from tests.brokers.redis_server import RedisRefused, RedisServer
from tests.brokers.server import Server, ServerFailed, free_port

ROOT = Path(__file__).parents[2]


def lives(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, *, within: float) -> bool:
    deadline = time.monotonic() + within
    while lives(pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


class Mute(Server):
    """A server that starts and never answers."""

    name = "Mute"
    binary = "sh"
    get_it = "it is there"
    ready_within = 0.2

    url = "none://"

    def command(self) -> list[str]:
        return ["sh", "-c", "echo here is why; exec sleep 60"]

    def answers(self) -> bool:
        return False


class Missing(Mute):
    """A server that is nowhere installed."""

    name = "Missing"
    binary = "no-such-server-anywhere"
    get_it = "apt-get install it"


class TakenAtFirst(RedisServer):
    """A Redis whose first port is taken by somebody else."""

    def command(self) -> list[str]:
        if not self.log_file.exists():
            self.port = self.taken
        return super().command()

    taken = 0


def test_the_shared_redis_is_empty_for_every_test(redis_server: RedisServer) -> None:
    assert redis_server.call("DBSIZE") == "0"
    redis_server.call("SET", "left", "over")


def test_the_shared_redis_is_empty_again(redis_server: RedisServer) -> None:
    assert redis_server.call("DBSIZE") == "0"
    redis_server.call("SET", "left", "over")


def test_what_an_aof_holds_outlives_kill(start_redis: RedisStarter) -> None:
    server = start_redis(aof=True)
    url, pid = server.url, server.pid
    server.call("SET", "k", "v")
    server.kill()
    assert not lives(pid)
    assert not server.answers()
    server.start()
    assert (server.url, server.call("DBSIZE")) == (url, "1")
    assert server.pid != pid


def test_without_aof_a_restart_forgets(start_redis: RedisStarter) -> None:
    server = start_redis()
    server.call("SET", "k", "v")
    server.restart()
    assert server.call("DBSIZE") == "0"


def test_a_paused_server_is_silent_and_resumes(start_redis: RedisStarter) -> None:
    server = start_redis()
    server.pause()
    assert server.is_running()
    assert not server.answers()
    server.resume()
    assert server.answers()


def test_a_paused_server_stops(start_redis: RedisStarter) -> None:
    server = start_redis()
    server.pause()
    began = time.monotonic()
    server.stop()
    assert not server.is_running()
    assert time.monotonic() - began < server.stop_within


def test_a_password_is_asked_for_and_in_no_process_list(start_redis: RedisStarter) -> None:
    password = 'p a"s\\s/w@rd:é'
    server = start_redis(password=password)
    assert server.call("PING") == "PONG"
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
    server.password = None
    with pytest.raises(RedisRefused, match="NOAUTH"):
        server.call("PING")


def test_a_unix_socket_is_there_when_asked_for(start_redis: RedisStarter) -> None:
    server = start_redis(unix=True)
    assert server.socket_file is not None
    assert server.socket_file.is_socket()
    assert str(server.socket_file) in server.unix_url


def test_a_server_started_by_a_thread_outlives_that_thread(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.start).result()
    try:
        assert not gone(server.pid, within=0.3)
        assert server.answers()
    finally:
        server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PDEATHSIG")
def test_a_server_dies_with_a_killed_test_run(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from tests.brokers.redis_server import RedisServer\n"
        "server = RedisServer(pathlib.Path(sys.argv[1])); server.start(); print(server.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert lives(pid)
        os.kill(run.pid, signal.SIGKILL)
    assert gone(pid, within=30)


def test_a_port_taken_meanwhile_is_replaced(tmp_path: Path, redis_server: RedisServer) -> None:
    server = TakenAtFirst(tmp_path, password="own")
    server.taken = redis_server.port
    with server:
        assert server.port != redis_server.port
        assert "in use" in server.log()


def test_a_server_that_never_answers_fails_with_its_log(tmp_path: Path) -> None:
    server = Mute(tmp_path)
    with pytest.raises(ServerFailed, match="here is why"):
        server.start()
    assert not server.is_running()


def test_a_server_that_ends_at_once_fails_with_its_log(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, fsync="no-such-choice")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ServerFailed, match="appendfsync"):
        server.start()


def test_a_missing_server_skips_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install it"):
        require(Missing)


def test_a_missing_server_fails_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install it"):
        require(Missing)


def test_a_failing_test_shows_the_log_of_its_server(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest('pytest_plugins = ["tests.brokers.fixtures"]')
    pytester.makepyfile("def test_it(start_redis):\n    start_redis()\n    assert False")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--rootdir", str(pytester.path))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Redis on port * end of its log*", "*Ready to accept connections*"])


def test_free_ports_are_free() -> None:
    assert 1024 < free_port() < 65536
