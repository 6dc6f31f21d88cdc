"""The Redis store fused with its transport: rows and messages change in one step, on a real server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from attrs import define, evolve
from redis.asyncio import Redis

from murmur.envelope import ErrorNote
from murmur.errors import LeaseLost
from murmur.store import Burial, Busy, Claim, Completion, Failure, Finished, GrantRequest, NewTask, State, Written
from murmur.stores import redis as redis_stores
from murmur.stores.redis import RedisStore
from murmur.transport import Delivery, TopicKind, TopicSpec
from murmur.transports import redis as redis_transports
from murmur.transports.redis import RedisTransport
from tests.brokers.proxy import Proxy
from tests.brokers.redis_operator import operator
from tests.brokers.redis_server import RedisServer
from tests.contracts.harness import until

pytestmark = pytest.mark.anyio

TOPIC, INBOX = "echo.tasks", "inbox.p"
SPEC = TopicSpec(TOPIC, lease=2.0, dead_topic="echo.dead")


@define
class Node:
    """A process' pair of adapters."""

    transport: RedisTransport
    store: RedisStore

    async def claims(self, count: int = 1, *, wait: float = 2.0) -> list[Claim]:
        """Receive and grant up to so many tasks."""
        taken = await self.transport.receive("workers", {TOPIC: count}, credit=count, wait=wait)
        grants = await self.store.grant([request(one) for one in taken])
        return [one for one in grants if isinstance(one, Claim)]

    async def bells(self, *, wait: float = 2.0) -> list[bytes]:
        """Read the inbox."""
        return [one.body for one in await self.transport.receive("", {INBOX: 1_000}, credit=1_000, wait=wait)]


def request(delivery: Delivery, task_id: str = "") -> GrantRequest:
    return GrantRequest(delivery, task_id or delivery.id, "echo", INBOX)


def task(task_id: str, *, reply_to: str = INBOX) -> NewTask:
    return NewTask(task_id, "echo", TOPIC, b'{"task_id":"%s"}' % task_id.encode(), reply_to)


Opener = Callable[..., Awaitable[Node]]


@pytest.fixture
async def opened(redis_server: RedisServer) -> AsyncIterator[Opener]:
    nodes: list[Node] = []

    async def opened(name: str = "w", *, spec: TopicSpec = SPEC, url: str = redis_server.url) -> Node:
        transport = redis_transports.connect(url, consumer_id=name, namespace="", lease=spec.lease)
        store = redis_stores.connect(url, namespace="", retention=600.0, mailbox=transport)
        assert store.moves_messages
        await transport.open([spec, TopicSpec(INBOX, TopicKind.INBOX)])
        await store.open(owner=name, lease=spec.lease)
        nodes.append(Node(transport, store))
        return nodes[-1]

    yield opened
    for one in nodes:
        await one.transport.close(grace=1.0)
        await one.store.close()


