"""The brokers a fleet is tested on, and what is promised of each, as data.

A place is a namespace on a broker, with a store that all processes share. `Place.own` has a server of its own, which
may be killed. What is promised is printed beside what was measured; a test allows a busy machine `SLACK` more.
"""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen

from murmur import AgentRuntime
from tests.brokers.server import Server

LEASE: Final = 2.0  # seconds
SLACK: Final = 40.0  # seconds
# With `everysec` Redis answers what it has not written yet while a sync is slow, and loses that when killed.
# A Kafka so busy that its controller drops it as it starts may end up with a coordinator of groups that is broken.
# RabbitMQ closes the channel of a consumer that holds a message for longer than a minute, the least it supports.
_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "redis": {"aof": True, "fsync": "always"},
    "kafka": {"settings": {"broker.session.timeout.ms": "4000"}},
    "rabbitmq": {"terms": "{consumer_timeout, 60000}, {channel_tick_interval, 1000}"},
}
_AGENTS: Final = ("--agents", "attempt")


@frozen
class Promise:
    """How soon a fleet on a broker must get over what."""

    node_killed: float  # seconds until what it ran begins elsewhere
    makespan: float  # how many times as long as it could, a burst of equal tasks may take over three nodes
    restarts: int = 3  # of the broker in one test of every build


# RabbitMQ and Kafka take seconds of a processor to start. On Kafka a burst is shared out as partitions allow.
PROMISES: Final = {
    "redis": Promise(node_killed=LEASE + 2.0, makespan=1.4),
    "nats": Promise(node_killed=LEASE + 2.0, makespan=1.4),
    "rabbitmq": Promise(node_killed=2.0, makespan=1.4, restarts=1),
    "kafka": Promise(node_killed=LEASE + 2.0, makespan=3.0, restarts=1),
}


@frozen
class Place:
    """Where one test's fleet is."""

    name: str
    broker: str
    store: str | None = None
    namespace: str = ""
    server: Server | None = None  # of its own

    @property
    def promise(self) -> Promise:
        """What is promised here."""
        return PROMISES[self.name]

    def options(self, *, lease: float = LEASE) -> tuple[str, ...]:
        """Return what a worker is told to be in this place."""
        store = () if self.store is None else ("--store", self.store)
        return (*store, "--namespace", self.namespace, "--reclaim-min-idle-ms", str(round(lease * 1_000)), *_AGENTS)

    def runtime(self, **settings: Any) -> AgentRuntime:
        """Return a publisher in this place."""
        return AgentRuntime(self.broker, store=self.store, namespace=self.namespace, **settings)


def shared(request: pytest.FixtureRequest, folder: Path) -> Place:
    """Return a place on the server that all tests share."""
    name: str = request.param
    if name == "redis":
        return Place(name, request.getfixturevalue("redis_server").url)
    if name == "rabbitmq":
        return Place(name, request.getfixturevalue("rabbitmq").url, _beside(folder))
    namespace = f"fleet-{secrets.token_hex(4)}"
    if name == "nats":
        return Place(name, request.getfixturevalue("nats_server").url, namespace=namespace)
    return Place(name, request.getfixturevalue("kafka_url"), _beside(folder), namespace)


def own(request: pytest.FixtureRequest, folder: Path) -> Place:
    """Return a place whose server is nobody else's."""
    name: str = request.param
    start: Callable[..., Server] = request.getfixturevalue(f"start_{name}")
    server = start(**_SETTINGS.get(name, {}))
    broker = f"{server.url}?partitions=4" if name == "kafka" else server.url
    return Place(name, broker, _beside(folder) if name in ("rabbitmq", "kafka") else None, server=server)


def _beside(folder: Path) -> str:
    """Return a store beside the broker that all processes of this host share."""
    return f"sqlite:///{folder}/rows.db"
