"""The link to Redis: every call ends in time and says how, whatever the network and the server do."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
import uvloop

from murmur.errors import BadURL, BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transports import redis_link, redis_wire
from murmur.transports.redis_link import LONGEST_PAUSE, SHORTEST_PAUSE, RedisLink, pause, redacted
from murmur.transports.redis_scripts import Script, load
from murmur.transports.redis_wire import ServerError
from tests.brokers.fixtures import RedisStarter
from tests.brokers.proxy import Proxy
from tests.brokers.redis_operator import operator
from tests.brokers.redis_server import RedisServer
from tests.contracts.harness import until

pytestmark = pytest.mark.anyio

ECHO = Script("echo", "return ARGV[1]", "")


@pytest.fixture
async def network(redis_server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(redis_server.port) as network:
        yield network


@pytest.fixture
async def link(network: Proxy) -> AsyncIterator[RedisLink]:
    link = RedisLink(f"redis://127.0.0.1:{network.port}", name="murmur:test#1")
    await link.open()
    yield link
    await link.close()


async def counter(link: RedisLink) -> int:
    value = await link.ask("GET", "counter", is_repeatable=True)
    return int(value) if isinstance(value, bytes) else 0


async def is_down(link: RedisLink) -> bool:
    return not await link.up(0.0)


# -- connecting ----------------------------------------------------------------------------------------------------


async def test_a_server_that_never_answers_is_unreachable_within_ten_seconds(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.port) as network:
        network.loses_replies = True
        began = time.monotonic()
        with pytest.raises(BrokerUnreachable):
            await RedisLink(f"redis://127.0.0.1:{network.port}", name="x").open()
        assert time.monotonic() - began < 10.0


async def test_a_client_that_can_open_no_file_is_unreachable_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def has_no_file_left(*_: object) -> None:
        raise OSError(24, "Too many open files", "METADATA")

    monkeypatch.setattr(redis_wire, "_connection", has_no_file_left)
    with pytest.raises(BrokerUnreachable, match="Too many open files"):
        await RedisLink("redis://localhost", name="murmur").open()


async def test_a_wrong_password_is_refused_and_stands_in_no_text(start_redis: RedisStarter) -> None:
    server = start_redis(password="right % / @ one")
    for wrong in ("redis://:canary-7@127.0.0.1:{}", "redis://127.0.0.1:{}", "redis://somebody:canary-7@127.0.0.1:{}/3"):
        with pytest.raises(BrokerRefused) as refused:
            await RedisLink(wrong.format(server.port), name="x").open()
        assert "canary" not in f"{refused.value!r} {refused.value} {refused.value.__context__!r}"
    link = RedisLink(server.url, name="x")
    await link.open()
    assert await link.ask("PING") == b"PONG"
    await link.close()


async def test_a_unix_socket_and_a_database_are_used(start_redis: RedisStarter) -> None:
    server = start_redis(unix=True, password="p%w/@")
    link = RedisLink(server.unix_url.replace("db=0", "db=3"), name="x")
    await link.open()
    await link.ask("SET", "here", "1")
    await link.close()
    async with operator(server.url) as admin:
        assert (await admin.info("keyspace"))["db3"]["keys"] == 1


@pytest.mark.parametrize("url", ["redis://host:port", "http://127.0.0.1", "redis://127.0.0.1?no_such_option=1"])
async def test_a_url_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(BadURL):
        await RedisLink(url, name="x").open()


async def test_what_a_user_may_not_do_is_refused(start_redis: RedisStarter) -> None:
    server = start_redis()
    async with operator(server.url) as admin:
        await admin.acl_setuser("poor", enabled=True, passwords="+pw", categories=["+@read"], keys="*")
    # Neither CLIENT SETNAME nor PING is allowed: only the second matters.
    link = RedisLink(f"redis://poor:pw@127.0.0.1:{server.port}", name="x")
    with pytest.raises(BrokerRefused, match="NOPERM"):
        await link.open()
    async with operator(server.url) as admin:
        await admin.acl_setuser("poor", enabled=True, commands=["+ping"], reset=False, categories=["+@read"], keys="*")
    await link.open()
    assert await link.ask("GET", "x") is None
    with pytest.raises(BrokerRefused, match="NOPERM"):
        await link.ask("SET", "x", "1")
    await link.close()


def test_a_url_is_shown_without_its_password_and_options() -> None:
    assert redacted("redis://user:se%2Fcret@host:1/2?ssl_password=canary") == "redis://user:***@host:1/2"
    assert redacted("redis://:p:a@ss@host") == "redis://:***@host"
    assert redacted("redis://host") == "redis://host"
    assert redacted("unix:///run/redis.sock?password=canary") == "unix:///run/redis.sock"


# -- calls ---------------------------------------------------------------------------------------------------------


async def test_calls_of_one_turn_end_each_in_its_own_reply(link: RedisLink) -> None:
    replies = await asyncio.gather(*(link.run(ECHO, (), (number,)) for number in range(1_000)))
    assert replies == [b"%d" % number for number in range(1_000)]


async def test_a_script_the_server_forgot_is_loaded_again(link: RedisLink, redis_server: RedisServer) -> None:
    script = load("murmur.transports", "stats")
    assert await link.run(script, ("a", "b"), ()) == [0, 0, 0]
    async with operator(redis_server.url) as admin:
        await admin.script_flush()
    assert await link.run(script, ("a", "b"), ()) == [0, 0, 0]


async def test_an_error_of_the_server_is_the_calls_alone(link: RedisLink) -> None:
    bad, good = link.ask("INCR"), link.ask("INCR", "counter")
    with pytest.raises(ServerError, match="wrong number of arguments"):
        await bad
    assert await good == 1


async def test_a_large_value_passes_both_ways(link: RedisLink) -> None:
    value = bytes(range(256)) * 40_000
    await link.ask("SET", "large", value)
    assert await link.ask("GET", "large") == value


async def test_a_cancelled_caller_disturbs_no_other(link: RedisLink) -> None:
    first, second, third = (asyncio.ensure_future(link.ask("INCR", "counter")) for _ in range(3))
    second.cancel()
    assert (await first, await third) == (1, 3)


# -- connections that break ----------------------------------------------------------------------------------------


async def test_a_call_under_way_when_the_connection_breaks_is_unknown(link: RedisLink, network: Proxy) -> None:
    network.loses_replies = True
    call = link.ask("INCR", "counter")
    repeatable = link.ask("SET", "x", "1", is_repeatable=True)
    await asyncio.wait([call], timeout=0.1)
    network.heal()
    network.cut()
    with pytest.raises(OutcomeUnknown, match="INCR: outcome unknown"):
        await call
    assert await repeatable == b"OK"
    assert await counter(link) == 1


async def test_what_is_asked_while_the_server_is_away_waits_for_it(start_redis: RedisStarter) -> None:
    server = start_redis(aof=True)
    link = RedisLink(server.url, name="x")
    await link.open()
    await asyncio.to_thread(server.kill)
    assert await until(partial(is_down, link), within=30.0)
    call = link.ask("INCR", "counter")
    await asyncio.to_thread(server.start)
    assert await call == 1
    await link.close()


async def test_a_black_hole_ends_a_call_at_its_deadline(
    link: RedisLink, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "DEADLINE", 1.0)
    network.loses_replies = True
    began = time.monotonic()
    calls = await asyncio.gather(*(link.ask("INCR", "counter") for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in calls] == [OutcomeUnknown] * 3
    assert 1.0 <= time.monotonic() - began < 20.0
    # What waits for a connection was never sent, and is told so.
    network.is_refusing = True
    network.cut()
    with pytest.raises(BrokerUnreachable):
        await link.ask("INCR", "counter")
    network.heal()
    assert await link.up(10.0)
    assert await counter(link) == 3


async def test_a_half_open_link_is_found_while_nobody_asks(
    link: RedisLink, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "DEADLINE", 1.0)
    monkeypatch.setattr(redis_link, "PING_AFTER", 1.0)
    network.loses_replies = network.loses_requests = True
    assert await until(partial(is_down, link), within=6.0)
    network.heal()
    assert await link.up(10.0)


async def test_a_blocked_loop_is_no_dead_connection(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "DEADLINE", 1.0)
    call = link.ask("INCR", "counter")
    await asyncio.sleep(0)
    time.sleep(2.5)  # noqa: ASYNC251  blocking the loop is the point
    assert await call == 1


async def test_a_link_that_is_closed_answers_no_more(link: RedisLink) -> None:
    under_way = link.ask("INCR", "counter")
    await link.close()
    with pytest.raises(OutcomeUnknown):
        await under_way
    with pytest.raises(BrokerUnreachable):
        await link.ask("PING")
    await link.close()


async def test_a_password_changed_meanwhile_is_told_to_every_caller(start_redis: RedisStarter) -> None:
    server = start_redis(password="old")
    link = RedisLink(server.url, name="x")
    await link.open()
    async with operator(server.url) as admin:
        await admin.config_set("requirepass", "new")
        await admin.client_kill_filter(_type="normal", skipme=True)

    async def is_refused() -> bool:
        try:
            await link.ask("PING")
        except (BrokerRefused, OutcomeUnknown) as error:
            return isinstance(error, BrokerRefused)
        return False

    assert await until(is_refused, within=30.0)
    await link.close()


def test_pauses_grow_with_the_outage_and_stay_within_their_bounds() -> None:
    assert pause(0.0, 1.0) == SHORTEST_PAUSE
    assert pause(4.0, 0.5) == SHORTEST_PAUSE + 1.0
    assert pause(1_000_000.0, 1.0) == LONGEST_PAUSE
    assert pause(1_000_000.0, 0.0) == SHORTEST_PAUSE


def test_a_connection_that_breaks_at_any_word_of_the_greeting_is_unreachable() -> None:
    """On uvloop: writing to what has just closed raises RuntimeError there, which ended all coming back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer_and_break, args=(server,), daemon=True).start()

        async def tried() -> None:
            url = f"redis://127.0.0.1:{server.getsockname()[1]}"
            for _ in range(_GREETINGS):
                with pytest.raises(BrokerUnreachable):
                    await redis_wire.connect(url, shown=url, name="x", on_lost=_tell)

        uvloop.run(tried())


@pytest.mark.parametrize("words", range(5))
async def test_who_gives_up_amid_the_greeting_leaves_no_connection_open(words: int) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer_so_many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"+OK\r\n" * words)
        begun.set()
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(1_000):
                pass
        ended.set()
        writer.close()

    async with await asyncio.start_server(answer_so_many, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        connecting = asyncio.create_task(redis_wire.connect(url, shown=url, name="x", on_lost=_tell))
        await begun.wait()
        await asyncio.wait([connecting], timeout=0.1)
        assert not connecting.done()
        connecting.cancel()
        async with asyncio.timeout(30.0):
            await ended.wait()


_GREETINGS = 60


def _tell(calls: list[redis_wire.Call], problem: str) -> None:
    for call in calls:
        call.finish(None, ConnectionResetError(problem))


def _answer_and_break(server: socket.socket) -> None:
    """Answer so many words to each client in turn, and reset the connection."""
    for number in range(_GREETINGS):
        client, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with client:
            client.recv(1)
            client.sendall(b"+OK\r\n" * (number % 6))
