"""What is particular to the memory store: names, bounds, and whose tables it uses."""

import pytest

from murmur.errors import WrongForm
from murmur.limits import MEMORY_ROWS_KEPT
from murmur.store import Claim, Completion, GrantRequest, NewTask
from murmur.stores import memory
from murmur.stores.memory import MemoryStore
from murmur.stores.memory_tables import MemoryTables
from murmur.testing import VirtualClock
from murmur.transport import Delivery
from murmur.transports.memory import MemoryTransport
from murmur.transports.memory_broker import MemoryBroker

pytestmark = pytest.mark.anyio


def connected(url: str, *, namespace: str = "", mailbox: MemoryTransport | None = None) -> MemoryStore:
    return memory.connect(url, namespace=namespace, retention=60.0, mailbox=mailbox)


def request(task_id: str) -> GrantRequest:
    return GrantRequest(Delivery("echo.tasks", b"{}", {}, task_id, 1, None), task_id, "echo", None)


async def finish(store: MemoryStore, task_ids: list[str], *, keep: bool = False, result: bytes = b"done") -> None:
    await store.admit([NewTask(task_id, "echo", "echo.tasks", b"{}", keep=keep) for task_id in task_ids])
    grants = await store.grant([request(task_id) for task_id in task_ids])
    await store.complete([Completion(grant, result) for grant in grants if isinstance(grant, Claim)])


async def test_a_name_is_shared_within_a_namespace() -> None:
    first, second = connected("memory://lab"), connected("memory://lab")
    assert first.tables is second.tables
    assert connected("memory://lab", namespace="prod").tables is not first.tables


async def test_without_a_name_stores_beside_one_broker_share_their_tables_and_its_clock() -> None:
    clock = VirtualClock()
    broker = MemoryBroker(clock=clock)
    first, second = (connected("memory://", mailbox=MemoryTransport(broker, consumer_id=name)) for name in "ab")
    assert first.tables is second.tables
    assert first.tables.clock is clock
    assert connected("memory://").tables is not connected("memory://").tables


async def test_a_store_that_was_not_opened_grants_nothing() -> None:
    with pytest.raises(WrongForm, match=r"before open\(\)"):
        await connected("memory://").grant([request("1")])


async def test_finished_rows_are_bounded_and_named_batches_outlive_them() -> None:
    store = MemoryStore(MemoryTables(clock=VirtualClock()))
    await store.open(owner="w", lease=30.0)
    await finish(store, ["kept"], keep=True)
    for start in range(0, MEMORY_ROWS_KEPT + 500, 500):
        await finish(store, [str(number) for number in range(start, start + 500)])
    kept, first, dropped, oldest, newest = await store.read(
        ["kept", "0", "499", "500", str(MEMORY_ROWS_KEPT + 499)],
    )
    assert kept is not None
    assert first is None
    assert dropped is None
    assert oldest is not None
    assert newest is not None


async def test_large_results_are_bounded_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("murmur.stores.memory_tables.MEMORY_BYTES_KEPT", 1_000)
    store = MemoryStore(MemoryTables(clock=VirtualClock()))
    await store.open(owner="w", lease=30.0)
    for task_id in "abc":
        await finish(store, [task_id], result=b"x" * 400)
    assert [row is None for row in await store.read(["a", "b", "c"])] == [True, False, False]
