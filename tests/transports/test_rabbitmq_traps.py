"""What RabbitMQ does to those who do not know it: timeouts, alarms, addresses in headers, lost connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from murmur.transport import Delivery, Outgoing, Receipt, Refusal, TopicKind, TopicSpec
from murmur.transports import rabbitmq as adapter
from murmur.transports.rabbitmq import RabbitTransport
from murmur.transports.rabbitmq_queues import declaration, delayed
from tests.brokers.fixtures import RabbitPlace
from tests.brokers.rabbitmq_server import MAX_MESSAGE, RabbitServer
from tests.contracts.harness import bells, collect

pytestmark = pytest.mark.anyio
TOPIC, INBOX = "echo.tasks", "inbox.p"
WITHIN = 30.0
Open = Callable[..., Awaitable[RabbitTransport]]


@pytest.fixture
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    made: list[RabbitTransport] = []

    async def one(url: str, name: str = "a") -> RabbitTransport:
        transport = adapter.connect(url, consumer_id=name, namespace="", lease=6.0)
        made.append(transport)
        await transport.open([TopicSpec(TOPIC, dead_topic="echo.dead"), TopicSpec(INBOX, TopicKind.INBOX)])
        return transport

    yield one
    for transport in made:
        await transport.close()


async def first(transport: RabbitTransport) -> Delivery:
    (delivery,) = await collect(transport, TOPIC, 1, within=WITHIN)
    return delivery


async def test_a_task_longer_than_the_consumer_timeout_starts_once_and_is_settled_under_an_alarm(
    start_rabbitmq: Callable[..., RabbitServer], opened: Open
) -> None:
    server = start_rabbitmq(terms="{consumer_timeout, 6000}, {channel_tick_interval, 1000}")
    owner, other = await opened(server.url), await opened(server.url, "b")
    owner.renewal.after = 1.5
    await owner.publish([Outgoing(TOPIC, b"long", "long", {"h": "v"})])
    held = await first(owner)
    assert await collect(other, TOPIC, 1, within=14.0) == []
    assert [one.reason for one in await owner.ack([held], [Outgoing(INBOX, b"done", "r")])] == ["done"]
    assert [one.id for one in await bells(other, INBOX, 1, within=WITHIN)] == ["r"]
    assert (await owner.stats(TOPIC, "workers")).ready == 0

    # The server has no room: publishers wait, what is held is settled all the same. (Nothing is renewed meanwhile.)
    await asyncio.to_thread(server.call, "application:set_env(rabbit, consumer_timeout, 1800000)")
    await owner.close()
    await other.close()
    owner = await opened(server.url, "c")
    await owner.publish([Outgoing(TOPIC, b"1", "1")])
    held = await first(owner)
    alarm = "{{resource_limit, memory, node()}, []}"
    await asyncio.to_thread(server.call, f"rabbit_alarm:set_alarm({alarm}), ok")
    waiting = asyncio.ensure_future(owner.publish([Outgoing(TOPIC, b"2", "2")]))
    found = await findings(server.url)
    assert any("takes no messages" in what for what in found), found
    assert [one.reason for one in await owner.ack([held])] == ["done"]
    await asyncio.to_thread(server.call, "rabbit_alarm:clear_alarm({resource_limit, memory, node()}), ok")
    (answer,) = await asyncio.wait_for(waiting, WITHIN)
    if isinstance(answer, Refusal):  # a slow machine took longer than a call may
        assert not answer.definite
        (answer,) = await owner.publish([Outgoing(TOPIC, b"2", "2")])
    assert isinstance(answer, Receipt)


async def test_what_was_held_for_long_comes_back_when_its_holder_is_gone(rabbitmq: RabbitPlace, opened: Open) -> None:
    owner, other = await opened(rabbitmq.url), await opened(rabbitmq.url, "b")
    owner.renewal.after = 0.5
    await owner.publish([Outgoing(TOPIC, b"body", "one", {"h": "v"})])
    held = await first(owner)
    tag = held.token.tag, held.token.tap
    async with asyncio.timeout(WITHIN):
        while (held.token.tag, held.token.tap) == tag:
            await asyncio.sleep(0.05)
    link = owner._intake.link
    assert link.wire is not None
    link.wire.abort(ConnectionResetError("pulled"))
    lost = await asyncio.wait_for(anext(owner.lost()), WITHIN)
    assert lost is held
    again = await first(other)
    assert (again.id, again.body, dict(again.headers), again.deliveries) == ("one", b"body", {"h": "v"}, 2)
    assert [one.reason for one in await owner.ack([held])] == ["lost"]
    assert [one.reason for one in await other.ack([again])] == ["done"]


async def findings(url: str) -> list[str]:
    from murmur import wiring

    return [one.what for one in await wiring.examine(url, store="memory://", namespace="")]


async def test_a_message_over_the_servers_limit_is_refused_alone(rabbitmq: RabbitPlace, opened: Open) -> None:
    transport = await opened(rabbitmq.url)
    (large,) = await transport.publish([Outgoing(TOPIC, b"x" * (MAX_MESSAGE + 1), "large")])
    assert isinstance(large, Refusal)
    assert large.definite
    assert str(MAX_MESSAGE + 1) in large.problem
    (small,) = await transport.publish([Outgoing(TOPIC, b"x", "small")])
    assert isinstance(small, Receipt)


async def test_what_rabbitmq_would_take_for_addresses_is_refused_alone(rabbitmq: RabbitPlace, opened: Open) -> None:
    transport = await opened(rabbitmq.url)
    answers = await transport.publish(
        [
            Outgoing(TOPIC, b"x", "cc", {"CC": "elsewhere"}),
            Outgoing(TOPIC, b"x", "name", {"n" * 200: "v"}),
            Outgoing(TOPIC, b"x", "half a character", {"k": "\ud800"}),
            Outgoing("inbox." + "x" * 300, b"x", "address"),
            Outgoing("inbox.a.delay.b.hold.c", b"x", "odd"),
            Outgoing(TOPIC, b"x", "good"),
        ]
    )
    assert [isinstance(one, Receipt) for one in answers] == [False, False, False, False, True, True]
    assert all(one.definite for one in answers if isinstance(one, Refusal))
    assert (await first(transport)).id == "good"


async def test_a_lost_connection_is_told_and_made_anew(rabbitmq: RabbitPlace, opened: Open) -> None:
    transport = await opened(rabbitmq.url)
    await transport.publish([Outgoing(TOPIC, b"x", "one")])
    held = await first(transport)
    theirs = f'rabbit_networking:connection_info(P, [vhost]) =:= [{{vhost, <<"{rabbitmq.vhost}">>}}]'
    closing = f'[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections(), {theirs}], ok'
    await asyncio.to_thread(rabbitmq.server.call, closing)
    assert await asyncio.wait_for(anext(transport.lost()), WITHIN) is held
    again = await first(transport)
    assert (again.id, again.deliveries) == ("one", 2)
    assert [one.reason for one in await transport.ack([held, again])] == ["lost", "done"]


@pytest.mark.parametrize("delay", [0.001, 0.3, 1.0, 7.7, 30.0, 86_400.0])
def test_a_delay_is_never_shorter_and_at_most_a_quarter_longer_than_asked_for(delay: float) -> None:
    milliseconds = int(delayed("t", delay).rpartition(".")[2])
    assert delay * 1000 <= milliseconds <= max(delay * 1250, delay * 1000 + 1)


def test_an_inbox_is_an_inbox_whatever_its_name() -> None:
    arguments = declaration("prod.inbox.x.delay.y", prefix="prod.").arguments or {}
    assert "x-expires" in arguments
    assert "x-message-ttl" not in arguments
