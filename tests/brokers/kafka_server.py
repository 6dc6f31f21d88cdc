"""A real Kafka: one broker that is its own controller, with or without TLS and passwords.

Its jars come by `tools/kafka.sh`. A start costs seconds of CPU, so tests share one server
over all test processes (see `fixtures.py`) and only those that kill it have their own.
Run as a script it makes the archive of loaded classes that shortens every later start.
"""

import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.brokers.server import HOST, Server, free_port

HOME: Final = next(iter(sorted(Path(__file__).parents[2].glob(".cache/kafka-*"), reverse=True)), Path("kafka"))
_JAAS: Final = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_API_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)
_PATIENCE: Final = 1.0  # seconds
_KEYTOOL: Final = 60.0  # seconds
_STORE_PASSWORD: Final = "of a test"


class KafkaServer(Server):
    """One Kafka; what it confirmed outlives `kill()`.

    `users`: passwords by name, SASL PLAIN is demanded then, the first is the super user.
    `is_tls`: TLS is demanded, with a certificate made for the occasion; its authority is in `ca`.
    `settings`: lines of its configuration, instead of ours or beyond them.
    """

    name = "Kafka"
    binary = "java"
    get_it = "make brokers"
    ready_within = 60.0

    def __init__(
        self,
        folder: Path,
        *,
        users: dict[str, str] | None = None,
        is_tls: bool = False,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self._controller_port, self._inside_port = free_port(), free_port()
        self._users, self._is_tls, self._settings = users or {}, is_tls, settings or {}
        self.ca = folder / "ca.pem"
        self.archive = HOME / "classes.jsa"
        self.is_training = False  # makes the archive, instead of using it

    @classmethod
    def is_installed(cls) -> bool:
        """Say whether there are Java and the jars."""
        return shutil.which("java") is not None and (HOME / "libs").is_dir()

    @property
    def url(self) -> str:
        """Its address, without a user."""
        return f"kafka{'+ssl' if self._is_tls else ''}://{HOST}:{self.port}"

    def command(self) -> list[str]:
        """Run in the foreground from a file. What a cluster's operator would format is written here."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        meta = ("version=1", "cluster.id=bXVybXVyLWNsdXN0ZXItMQ", "node.id=1", "directory.id=bXVybXVyLWZvbGRlci0xMQ")
        if not (data / "meta.properties").exists():
            (data / "meta.properties").write_text("\n".join(meta) + "\n")
        if self._is_tls and not self.ca.exists():
            self._make_certificate()
        file = self.folder / "server.properties"
        file.touch(mode=0o600)
        file.write_text("".join(f"{name}={value}\n" for name, value in self._properties(data).items()))
        options = ["-Xms160m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:disable"]
        if self.is_training:
            options.append(f"-XX:ArchiveClassesAtExit={self.archive}")
        elif self.archive.exists():
            options += [f"-XX:SharedArchiveFile={self.archive}", "-Xshare:auto"]
        options += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        return [self.binary, *options, "-cp", f"{HOME}/libs/*", "kafka.Kafka", str(file)]

    def answers(self) -> bool:
        """Say whether it serves: behind TLS or passwords, whether it listens."""
        try:
            with socket.create_connection((HOST, self.port), timeout=_PATIENCE) as link:
                if self._users or self._is_tls:
                    return True
                link.sendall(_API_VERSIONS)
                return len(link.recv(4)) == 4
        except OSError:
            return False

    def _properties(self, data: Path) -> dict[str, str]:
        protocol = ("SASL_" if self._users else "") + ("SSL" if self._is_tls else "PLAINTEXT")
        places = f"CLIENTS://{HOST}:{self.port},INSIDE://{HOST}:{self._inside_port}"
        found = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            "listeners": f"{places},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": places,
            "listener.security.protocol.map": f"CLIENTS:{protocol},INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INSIDE",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(data),
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "500",
            "auto.create.topics.enable": "false",
            "log.cleaner.dedupe.buffer.size": "2097152",
            "broker.session.timeout.ms": "1000",  # of the broker with its controller: else a restart waits for it
            "broker.heartbeat.interval.ms": "200",
            "controlled.shutdown.enable": "false",
        }
        if self._users:
            first = next(iter(self._users))
            who = " ".join(f'user_{user}="{password}"' for user, password in self._users.items())
            found |= {
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.clients.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.clients.plain.sasl.jaas.config": f"{_JAAS} {who};",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": f"User:{first};User:ANONYMOUS",
            }
        if self._is_tls:
            found |= {
                "listener.name.clients.ssl.keystore.type": "PKCS12",
                "listener.name.clients.ssl.keystore.location": str(self.folder / "keys.p12"),
                "listener.name.clients.ssl.keystore.password": _STORE_PASSWORD,
                "listener.name.clients.ssl.key.password": _STORE_PASSWORD,
            }
        return found | self._settings

    def _make_certificate(self) -> None:
        store = ("-keystore", str(self.folder / "keys.p12"), "-storetype", "PKCS12", "-storepass", _STORE_PASSWORD)
        make = ("-genkeypair", "-alias", "kafka", "-keyalg", "EC", "-dname", "CN=kafka", "-ext", f"SAN=ip:{HOST}")
        for words in (make, ("-exportcert", "-rfc", "-alias", "kafka", "-file", str(self.ca))):
            subprocess.run(("keytool", *words, *store), check=True, capture_output=True, timeout=_KEYTOOL)


def _train(home: Path) -> None:
    """Start once, and have the classes that were loaded written down."""
    with tempfile.TemporaryDirectory() as folder:
        server = KafkaServer(Path(folder))
        server.is_training = True
        server.start()
        server.stop()
        if not (home / "classes.jsa").exists():
            sys.exit(f"no archive was made. Its log:\n{server.log()}")


if __name__ == "__main__":
    _train(Path(sys.argv[1]))
