"""The store that keeps nothing: what it hears, what it remembers, and what it makes of headers."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from murmur import presence, tally
from murmur.bell import Feed
from murmur.envelope import ErrorNote, ResultMessage, encode
from murmur.events.memory import MemoryControl, connect
from murmur.limits import CANCELS_KEPT, MAX_ERROR_IN_HEADER
from murmur.presence import Presence
from murmur.signing import read_keys
from murmur.store import Claim, Failure, Finished, GrantRequest, State
from murmur.stores.broker_only import CANCELS, NOTES, BrokerOnlyStore
from murmur.transport import Delivery

pytestmark = pytest.mark.anyio


@pytest.fixture
async def plane() -> AsyncIterator[Callable[[], MemoryControl]]:
    """Makes control planes that hear one another."""
    first = connect("memory://stores-broker-only", prefix="")  # holds the name
    yield lambda: connect("memory://stores-broker-only", prefix="")
    await first.close()


def result(task_id: str, error_type: str | None = "TaskCancelled") -> bytes:
    return encode(ResultMessage(v=1, task_id=task_id, agent="a", success=error_type is None, error_type=error_type))


def request(task_id: str = "t", headers: dict[str, str] | None = None, deliveries: int = 1) -> GrantRequest:
    delivery = Delivery("a.tasks", b"body", headers or {}, task_id, deliveries, None)
    return GrantRequest(delivery, task_id, "a", None)


async def until_cancelled(store: BrokerOnlyStore, task_id: str) -> None:
    async with asyncio.timeout(30.0):
        while (await store.read([task_id])) == [None]:
            await asyncio.sleep(0.01)


async def test_who_comes_later_asks_who_is_there(plane: Callable[[], MemoryControl]) -> None:
    worker, publisher = BrokerOnlyStore(plane()), BrokerOnlyStore(plane())
    await worker.open(owner="w", lease=None)
    note = Presence(worker_id="w", agents=("a",), concurrency=1)
    await presence.announce(worker, note)
    await publisher.open(owner="p", lease=None)
    async with asyncio.timeout(30.0):
        while await presence.seen(publisher) != (note,):
            await asyncio.sleep(0.01)
    await presence.withdraw(worker, "w")
    async with asyncio.timeout(30.0):
        while await presence.seen(publisher):
            await asyncio.sleep(0.01)
    await worker.close()
    await publisher.close()


async def test_what_is_no_cancel_is_left_aside_and_the_next_is_heard(plane: Callable[[], MemoryControl]) -> None:
    store, other = BrokerOnlyStore(plane()), plane()
    await store.open(owner="w", lease=None)
    heard = store.cancelled()
    assert isinstance(heard, Feed)
    forged = b"[" + result("forged", None) + b"," + result("failed", "TaskLost") + b"]"
    for body in (b"", b"{", b"[1]", b'[{"v":1}]', b"\xff", forged):
        await other.publish(CANCELS, body)
        await other.publish(NOTES, body)
    await other.publish(CANCELS, b"[" + result("right") + b"]")
    async with asyncio.timeout(30.0):
        assert await anext(heard) == "right"
    assert await store.read(["forged", "failed"]) == [None, None]
    (grant,) = await store.grant([request("right")])
    assert isinstance(grant, Finished)
    assert (grant.state, grant.result) == (State.CANCELLED, result("right"))
    await store.close()


async def test_with_keys_only_a_signed_cancel_counts(plane: Callable[[], MemoryControl], tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nid = "k"\nuse = "sign"\nsecret = "{base64.b64encode(os.urandom(32)).decode()}"\n')
    seal = read_keys(keys)
    store, stranger = BrokerOnlyStore(plane(), seal=seal), BrokerOnlyStore(plane())
    await store.open(owner="w", lease=None)
    await stranger.open(owner="s", lease=None)
    await stranger.cancel({"a": result("a")})
    await stranger.cancel({"b": seal.sealed(result("b"))})
    await until_cancelled(store, "b")
    assert await store.read(["a"]) == [None]
    await store.close()
    await stranger.close()


async def test_cancels_are_remembered_within_bounds_and_for_their_time(plane: Callable[[], MemoryControl]) -> None:
    now = 0.0
    store = BrokerOnlyStore(plane(), retention=10.0, clock=lambda: now)
    await store.open(owner="w", lease=None)
    await store.cancel({f"t{number}": result(f"t{number}") for number in range(CANCELS_KEPT + 1)})
    first, second = await store.read(["t0", "t1"])
    assert first is None
    assert second is not None
    now = 11.0
    assert await store.read(["t1"]) == [None]
    await store.close()


async def test_tokens_rise_with_every_grant(plane: Callable[[], MemoryControl]) -> None:
    one, other = BrokerOnlyStore(plane()), BrokerOnlyStore(plane())
    tokens = [grant.token for grant in await one.grant([request()] * 100) if isinstance(grant, Claim)]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 100
    (later,) = await other.grant([request()])
    assert isinstance(later, Claim)
    assert later.token > tokens[0]


def test_counters_go_with_the_message_and_back() -> None:
    claim = tally.claim_of(request(headers={"kept": "1"}, deliveries=2), token=7)
    assert (claim.attempts, claim.failures, claim.crashes, claim.lapses) == (2, 0, 0, 1)
    error = ErrorNote(attempt=2, error_type="E", message="ä" * 5_000, at=1.0, stack="s" * 5_000, exit="code 3")
    for number in range(1, 5):
        headers = tally.headers_after(Failure(claim, 0.0, error, crashed=number == 4))
        claim = tally.claim_of(request(headers=headers), token=7 + number)
        assert (claim.attempts, claim.failures, claim.crashes) == (2 + number, min(number, 3), number // 4)
        assert (claim.lapses, len(claim.errors)) == (0, min(number, 3))
    assert (claim.errors[0].message, claim.errors[0].exit) == ("ä" * MAX_ERROR_IN_HEADER, "code 3")
    assert claim.delivery.headers["kept"] == "1"
    assert sum(map(len, claim.delivery.headers.values())) < 2_000


@pytest.mark.parametrize("bad", ["", "-1", "1e9", "٣", "9999999", "x", " 1"])
def test_headers_of_a_stranger_count_for_nothing(bad: str) -> None:
    names = (tally.ATTEMPTS, tally.FAILURES, tally.CRASHES, tally.ERRORS)
    claim = tally.claim_of(request(headers=dict.fromkeys(names, bad)), token=1)
    assert (claim.attempts, claim.failures, claim.crashes, claim.errors) == (1, 0, 0, ())
