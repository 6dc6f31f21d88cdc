"""A server, a worker process and a publisher process of one system, up and warm, asked from here."""

import importlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import msgspec
from attrs import frozen

from benchmarks.clocks import cpu_seconds
from benchmarks.redis_server import redis_server

OWN_STORE = ""
ANSWER_DEADLINE = 300.0  # seconds; a side that is silent for longer hangs


class Server(Protocol):
    """What a broker's module starts."""

    @property
    def url(self) -> str: ...
    @property
    def pid(self) -> int: ...


@frozen
class Side:
    """A process of `side.py`."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, do: str, tasks: int) -> Any:
        """Let it do something and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode({"do": do, "tasks": tasks}) + b"\n")
        self.process.stdin.flush()
        return self.wait()

    def wait(self) -> Any:
        """Wait for its next answer. Raises RuntimeError, when it ended or hangs."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], ANSWER_DEADLINE)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            raise RuntimeError(f"{self.process.args!r} {'ended' if readable else 'hangs'}; its stderr is above")
        return msgspec.json.decode(line)


@frozen
class Cpu:
    """CPU seconds used so far, by process."""

    publisher: float
    worker: float
    server: float

    def since(self, before: "Cpu") -> "Cpu":
        return Cpu(self.publisher - before.publisher, self.worker - before.worker, self.server - before.server)


@frozen
class Session:
    """One system under test."""

    server: Server
    worker: Side
    publisher: Side
    store: Server | None = None  # beside the broker

    def cpu(self) -> Cpu:
        beside = 0.0 if self.store is None else cpu_seconds(self.store.pid)
        publisher, worker, server = (cpu_seconds(part.pid) for part in (self.publisher, self.worker, self.server))
        return Cpu(publisher, worker, server + beside)


@contextmanager
def session(
    system: str, agent: str, *, warm_up: int, broker: str = "redis", store: str = OWN_STORE
) -> Iterator[Session]:
    """Start one system, "raw" or "fleet", on a broker, and run `warm_up` tasks through it.

    `store`: where murmur keeps its rows: in the broker, in a "redis" of its own beside it, or nowhere, "none".
    """
    started = importlib.import_module(f"benchmarks.brokers.{broker}").server
    system = f"brokers.{broker}" if system == "raw" else system
    with ExitStack() as stack:
        server: Server = stack.enter_context(started())
        beside = stack.enter_context(redis_server()) if store == "redis" else None
        rows = () if store == OWN_STORE else (store if beside is None else beside.url,)
        worker = stack.enter_context(side("worker", system, server.url, agent, *rows))
        publisher = stack.enter_context(side("publisher", system, server.url, agent, *rows))
        if warm_up:
            publisher.ask("fan_out", warm_up)
        yield Session(server, worker, publisher, beside)


@contextmanager
def side(role: str, system: str, *arguments: str) -> Iterator[Side]:
    """Start one process of `side.py`, and end it by closing its stdin."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.side", role, system, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    with ExitStack() as stack:
        stack.callback(_end, process)
        started = Side(process)
        started.wait()
        yield started


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
