"""A fleet of real worker processes on a real broker, and the ledger of what they started and ended."""

import asyncio
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.server import LEASH
from tests.faults.places import Place, own, shared

ROOT = Path(__file__).parents[2]
APP = str(Path(__file__).with_name("fleet_agents.py"))


BROKERS = ("redis", "nats", "rabbitmq", "kafka")


async def until(holds: Callable[[], Any], within: float = 90.0) -> Any:
    """Wait for what must come to hold, and return it."""
    async with asyncio.timeout(within):
        while not (held := holds()):
            await asyncio.sleep(0.02)
    return held


class Fleet:
    """Starts workers, and reads their ledger."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._events: defaultdict[str, list[list[str]]] = defaultdict(list)
        self._read = 0  # bytes of the ledger, which are not read again

    def start(self, broker: str, *arguments: str, app: str = APP) -> subprocess.Popen[bytes]:
        """Start a worker, which leads a process group as in a terminal."""
        leash = (sys.executable, "-I", "-S", str(LEASH), str(os.getpid()))  # they die with the tests
        command = (*leash, sys.executable, "-m", "murmur.cli.main", "worker", "start", "--app", app, "--broker", broker)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MURMUR_")}
        # Nobody watches: what a control plane takes to import would be measured as the fleet's.
        environment = {**clean, "PYTHONPATH": str(ROOT), "LEDGER": str(self.ledger), "MURMUR_HEARTBEAT": "0"}
        log = (self.ledger.parent / f"worker-{len(self.workers)}.log").open("wb")
        worker = subprocess.Popen([*command, *arguments], env=environment, stderr=log, stdout=log, process_group=0)
        log.close()
        self.workers.append(worker)
        return worker

    def events(self, kind: str) -> list[list[str]]:
        """Return the ledger's lines of a kind: task id, token, pid."""
        if self.ledger.exists():
            with self.ledger.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # who writes may be at it
            self._read += len(whole)
            for line in whole.decode().splitlines():
                found, *rest = line.split()
                self._events[found].append(rest)
        return self._events[kind]

    def starts(self) -> Counter[str]:
        """Return how often each task was started."""
        return Counter(task for task, _, _ in self.events("start"))

    def running_on(self, pid: int) -> set[str]:
        """Return the tasks that a process started and did not end."""
        mine = {(task, token) for task, token, by in self.events("start") if int(by) == pid}
        return {task for task, _ in mine - {(task, token) for task, token, _ in self.events("end")}}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    for worker in fleet.workers:
        worker.kill()
        worker.wait()


@pytest.fixture(params=BROKERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place on each broker in turn."""
    return shared(request, tmp_path)


@pytest.fixture(params=["redis", "nats", "kafka", pytest.param("rabbitmq", marks=pytest.mark.soak)])
def own_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place on each broker in turn, whose server may be killed; RabbitMQ takes long to start."""
    return own(request, tmp_path)
