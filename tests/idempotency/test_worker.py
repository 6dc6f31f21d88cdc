"""A worker with an idempotency hook: the same work is done once, whoever brings it, and a broken hook loses nothing."""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from murmur import Actor, AgentRuntime, TaskSpec
from murmur.errors import BadSetting, TaskFailed
from murmur.idempotency import Claimed, IdempotencyHook, Kept, Token
from murmur.stores.sqlite_idempotency import SqliteIdempotency
from murmur.worker import Worker

pytestmark = pytest.mark.anyio


class Charger(Actor[dict[str, int], int]):
    """Charges a card, and counts how often it really did."""

    charges: ClassVar[list[str]] = []

    def idempotency_key(self, message: dict[str, int]) -> str | None:
        return f"order-{message['order']}"

    async def receive(self, order: dict[str, int]) -> int:
        self.charges.append(self.context.idempotency_key)
        await asyncio.sleep(0.05)
        if order["amount"] < 0:
            raise ConnectionError("the bank is away")
        return order["amount"]


@pytest.fixture(autouse=True)
def no_charges() -> None:
    Charger.charges.clear()


async def charged(hook: IdempotencyHook, tasks: list[Any], *, broker: str = "memory://charges") -> list[Any]:
    worker = Worker(broker=broker, agents=[Charger], idempotency=hook, max_deliveries=2, concurrency=4)
    async with AgentRuntime(broker=broker) as runtime, worker:
        return list(await runtime.gather(Charger, tasks=tasks, timeout=20.0))


async def test_two_tasks_of_the_same_work_are_paid_for_once(tmp_path: Path) -> None:
    hook = SqliteIdempotency(tmp_path / "records.db")
    orders = [{"order": 1, "amount": 5}, {"amount": 5, "order": 1}, {"order": 2, "amount": 7}]
    results = await charged(hook, orders)
    assert [result.output for result in results] == [5, 5, 7]
    assert sorted(Charger.charges) == ["order-1", "order-2"]
    again = await charged(hook, orders)
    assert [result.output for result in again] == [5, 5, 7]
    assert len(Charger.charges) == 2


async def test_the_publisher_s_key_goes_before_the_actor_s(tmp_path: Path) -> None:
    tasks = [TaskSpec({"order": 1, "amount": 5}, idempotency_key=key) for key in ("one", "two", "one")]
    await charged(SqliteIdempotency(tmp_path / "records.db"), tasks)
    assert sorted(Charger.charges) == ["one", "two"]


async def test_another_input_under_the_key_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    hook = SqliteIdempotency(tmp_path / "records.db")
    await charged(hook, [{"order": 1, "amount": 5}])
    (result,) = await charged(hook, [{"order": 1, "amount": 6}])
    assert isinstance(result.error, TaskFailed)
    assert result.error.error_type == "IdempotencyConflict"
    assert "was used for another input" in result.error.message
    assert Charger.charges == ["order-1"]


async def test_an_attempt_that_failed_lets_its_key_go(tmp_path: Path) -> None:
    hook = SqliteIdempotency(tmp_path / "records.db")
    (failed,) = await charged(hook, [{"order": 1, "amount": -5}])
    assert failed.error is not None
    assert Charger.charges == ["order-1"] * 2  # max_deliveries
    (later,) = await charged(hook, [{"order": 1, "amount": 5}])
    assert later.output == 5


class BrokenHook:
    """A hook whose every second call fails, one way or another."""

    def __init__(self, inner: IdempotencyHook) -> None:
        self._inner = inner
        self._calls = 0
        self.closed = False

    def _break(self) -> None:
        self._calls += 1
        if self._calls % 2:
            raise ConnectionError("no such host")

    async def claim(self, key: str, token: Token, digest: str, lease: float) -> Claimed:
        self._break()
        return await self._inner.claim(key, token, digest, lease)

    async def renew(self, key: str, token: Token, lease: float) -> bool:
        self._break()
        return await self._inner.renew(key, token, lease)

    async def complete(self, key: str, token: Token, output: bytes) -> Kept:
        self._break()
        return await self._inner.complete(key, token, output)

    async def abandon(self, key: str, token: Token) -> None:
        self._break()
        await self._inner.abandon(key, token)

    async def close(self) -> None:
        self.closed = True
        await self._inner.close()


async def test_a_hook_that_breaks_fails_no_task_and_pays_for_none_twice(tmp_path: Path) -> None:
    hook = BrokenHook(SqliteIdempotency(tmp_path / "records.db"))
    results = await charged(hook, [{"order": number, "amount": number} for number in range(5)])
    assert [result.output for result in results] == [0, 1, 2, 3, 4]
    assert len(Charger.charges) == 5
    assert hook.closed


def test_what_is_no_hook_is_refused_by_name() -> None:
    with pytest.raises(BadSetting, match=r"idempotency must be a hook such as SqliteIdempotency\(path\).*got True"):
        Worker(broker="memory://x", agents=[Charger], idempotency=True)  # type: ignore[arg-type]
