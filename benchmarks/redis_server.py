"""A redis-server of the benchmark's own: a free port, nothing on disk, killed by its pid."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen
from redis import ConnectionError as NotUp
from redis import Redis

START_DEADLINE = 10.0  # seconds


@frozen
class RedisServer:
    """A running server."""

    url: str
    pid: int

    def calls(self) -> int:
        """Return the commands served so far, the ones that scripts call included."""
        with Redis.from_url(self.url) as client:
            stats = client.info("commandstats")
        return sum(command["calls"] for command in stats.values())

    def used_bytes(self) -> int:
        """Return the memory its data takes."""
        with Redis.from_url(self.url) as client:
            return int(client.info("memory")["used_memory"])


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Start a server without persistence, and kill it at the end."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("redis-server is not installed; the benchmarks start their own (apt install redis-server)")
    port = _free_port()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        server = RedisServer(url=f"redis://127.0.0.1:{port}/0", pid=process.pid)
        _wait_until_up(server.url)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_up(url: str) -> None:
    deadline = time.monotonic() + START_DEADLINE
    with Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
            except NotUp:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
