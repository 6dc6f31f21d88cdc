"""The doctor's findings on a NATS, and one clear line for every connection that cannot be."""

import asyncio
import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from murmur import wiring
from murmur.doctor import Finding, Severity, broken
from murmur.errors import BadURL, BrokerRefused, BrokerUnreachable, MurmurError
from murmur.transport import Outgoing, Refusal, TopicSpec
from murmur.transports import nats
from tests.brokers.fixtures import NatsStarter
from tests.brokers.nats_operator import operator
from tests.brokers.nats_server import NatsServer
from tests.brokers.redis_server import RedisServer
from tests.brokers.server import free_port

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
PASSWORD = "canary/p@ss%word"


async def examined(server: NatsServer) -> list[Finding]:
    return await wiring.examine(server.url, namespace="")


def has(found: list[Finding], severity: Severity, invariant: str, what: str) -> bool:
    return any(one.severity is severity and one.invariant == invariant and what in one.what for one in found)


async def refused(url: str) -> MurmurError:
    """Return what opening a transport raises; within ten seconds, and without the password."""
    transport = nats.connect(url, consumer_id="w", namespace="", lease=30.0)
    began = time.monotonic()
    with pytest.raises((BrokerRefused, BrokerUnreachable)) as raised:
        await transport.open([TopicSpec("echo.tasks", dead_topic="echo.dead")])
    assert time.monotonic() - began <= 12.0
    await transport.close()
    assert PASSWORD not in str(raised.value)
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "server.pem", folder / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def test_a_single_server_can_only_lose_what_a_power_loss_takes(start_nats: NatsStarter) -> None:
    server = start_nats(settings="max_payload: 8MB")
    found = await examined(server)
    assert [one.invariant for one in found] == ["I1"]
    assert has(found, Severity.RISK, "I1", "power loss")
    assert all(one.mend for one in found)
    async with operator(server.url) as link:
        assert (await link.api("INFO"))["streams"] == 0  # what was tried is taken away


async def test_each_trouble_is_found_with_its_invariant(start_nats: NatsStarter) -> None:
    server = start_nats()
    async with operator(server.url) as link:
        for name, subject, more in (
            ("a~tasks", "a.tasks", {"storage": "memory"}),
            ("b~tasks", "b.tasks", {"max_age": 3_600_000_000_000}),
        ):
            config = {"name": name, "subjects": [subject], "retention": "workqueue", **more}
            await link.api(f"STREAM.CREATE.{name}", config)
    found = await examined(server)
    assert has(found, Severity.NOTE, "I3", "max_payload")
    assert has(found, Severity.BROKEN, "I1", "a~tasks is kept in memory")
    assert has(found, Severity.BROKEN, "I1", "b~tasks forgets")
    assert len(broken(found)) == 2


async def test_missing_rights_are_named(start_nats: NatsStarter) -> None:
    server = start_nats(password=PASSWORD, permissions={"publish": {"deny": ["*.tasks"]}})
    found = await examined(server)
    (missing,) = [one for one in found if one.severity is Severity.BROKEN]
    assert "may not publish" in missing.what
    assert "Permissions Violation" in missing.what
    transport = nats.connect(server.url, consumer_id="p", namespace="", lease=None)
    await transport.open([TopicSpec("echo.tasks")])
    (answer,) = await transport.publish([Outgoing("echo.tasks", b"x", "1")])
    assert isinstance(answer, Refusal)
    assert answer.definite
    assert "Permissions Violation" in answer.problem
    await transport.close()


async def test_a_user_without_rights_to_jetstream_is_told(start_nats: NatsStarter) -> None:
    server = start_nats(password=PASSWORD, permissions={"publish": {"deny": ["$JS.API.>"]}})
    assert "Permissions Violation" in str(await refused(server.url))


