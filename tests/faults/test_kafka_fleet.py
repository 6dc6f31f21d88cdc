"""Workers and the broker die, on a real Kafka with real processes, rows in a file: a small twin of the Redis fleet."""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from murmur import AgentRuntime, Remote
from tests.brokers.kafka_server import KafkaServer
from tests.faults.conftest import Fleet

pytestmark = [pytest.mark.soak, pytest.mark.anyio]
WORK = Remote("work")
PATIENTLY = 60.0  # seconds


class Place:
    """One namespace on a broker, with rows of its own."""

    def __init__(self, broker: str, folder: Path, namespace: str, *, lease: int = 2_000) -> None:
        self.broker, self.store, self.namespace = broker, f"sqlite:///{folder}/rows.db", namespace
        self.options = ("--store", self.store, "--namespace", namespace, "--reclaim-min-idle-ms", str(lease))

    def runtime(self) -> AgentRuntime:
        return AgentRuntime(self.broker, store=self.store, namespace=self.namespace)


@pytest.fixture
def place(kafka_url: str, tmp_path: Path) -> Place:
    return Place(kafka_url, tmp_path, f"fleet-{secrets.token_hex(4)}")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENTLY):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_killed_workers_tasks_run_again_and_no_others_on_kafka(place: Place, fleet: Fleet) -> None:
    doomed = fleet.start(place.broker, "--concurrency", "5", *place.options)
    fleet.start(place.broker, "--concurrency", "5", *place.options)
    async with place.runtime() as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.2] * 120))
        await until(lambda: len(fleet.running_on(doomed.pid)) >= 3 and len(fleet.events("end")) >= 10)
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.wait()
        lost = fleet.running_on(doomed.pid)
        results = await asyncio.wait_for(gathering, PATIENTLY)
    assert all(result.is_ok() for result in results)
    again = {task for task, times in fleet.starts().items() if times > 1}
    assert again <= lost


async def test_tasks_of_five_leases_run_once_while_others_come_and_go_on_kafka(place: Place, fleet: Fleet) -> None:
    fleet.start(place.broker, "--concurrency", "10", *place.options)
    async with place.runtime() as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [10.0] * 10))
        await until(lambda: len(fleet.events("start")) == 10)
        guest = fleet.start(place.broker, "--concurrency", "10", *place.options)
        async with asyncio.timeout(PATIENTLY):  # the other one is full
            while all(int(pid) != guest.pid for _, _, pid in fleet.events("end")):
                assert (await runtime.run(WORK, 0.01)).is_ok()
        guest.terminate()
        assert await asyncio.to_thread(guest.wait, PATIENTLY) == 0
        results = await asyncio.wait_for(gathering, PATIENTLY)
    assert all(result.is_ok() for result in results)
    assert set(fleet.starts().values()) == {1}


async def test_a_broker_that_dies_and_comes_back_loses_nothing_on_kafka(
    start_kafka: Callable[..., KafkaServer], tmp_path: Path, fleet: Fleet
) -> None:
    server = start_kafka()
    place = Place(f"{server.url}?partitions=4", tmp_path, "", lease=10_000)
    fleet.start(place.broker, "--concurrency", "10", *place.options)
    async with place.runtime() as runtime:
        gathering = asyncio.ensure_future(runtime.gather(WORK, [0.05] * 150, max_concurrency=30))
        await until(lambda: len(fleet.events("end")) >= 20)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        results = await asyncio.wait_for(gathering, PATIENTLY)
    assert [result.unwrap() for result in results] == [0.05] * 150
