"""The Redis store fused with its transport: rows and messages change in one step, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from attrs import define

from murmur.envelope import ErrorNote
from murmur.store import Burial, Claim, Completion, Failure, GrantRequest, NewTask, State, Written
from murmur.stores import redis as redis_stores
from murmur.stores.redis import RedisStore
from murmur.transport import Delivery, TopicKind, TopicSpec
from murmur.transports import redis as redis_transports
from murmur.transports.redis import RedisTransport
from tests.transports.redis_fixture import RedisServer

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


Open = Callable[[str], "asyncio.Future[Node]"]


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    server = RedisServer()
    await server.start()
    yield server
    await server.remove()


@pytest.fixture
async def node(server: RedisServer) -> AsyncIterator[Callable[..., object]]:
    opened: list[Node] = []

    async def open_node(name: str = "w", *, spec: TopicSpec = SPEC) -> Node:
        transport = redis_transports.connect(server.url, consumer_id=name, namespace="", lease=spec.lease)
        store = redis_stores.connect(server.url, namespace="", retention=600.0, mailbox=transport)
        assert store.moves_messages
        await transport.open([spec, TopicSpec(INBOX, TopicKind.INBOX)])
        await store.open(owner=name, lease=spec.lease)
        opened.append(Node(transport, store))
        return opened[-1]

    yield open_node
    for one in opened:
        await one.store.close()
        await one.transport.close()


async def test_a_task_goes_from_admission_to_its_publishers_inbox(node) -> None:
    w = await node()
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


async def test_many_at_once_each_get_their_own(node) -> None:
    w = await node()
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


async def test_a_failed_task_comes_back_after_its_delay_and_is_counted(node) -> None:
    w = await node()
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


async def test_a_buried_task_leaves_one_letter_and_one_result(node) -> None:
    w = await node()
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