async def test_wrong_credentials_are_told(start_nats: NatsStarter) -> None:
    server = start_nats(password=PASSWORD)
    transport = nats.connect(server.url, consumer_id="w", namespace="", lease=30.0)
    await transport.open([TopicSpec("echo.tasks")])  # percent-encoded, as a password in a URL is
    await transport.close()
    wrong = server.url.replace("user:", "user:not")
    assert "Authorization Violation" in str(await refused(wrong))
    assert "Authorization Violation" in str(await refused(f"nats://127.0.0.1:{server.port}"))


async def test_tls_to_a_plain_server_sends_no_password(start_nats: NatsStarter) -> None:
    server = start_nats()
    error = await refused(f"tls://user:canary%2Fp%40ss%25word@127.0.0.1:{server.port}")
    assert "offers no TLS" in str(error)


async def test_a_server_with_tls_is_verified(start_nats: NatsStarter, certificate: tuple[Path, Path]) -> None:
    server = start_nats(certificate=certificate)
    assert "wants TLS" in str(await refused(server.url.replace("tls://", "nats://")))
    assert "certificate" in str(await refused(server.url))
    transport = nats.connect(f"{server.url}?ca={certificate[0]}", consumer_id="w", namespace="", lease=30.0)
    await transport.open([TopicSpec("echo.tasks")])
    await transport.close()


async def test_nobody_there_and_somebody_else_are_told_apart(redis_server: RedisServer) -> None:
    assert isinstance(await refused(f"nats://127.0.0.1:{free_port()}"), BrokerUnreachable)
    assert isinstance(await refused(f"nats://127.0.0.1:{redis_server.port}"), BrokerUnreachable)

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ready\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as other:
        error = await refused(f"nats://127.0.0.1:{other.sockets[0].getsockname()[1]}")
    assert "does not speak NATS" in str(error)


async def test_jetstream_that_is_off_is_told(start_nats: NatsStarter) -> None:
    server = start_nats(jetstream=False)
    assert "JetStream is off" in str(await refused(server.url))
    with pytest.raises(BrokerRefused, match="JetStream is off"):
        await examined(server)


async def test_a_stream_of_somebody_else_is_not_used(start_nats: NatsStarter) -> None:
    server = start_nats()
    async with operator(server.url) as link:
        await link.api("STREAM.CREATE.all", {"name": "all", "subjects": ["*.tasks"]})
    assert "belongs to another stream" in str(await refused(server.url))
    async with operator(server.url) as link:
        await link.api("STREAM.DELETE.all")
        await link.api("STREAM.CREATE.echo~tasks", {"name": "echo~tasks", "subjects": ["echo.tasks"]})
    assert "retention is 'limits' and must be 'workqueue'" in str(await refused(server.url))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nats://h:4222?replicas=2", "replicas"),
        ("nats://h:4222?reconnect=1", "unknown option reconnect"),
        ("nats://secrettoken@h:4222", "token"),
    ],
)
def test_a_url_that_says_what_it_cannot_is_refused(url: str, problem: str) -> None:
    with pytest.raises(BadURL, match=problem) as raised:
        nats.connect(url, consumer_id="w", namespace="", lease=30.0)
    assert "secrettoken" not in str(raised.value)


async def test_a_token_is_accepted(start_nats: NatsStarter) -> None:
    server = start_nats(settings=f'authorization {{ token: "{datetime.date.max}" }}', jetstream=True)
    for token, is_right in ((str(datetime.date.max), True), ("wrong", False)):
        transport = nats.connect(f"nats://:{token}@127.0.0.1:{server.port}", consumer_id="w", namespace="", lease=30.0)
        if is_right:
            await transport.open([TopicSpec("echo.tasks")])
        else:
            with pytest.raises(BrokerRefused, match="Authorization"):
                await transport.open([TopicSpec("echo.tasks")])
        await transport.close()


def test_the_command_says_in_one_line_what_is_wrong(start_nats: NatsStarter) -> None:
    server = start_nats(password=PASSWORD)
    command = [sys.executable, "-m", "murmur.cli.main", "doctor"]
    environment = {**os.environ, "MURMUR_BROKER": f"nats://user:wr0ng@127.0.0.1:{server.port}"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "Authorization Violation" in done.stderr
    assert "wr0ng" not in done.stderr + done.stdout
