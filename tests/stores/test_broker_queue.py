"""A task queue without a store: what becomes of the one message that is the task."""

import pytest
from msgspec import Raw

from murmur.broker_queue import BrokerQueue
from murmur.envelope import TaskMessage, encode
from murmur.events.memory import connect
from murmur.names import Topics
from murmur.store import NewTask
from murmur.stores.broker_only import BrokerOnlyStore
from murmur.task_queue import GROUP, Release
from murmur.transports.memory import MemoryTransport
from murmur.transports.memory_broker import MemoryBroker

pytestmark = pytest.mark.anyio

LEASE = 10.0


class Clock:
    """Shows what it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_task_that_is_given_back_too_late_is_not_doubled() -> None:
    clock = Clock()
    broker = MemoryBroker(clock=clock)
    frozen, other = await _queue(broker, "frozen"), await _queue(broker, "other")
    body = encode(TaskMessage(v=1, task_id="t", agent="a", input=Raw(b"1")))
    await frozen.submit([NewTask("t", "a", "a.tasks", body)])
    (work,) = await frozen.grant(await frozen.receive({"a": 1}, credit=1, wait=0.0))
    broker.stall("frozen")
    clock.now = 2 * LEASE
    (theirs,) = await other.receive({"a": 9}, credit=9, wait=0.0)
    broker.resume("frozen")
    await frozen.settle([Release(work.claim)])
    stats = await other.transport.stats("a.tasks", GROUP)
    assert (stats.ready, stats.inflight) == (0, 1)
    await other.settle([Release((await other.grant([theirs]))[0].claim)])
    assert len(await frozen.receive({"a": 9}, credit=9, wait=0.0)) == 1
    await frozen.close()
    await other.close()


async def _queue(broker: MemoryBroker, name: str) -> BrokerQueue:
    store = BrokerOnlyStore(connect("memory://test-broker-queue", prefix=""))
    queue = BrokerQueue(MemoryTransport(broker, consumer_id=name), store, Topics())
    await queue.open(owner=name, lease=LEASE)
    await queue.open_tasks(["a"])
    return queue
