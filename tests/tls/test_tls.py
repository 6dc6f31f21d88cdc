"""Over TLS a task is done, its result read, its worker heard, on each broker; whom nobody vouches for is refused.

Kafka's turn comes in tests/cli/test_bad_brokers.py, for the sake of one server less.
"""

import asyncio
from pathlib import Path

import msgspec
import pytest

from murmur import Actor, AgentRuntime, wiring
from murmur.beats import Beat
from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.events import faststream
from murmur.worker import Worker
from tests.brokers.certificates import Certificates
from tests.brokers.fixtures import NatsStarter, RabbitPlace, RedisStarter
from tests.brokers.server import HOST

pytestmark = pytest.mark.anyio

WITHIN = 90.0  # seconds after which something was waited for in vain
PASSWORD = "canary/p@ss%w:rd"


class Shout(Actor[str, str]):
    """Say it louder."""

    async def receive(self, text: str) -> str:
        return text.upper()


async def is_served(url: str) -> None:
    """Have a task done, and hear of the worker on the control plane."""
    plane = wiring.control(url, namespace="tls")
    await plane.open()
    heard = plane.subscribe("murmur.beats")
    beat = asyncio.ensure_future(anext(heard))
    try:
        async with (
            asyncio.timeout(WITHIN),
            Worker(broker=url, agents=[Shout], namespace="tls", drain=1.0, heartbeat=1.0),
            AgentRuntime(broker=url, namespace="tls") as runtime,
        ):
            assert (await runtime.run(Shout, "quietly")).unwrap() == "QUIETLY"
            assert msgspec.json.decode(await beat, type=Beat).agents == ("shout",)
    finally:
        beat.cancel()
        await plane.close()


async def is_refused(url: str, *, problem: str) -> None:
    """See that neither the tasks' connection nor the control plane's comes to be, and that no password is told."""
    with pytest.raises((BrokerRefused, BrokerUnreachable), match=problem) as refused:
        await wiring.examine(url, store="memory://", namespace="tls")
    assert "canary" not in str(refused.value)
    plane = faststream.connect(url, prefix="tls.")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BrokerUnreachable) as unreachable:
        patch.setattr(faststream, "_WITHIN", 1.0)  # some clients try again for as long as they may
        await plane.open()
    assert "canary" not in str(unreachable.value)


def with_other(url: str, ca: Path) -> str:
    """Return the URL with another authority."""
    before, _, after = url.partition("ca=")
    _, mark, rest = after.partition("&")
    return f"{before}ca={ca}{mark}{rest}"


async def test_redis_with_certificates_on_both_sides(start_redis: RedisStarter, certificates: Certificates) -> None:
    server = start_redis(tls=certificates, password=PASSWORD)
    await is_served(server.tls_url)
    await is_refused(with_other(server.tls_url, certificates.stranger), problem="CERTIFICATE_VERIFY_FAILED|certificate")
    await is_refused(server.tls_url.partition("&cert=")[0], problem="it wants a certificate of ours")


async def test_nats_with_certificates_on_both_sides(start_nats: NatsStarter, certificates: Certificates) -> None:
    tls = certificates
    server = start_nats(certificate=(tls.certificate, tls.key), authority=tls.ca, password=PASSWORD)
    ours = f"&cert={tls.client_certificate}&key={tls.client_key}"
    await is_served(f"{server.url}?ca={tls.ca}{ours}")
    await is_refused(f"{server.url}?ca={tls.stranger}{ours}", problem="certificate")
    await is_refused(f"{server.url}?ca={tls.ca}", problem="it wants a certificate of ours")


async def test_rabbitmq(rabbitmq: RabbitPlace, certificates: Certificates) -> None:
    port = await asyncio.to_thread(rabbitmq.server.listen_with_tls, certificates)
    url = f"amqps://guest:guest@{HOST}:{port}/{rabbitmq.vhost}?ca={certificates.ca}"
    await is_served(url)
    await is_refused(with_other(url, certificates.stranger), problem="certificate")
