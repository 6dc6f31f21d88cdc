"""What the NATS store does beyond the contract: large results, what is over, the server's clock, its buckets."""

import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from murmur.errors import BrokerUnreachable
from murmur.store import Busy, Claim, Completion, Finished, GrantRequest, NewTask, State, Written
from murmur.stores import nats as stores
from murmur.stores.nats import NatsStore
from murmur.stores.nats_bucket import Bucket, Entry, text_of, token
from murmur.transport import Delivery
from tests.brokers.fixtures import NatsStarter
from tests.brokers.nats_operator import operator, wipe
from tests.brokers.nats_server import NatsServer
from tests.contracts.harness import until

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def opened(server: NatsServer, *, retention: float = 3_600.0, namespace: str = "") -> AsyncIterator[NatsStore]:
    store = stores.connect(server.url, namespace=namespace, retention=retention, mailbox=None)
    await store.open(owner="w", lease=30.0)
    try:
        yield store
    finally:
        await store.close()


async def claimed(store: NatsStore, task_id: str) -> Claim:
    await store.admit([NewTask(task_id, "echo", "echo.tasks", b"{}")])
    delivery = Delivery("echo.tasks", b"{}", {}, task_id, 1, None)
    (claim,) = await store.grant([GrantRequest(delivery, task_id, "echo", None)])
    assert isinstance(claim, Claim)
    return claim


@pytest.mark.parametrize("size", [0, 400 * 1024, 400 * 1024 + 1, 3_000_000])
async def test_a_result_larger_than_a_message_comes_back_as_it_was(nats_server: NatsServer, size: int) -> None:
    result = b"7" * size
    async with opened(nats_server) as store, opened(nats_server) as reader:
        claim = await claimed(store, f"large-{size}")
        assert await store.complete([Completion(claim, result)]) == [Written.STORED]
        assert await store.complete([Completion(claim, result)]) == [Written.REPEATED]
        (row,) = await reader.read([claim.task_id])
        assert row is not None
        assert row.result == result


async def test_what_is_over_is_taken_away_and_nothing_else(start_nats: NatsStarter) -> None:
    server = start_nats()
    async with opened(server, retention=1.0) as store:
        await store.complete([Completion(await claimed(store, "done"), b"x" * 900_000)])
        claim = await claimed(store, "runs")
        await store.record(claim, "step", b"x")
        await store.put("brief", b"x")
        await store.put("long", b"x", ttl=600.0)

        async def is_collected() -> bool:
            await store.sweep(["echo.tasks"])
            async with operator(server.url) as link:
                request = {"subjects_filter": ">"}
                kept = [await link.api(f"STREAM.INFO.KV_{name}", request) for name in ("murmur-rows", "murmur")]
            subjects = {one.split(".", 2)[2] for each in kept for one in each["state"]["subjects"]}
            return subjects == {"row.runs", "step.runs.step.1", "key.long", "clock", "collected"}

        assert await until(is_collected, within=30.0)
        assert [one is not None for one in await store.read(["done", "runs"])] == [False, True]


async def test_leases_run_on_the_servers_clock(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: 5.0)  # this host believes it is 1970
        async with opened(nats_server) as late:
            claim = await claimed(late, "clocked")
            async with opened(nats_server) as other:
                (busy,) = await other.grant([GrantRequest(claim.delivery, "clocked", "echo", None)])
                assert not isinstance(busy, Claim)
    async with opened(nats_server) as right:
        (row,) = await right.read(["clocked"])
        (busy,) = await right.grant([GrantRequest(claim.delivery, "clocked", "echo", None)])
        assert row is not None
        assert row.state is State.LEASED
        assert not isinstance(busy, Claim)


async def test_buckets_that_were_deleted_are_made_anew(start_nats: NatsStarter) -> None:
    server = start_nats()
    async with opened(server) as store:
        await store.put("a", b"1")
        await wipe(server.url)
        assert list(await store.get(["a"])) == [None]
        await store.put("a", b"2")
        assert list(await store.get(["a"])) == [b"2"]
        assert await store.read(["nothing"]) == [None]


async def test_a_server_without_room_is_away_not_gone(start_nats: NatsStarter) -> None:
    server = start_nats()
    async with opened(server) as store:
        async with operator(server.url) as link:
            config = (await link.api("STREAM.INFO.KV_murmur"))["config"]
            await link.api("STREAM.UPDATE.KV_murmur", {**config, "max_bytes": 2_000})
        with pytest.raises(BrokerUnreachable, match="maximum bytes"):
            await store.put("large", b"x" * 10_000)
        await store.put("small", b"x")


async def test_namespaces_do_not_see_each_other(nats_server: NatsServer) -> None:
    async with opened(nats_server, namespace="one") as one, opened(nats_server, namespace="two") as two:
        await one.put("k", b"1")
        await claimed(one, "same-id")
        assert list(await two.get(["k"])) == [None]
        assert await two.read(["same-id"]) == [None]


@pytest.mark.parametrize("text", ["", "plain", "a.b", "a=2Eb", "50%", "presence/*", "ä ☃", "=00"])
def test_any_text_is_one_part_of_a_key(text: str) -> None:
    part = token(text)
    assert text_of(part) == text
    assert part
    assert not set(part) & set(". *>\t")


def first(task_id: str, mark: str, *, deliveries: int = 1) -> GrantRequest:
    return GrantRequest(Delivery("echo.tasks", b"{}", {}, task_id, deliveries, None), task_id, "echo", None, mark)


