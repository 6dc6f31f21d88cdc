"""compose.yaml, as far as it can be tried without Docker: its settings, on the real servers, content the doctor."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from murmur import wiring
from murmur.broker_url import BrokerURL
from murmur.doctor import Finding, Severity
from murmur.transports.kafka_link import KafkaLink
from tests.brokers.fixtures import NatsStarter, require
from tests.brokers.redis_server import RedisServer
from tests.docs.snippets import ROOT

pytestmark = pytest.mark.anyio
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
PORTS = {"redis": 6379, "nats": 4222, "kafka": 9092, "rabbitmq": 5672}


def mend(found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.severity is not Severity.NOTE]


def test_there_are_four_brokers_each_pinned_kept_and_open_to_this_machine_only() -> None:
    assert set(SERVICES) == set(PORTS)
    for name, service in SERVICES.items():
        image, _, version = service["image"].rpartition(":")
        assert image, name
        assert version[0].isdigit(), name
        assert f"127.0.0.1:{PORTS[name]}:{PORTS[name]}" in service["ports"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        (volume,) = service["volumes"]
        assert volume.partition(":")[0] in COMPOSE["volumes"]


async def test_redis_with_these_flags_keeps_everything(tmp_path: Path) -> None:
    require(RedisServer)

    class Composed(RedisServer):
        def command(self) -> list[str]:
            binary, *flags = SERVICES["redis"]["command"]
            assert binary == self.binary
            return [*super().command(), *flags]

    with Composed(tmp_path) as server:
        assert mend(await wiring.examine(server.url, namespace="")) == []


async def test_nats_with_these_settings_has_nothing_to_mend_that_can_be_seen(start_nats: NatsStarter) -> None:
    command = SERVICES["nats"]["command"]
    (config,) = SERVICES["nats"]["configs"]
    assert command == ["--jetstream", "--store_dir", "/data", "--config", config["target"]]
    settings = COMPOSE["configs"][config["source"]]["content"]
    assert "sync_interval: always" in settings
    # A server older than 2.10, as Debian has it, does not know the one setting that no client can see.
    server = start_nats(jetstream=False, settings=settings.replace("sync_interval: always", 'store_dir: "store"'))
    found = mend(await wiring.examine(server.url, namespace=""))
    assert [one.invariant for one in found] == ["I1"]
    assert "sync_interval: always" in found[0].mend


async def test_kafka_knows_all_settings(shared_kafka: str) -> None:
    given = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in SERVICES["kafka"]["environment"].items()
        if name.startswith("KAFKA_")
    }
    link = KafkaLink(BrokerURL.parse(shared_kafka), client_id="compose")
    await link.open()
    try:
        known = await link.broker_settings()
    finally:
        await link.close()
    assert set(given) - set(known) == set()
    assert given["log.dirs"] == SERVICES["kafka"]["volumes"][0].partition(":")[2]
    assert given["auto.create.topics.enable"] == "false"
    assert f"localhost:{PORTS['kafka']}" in given["advertised.listeners"]