@pytest.fixture
async def admin(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with operator(redis_server.url) as client:
        yield client


async def test_a_task_goes_from_admission_to_its_publishers_inbox(opened: Opener) -> None:
    w = await opened()
    (admission,) = await w.store.admit([task("1")])
    assert (admission.fresh, admission.state) == (True, State.QUEUED)
    (claim,) = await w.claims()
    assert (claim.task_id, claim.token, claim.attempts, claim.reply_to) == ("1", 1, 1, INBOX)
    assert claim.delivery.body == b'{"task_id":"1"}'
    (row,) = await w.store.read(["1"])
    assert row is not None
    assert (row.state, row.owner, row.attempts) == (State.LEASED, "w", 1)
    assert await w.store.complete([Completion(claim, b"result")]) == [Written.STORED]
    assert await w.bells() == [b"result"]
    (row,) = await w.store.read(["1"])
    assert row is not None
    assert (row.state, row.owner, row.result) == (State.DONE, None, b"result")
    stats = await w.transport.stats(TOPIC, "workers")
    assert (stats.ready, stats.inflight) == (0, 0)
    (again,) = await w.store.admit([task("1")])
    assert (again.fresh, again.state, again.result) == (False, State.DONE, b"result")
    assert await w.claims(wait=0.1) == []


async def test_many_at_once_each_get_their_own(opened: Opener) -> None:
    w = await opened()
    ids = [str(number) for number in range(1_000)]
    admissions = await asyncio.gather(*(w.store.admit([task(one)]) for one in ids))
    assert all(one.fresh for (one,) in admissions)
    done: list[str] = []
    while len(done) < len(ids):
        claims = await w.claims(100)
        written = await asyncio.gather(
            *(w.store.complete([Completion(one, b"r" + one.task_id.encode())]) for one in claims),
        )
        assert written == [[Written.STORED]] * len(claims)
        done += [one.task_id for one in claims]
    bells: list[bytes] = []
    while len(bells) < len(ids):
        bells += await w.bells()
    assert sorted(bells) == sorted(b"r" + one.encode() for one in ids)


async def test_a_failed_task_comes_back_after_its_delay_and_is_counted(opened: Opener) -> None:
    w = await opened()
    await w.store.admit([task("1")])
    (claim,) = await w.claims()
    note = ErrorNote(attempt=1, error_type="ValueError", message="x" * 100, at=0.0)
    assert await w.store.fail([Failure(claim, 0.2, note)]) == [Written.STORED]
    assert await w.store.fail([Failure(claim, 0.2, note)]) == [Written.REPEATED]
    due = await w.store.sweep([TOPIC])
    assert due is not None
    assert 0 < due <= 0.2
    await asyncio.sleep(due)
    assert await w.store.sweep([TOPIC]) is None
    (claim,) = await w.claims()
    assert (claim.token, claim.failures, claim.lapses, list(claim.errors)) == (2, 1, 0, [note])
    assert await w.store.release([claim]) == [Written.STORED]
    (claim,) = await w.claims()
    assert (claim.token, claim.failures, list(claim.errors)) == (3, 1, [note])


async def test_a_buried_task_leaves_one_letter_and_one_result(opened: Opener) -> None:
    w = await opened()
    await w.store.admit([task("1")])
    (claim,) = await w.claims()
    burial = Burial(claim, "poison", b"letter", b"error")
    assert await w.store.bury([burial]) == [Written.STORED]
    assert await w.store.bury([burial]) == [Written.REPEATED]
    assert await w.store.dead_letters("echo") == [b"letter"]
    assert await w.bells() == [b"error"]
    (row,) = await w.store.read(["1"])
    assert row is not None
    assert row.state is State.DEAD


# -- the guards ----------------------------------------------------------------------------------------------------


async def stall(node: Node) -> None:
    """Let a node renew nothing any more, as if it were frozen."""
    assert node.transport._keeper is not None
    await node.transport._keeper.stop()


async def swept(node: Node, task_id: str) -> None:
    """Sweep until the lease on a task is over."""

    async def is_over() -> bool:
        await node.store.sweep([TOPIC])
        (row,) = await node.store.read([task_id])
        return row is not None and row.state is not State.LEASED

    assert await until(is_over, within=30.0)


async def test_whoever_lost_his_lease_writes_nothing_any_more(opened: Opener) -> None:
    old, new = await opened("old"), await opened("new")
    await old.store.admit([task("1")])
    (stale,) = await old.claims()
    await stall(old)
    await swept(new, "1")
    note = ErrorNote(attempt=1, error_type="E", message="m", at=0.0)

    async def writes() -> list[Written]:
        return [
            *await old.store.complete([Completion(stale, b"stale")]),
            *await old.store.fail([Failure(stale, 0.0, note)]),
            *await old.store.release([stale]),
            *await old.store.bury([Burial(stale, "r", b"letter", b"stale")]),
        ]

    assert await writes() == [Written.STALE] * 4  # while it is queued
    (claim,) = await new.claims()
    assert (claim.token, claim.attempts, claim.lapses, claim.delivery.deliveries) == (2, 2, 1, 2)
    assert await writes() == [Written.STALE] * 4  # while another runs it
    with pytest.raises(LeaseLost):
        await old.store.record(stale, "step", b"stale")
    assert await new.store.complete([Completion(claim, b"good")]) == [Written.STORED]
    assert await writes() == [Written.STALE] * 4  # when it is over
    assert await new.bells() == [b"good"]
    assert await new.store.dead_letters("echo") == []


async def test_a_lease_lost_while_nobody_said_so_is_reported(opened: Opener) -> None:
    old, new = await opened("old", spec=evolve(SPEC, lease=1.0)), await opened("new", spec=evolve(SPEC, lease=1.0))
    lost = old.transport.lost()
    await old.store.admit([task("1")])
    (stale,) = await old.claims()
    await stall(old)
    await swept(new, "1")
    await new.claims()
    old.transport._keeper = None  # it thaws
    old.transport._keep(1.0)
    async with asyncio.timeout(30.0):
        assert await anext(lost) is stale.delivery


async def test_after_the_server_lost_everything_a_running_task_still_ends(opened: Opener, admin: Redis) -> None:
    w = await opened()
    await w.store.admit([task("1"), task("2"), task("3")])
    done, failed, released = await w.claims(3)
    await admin.flushall()
    assert await w.store.renew([done]) == [True]
    assert await w.store.complete([Completion(done, b"result")]) == [Written.STORED]
    assert await w.bells() == [b"result"]
    note = ErrorNote(attempt=1, error_type="E", message="m", at=0.0)
    assert await w.store.fail([Failure(failed, 0.0, note)]) == [Written.STORED]
    assert await w.store.release([released]) == [Written.STORED]
    again = {one.task_id: one for one in await w.claims(2) + await w.claims(1, wait=0.2)}
    assert {(one.token, one.failures, one.delivery.body) for one in again.values()} == {
        (2, 1, failed.delivery.body),
        (2, 0, released.delivery.body),
    }


async def test_a_task_submitted_anew_after_a_wipe_is_not_ended_by_its_old_run(opened: Opener, admin: Redis) -> None:
    w = await opened()
    await w.store.admit([task("1")])
    (old,) = await w.claims()
    await admin.flushall()
    (admission,) = await w.store.admit([task("1")])
    assert admission.fresh
    (new,) = await w.claims()
    assert new.token == old.token  # so that only the entry tells them apart
    assert await w.store.complete([Completion(old, b"old")]) == [Written.STALE]
    assert await w.store.renew([old]) == [False]
    assert await w.store.complete([Completion(new, b"new")]) == [Written.STORED]
    assert await w.store.complete([Completion(old, b"old")]) == [Written.STALE]
    assert await w.bells() == [b"new"]


async def test_a_write_whose_answer_was_lost_is_repeated_and_done_once(
    opened: Opener, redis_server: RedisServer, admin: Redis
) -> None:
    async with Proxy(redis_server.port) as network:
        w = await opened(url=f"redis://127.0.0.1:{network.port}")
        await w.store.admit([task("1"), task("2"), task("3")])
        done, failed, buried = await w.claims(3)
        network.loses_replies = True
        note = ErrorNote(attempt=1, error_type="E", message="m", at=0.0)
        writes = [
            asyncio.create_task(w.store.complete([Completion(done, b"done")])),
            asyncio.create_task(w.store.fail([Failure(failed, 0.0, note)])),
            asyncio.create_task(w.store.bury([Burial(buried, "r", b"letter", b"dead")])),
            asyncio.create_task(w.store.admit([task("4")])),
        ]

        async def all_done() -> bool:
            return await admin.exists("murmur:task:4") == 1 and await admin.xlen("echo.dead") == 1

        assert await until(all_done, within=30.0)
        network.heal()
        network.cut()
        assert [await one for one in writes[:3]] == [[Written.REPEATED]] * 3
        assert [one.state for one in await writes[3]] == [State.QUEUED]
        assert sorted(await w.bells()) == [b"dead", b"done"]
        assert await admin.xlen("echo.dead") == 1
        assert sorted(one.task_id for one in await w.claims(3, wait=0.5) + await w.claims(3, wait=0.5)) == ["2", "4"]


async def test_a_read_whose_answer_was_lost_is_given_back_and_not_counted_as_lapsed(
    opened: Opener, redis_server: RedisServer, admin: Redis
) -> None:
    async with Proxy(redis_server.port) as network:
        w = await opened(url=f"redis://127.0.0.1:{network.port}", spec=evolve(SPEC, lease=60.0))
        await w.store.admit([task("1")])
        network.loses_replies = True
        receiving = asyncio.create_task(w.claims(wait=10.0))

        async def is_leased() -> bool:
            return bool(await admin.hget("murmur:task:1", "state") == b"leased")

        assert await until(is_leased, within=30.0)
        network.heal()
        network.cut()
        (claim,) = await receiving
        assert (claim.token, claim.lapses, claim.delivery.deliveries) == (2, 0, 1)
        assert await w.store.complete([Completion(claim, b"done")]) == [Written.STORED]


# -- duplicates and strangers --------------------------------------------------------------------------------------


async def strange(admin: Redis, task_id: str, **fields: str) -> None:
    await admin.xadd(TOPIC, {"d": b'{"v":1,"task_id":"%s"}' % task_id.encode(), **fields})


async def test_a_second_message_of_a_task_never_starts_it_twice(opened: Opener, admin: Redis) -> None:
    w = await opened()
    await w.store.admit([task("1")])
    await strange(admin, "1", i="1")
    (claim,) = await w.claims(2)
    assert await w.claims(2, wait=0.1) == []
    await strange(admin, "1", i="1")
    assert await w.claims(2, wait=0.2) == []
    assert await w.store.complete([Completion(claim, b"done")]) == [Written.STORED]
    await strange(admin, "1", i="1")
    assert await w.claims(2, wait=0.2) == []
    assert await admin.xlen(TOPIC) == 0
    assert await w.bells() + await w.bells(wait=0.2) == [b"done", b"done"]  # the second message rang once more


async def test_a_strangers_task_is_admitted_granted_and_swept_like_ours(opened: Opener, admin: Redis) -> None:
    old, new = await opened("old"), await opened("new")
    await strange(admin, "s1")
    (delivery,) = await old.transport.receive("workers", {TOPIC: 1}, credit=1, wait=2.0)
    assert delivery.id == ""
    (claim,) = await old.store.grant([request(delivery, "s1")])
    assert isinstance(claim, Claim)
    assert (claim.token, claim.lapses) == (1, 0)
    await asyncio.sleep(0)
    await stall(old)
    await swept(new, "s1")
    (again,) = await new.claims()
    assert (again.task_id, again.token, again.lapses) == ("s1", 2, 1)
    assert await old.store.complete([Completion(claim, b"stale")]) == [Written.STALE]
    assert await new.store.complete([Completion(again, b"done")]) == [Written.STORED]
    assert await new.bells() == [b"done"]


async def test_a_strangers_lease_is_renewed_under_its_tasks_name(opened: Opener, admin: Redis) -> None:
    spec = evolve(SPEC, lease=0.6)
    w, other = await opened("w", spec=spec), await opened("o", spec=spec)
    await strange(admin, "s1")
    (delivery,) = await w.transport.receive("workers", {TOPIC: 1}, credit=1, wait=2.0)
    (claim,) = await w.store.grant([request(delivery, "s1")])
    assert isinstance(claim, Claim)
    for _ in range(6):
        assert await other.claims(wait=0.3) == []
        await other.store.sweep([TOPIC])
    assert await w.store.complete([Completion(claim, b"done")]) == [Written.STORED]


async def test_two_strangers_messages_of_one_task_start_it_once(opened: Opener, admin: Redis) -> None:
    w = await opened()
    await strange(admin, "s1")
    await strange(admin, "s1")
    taken = await w.transport.receive("workers", {TOPIC: 2}, credit=2, wait=2.0)
    first, second = await w.store.grant([request(one, "s1") for one in taken])
    assert isinstance(first, Claim)
    assert isinstance(second, Busy)
    (settled,) = await w.transport.release([second.delivery], delay=second.retry_after)
    assert settled.reason == "lost"  # the duplicate is gone already
    assert await w.store.complete([Completion(first, b"done")]) == [Written.STORED]
    await strange(admin, "s1")
    taken = await w.transport.receive("workers", {TOPIC: 2}, credit=2, wait=2.0)
    (over,) = await w.store.grant([request(one, "s1") for one in taken])
    assert isinstance(over, Finished)
    assert (over.state, over.result) == (State.DONE, b"done")
    assert await admin.xlen(TOPIC) == 0


async def test_grants_stand_in_the_order_of_their_requests_whatever_comes_of_each(opened: Opener, admin: Redis) -> None:
    w = await opened()
    for task_id in ("s1", "s1", "s2"):  # messages that bear the id of their task, as ours do, and had no row
        await admin.xadd(TOPIC, {"i": task_id, "d": b'{"task_id":"%s"}' % task_id.encode()})
    taken = await w.transport.receive("workers", {TOPIC: 3}, credit=3, wait=2.0)
    while len(taken) < 3:
        taken = [*taken, *await w.transport.receive("workers", {TOPIC: 3}, credit=3 - len(taken), wait=2.0)]
    grants = await w.store.grant([request(one) for one in taken])
    assert [type(grant) for grant in grants] == [Claim, Busy, Claim]
    assert [grant.delivery for grant in grants] == taken


async def test_a_message_lost_although_its_row_was_kept_is_enqueued_when_its_task_is_submitted_again(
    opened: Opener, admin: Redis
) -> None:
    w = await opened()
    await w.store.admit([task("1"), task("2")])
    (running,) = await w.claims(1)
    await admin.xtrim(TOPIC, maxlen=0, approximate=False)  # somebody trims: the message of 1, pending, and that of 2
    again = await w.store.admit([task("1"), task("2")])
    assert [(one.fresh, one.state) for one in again] == [(False, State.LEASED), (False, State.QUEUED)]
    (other,) = await w.claims(2)
    assert (running.task_id, other.task_id) == ("1", "2")
    assert await w.store.complete([Completion(running, b"1"), Completion(other, b"2")]) == [Written.STORED] * 2


# -- cancelling ----------------------------------------------------------------------------------------------------


async def test_cancelling_takes_away_what_waits_and_tells_who_runs(opened: Opener, admin: Redis) -> None:
    publisher, w = await opened("p"), await opened("w")
    news = w.store.cancelled()
    await publisher.store.admit([task("waits"), task("delayed"), task("runs"), task("done")])
    claims = {one.task_id: one for one in await w.claims(4)}
    await w.store.release([claims["waits"]])
    await w.store.release([claims["delayed"]], delay=60.0)
    await w.store.complete([Completion(claims["done"], b"done")])
    assert await publisher.bells() == [b"done"]

    async def is_subscribed() -> bool:
        return dict(await admin.pubsub_numsub("murmur:cancelled"))[b"murmur:cancelled"] == 1

    assert await until(is_subscribed, within=30.0)
    states = await publisher.store.cancel(dict.fromkeys(("waits", "delayed", "runs", "done", "unknown"), b"cancelled"))
    cancelled = State.CANCELLED
    assert states == {"waits": cancelled, "delayed": cancelled, "runs": cancelled, "done": State.DONE}
    async with asyncio.timeout(30.0):
        assert await anext(news) == "runs"
    assert await publisher.bells() == [b"cancelled"] * 3
    assert await w.store.complete([Completion(claims["runs"], b"late")]) == [Written.STALE]
    assert await w.claims(wait=0.1) == []
    assert await admin.xlen(TOPIC) + await admin.xlen(f"{TOPIC}:again") + await admin.zcard(f"{TOPIC}:delayed") == 0


async def test_a_cancellation_stays_in_its_database(opened: Opener, redis_server: RedisServer, admin: Redis) -> None:
    nodes = [await opened(url=f"{redis_server.url}/{number}") for number in (0, 3)]
    feeds = [node.store.cancelled() for node in nodes]

    async def is_subscribed() -> bool:
        counts = await admin.pubsub_numsub("murmur:cancelled", "murmur:cancelled@3")
        return [count for _, count in counts] == [1, 1]

    assert await until(is_subscribed, within=30.0)
    claims = []
    for node in nodes:
        await node.store.admit([task("1"), task("2")])
        claims.append({one.task_id: one for one in await node.claims(2)})
    await nodes[0].store.cancel({"1": b"cancelled"})
    async with asyncio.timeout(30.0):
        assert await anext(feeds[0]) == "1"
        await nodes[1].store.cancel({"2": b"cancelled"})
        assert await anext(feeds[1]) == "2"  # and has heard nothing before
    assert await nodes[1].store.complete([Completion(claims[1]["1"], b"done")]) == [Written.STORED]


async def test_a_cancellation_that_was_not_heard_shows_when_the_lease_is_renewed(
    opened: Opener, redis_server: RedisServer
) -> None:
    async with Proxy(redis_server.port) as network:
        spec = evolve(SPEC, lease=30.0)
        w, publisher = (
            await opened("w", spec=spec, url=f"redis://127.0.0.1:{network.port}"),
            await opened("p", spec=spec),
        )
        w.store.cancelled()
        lost = w.transport.lost()
        await publisher.store.admit([task("1")])
        (claim,) = await w.claims()
        network.cut()
        network.is_refusing = True
        await publisher.store.cancel({"1": b"cancelled"})
        network.heal()
        async with asyncio.timeout(8.0):  # long before a third of the lease: hearing again asks at once
            assert await anext(lost) is claim.delivery


# -- what is kept --------------------------------------------------------------------------------------------------


async def test_the_newest_publisher_of_a_task_is_rung(opened: Opener) -> None:
    w = await opened()
    await w.store.admit([task("1", reply_to="inbox.gone")])
    (admission,) = await w.store.admit([task("1")])
    assert not admission.fresh
    (claim,) = await w.claims()
    await w.store.complete([Completion(claim, b"done")])
    assert await w.bells() == [b"done"]


async def test_results_of_one_turn_share_an_entry_and_everything_over_is_forgotten_in_time(
    opened: Opener, admin: Redis
) -> None:
    w = await opened()
    await w.store.admit([task(str(number)) for number in range(50)])
    claims = await w.claims(50)
    await w.store.record(claims[0], "step", b"x")
    await asyncio.gather(*(w.store.complete([Completion(one, b"r")]) for one in claims))
    assert await admin.xlen(INBOX) == 1
    for key in (INBOX, *(f"murmur:task:{number}" for number in range(50)), "murmur:journal:0"):
        assert 590 <= await admin.ttl(key) <= 600, key
    assert await w.store.read(["0", "nobody"]) == [(await w.store.read(["0"]))[0], None]


async def test_a_row_that_is_not_over_never_expires(opened: Opener, admin: Redis) -> None:
    w = await opened()
    await w.store.admit([task("queued"), task("leased")])
    await w.store.record((await w.claims())[0], "step", b"x")
    for key in await admin.keys("murmur:*"):
        assert await admin.ttl(key) == -1, key


async def test_closing_gives_back_what_was_granted_uncounted(opened: Opener) -> None:
    leaver, heir = await opened("a"), await opened("b")
    await leaver.store.admit([task("1"), task("2")])
    await leaver.claims(2)
    await leaver.transport.close()
    claims = await heir.claims(2)
    assert {(one.token, one.lapses, one.delivery.deliveries) for one in claims} == {(2, 0, 1)}


_CHILD = """
import asyncio, sys
from tests.stores.test_redis_fused import hold_for_ever
asyncio.run(hold_for_ever(sys.argv[1]))
"""


async def hold_for_ever(url: str) -> None:
    """What the child does: be `node`, claim a task, say so, and hang."""
    transport = redis_transports.connect(url, consumer_id="node", namespace="", lease=60.0)
    store = redis_stores.connect(url, namespace="", retention=600.0, mailbox=transport)
    await transport.open([evolve(SPEC, lease=60.0)])
    await store.open(owner="node", lease=60.0)
    (claim,) = await Node(transport, store).claims()
    print(claim.task_id, flush=True)
    await asyncio.Event().wait()


async def test_a_restart_under_the_same_name_takes_its_tasks_over_at_once(
    opened: Opener, redis_server: RedisServer
) -> None:
    spec = evolve(SPEC, lease=60.0)
    publisher = await opened("p", spec=spec)
    await publisher.store.admit([task("1")])
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, redis_server.url, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert child.stdout is not None
    assert await asyncio.wait_for(child.stdout.readline(), 20.0) == b"1\n"
    twin = await opened("node", spec=spec)
    assert await twin.claims(wait=0.2) == []  # while the first lives, nobody takes anything from it
    child.kill()
    await child.wait()

    async def is_back() -> bool:
        await twin.store.sweep([TOPIC])
        return bool((await twin.transport.stats(TOPIC, "workers")).ready)

    assert await until(is_back, within=30.0)
    (claim,) = await twin.claims()
    assert (claim.token, claim.lapses, claim.delivery.deliveries) == (2, 1, 2)
