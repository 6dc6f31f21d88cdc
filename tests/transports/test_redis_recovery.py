"""What is left behind on Redis and who picks it up: lapsed leases, earlier boots, ghosts, lost groups, delays."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from attrs import evolve
from redis.asyncio import Redis

from murmur.transport import Outgoing, TopicSpec
from murmur.transports import redis_keeper, redis_upkeep
from murmur.transports.redis import RedisTransport
from murmur.transports.redis_intake import Intake
from tests.brokers.fixtures import RedisStarter
from tests.brokers.proxy import Proxy
from tests.brokers.redis_operator import operator, pending
from tests.brokers.redis_server import RedisServer
from tests.contracts.harness import until
from tests.transports.redis_messages import SPEC, TOPIC, messages, received

pytestmark = pytest.mark.anyio

AGAIN = f"{TOPIC}:again"
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


async def left_behind(admin: Redis, consumer: str, count: int) -> None:
    """Let a consumer that is gone hold messages."""
    for number in range(count):
        await admin.xadd(TOPIC, {"i": f"{consumer}-{number}", "d": b"x"})
    found = await admin.xreadgroup("workers", consumer, {TOPIC: ">"}, count=count)
    assert len(found[0][1]) == count


# -- lapsed leases ---------------------------------------------------------------------------------------------


async def test_a_sweep_takes_what_lapsed_and_nothing_else(opened: Opener, admin: Redis) -> None:
    spec = evolve(SPEC, lease=0.3)
    sweeper = await opened(spec, name="s")
    for consumer in ("short#00.200", "long#00.60000", "kept#00.never", "foreign"):
        await left_behind(admin, consumer, 3)
    await asyncio.sleep(0.35)
    await sweeper.sweep([TOPIC])
    holders = [owner for owner, _ in (await pending(sweeper.session.link.url, TOPIC)).values()]
    assert sorted(set(holders)) == ["kept#00.never", "long#00.60000"]  # a stranger's lease is that of who sweeps
    came = await received(sweeper, 6)
    assert {one.deliveries for one in came} == {2}
    assert sorted(one.id for one in came) == [f"{name}-{n}" for name in ("foreign", "short#00.200") for n in range(3)]


async def test_who_holds_for_ever_leaves_strangers_alone(opened: Opener, admin: Redis) -> None:
    sweeper = await opened(evolve(SPEC, lease=None), name="s")
    await left_behind(admin, "foreign", 2)
    await asyncio.sleep(0.05)
    await sweeper.sweep([TOPIC])
    assert len(await pending(sweeper.session.link.url, TOPIC)) == 2


async def test_a_lapsed_one_is_found_behind_many_that_live(opened: Opener, admin: Redis) -> None:
    sweeper = await opened(evolve(SPEC, lease=0.1), name="s")
    await left_behind(admin, "long#00.60000", 350)
    await left_behind(admin, "short#00.100", 1)
    await asyncio.sleep(0.15)
    await sweeper.sweep([TOPIC])
    (one,) = await received(sweeper, 1)
    assert one.id == "short#00.100-0"


async def test_many_who_sweep_at_once_give_back_each_once(opened: Opener, admin: Redis) -> None:
    spec = evolve(SPEC, lease=0.1)
    sweepers = [await opened(spec, name=name) for name in "abc"]
    await left_behind(admin, "short#00.100", 500)
    await asyncio.sleep(0.15)
    await asyncio.gather(*(one.sweep([TOPIC]) for one in sweepers * 2))
    assert await admin.xlen(AGAIN) == 500
    assert await admin.xlen(TOPIC) == 0


async def test_what_comes_back_goes_before_what_waits(opened: Opener, admin: Redis) -> None:
    worker = await opened(evolve(SPEC, lease=0.2))
    await left_behind(admin, "short#00.100", 2)
    await worker.publish(messages(50))
    await asyncio.sleep(0.15)
    await worker.sweep([TOPIC])
    first = await worker.receive("workers", {TOPIC: 3}, credit=3, wait=1.0)
    assert [one.id for one in first] == ["short#00.100-0", "short#00.100-1", "0"]


async def test_a_message_whose_body_was_deleted_is_forgotten(opened: Opener, admin: Redis) -> None:
    worker = await opened(evolve(SPEC, lease=0.2))
    await left_behind(admin, "short#00.100", 2)
    await admin.xtrim(TOPIC, maxlen=0, approximate=False)
    await asyncio.sleep(0.15)
    await worker.sweep([TOPIC])
    assert await pending(worker.session.link.url, TOPIC) == {}
    assert (await worker.stats(TOPIC, "workers")).ready == 0


# -- consumers -------------------------------------------------------------------------------------------------


async def test_only_consumers_that_hold_nothing_are_forgotten(
    opened: Opener, admin: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_upkeep, "_FORGET_AFTER", 0.0)
    worker = await opened()
    await left_behind(admin, "holds#00.60000", 1)
    await left_behind(admin, "done#00.60000", 1)
    for entry, (owner, _) in (await pending(worker.session.link.url, TOPIC)).items():
        if owner.startswith("done"):
            await admin.xack(TOPIC, "workers", entry)
    await asyncio.sleep(0.01)
    await worker.sweep([TOPIC])
    names = [one["name"].decode() for one in await admin.xinfo_consumers(TOPIC, "workers")]
    assert names == ["holds#00.60000"]
    # Whoever was forgotten while he waited is known again with his next message.
    receiving = asyncio.create_task(worker.receive("workers", {TOPIC: 1}, credit=1, wait=5.0))
    await asyncio.sleep(0.1)
    await worker.sweep([TOPIC])
    await worker.publish(messages(1))
    assert [one.id for one in await receiving] == ["0"]
    assert [one.reason for one in await worker.ack(await receiving)] == ["done"]


async def test_where_nobody_may_list_clients_an_earlier_boot_keeps_its_lease(start_redis: RedisStarter) -> None:
    server = start_redis()
    async with operator(server.url) as admin:
        await admin.acl_setuser(
            "worker", enabled=True, passwords="+pw", keys="*", categories=["+@all"], commands=["-client|list"]
        )
        transport = RedisTransport(f"redis://worker:pw@127.0.0.1:{server.port}", consumer_id="node")
        await admin.xgroup_create(TOPIC, "workers", "0", mkstream=True)
        await left_behind(admin, "node#00000000.60000", 1)
        await transport.open([SPEC])
        await transport.sweep([TOPIC])
        assert len(await pending(server.url, TOPIC)) == 1
        await admin.acl_setuser("worker", enabled=True, keys="*", categories=["+@all"])
        await transport.sweep([TOPIC])
        assert [(one.id, one.deliveries) for one in await received(transport, 1)] == [("node#00000000.60000-0", 2)]
        await transport.close()


async def test_a_name_of_any_characters_is_a_consumer(opened: Opener) -> None:
    transport = await opened(name="pod 7 #1/é\n")
    await transport.publish(messages(1))
    assert [one.reason for one in await transport.ack(await received(transport, 1))] == ["done"]


# -- groups that are lost --------------------------------------------------------------------------------------


async def test_a_group_that_is_destroyed_is_made_anew_and_skips_nothing(opened: Opener, admin: Redis) -> None:
    transport = await opened()
    await transport.publish(messages(3))
    await received(transport, 1)
    await admin.xgroup_destroy(TOPIC, "workers")
    await transport.publish(messages(1, start=3))
    again = await received(transport, 4)  # who held what is forgotten with the group
    assert [one.id for one in again] == ["0", "1", "2", "3"]
    assert [one.reason for one in await transport.ack(again)] == ["done"] * 4


async def test_a_server_that_comes_back_empty_is_used_as_before(start_redis: RedisStarter) -> None:
    server = start_redis()
    transport = RedisTransport(server.url, consumer_id="w")
    await transport.open([SPEC])
    await transport.publish(messages(1))
    (lost,) = await received(transport, 1)
    receiving = asyncio.create_task(received(transport, 1, within=20.0))
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    assert await until(lambda: transport.session.link.up(1.0), within=10.0)
    await transport.publish(messages(1, start=1))
    assert [one.id for one in await receiving] == ["1"]
    assert [one.reason for one in await transport.ack([lost])] == ["lost"]
    await transport.close()


# -- ghosts: replies that were lost ----------------------------------------------------------------------------


async def test_a_blocking_read_whose_reply_was_lost_costs_nobody_a_lease(
    opened: Opener, redis_server: RedisServer
) -> None:
    async with Proxy(redis_server.port) as network:
        transport, publisher = await opened(url=f"redis://127.0.0.1:{network.port}"), await opened(name="p")
        receiving = asyncio.create_task(transport.receive("workers", {TOPIC: 1}, credit=1, wait=10.0))
        await asyncio.sleep(0.2)
        network.loses_replies = True
        await publisher.publish(messages(1))

        async def is_handed_out() -> bool:
            return len(await pending(redis_server.url, TOPIC)) == 1

        assert await until(is_handed_out, within=30.0)
        network.heal()
        network.cut()
        (one,) = await receiving
        assert (one.id, one.deliveries) == ("0", 1)
        assert [one.reason for one in await transport.ack([one])] == ["done"]


async def test_a_half_open_reader_is_found(
    opened: Opener, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("murmur.transports.redis_reader.DEADLINE", 1.0)
    monkeypatch.setattr("murmur.transports.redis_reader.LONGEST_BLOCK", 1.0)
    monkeypatch.setattr("murmur.transports.redis_intake.LONGEST_BLOCK", 1.0)
    async with Proxy(redis_server.port) as network:
        transport, publisher = await opened(url=f"redis://127.0.0.1:{network.port}"), await opened(name="p")
        receiving = asyncio.create_task(transport.receive("workers", {TOPIC: 1}, credit=1, wait=20.0))
        await asyncio.sleep(0.2)
        network.loses_replies = network.loses_requests = True
        await publisher.publish(messages(1))
        await asyncio.sleep(0.5)
        network.heal()
        assert [one.id for one in await asyncio.wait_for(receiving, 10.0)] == ["0"]


async def test_a_search_for_ghosts_takes_nothing_from_a_read_beside_it(opened: Opener) -> None:
    transport = await opened()
    readers = [asyncio.create_task(transport.receive("workers", {TOPIC: 5}, credit=5, wait=10.0)) for _ in range(4)]
    for number in range(20):
        transport._intake._has_ghosts = True
        readers.append(asyncio.create_task(transport.receive("workers", {TOPIC: 5}, credit=5, wait=10.0)))
        await transport.publish(messages(3, start=3 * number))
        await asyncio.sleep(0)
    found = []
    async with asyncio.timeout(15.0):
        while len(found) < 60:
            done, waiting = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
            found += [one for task in done for one in task.result()]
            readers = [*waiting]
            if not readers:
                readers = [asyncio.create_task(transport.receive("workers", {TOPIC: 5}, credit=5, wait=2.0))]
    assert sorted(int(one.id) for one in found) == list(range(60))
    assert {one.deliveries for one in found} == {1}
    assert {one.reason for one in await transport.ack(found)} == {"done"}
    for task in readers:
        task.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def test_an_ack_whose_answer_was_lost_is_unknown_or_done_and_emits_once(
    opened: Opener, redis_server: RedisServer, admin: Redis
) -> None:
    async with Proxy(redis_server.port) as network:
        transport = await opened(url=f"redis://127.0.0.1:{network.port}")
        await transport.publish(messages(2))
        held = await received(transport, 2)
        network.loses_replies = True
        acking = asyncio.create_task(transport.ack(held, [Outgoing("inbox.p", b"r", "r")]))

        async def is_done() -> bool:
            return await admin.xlen("inbox.p") == 1

        assert await until(is_done, within=30.0)
        network.heal()
        network.cut()
        assert [one.reason for one in await acking] == ["unknown", "unknown"]  # who took them is not known any more
        assert await admin.xlen("inbox.p") == 1
        # The request itself is lost: it is made again, and done.
        await transport.publish(messages(1, start=2))
        held = await received(transport, 1)
        network.loses_requests = True
        acking = asyncio.create_task(transport.ack(held, [Outgoing("inbox.p", b"r", "r2")]))
        await asyncio.sleep(0.1)
        network.heal()
        network.cut()
        assert [one.reason for one in await acking] == ["done"]
        assert await admin.xlen("inbox.p") == 2


# -- delays ----------------------------------------------------------------------------------------------------


async def test_a_delay_is_over_even_where_its_publisher_only_publishes(opened: Opener) -> None:
    publisher, worker = await opened(name="p"), await opened(name="w")
    receiving = asyncio.create_task(received(worker, 1))
    began = time.monotonic()
    await publisher.publish([Outgoing(TOPIC, b"x", "late", not_before=0.3)])
    assert [one.id for one in await receiving] == ["late"]
    assert 0.29 <= time.monotonic() - began < 10.0


# -- the thread that renews ------------------------------------------------------------------------------------


async def test_a_loop_that_hangs_for_good_loses_its_tasks(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_keeper, "HANGS_AFTER", 1.0)
    spec = evolve(SPEC, lease=0.6)
    hung, other = await opened(spec, name="hung"), await opened(spec, name="o")
    await hung.publish(messages(1))
    await received(hung, 1)
    time.sleep(2.5)  # noqa: ASYNC251  hanging is the point
    await other.sweep([TOPIC])
    assert [one.deliveries for one in await received(other, 1)] == [2]


async def test_leases_survive_a_broken_connection_of_the_keeper(opened: Opener, redis_server: RedisServer) -> None:
    spec = evolve(SPEC, lease=1.5)
    async with Proxy(redis_server.port) as network:
        owner, other = (
            await opened(spec, name="owner", url=f"redis://127.0.0.1:{network.port}"),
            await opened(spec, name="o"),
        )
        await owner.publish(messages(2))
        held = await received(owner, 2)
        for _ in range(4):
            network.cut()
            await asyncio.sleep(0.6)
            await other.sweep([TOPIC])
        assert [one.reason for one in await owner.ack(held)] == ["done"] * 2


async def test_thousands_of_leases_are_kept(opened: Opener) -> None:
    spec = evolve(SPEC, lease=1.2)
    owner, other = await opened(spec, name="owner"), await opened(spec, name="o")
    await owner.publish(messages(2_000))
    held = await received(owner, 2_000)
    await asyncio.sleep(2.0)
    await other.sweep([TOPIC])
    assert {one.reason for one in await owner.ack(held)} == {"done"}


# -- inboxes ---------------------------------------------------------------------------------------------------


async def test_an_inbox_is_read_on_after_its_connection_broke(
    opened: Opener, redis_server: RedisServer, admin: Redis
) -> None:
    async with Proxy(redis_server.port) as network:
        reader, worker = await opened(url=f"redis://127.0.0.1:{network.port}"), await opened(name="o")
        seen: list[str] = []
        for number in range(6):
            receiving = asyncio.create_task(reader.receive("", {"inbox.p": 10}, credit=10, wait=10.0))
            await asyncio.sleep(0.05)
            if number % 2:
                network.cut()
            await worker.publish(messages(1, topic="inbox.p", start=number))
            seen += [one.id for one in await receiving]
        assert seen == [str(number) for number in range(6)]
        assert await reader.receive("", {"inbox.p": 10}, credit=10, wait=0.1) == []
        assert await admin.xlen("inbox.p") == 0
        assert 86_000 < await admin.ttl("inbox.p") <= 86_400


async def test_credit_bounds_what_an_inbox_gives_at_once(opened: Opener, admin: Redis) -> None:
    reader = await opened()
    await admin.xadd("inbox.p", {"r": b"a"})
    await admin.execute_command("XADD", "inbox.p", "*", "r", "b", "r", "c", "r", "d")
    parts = [[one.body for one in await reader.receive("", {"inbox.p": 3}, credit=3, wait=1.0)] for _ in range(2)]
    assert parts == [[b"a", b"b", b"c"], [b"d"]]
    await reader.close()
    assert await admin.xlen("inbox.p") == 2  # seen, but not dealt with as far as anybody knows


async def test_an_inbox_that_was_read_to_the_end_leaves_nothing_behind(opened: Opener, admin: Redis) -> None:
    reader = await opened()
    await admin.xadd("inbox.p", {"r": b"a"})
    assert len(await reader.receive("", {"inbox.p": 3}, credit=3, wait=1.0)) == 1
    assert await reader.receive("", {"inbox.p": 3}, credit=3, wait=0.1) == []
    await reader.close()
    assert await admin.exists("inbox.p") == 0


# -- idleness --------------------------------------------------------------------------------------------------


async def test_thirty_idle_agents_cost_next_to_nothing(opened: Opener, admin: Redis) -> None:
    topics = [f"agent{number}.tasks" for number in range(30)]
    worker = await opened(*(TopicSpec(topic) for topic in topics))
    assert isinstance(worker._intake, Intake)
    waiting = asyncio.create_task(worker.receive("workers", dict.fromkeys(topics, 1), credit=5, wait=4.0))
    await asyncio.sleep(0.5)
    before = (await admin.info("stats"))["total_commands_processed"]
    assert list(await waiting) == []
    after = (await admin.info("stats"))["total_commands_processed"]
    assert (after - before) / 3.5 <= 40
