"""Whatever stands at an address, one sentence says within seconds why it cannot be used, and shows no password."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from murmur.broker_url import BrokerURL
from murmur.errors import BadURL, BrokerRefused, BrokerUnreachable, MurmurError
from murmur.transport import Outgoing, Receipt, Refusal, TopicSpec
from murmur.transports import kafka
from murmur.transports.kafka_link import KafkaLink
from tests.brokers.kafka_server import KafkaServer
from tests.brokers.server import free_port

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
PASSWORD = "p%w/@canary-7"
WITHIN = 60.0  # seconds on a machine with much else to do; the promise is ten


async def problem(url: str) -> MurmurError:
    link = KafkaLink(BrokerURL.parse(url), client_id="test")
    began = time.monotonic()
    with pytest.raises((BrokerRefused, BrokerUnreachable, BadURL)) as caught:
        await link.open()
    assert time.monotonic() - began < WITHIN
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
async def other_protocol() -> AsyncIterator[str]:
    """A server that answers everything as Redis would."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            writer.write(b"-ERR unknown command\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_nobody_there_and_another_protocol_are_told(other_protocol: str) -> None:
    assert "Is the server running" in str(await problem(f"kafka://127.0.0.1:{free_port()}"))
    assert isinstance(await problem(f"kafka://{other_protocol}"), BrokerUnreachable)


@pytest.mark.parametrize("options", ["partitions=many", "replication=x", "mechanism=MAGIC"])
async def test_an_option_that_cannot_be_is_told_at_once(options: str) -> None:
    with pytest.raises(BadURL, match=options.partition("=")[0]):
        kafka.connect(f"kafka://localhost?{options}", consumer_id="a", namespace="", lease=None)


async def test_tls_to_a_plain_listener_and_a_password_nobody_asked_for_are_told(shared_kafka: str) -> None:
    at = shared_kafka.removeprefix("kafka://")
    assert "without TLS the scheme is kafka://" in str(await problem(f"kafka+ssl://{at}"))
    assert "takes no user" in str(await problem(f"kafka://u:canary@{at}"))


async def test_a_cluster_with_tls_and_passwords_serves_who_has_both_and_tells_the_others_why(
    start_kafka: Callable[..., KafkaServer],
) -> None:
    server = start_kafka(users={"root": PASSWORD, "weak": "canary-8"}, is_tls=True)
    at, secret = f"127.0.0.1:{server.port}", quote(PASSWORD, safe="")
    assert "TLS (kafka+ssl://)" in str(await problem(f"kafka://root:{secret}@{at}"))
    assert "name its authority" in str(await problem(f"kafka+ssl://root:{secret}@{at}"))
    assert "certificates cannot be used" in str(await problem(f"kafka+ssl://root:{secret}@{at}?ca=/nowhere"))
    wrong = await problem(f"kafka+ssl://root:canary@{at}?ca={server.ca}")
    assert isinstance(wrong, BrokerRefused)
    assert "Invalid username or password" in str(wrong)

    strong = kafka.connect(f"kafka+ssl://root:{secret}@{at}?ca={server.ca}", consumer_id="a", namespace="", lease=10.0)
    await strong.open([TopicSpec("echo.tasks")])
    assert isinstance((await strong.publish([Outgoing("echo.tasks", b"x", "1")]))[0], Receipt)
    (one,) = await strong.receive("workers", {"echo.tasks": 1}, credit=1, wait=WITHIN)
    assert (await strong.ack([one]))[0].ok

    weak = kafka.connect(f"kafka+ssl://weak:canary-8@{at}?ca={server.ca}", consumer_id="b", namespace="", lease=10.0)
    with pytest.raises(BrokerRefused, match="may not make it"):
        await weak.open([TopicSpec("other.tasks")])
    refusal = (await weak.publish([Outgoing("other.tasks", b"x", "1")]))[0]
    assert isinstance(refusal, Refusal)
    await weak.close()
    await strong.close()

    doctor = [sys.executable, "-m", "murmur.cli.main", "doctor", "--broker"]
    url = f"kafka+ssl://weak:canary-8@{at}?ca={server.ca}"
    told = await asyncio.to_thread(
        subprocess.run, [*doctor, url], cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=False
    )
    assert told.returncode == 1
    assert "weak may not create topics" in told.stdout
    assert "--allow-principal User:weak" in told.stdout
    assert "canary" not in told.stdout + told.stderr