async def test_a_row_that_stands_as_it_was_made_is_granted_without_being_read(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(nats_server) as publisher, opened(nats_server) as worker:
        admitted = await publisher.admit([NewTask(f"mark-{n}", "echo", "echo.tasks", b"{}") for n in range(3)])
        read: list[str] = []
        get = Bucket.get

        async def noted(bucket: Bucket, keys: Sequence[str]) -> list[Entry | None]:
            read.extend(keys)
            return await get(bucket, keys)

        monkeypatch.setattr(Bucket, "get", noted)
        grants = await worker.grant([first(one.task_id, one.mark) for one in admitted])
        assert read == []
        assert [(one.token, one.attempts) for one in grants if isinstance(one, Claim)] == [(1, 1)] * 3
        rows = await publisher.read([one.task_id for one in admitted])
        assert [(row.state, row.agent, row.token) for row in rows if row] == [(State.LEASED, "echo", 1)] * 3


async def test_the_row_of_a_new_task_is_made_by_its_first_grant(nats_server: NatsServer) -> None:
    async with opened(nats_server) as publisher, opened(nats_server) as worker:
        tasks = [NewTask(f"new-{n}", "echo", "echo.tasks", b"{}", is_new=n != 1) for n in range(3)]
        admitted = await publisher.admit(tasks)
        assert [(one.task_id, one.fresh, one.state) for one in admitted] == [
            (f"new-{n}", True, State.QUEUED) for n in range(3)
        ]
        rows = await publisher.read([one.task_id for one in tasks])
        assert [row is not None for row in rows] == [False, True, False]
        await publisher.admit([NewTask("new-2", "echo", "echo.tasks", b"{}")])
        await publisher.cancel({"new-2": b"cancelled"})
        found = await worker.grant([first(one.task_id, one.mark) for one in admitted])
        assert [type(one) for one in found] == [Claim, Claim, Finished]
        (again,) = await publisher.grant([first("new-0", admitted[0].mark)])
        assert isinstance(again, Busy)


async def test_a_mark_of_a_row_that_stands_otherwise_by_now_decides_nothing(nats_server: NatsServer) -> None:
    async with opened(nats_server) as publisher, opened(nats_server) as worker, opened(nats_server) as other:
        ids = ["moved-cancelled", "moved-leased", "moved-done", "moved-odd"]
        admitted = await publisher.admit([NewTask(one, "echo", "echo.tasks", b"{}") for one in ids])
        marks = [one.mark for one in admitted]
        await publisher.cancel({ids[0]: b"cancelled"})
        leased, done = await other.grant([first(ids[1], marks[1]), first(ids[2], marks[2])])
        assert isinstance(leased, Claim)
        assert isinstance(done, Claim)
        await other.complete([Completion(done, b"done")])
        found = await worker.grant([first(*one) for one in zip(ids, [*marks[:3], "9" * 30], strict=True)])
        assert [type(one) for one in found] == [Finished, Busy, Finished, Claim]
        assert [one.result for one in found if isinstance(one, Finished)] == [b"cancelled", b"done"]


async def test_answers_of_one_call_are_those_of_their_rows(nats_server: NatsServer) -> None:
    async with opened(nats_server) as store, opened(nats_server) as other:
        stale, fresh = await claimed(store, "call-stale"), await claimed(store, "call-fresh")
        await other.cancel({stale.task_id: b"cancelled"})
        twice = [Completion(stale, b"s"), Completion(fresh, b"f"), Completion(fresh, b"again")]
        assert await store.complete(twice) == [Written.STALE, Written.STORED, Written.REPEATED]
        rows = await other.read([stale.task_id, fresh.task_id])
        assert [row.result for row in rows if row] == [b"cancelled", b"f"]


def lose_the_next_answer(store: NatsStore) -> None:
    """Let the connection break when the server has done what it is asked next, and before that is heard."""
    wire = store._link.wire  # nothing outside knows the moment
    assert wire is not None
    wire.subscribers[1] = lambda _: wire.abort("cut")


async def test_a_write_whose_answer_was_lost_is_known_by_what_stands_there(nats_server: NatsServer) -> None:
    async with opened(nats_server) as store, opened(nats_server) as other:
        task = NewTask("cut", "echo", "echo.tasks", b"{}")
        lose_the_next_answer(store)
        (admitted,) = await store.admit([task])
        assert admitted.fresh
        lose_the_next_answer(store)
        claims = await store.grant([first("cut", admitted.mark), first("cut-new", "0")])
        assert [(one.token, one.attempts) for one in claims if isinstance(one, Claim)] == [(1, 1)] * 2
        lose_the_next_answer(store)
        ends = [Completion(one, b"r" * 500_000) for one in claims if isinstance(one, Claim)]
        assert await store.complete(ends) == [Written.STORED] * 2
        (row,) = await other.read(["cut"])
        assert row is not None
        assert row.result == b"r" * 500_000
        lose_the_next_answer(store)
        assert await store.swap("cut", None, b"v") == b"v"


async def test_a_write_whose_answer_was_lost_stands_no_second_time(nats_server: NatsServer) -> None:
    async with opened(nats_server) as store, opened(nats_server) as other:
        claim = await claimed(store, "cut-late")
        await other.cancel({"cut-late": b"cancelled"})
        lose_the_next_answer(store)
        assert await store.complete([Completion(claim, b"r")]) == [Written.STALE]
        (row,) = await other.read(["cut-late"])
        assert row is not None
        assert row.result == b"cancelled"
