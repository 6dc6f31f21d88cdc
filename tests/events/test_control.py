"""The law of control planes, on memory and on a real Redis: broadcast, nothing kept, back after the broker was away."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest

from murmur import wiring
from murmur.control import ControlPlane
from murmur.errors import BrokerUnreachable
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.anyio

SOON = 100.0  # seconds after which a test has waited in vain


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{secrets.token_hex(4)}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


async def heard(speaker: ControlPlane, listener: AsyncIterator[bytes], topic: str) -> None:
    """Speak until the listener hears: from then on its subscription stands."""

    async def speak() -> None:
        while not is_heard.is_set():  # a client may swallow its cancellation
            with contextlib.suppress(BrokerUnreachable):
                await speaker.publish(topic, b"?")
            await asyncio.sleep(0.05)

    is_heard = asyncio.Event()
    speaking = asyncio.create_task(speak())
    try:
        async with asyncio.timeout(SOON):
            assert await anext(listener) == b"?"
    finally:
        is_heard.set()
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)


async def next_word(listener: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(SOON):
        async for body in listener:
            if body != b"?":
                return body
    raise AssertionError("it ended")


async def test_everybody_who_listens_gets_the_bytes_as_they_are(url: str) -> None:
    one, two = wiring.control(url, namespace="a"), wiring.control(url, namespace="a")
    await one.open()
    await two.open()
    mine, yours, again = one.subscribe("murmur.x"), two.subscribe("murmur.x"), two.subscribe("murmur.x")
    for listener in (mine, yours, again):
        await heard(one, listener, "murmur.x")
    body = bytes(range(256)) + b'{"data": 1'
    await two.publish("murmur.x", body)
    assert [await next_word(listener) for listener in (mine, yours, again)] == [body] * 3
    await one.close()
    await two.close()


async def test_nothing_comes_of_other_topics_other_namespaces_or_earlier(url: str) -> None:
    here, there = wiring.control(url, namespace="a"), wiring.control(url, namespace="b")
    await here.open()
    await there.open()
    await here.publish("murmur.x", b"before")
    listener = here.subscribe("murmur.x")
    await heard(here, listener, "murmur.x")
    await there.publish("murmur.x", b"another namespace")
    await here.publish("murmur.y", b"another topic")
    await here.publish("murmur.x", b"this")
    assert await next_word(listener) == b"this"
    await here.close()
    await there.close()


async def test_a_database_of_redis_is_a_plane_of_its_own(redis_server: RedisServer) -> None:
    here, there = (wiring.control(f"{redis_server.url}/{number}", namespace="db") for number in (2, 3))
    await here.open()
    await there.open()
    listener = here.subscribe("murmur.x")
    await heard(here, listener, "murmur.x")
    await there.publish("murmur.x", b"another database")
    await here.publish("murmur.x", b"this")
    assert await next_word(listener) == b"this"
    await here.close()
    await there.close()


async def test_closing_ends_every_listener_and_publishing(url: str) -> None:
    plane = wiring.control(url, namespace="")
    await plane.open()
    listener = plane.subscribe("x")
    waiting = asyncio.ensure_future(anext(listener, None))
    await plane.close()
    await plane.close()
    async with asyncio.timeout(SOON):
        assert await waiting is None
    with pytest.raises(BrokerUnreachable):
        await plane.publish("x", b"")


async def test_a_listener_comes_back_with_the_broker(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    plane = wiring.control(server.url, namespace="")
    await plane.open()
    listener = plane.subscribe("x")
    await heard(plane, listener, "x")
    server.kill()
    with pytest.raises(BrokerUnreachable):
        while True:  # what was sent before the connection was seen to break is nobody's loss
            await plane.publish("x", b"?")
    server.start()
    await heard(plane, listener, "x")
    await plane.publish("x", b"again")
    assert await next_word(listener) == b"again"
    await plane.close()


async def test_a_broker_that_is_not_there_is_told(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(password="p/ss@word")
    url = server.url
    server.kill()
    plane = wiring.control(url, namespace="")
    with pytest.raises(BrokerUnreachable) as told:
        await plane.open()
    assert "ss%40word" not in str(told.value)
    server.start()
    await plane.open()  # and may be asked again
    await plane.publish("x", b"y")
    await plane.close()


def test_making_one_loads_no_client() -> None:
    program = (
        "import sys; from murmur import wiring; wiring.control('redis://h', namespace='')\n"
        "assert not {'faststream', 'redis'} & {name.partition('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
