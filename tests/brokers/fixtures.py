"""Fixtures that hand out real servers, and show their logs when a test fails.

A broker that is not installed skips the test and says how to get it. With CI=true the test
fails instead: a build that silently tests less than it should is worse than none.
"""

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from attrs import frozen

from tests.brokers.certificates import Certificates, made_in
from tests.brokers.kafka_server import KafkaServer
from tests.brokers.nats_server import NatsServer
from tests.brokers.rabbitmq_server import RabbitServer
from tests.brokers.redis_server import Fsync, RedisServer
from tests.brokers.server import HOST, Server
from tests.brokers.sharing import shared

S = TypeVar("S", bound=Server)

_used: Final = pytest.StashKey[list[Server]]()  # of a test: the servers it had


def require(kind: type[Server]) -> None:
    """Go on if this broker is installed; else skip, or fail where CI=true."""
    if kind.is_installed():
        return
    reason = f"{kind.name} is not installed: {kind.binary} is not on the PATH. Get it: {kind.get_it}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def one_for_all(
    request: pytest.FixtureRequest,
    name: str,
    start: Callable[[Path], tuple[Server, str]],
    answers: Callable[[str], bool],
) -> str:
    """Return the address of a server that all processes of a run share; it ends once they are done.

    Not as a fixture ends: that is counted to the last test of a process, whose time is bounded.
    """
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    uses = contextlib.ExitStack()
    address = uses.enter_context(shared(root / name, start, answers))
    request.config.add_cleanup(uses.close)
    return address


def is_open(port: int) -> bool:
    """Say whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def lend(request: pytest.FixtureRequest, server: S) -> S:
    """Note that a test uses this server, so that its log is shown if the test fails."""
    request.node.stash.setdefault(_used, []).append(server)
    return server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and what it signed."""
    return made_in(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The one Redis behind `redis_server`. Tests ask for that, which is empty."""
    require(RedisServer)
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(request: pytest.FixtureRequest, shared_redis: RedisServer) -> RedisServer:
    """A Redis without keys, shared by all tests one after another: leave it running."""
    if not shared_redis.is_running():
        raise AssertionError("an earlier test ended the shared Redis; such a test uses start_redis")
    shared_redis.flush()
    return lend(request, shared_redis)


@frozen
class RedisStarter:
    """Starts Redis servers for one test, each with a folder and a port of its own."""

    make_folder: Callable[[], Path]
    lend: Callable[[RedisServer], RedisServer]

    def __call__(
        self,
        *,
        aof: bool = False,
        fsync: Fsync = "everysec",
        password: str | None = None,
        unix: bool = False,
        tls: Certificates | None = None,
    ) -> RedisServer:
        """Return a new Redis that answers; see `RedisServer` for the options."""
        server = RedisServer(self.make_folder(), aof=aof, fsync=fsync, password=password, unix=unix, tls=tls)
        self.lend(server).start()
        return server


@pytest.fixture
def start_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisStarter]:
    """Start Redis servers of a test's own, to be killed, paused and restarted; gone when it ends."""
    require(RedisServer)
    with contextlib.ExitStack() as ends:

        def own(server: RedisServer) -> RedisServer:
            ends.callback(server.kill)
            return lend(request, server)

        yield RedisStarter(lambda: tmp_path_factory.mktemp("redis"), own)


@frozen
class NatsStarter:
    """Starts NATS servers for one test, each with a folder and a port of its own."""

    make_folder: Callable[[], Path]
    lend: Callable[[NatsServer], NatsServer]

    def __call__(
        self,
        *,
        jetstream: bool = True,
        password: str | None = None,
        permissions: Mapping[str, object] | None = None,
        certificate: tuple[Path, Path] | None = None,
        authority: Path | None = None,
        settings: str = "",
    ) -> NatsServer:
        """Return a new NATS that answers; see `NatsServer` for the options."""
        server = NatsServer(
            self.make_folder(),
            jetstream=jetstream,
            password=password,
            permissions=permissions,
            certificate=certificate,
            authority=authority,
            settings=settings,
        )
        self.lend(server).start()
        return server


@pytest.fixture
def start_nats(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsStarter]:
    """Start NATS servers of a test's own, to be killed, paused and restarted; gone when it ends."""
    require(NatsServer)
    with contextlib.ExitStack() as ends:

        def own(server: NatsServer) -> NatsServer:
            ends.callback(server.kill)
            return lend(request, server)

        yield NatsStarter(lambda: tmp_path_factory.mktemp("nats"), own)


@pytest.fixture(scope="session")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """The one NATS behind `nats_server`."""
    require(NatsServer)
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def nats_server(request: pytest.FixtureRequest, shared_nats: NatsServer) -> NatsServer:
    """A NATS shared by all tests one after another: leave it running, and use names of your own."""
    if not shared_nats.is_running():
        raise AssertionError("an earlier test ended the shared NATS; such a test uses start_nats")
    return lend(request, shared_nats)


@pytest.fixture(scope="session")
def shared_kafka(request: pytest.FixtureRequest) -> str:
    """The address of the one Kafka of all test processes. Tests keep to names of their own on it, and never end it."""
    require(KafkaServer)

    def start(folder: Path) -> tuple[KafkaServer, str]:
        server = KafkaServer(folder)
        server.start()
        return server, server.url

    return one_for_all(request, "kafka", start, lambda url: is_open(int(url.rpartition(":")[2])))


@pytest.fixture
def kafka_url(shared_kafka: str) -> str:
    """A Kafka that runs already; topics get few partitions."""
    return f"{shared_kafka}?partitions=4"


@pytest.fixture
def start_kafka(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., KafkaServer]]:
    """Start Kafkas of a test's own, with the arguments of `KafkaServer`; gone when it ends."""
    require(KafkaServer)
    with contextlib.ExitStack() as ends:

        def start(**settings: Any) -> KafkaServer:
            server = KafkaServer(tmp_path_factory.mktemp("kafka"), **settings)
            ends.callback(server.kill)
            lend(request, server).start()
            return server

        yield start


