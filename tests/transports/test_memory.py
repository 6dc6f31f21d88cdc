"""What is particular to `memory://`: names, threads, virtual time, and the hooks tests pull."""

import asyncio
import gc
import threading

import pytest

from murmur.errors import BadURL, WrongForm
from murmur.testing import VirtualClock
from murmur.transport import Outgoing, TopicKind, TopicSpec
from murmur.transports import memory
from murmur.transports.memory import MemoryTransport
from murmur.transports.memory_broker import MemoryBroker

pytestmark = pytest.mark.anyio
TOPIC = "echo.tasks"
SPECS = [TopicSpec(TOPIC, lease=2.0, dead_topic="echo.dead")]


def connected(name: str, consumer_id: str) -> MemoryTransport:
    return memory.connect(name, consumer_id=consumer_id, namespace="", lease=2.0)


async def joined(broker: MemoryBroker, consumer_id: str) -> MemoryTransport:
    transport = MemoryTransport(broker, consumer_id=consumer_id)
    await transport.open(SPECS)
    return transport


async def read(transport: MemoryTransport, *, credit: int = 10, wait: float = 0.0) -> list[bytes]:
    return [one.body for one in await transport.receive("workers", {TOPIC: credit}, credit=credit, wait=wait)]


async def test_a_name_is_shared_and_no_name_is_private() -> None:
    assert connected("memory://lab", "a").broker is not connected("memory://other", "b").broker
    first, second = connected("memory://lab", "a"), connected("memory://lab/", "b")
    assert first.broker is second.broker
    assert connected("memory://", "a").broker is not connected("memory://", "b").broker


async def test_a_named_broker_ends_with_its_last_user() -> None:
    transport = connected("memory://brief", "a")
    await transport.publish([Outgoing(TOPIC, b"1", "1")])
    del transport
    gc.collect()
    successor = connected("memory://brief", "a")
    await successor.open(SPECS)
    assert await read(successor) == []


def test_another_scheme_is_refused_by_name() -> None:
    with pytest.raises(BadURL, match="expected memory://"):
        connected("redis://localhost", "a")


async def test_a_publisher_in_another_thread_and_loop_wakes_a_waiting_worker() -> None:
    broker = MemoryBroker()
    worker = await joined(broker, "w")
    reading = asyncio.create_task(read(worker, wait=30.0))
    await asyncio.sleep(0)

    async def publish() -> None:
        await (await joined(broker, "p")).publish([Outgoing(TOPIC, b"1", "1")])

    thread = threading.Thread(target=lambda: asyncio.run(publish()))
    thread.start()
    assert await asyncio.wait_for(reading, 10.0) == [b"1"]
    thread.join()


