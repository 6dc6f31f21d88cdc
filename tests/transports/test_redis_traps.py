"""The traps of Redis Streams and of its client, each with what would spring it, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from murmur.errors import WrongForm
from murmur.transport import Receipt, TopicSpec
from murmur.transports.redis import RedisTransport
from murmur.transports.redis_intake import _Reading
from tests.brokers.proxy import Proxy
from tests.brokers.redis_operator import operator, pending
from tests.brokers.redis_server import RedisServer
from tests.contracts.harness import until
from tests.transports.redis_messages import SPEC, TOPIC, messages, received

pytestmark = pytest.mark.anyio

Opener = Callable[..., Awaitable[RedisTransport]]


@pytest.fixture
async def opened(redis_server: RedisServer) -> AsyncIterator[Opener]:
    transports: list[RedisTransport] = []

    async def opened(*specs: TopicSpec, name: str = "w", url: str = redis_server.url) -> RedisTransport:
        transports.append(RedisTransport(url, consumer_id=name))
        await transports[-1].open(specs or [SPEC])
        return transports[-1]

    yield opened
    for transport in transports:
        await transport.close(grace=1.0)


@pytest.fixture
async def admin(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with operator(redis_server.url) as client:
        yield client


async def blocked(admin: Redis) -> int:
    """Count the clients that wait in a blocking read."""
    return int((await admin.info("clients"))["blocked_clients"])


async def is_waiting(admin: Redis, count: int = 1) -> bool:
    async def as_many() -> bool:
        return await blocked(admin) == count

    return await until(as_many, within=30.0)


# -- (a) COUNT is per stream ---------------------------------------------------------------------------------------


async def test_credit_is_kept_over_many_topics_that_are_full(opened: Opener, redis_server: RedisServer) -> None:
    topics = [f"{name}.tasks" for name in "abcde"]
    transport = await opened(*(TopicSpec(topic) for topic in topics))
    for topic in topics:
        await transport.publish(messages(10, topic=topic))
    taken = await transport.receive("workers", dict.fromkeys(topics, 3), credit=5, wait=1.0)
    assert len(taken) == 5
    held = [await pending(redis_server.url, stream) for topic in topics for stream in (topic, f"{topic}:again")]
    assert sum(map(len, held)) == 5
    assert max(map(len, held)) <= 3


async def test_every_topic_gets_its_turn(opened: Opener) -> None:
    topics = [f"{name}.tasks" for name in "abcde"]
    transport = await opened(*(TopicSpec(topic) for topic in topics))
    for topic in topics:
        await transport.publish(messages(5, topic=topic))
    came = [(await transport.receive("workers", dict.fromkeys(topics, 1), credit=1, wait=1.0))[0] for _ in range(5)]
    assert sorted(one.topic for one in came) == topics


async def test_what_a_blocking_read_brings_beyond_the_credit_goes_back_at_once(
    opened: Opener, redis_server: RedisServer
) -> None:
    topics = ["a.tasks", "b.tasks", "c.tasks"]
    transport, other = await opened(*map(TopicSpec, topics)), await opened(*map(TopicSpec, topics), name="o")
    for topic in topics:
        await transport.publish(messages(1, topic=topic))
    # As if they had come between the look for what is ready and the blocking read.
    taken = await transport._intake._wait(_Reading(), [(topic, 1) for topic in topics], 1, 1.0)
    assert len(taken) == 1
    await transport.ack(taken)
    rest = await other.receive("workers", dict.fromkeys(topics, 1), credit=3, wait=0.0)
    assert [one.deliveries for one in rest] == [1, 1]
    await other.ack(rest)
    assert [await pending(redis_server.url, topic) for topic in topics] == [{}, {}, {}]


async def test_one_receive_is_of_one_lease(opened: Opener) -> None:
    transport = await opened(TopicSpec("a.tasks", lease=1.0), TopicSpec("b.tasks", lease=2.0))
    with pytest.raises(WrongForm, match="different leases"):
        await transport.receive("workers", {"a.tasks": 1, "b.tasks": 1}, credit=1, wait=0.0)


# -- (b) a blocked XREADGROUP is never cancelled -------------------------------------------------------------------


async def test_a_cancelled_receive_leaves_no_ghost_and_nobody_blocked(
    opened: Opener, admin: Redis, redis_server: RedisServer
) -> None:
    transport = await opened()
    cancelled = 0
    for number in range(50):
        receiving = asyncio.create_task(transport.receive("workers", {TOPIC: 1}, credit=1, wait=30.0))
        assert await is_waiting(admin)
        adding = asyncio.create_task(admin.xadd(TOPIC, {"d": b"x", "i": str(number)}))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving, adding])
        assert await is_waiting(admin, 0)  # long before its 5 s are over
        cancelled += receiving.cancelled()
        (one,) = await received(transport, 1, within=30.0) if receiving.cancelled() else await receiving
        assert (one.id, one.deliveries) == (str(number), 1)
        await transport.ack([one])
    assert cancelled > 10
    for stream in (TOPIC, f"{TOPIC}:again"):
        assert await pending(redis_server.url, stream) == {}


async def test_closing_ends_a_blocked_receive_at_once(opened: Opener, admin: Redis) -> None:
    transport = await opened()
    receiving = asyncio.create_task(transport.receive("workers", {TOPIC: 1}, credit=1, wait=30.0))
    assert await is_waiting(admin)
    async with asyncio.timeout(30.0):
        await transport.close()
        assert await receiving == []


# -- (c) the client's own read timeout of 5 s ----------------------------------------------------------------------


async def test_a_wait_longer_than_the_clients_timeout_breaks_no_connection(opened: Opener, admin: Redis) -> None:
    transport = await opened()
    receiving = asyncio.create_task(transport.receive("workers", {TOPIC: 1}, credit=1, wait=6.5))
    assert await is_waiting(admin)
    before = {client["id"] for client in await admin.client_list()}
    assert list(await receiving) == []
    assert {client["id"] for client in await admin.client_list()} == before


# -- (d) a connection per concurrent command -----------------------------------------------------------------------


async def test_hundreds_of_callers_share_one_connection_and_few_commands(opened: Opener, admin: Redis) -> None:
    transport = await opened()
    await transport.publish(messages(1, start=1_000))
    before = await admin.info("stats")
    answers = await asyncio.gather(*(transport.publish(messages(1, start=number)) for number in range(500)))
    after = await admin.info("stats")
    assert all(isinstance(one, Receipt) for (one,) in answers)
    assert await admin.xlen(TOPIC) == 501
    assert after["total_connections_received"] == before["total_connections_received"]
    # A script counts as one command, and so does each that it runs: three for a new message.
    assert after["total_commands_processed"] - before["total_commands_processed"] <= 500 * 3 + 10


# -- (e) a client that sends again ---------------------------------------------------------------------------------


async def test_a_publish_whose_answer_was_lost_adds_one_message(
    opened: Opener, admin: Redis, redis_server: RedisServer
) -> None:
    async with Proxy(redis_server.port) as network:
        transport = await opened(url=f"redis://127.0.0.1:{network.port}")
        network.loses_replies = True
        publishing = asyncio.create_task(transport.publish(messages(3)))

        async def is_added() -> bool:
            return await admin.xlen(TOPIC) == 3

        assert await until(is_added, within=30.0)
        network.heal()
        network.cut()
        answers = await publishing
        assert [isinstance(one, Receipt) and one.duplicate for one in answers] == [True] * 3
        assert await admin.xlen(TOPIC) == 3
        await transport.close()


# -- (f) a renewal that steals -------------------------------------------------------------------------------------


async def test_a_renewal_takes_nothing_back_from_a_new_owner(
    opened: Opener, admin: Redis, redis_server: RedisServer
) -> None:
    transport = await opened(TopicSpec(TOPIC, lease=0.6))
    lost = transport.lost()
    await transport.publish(messages(2))
    stolen, kept = await received(transport, 2)
    ids = list(await pending(redis_server.url, TOPIC))
    await admin.xclaim(TOPIC, "workers", "thief", 0, ids[:1])
    async with asyncio.timeout(30.0):
        assert await anext(lost) is stolen
    assert [one.reason for one in await transport.ack([stolen, kept])] == ["lost", "done"]
    assert {owner for owner, _ in (await pending(redis_server.url, TOPIC)).values()} == {"thief"}
