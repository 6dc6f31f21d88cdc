"""Rights taken from a worker that works, and given back: what runs is kept, one line tells, work goes on."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Protocol

import pytest
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from attrs import frozen
from loguru import logger

from murmur import Actor, AgentRuntime
from murmur.broker_url import BrokerURL
from murmur.transports.kafka_link import KafkaLink
from murmur.worker import Worker
from tests.brokers.fixtures import NatsStarter, RabbitPlace
from tests.brokers.kafka_server import KafkaServer
from tests.brokers.redis_server import RedisServer
from tests.brokers.server import HOST
from tests.worker.test_processes import until

pytestmark = pytest.mark.anyio

WITHIN = 90.0  # seconds after which something was waited for in vain
_TRIES = 4  # refusals that a worker gets over
PASSWORD = "canary-7"


class May(Protocol):
    """Gives the user all rights, or takes them."""

    def __call__(self, *, everything: bool) -> None: ...


@frozen
class Place:
    """A broker with a user whose rights come and go. `publisher`: the URL of another one, who has all rights."""

    worker: str
    publisher: str
    may: May
    store: str | None = None


def _redis(request: pytest.FixtureRequest, _folder: Path) -> Place:
    server: RedisServer = request.getfixturevalue("redis_server")

    def may(*, everything: bool) -> None:
        keys = ("~*", "+@all") if everything else ("resetkeys",)
        server.call("ACL", "SETUSER", "w", "on", f">{PASSWORD}", "&*", *keys)

    return Place(f"redis://w:{PASSWORD}@{HOST}:{server.port}", server.url, may)


def _nats(request: pytest.FixtureRequest, _folder: Path) -> Place:
    start: NatsStarter = request.getfixturevalue("start_nats")
    users = [{"user": "w", "password": PASSWORD, "permissions": {}}, {"user": "p", "password": PASSWORD}]
    server = start(settings=f"authorization {{ users: {json.dumps(users)} }}")
    file = server.folder / "nats.conf"
    text = file.read_text()

    def may(*, everything: bool) -> None:
        none = '"permissions": {"publish": {"deny": [">"]}}'
        file.write_text(text if everything else text.replace('"permissions": {}', none))
        os.kill(server.pid, signal.SIGHUP)

    return Place(f"nats://w:{PASSWORD}@{HOST}:{server.port}", f"nats://p:{PASSWORD}@{HOST}:{server.port}", may)


def _rabbitmq(request: pytest.FixtureRequest, folder: Path) -> Place:
    place: RabbitPlace = request.getfixturevalue("rabbitmq")
    user = f"w-{place.vhost}"
    place.server.call(f'catch rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"{PASSWORD}">>, <<"test">>)')

    def may(*, everything: bool) -> None:
        rights = ", ".join(['<<".*">>' if everything else '<<"">>'] * 3)
        place.server.call(
            f'rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{place.vhost}">>, {rights}, <<"test">>)'
        )

    may(everything=True)
    return Place(
        place.server.at(place.vhost, user=user, password=PASSWORD), place.url, may, f"sqlite:///{folder}/rows.db"
    )


def _kafka(request: pytest.FixtureRequest, folder: Path) -> Place:
    server: KafkaServer = request.getfixturevalue("start_kafka")(users={"root": PASSWORD, "w": PASSWORD})

    async def change(kind: type[CreateAclsRequest | DeleteAclsRequest]) -> None:
        link = KafkaLink(BrokerURL.parse(at("root")), client_id="operator")
        await link.open()
        for resource, name in ((_TOPIC, "*"), (_GROUP, "*"), (_CLUSTER, "kafka-cluster")):
            await link.admin._send_to_controller(kind(resource, name, _LITERAL, "User:w", "*", _ALL, _ALLOW))
        await link.close()

    def at(user: str) -> str:
        return f"kafka://{user}:{PASSWORD}@{HOST}:{server.port}?partitions=1"

    def may(*, everything: bool) -> None:
        asyncio.run(change(CreateAclsRequest if everything else DeleteAclsRequest))

    return Place(at("w"), at("root"), may, f"sqlite:///{folder}/rows.db")


_TOPIC, _GROUP, _CLUSTER, _LITERAL, _ALL, _ALLOW = 2, 3, 4, 3, 2, 3  # as Kafka counts


@pytest.fixture(
    params=[_redis, _nats, _rabbitmq, pytest.param(_kafka, marks=pytest.mark.soak)],
    ids=["redis", "nats", "rabbitmq", "kafka"],
)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    made: Place = request.param(request, tmp_path)
    await asyncio.to_thread(made.may, everything=True)
    return made


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """Return what is logged: level and text."""
    lines: list[tuple[str, str]] = []
    sink = logger.add(lambda line: lines.append((line.record["level"].name, line.record["message"])), level="TRACE")
    yield lines
    logger.remove(sink)


class Patient(Actor[int, int]):
    """Ends when the test says so."""

    begun: ClassVar[list[int]]
    may_end: ClassVar[asyncio.Event]

    async def receive(self, number: int) -> int:
        self.begun.append(number)
        await self.may_end.wait()
        return number


async def test_a_worker_keeps_what_runs_says_so_once_and_goes_on_when_it_may_again(
    place: Place, told: list[tuple[str, str]]
) -> None:
    Patient.begun, Patient.may_end = [], asyncio.Event()
    worker = Worker(broker=place.worker, store=place.store, agents=[Patient], heartbeat=0, drain=5.0)
    async with worker, AgentRuntime(place.publisher, store=place.store) as runtime, asyncio.timeout(WITHIN):
        first = asyncio.ensure_future(runtime.run(Patient, 1))
        await until(lambda: Patient.begun, WITHIN)
        await asyncio.to_thread(place.may, everything=False)
        second = asyncio.ensure_future(runtime.run(Patient, 2))
        Patient.may_end.set()
        await until(lambda: sum("E112" in text for _, text in told) >= _TRIES, WITHIN)
        await asyncio.to_thread(place.may, everything=True)
        assert (await first).unwrap() == 1
        assert (await second).unwrap() == 2
    assert sorted(Patient.begun) == [1, 2]
    # NATS may take the row of a result and no more, just then: whoever waits for that asks the store.
    (line,) = [text for level, text in told if level in ("WARNING", "ERROR") and "must ask" not in text]
    assert "E112" in line
    assert PASSWORD not in line
