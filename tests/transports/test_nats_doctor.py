"""The doctor's findings on a NATS, and one clear line for every connection that cannot be."""

import datetime
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
from tests.events.test_control import heard

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
    (missing,) = [one for one in found if one.severity is Severity.REFUSED]
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


@pytest.mark.parametrize(
    ("denied", "missing"), [("$KV.murmur-rows.>", "write rows"), ("$KV.murmur.>", "write to"), ("$JS.ACK.>", "settle")]
)
async def test_each_right_is_tried_and_the_mend_names_each_once(
    denied: str, missing: str, start_nats: NatsStarter
) -> None:
    server = start_nats(password=PASSWORD, permissions={"publish": {"deny": [denied]}})
    (found,) = [one for one in await examined(server) if one.severity is Severity.REFUSED]
    assert f"may not {missing}" in found.what
    assert [found.mend.count(right) for right in ("$JS.API.>", "$KV.>", "$JS.ACK.>")] == [1, 1, 1]


async def test_a_reader_who_may_not_settle_is_told_before_it_reads(start_nats: NatsStarter) -> None:
    server = start_nats(password=PASSWORD, permissions={"publish": {"deny": ["$JS.ACK.>"]}})
    transport = nats.connect(server.url, consumer_id="w", namespace="", lease=30.0)
    await transport.open([TopicSpec("echo.tasks")])
    await transport.publish([Outgoing("echo.tasks", b"x", "1")])
    with pytest.raises(BrokerRefused, match=r'publish to "\$JS.ACK.>"'):
        await transport.receive("workers", {"echo.tasks": 1}, credit=1, wait=10.0)
    assert (await transport.stats("echo.tasks", "workers")).ready == 1
    await transport.close()


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


async def test_a_token_lets_in_on_every_connection_of_ours_and_a_wrong_one_does_not(start_nats: NatsStarter) -> None:
    server = start_nats(settings=f'authorization {{ token: "{datetime.date.max}" }}')
    url = f"nats://:{datetime.date.max}@127.0.0.1:{server.port}"
    transport = nats.connect(url, consumer_id="w", namespace="", lease=30.0)
    await transport.open([TopicSpec("echo.tasks")])
    await transport.close()
    assert not broken(await wiring.examine(url, namespace=""))
    plane = wiring.control(url, namespace="")
    await plane.open()
    await heard(plane, plane.subscribe("x"), "x")
    await plane.close()
    assert "Authorization" in str(await refused(url.replace(f":{datetime.date.max}@", ":wrong@")))