async def test_a_waiter_whose_loop_is_closed_costs_nobody_a_message() -> None:
    broker = MemoryBroker()

    async def leave_waiting() -> None:
        waiting.append(asyncio.ensure_future(read(await joined(broker, "gone"), wait=30.0)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    waiting: list[asyncio.Future[list[bytes]]] = []
    loop = asyncio.new_event_loop()
    await asyncio.to_thread(loop.run_until_complete, leave_waiting())
    loop.close()
    alive = await joined(broker, "alive")
    reading = asyncio.create_task(read(alive, wait=30.0))
    await asyncio.sleep(0)
    await alive.publish([Outgoing(TOPIC, b"1", "1")])
    assert await asyncio.wait_for(reading, 10.0) == [b"1"]
    waiting[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # its loop was closed on purpose


async def test_a_delayed_message_wakes_a_waiter_when_it_is_due_on_the_broker_s_clock() -> None:
    clock = VirtualClock()
    worker = await joined(MemoryBroker(clock=clock), "w")
    reading = asyncio.create_task(read(worker, wait=60.0))
    await clock.elapse(0.0)
    await worker.publish([Outgoing(TOPIC, b"1", "1", not_before=5.0)])
    await clock.elapse(4.9)
    assert not reading.done()
    await clock.elapse(0.1)
    assert await reading == [b"1"]


async def test_a_wait_ends_empty_on_the_broker_s_clock() -> None:
    clock = VirtualClock()
    worker = await joined(MemoryBroker(clock=clock), "w")
    reading = asyncio.create_task(read(worker, wait=60.0))
    await clock.elapse(59.9)
    assert not reading.done()
    await clock.elapse(0.1)
    assert await reading == []


async def test_what_a_killed_consumer_held_wakes_a_waiter_one_lease_later() -> None:
    clock = VirtualClock()
    broker = MemoryBroker(clock=clock)
    victim, heir = await joined(broker, "victim"), await joined(broker, "heir")
    await victim.publish([Outgoing(TOPIC, b"1", "1")])
    assert await read(victim) == [b"1"]
    reading = asyncio.create_task(heir.receive("workers", {TOPIC: 1}, credit=1, wait=60.0))
    await clock.elapse(10.0)
    broker.kill("victim")
    await clock.elapse(1.9)
    assert not reading.done()
    await clock.elapse(0.1)
    assert [(one.body, one.deliveries) for one in await reading] == [(b"1", 2)]


async def test_a_stalled_consumer_s_calls_wait_until_it_is_resumed_and_it_hears_what_it_lost() -> None:
    clock = VirtualClock()
    broker = MemoryBroker(clock=clock)
    stalled = await joined(broker, "stalled")
    await stalled.publish([Outgoing(TOPIC, b"1", "1")])
    (delivery,) = await stalled.receive("workers", {TOPIC: 1}, credit=1, wait=0.0)
    broker.stall("stalled")
    settling = asyncio.create_task(stalled.ack([delivery]))
    await clock.elapse(2.0)
    assert not settling.done()
    broker.resume("stalled")
    assert [one.reason for one in await settling] == ["lost"]
    assert await anext(stalled.lost()) is delivery


async def test_a_stall_shorter_than_the_lease_loses_nothing() -> None:
    clock = VirtualClock()
    broker = MemoryBroker(clock=clock)
    stalled = await joined(broker, "stalled")
    await stalled.publish([Outgoing(TOPIC, b"1", "1")])
    held = await stalled.receive("workers", {TOPIC: 1}, credit=1, wait=0.0)
    broker.stall("stalled")
    await clock.elapse(1.9)
    broker.resume("stalled")
    await clock.elapse(60.0)
    assert [one.reason for one in await stalled.ack(held)] == ["done"]


async def test_a_killed_consumer_s_calls_never_return_and_closing_it_gives_nothing_back() -> None:
    clock = VirtualClock()
    broker = MemoryBroker(clock=clock)
    victim, heir = await joined(broker, "victim"), await joined(broker, "heir")
    await victim.publish([Outgoing(TOPIC, b"1", "1")])
    held = await victim.receive("workers", {TOPIC: 1}, credit=1, wait=0.0)
    reading = asyncio.create_task(read(victim, wait=60.0))
    await clock.elapse(0.0)
    broker.kill("victim")
    settling = asyncio.create_task(victim.ack(held))
    await clock.elapse(1.9)
    assert not reading.done()
    assert not settling.done()
    await victim.close()
    assert await read(heir) == []
    with pytest.raises(WrongForm, match="after close"):
        await settling
    with pytest.raises(WrongForm, match="after close"):
        await reading
    await clock.elapse(0.1)
    assert await read(heir) == [b"1"]


async def test_a_topic_that_was_not_opened_is_not_read_silently() -> None:
    with pytest.raises(WrongForm, match="open"):
        await MemoryTransport(MemoryBroker(), consumer_id="a").receive("workers", {TOPIC: 1}, credit=1, wait=0.0)


async def test_a_body_that_is_not_bytes_is_refused() -> None:
    transport = await joined(MemoryBroker(), "a")
    with pytest.raises(TypeError, match="is str, not bytes"):
        await transport.publish([Outgoing(TOPIC, "text", "1")])  # type: ignore[arg-type]  # what is tested


async def test_inboxes_nobody_reads_any_more_are_bounded() -> None:
    broker = MemoryBroker()
    for number in range(100):
        publisher = MemoryTransport(broker, consumer_id="p")
        inbox = f"inbox.{number}"
        await publisher.open([TopicSpec(inbox, TopicKind.INBOX)])
        await publisher.close()
        await (await joined(broker, "w")).publish([Outgoing(inbox, b"late", str(n)) for n in range(2)])
    kept = [number for number in range(100) if (await publisher.stats(f"inbox.{number}", "")).ready == 2]
    assert kept == list(range(84, 100))


async def test_a_message_that_woke_a_consumer_who_took_another_goes_to_the_next() -> None:
    broker = MemoryBroker()
    specs = [TopicSpec("x.tasks"), TopicSpec("y.tasks")]
    first, second = MemoryTransport(broker, consumer_id="a"), MemoryTransport(broker, consumer_id="b")
    for consumer in (first, second):
        await consumer.open(specs)
    for topics in ({"x.tasks": 1, "y.tasks": 1}, {"y.tasks": 1, "x.tasks": 1}):
        both = asyncio.create_task(first.receive("workers", topics, credit=1, wait=60.0))
        await asyncio.sleep(0)
        narrow = asyncio.create_task(second.receive("workers", {"y.tasks": 1}, credit=1, wait=60.0))
        await asyncio.sleep(0)
        await first.publish([Outgoing("y.tasks", b"", ""), Outgoing("x.tasks", b"", "")])
        (taken,) = await both
        if taken.topic == "x.tasks":
            assert [one.topic for one in await asyncio.wait_for(narrow, 10.0)] == ["y.tasks"]
            break
        narrow.cancel()
        await asyncio.wait([narrow])
    else:
        raise AssertionError("the first consumer never took the other message")


async def test_an_inbox_whose_reader_was_killed_is_read_again_though_he_held_other_things() -> None:
    broker = MemoryBroker()
    specs = [*SPECS, TopicSpec("inbox.p", TopicKind.INBOX)]
    victim, heir = MemoryTransport(broker, consumer_id="victim"), MemoryTransport(broker, consumer_id="heir")
    await victim.open(specs)
    await victim.publish([Outgoing(TOPIC, b"task", "1"), Outgoing("inbox.p", b"result", "1")])
    assert await read(victim) == [b"task"]
    assert len(await victim.receive("", {"inbox.p": 10}, credit=10, wait=0.0)) == 1
    broker.kill("victim")
    await heir.open(specs)
    (result,) = await heir.receive("", {"inbox.p": 10}, credit=10, wait=0.0)
    assert (result.body, result.deliveries) == (b"result", 2)


async def test_ids_of_settled_messages_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("murmur.transports.memory_topic.MEMORY_ROWS_KEPT", 3)
    transport = await joined(MemoryBroker(), "a")
    for number in range(5):
        await transport.publish([Outgoing(TOPIC, b"", str(number))])
        await transport.ack(await transport.receive("workers", {TOPIC: 1}, credit=1, wait=0.0))
    again = await transport.publish([Outgoing(TOPIC, b"", str(number)) for number in range(5)])
    assert [one.duplicate for one in again] == [False, False, True, True, True]


async def test_dead_letters_nobody_takes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("murmur.transports.memory_broker.MEMORY_ROWS_KEPT", 3)
    transport = await joined(MemoryBroker(), "a")
    await transport.publish([Outgoing(TOPIC, b"", str(number)) for number in range(5)])
    while held := await transport.receive("workers", {TOPIC: 1}, credit=1, wait=0.0):
        await transport.dead(held[0], held[0].id.encode())
    reader = MemoryTransport(transport.broker, consumer_id="reader")
    await reader.open([TopicSpec("echo.dead")])
    letters = await reader.receive("workers", {"echo.dead": 10}, credit=10, wait=0.0)
    assert [one.body for one in letters] == [b"2", b"3", b"4"]