_vhosts = itertools.count(1)


@frozen
class RabbitPlace:
    """A virtual host for one test."""

    server: RabbitServer
    vhost: str

    @property
    def url(self) -> str:
        """Where a client finds it."""
        return self.server.at(self.vhost)


@pytest.fixture(scope="session")
def shared_rabbitmq(request: pytest.FixtureRequest) -> RabbitServer:
    """The one RabbitMQ of all test processes: each test has a virtual host of its own on it."""
    require(RabbitServer)

    def start(folder: Path) -> tuple[RabbitServer, str]:
        server = RabbitServer(folder)
        server.start()
        return server, str(folder)

    def answers(folder: str) -> bool:
        return RabbitServer.attached(Path(folder)).answers()

    return RabbitServer.attached(Path(one_for_all(request, "rabbitmq", start, answers)))


@pytest.fixture
def rabbitmq(request: pytest.FixtureRequest, shared_rabbitmq: RabbitServer) -> Iterator[RabbitPlace]:
    """An empty virtual host on the shared RabbitMQ: leave the server running."""
    vhost = f"{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}-{os.getpid()}-{next(_vhosts)}"
    lend(request, shared_rabbitmq).add_vhost(vhost)
    yield RabbitPlace(shared_rabbitmq, vhost)
    shared_rabbitmq.delete_vhost(vhost)


@frozen
class RabbitStarter:
    """Starts RabbitMQ nodes for one test, each with everything of its own."""

    make_folder: Callable[[], Path]
    lend: Callable[[RabbitServer], RabbitServer]

    def __call__(self, *, settings: tuple[str, ...] = (), terms: str = "") -> RabbitServer:
        """Return a new RabbitMQ that answers; see `RabbitServer` for the options."""
        server = RabbitServer(self.make_folder(), settings=settings, terms=terms)
        self.lend(server).start()
        return server


@pytest.fixture
def start_rabbitmq(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitStarter]:
    """Start RabbitMQ nodes of a test's own, to be killed and restarted; gone when it ends."""
    require(RabbitServer)
    with contextlib.ExitStack() as ends:

        def own(server: RabbitServer) -> RabbitServer:
            ends.callback(server.kill)
            return lend(request, server)

        yield RabbitStarter(lambda: tmp_path_factory.mktemp("rabbitmq"), own)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the end of each server's log under the failure of the test that used it."""
    report = yield
    if report.failed:
        for server in item.stash.get(_used, []):
            report.sections.append((f"{server.name} on port {server.port}, end of its log", server.log()))
    return report
