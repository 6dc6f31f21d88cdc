"""What NATS does that nobody expects, and what the adapter makes of it; on a real server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from murmur.errors import PayloadTooLarge
from murmur.transport import Outgoing, Receipt, Refusal, TopicKind, TopicSpec
from murmur.transports import nats, nats_link
from murmur.transports.nats import NatsTransport
from murmur.transports.nats_answers import NO_RESPONDERS
from murmur.transports.nats_bells import bodies_of
from murmur.transports.nats_intake import hold_of
from murmur.transports.nats_link import Request
from murmur.transports.nats_session import Session
from murmur.transports.nats_wire import Message
from tests.brokers.fixtures import NatsStarter
from tests.brokers.nats_operator import operator, wipe
from tests.brokers.nats_server import NatsServer
from tests.contracts.harness import bells, collect, now, until
from tests.contracts.transport_messages import outgoing, published

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def opened(server: NatsServer, topic: str, *, lease: float | None = 30.0) -> AsyncIterator[NatsTransport]:
    transport = nats.connect(server.url, consumer_id="w", namespace="", lease=lease)
    await transport.open([TopicSpec(topic, lease=lease, dead_topic=topic.replace("tasks", "dead"))])
    try:
        yield transport
    finally:
        await transport.close()


async def consumer(server: NatsServer, stream: str) -> dict[str, object]:
    async with operator(server.url) as link:
        return (await link.api(f"CONSUMER.INFO.{stream}.workers"))["config"]


async def test_a_shorter_lease_takes_nothing_from_who_wants_a_longer_one(nats_server: NatsServer) -> None:
    for lease, stands in ((30.0, 30), (2.0, 30), (60.0, 60), (None, 365 * 86_400)):
        async with opened(nats_server, "lease.tasks", lease=lease) as worker:
            await worker.receive("workers", {"lease.tasks": 1}, credit=1, wait=0.0)
        config = await consumer(nats_server, "lease~tasks")
        assert config["ack_wait"] == stands * 1_000_000_000
        assert (config["max_deliver"], config.get("max_ack_pending")) == (-1, -1)


async def test_a_publisher_leaves_the_lease_to_the_workers(nats_server: NatsServer) -> None:
    async with opened(nats_server, "free.tasks", lease=None) as publisher:
        await published(publisher, outgoing("free.tasks", 1))
        stats = await publisher.stats("free.tasks", "workers")
        assert (stats.ready, stats.inflight) == (1, 0)
        async with opened(nats_server, "free.tasks", lease=5.0) as worker:
            assert len(await collect(worker, "free.tasks", 1, within=10.0)) == 1
        assert (await consumer(nats_server, "free~tasks"))["ack_wait"] == 5_000_000_000


async def test_what_the_server_delivers_again_while_we_hold_it_stays_one_delivery(nats_server: NatsServer) -> None:
    async with opened(nats_server, "adopt.tasks", lease=1.0) as worker:
        await published(worker, outgoing("adopt.tasks", 1))
        (held,) = await collect(worker, "adopt.tasks", 1, within=10.0)
        first = hold_of(held).reply
        worker.link.say(first.decode(), b"-NAK")  # as a stale owner would
        assert await collect(worker, "adopt.tasks", 1, within=1.0) == []
        assert hold_of(held).reply != first
        assert [one.reason for one in await worker.ack([held])] == ["done"]
        stats = await worker.stats("adopt.tasks", "workers")
        assert (stats.ready, stats.inflight) == (0, 0)


async def test_an_ack_of_a_deleted_stream_settles_nothing_of_the_new_one(nats_server: NatsServer) -> None:
    async with opened(nats_server, "anew.tasks", lease=1.0) as worker, opened(nats_server, "anew.tasks") as other:
        await published(worker, outgoing("anew.tasks", 1))
        (held,) = await collect(worker, "anew.tasks", 1, within=10.0)
        async with operator(nats_server.url) as link:
            await link.api("STREAM.DELETE.anew~tasks")
        await published(other, outgoing("anew.tasks", 1, start=5))  # the same sequence, in another stream
        lost = await asyncio.wait_for(anext(worker.lost()), 20.0)  # nobody told us: we looked
        assert lost is held
        assert [one.reason for one in await worker.ack([held])] == ["lost"]
        assert [one.id for one in await collect(other, "anew.tasks", 1, within=10.0)] == ["5"]


async def test_a_deleted_stream_is_found_missing_by_silence(nats_server: NatsServer) -> None:
    async with opened(nats_server, "silent.tasks") as worker:
        assert list(await worker.receive("workers", {"silent.tasks": 1}, credit=1, wait=0.0)) == []
        async with operator(nats_server.url) as link:
            await link.api("STREAM.DELETE.silent~tasks")
        # The server answers nothing at all to a read of what is not there.
        waiting = asyncio.create_task(collect(worker, "silent.tasks", 1, within=30.0))

        async def is_there() -> bool:
            (answer,) = await worker.publish([Outgoing("silent.tasks", b"x", "1")])
            return isinstance(answer, Receipt)

        assert await until(is_there, within=20.0)
        assert [one.id for one in await waiting] == ["1"]


async def test_inboxes_share_a_stream_and_no_ids(nats_server: NatsServer) -> None:
    names = ["inbox.host.local-1", "inbox.host.local-2", "inbox.odd * name>"]
    transport = nats.connect(nats_server.url, consumer_id="p", namespace="", lease=None)
    await transport.open([TopicSpec(name, TopicKind.INBOX) for name in names])
    for name in names:
        await published(transport, [Outgoing(name, name.encode(), "same id")])
    for name in names:
        assert [(one.id, one.body) for one in await bells(transport, name, 1, within=10.0)] == [
            ("same id", name.encode())
        ]
    await transport.close()
    async with operator(nats_server.url) as link:
        assert (await link.api("CONSUMER.NAMES.inbox"))["consumers"] in (None, [])


async def test_replies_that_were_under_way_come_after_a_reconnect(start_nats: NatsStarter) -> None:
    server = start_nats()
    reader = nats.connect(server.url, consumer_id="p", namespace="", lease=None)
    await reader.open([TopicSpec("inbox.p", TopicKind.INBOX)])
    assert list(await reader.receive("", {"inbox.p": 10}, credit=10, wait=0.1)) == []
    await published(reader, outgoing("inbox.p", 1))
    assert [one.id for one in await bells(reader, "inbox.p", 1, within=10.0)] == ["0"]
    await published(reader, outgoing("inbox.p", 3, start=1))
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    seen: set[str] = set()

    async def all_came() -> bool:
        seen.update(one.id for one in await bells(reader, "inbox.p", 1, within=0.5))
        return seen >= {"1", "2", "3"}

    assert await until(all_came, within=30.0)
    await reader.close()


async def test_a_server_killed_and_started_again_takes_nothing_from_who_holds_it(start_nats: NatsStarter) -> None:
    server = start_nats()
    async with opened(server, "kept.tasks") as worker:
        await published(worker, outgoing("kept.tasks", 1))
        (held,) = await collect(worker, "kept.tasks", 1, within=10.0)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

        async def is_published() -> bool:
            return isinstance((await worker.publish(outgoing("kept.tasks", 1, start=1)))[0], Receipt)

        assert await until(is_published, within=30.0)
        # Its consumer says of itself from now on that it was made a moment later than it did.
        assert [one.id for one in await collect(worker, "kept.tasks", 1, within=30.0)] == ["1"]
        assert [one.reason for one in await worker.ack([held])] == ["done"]


async def test_a_server_that_falls_silent_ends_no_call_late_and_settles_nothing_twice(start_nats: NatsStarter) -> None:
    server = start_nats()
    async with opened(server, "mute.tasks", lease=60.0) as worker:
        await published(worker, outgoing("mute.tasks", 2))
        held = await collect(worker, "mute.tasks", 2, within=10.0)
        server.pause()
        began = now()
        (answer,), (settled,), found = await asyncio.gather(
            worker.publish(outgoing("mute.tasks", 1, start=7)),
            worker.ack(held[:1]),
            worker.receive("workers", {"mute.tasks": 1}, credit=1, wait=1.0),
        )
        assert now() - began <= 20.0
        assert isinstance(answer, Refusal)
        assert (answer.definite, settled.reason, list(found)) == (False, "unknown", [])
        server.resume()

        async def is_back() -> bool:
            (answer,) = await worker.publish(outgoing("mute.tasks", 1, start=7))
            return isinstance(answer, Receipt)

        assert await until(is_back, within=60.0)
        assert [one.reason for one in await worker.ack(held)] == ["done", "done"]
        (late,) = await collect(worker, "mute.tasks", 1, within=20.0)
        assert late.id == "7"
        assert list(await worker.receive("workers", {"mute.tasks": 1}, credit=1, wait=0.2)) == []


async def test_a_namespace_has_names_of_its_own(nats_server: NatsServer) -> None:
    session = Session(nats.connect(nats_server.url, consumer_id="w", namespace="", lease=None).link, namespace="prod")
    streams = session.streams
    assert (streams.stream("prod.echo.tasks"), streams.subject("prod.echo.tasks")) == (
        "prod~echo~tasks",
        "prod.echo.tasks",
    )
    assert streams.stream("prod.inbox.h.1") == "prod~inbox"
    assert "." not in streams.consumer("prod.inbox.h.1")
    assert "%" not in streams.consumer("prod.inbox.h.1")  # which the server takes for a format


async def test_everything_deleted_at_once_is_made_anew(start_nats: NatsStarter) -> None:
    server = start_nats()
    async with opened(server, "a.tasks") as worker:
        await published(worker, outgoing("a.tasks", 2))
        assert len(await collect(worker, "a.tasks", 1, within=10.0)) == 1
        await wipe(server.url)
        await published(worker, outgoing("a.tasks", 2, start=10))
        assert {one.id for one in await collect(worker, "a.tasks", 2, within=20.0)} == {"10", "11"}


async def test_who_listens_at_a_subject_does_not_hide_that_no_stream_keeps_it(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_link, "DEADLINE", 1.0)  # the second time, it is known by the silence
    transport = nats.connect(nats_server.url, consumer_id="w", namespace="hidden", lease=30.0)
    await transport.open([TopicSpec("hidden.echo.tasks", dead_topic="hidden.echo.dead")])
    async with operator(nats_server.url) as link:
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        link.listen("hidden.>", lambda message: heard.put_nowait(message.body))
        await link.synced()
        for name in ("a", "b"):  # the second finds the stream gone that the first one made
            (answer,) = await transport.publish([Outgoing("hidden.inbox.me", b"result", name)])
            while isinstance(answer, Refusal):
                assert not answer.definite
                (answer,) = await transport.publish([Outgoing("hidden.inbox.me", b"result", name)])
            assert isinstance(answer, Receipt)
            assert await asyncio.wait_for(heard.get(), 30.0) == b"result"
            await link.api("STREAM.DELETE.hidden~inbox")
    await transport.close()


async def test_a_bell_is_heard_without_the_stream(nats_server: NatsServer) -> None:
    inbox = "inbox.bell 1"
    async with opened(nats_server, "bell.tasks") as worker, opened(nats_server, "bell.tasks") as publisher:
        await publisher.open([TopicSpec(inbox, TopicKind.INBOX)])
        assert list(await publisher.receive("", {inbox: 10}, credit=10, wait=0.0)) == []
        await published(publisher, outgoing("bell.tasks", 1))
        held = await collect(worker, "bell.tasks", 1, within=10.0)
        settled = await worker.ack(held, [Outgoing(inbox, b"result", "r", is_bell=True)])
        assert [one.ok for one in settled] == [True]
        async with operator(nats_server.url) as link:
            subjects = (await link.api("STREAM.INFO.inbox", {"subjects_filter": ">"}))["state"].get("subjects") or {}
        assert not [subject for subject in subjects if "bell" in subject]
        assert [one.body for one in await bells(publisher, inbox, 1, within=30.0)] == [b"result"]


async def test_bells_of_one_call_are_heard_one_by_one(nats_server: NatsServer) -> None:
    said = [b"", b"one", b"x" * 300_000, *(b"%d" % number * (number % 7) for number in range(600))]
    async with opened(nats_server, "peal.tasks") as worker, opened(nats_server, "peal.tasks") as publisher:
        for inbox in ("inbox.peal-1", "inbox.peal-2"):
            await publisher.open([TopicSpec(inbox, TopicKind.INBOX)])
            await publisher.receive("", {inbox: 1}, credit=1, wait=0.0)
        rung = [Outgoing(f"inbox.peal-{at % 2 + 1}", body, str(at), is_bell=True) for at, body in enumerate(said)]
        async with operator(nats_server.url) as link:
            heard: list[Message] = []
            link.listen("murmur.bell.inbox.*", heard.append)
            await worker.ack([], rung)
            await link.synced()
        for at in range(2):
            inbox = f"inbox.peal-{at + 1}"
            mine = said[at::2]
            assert [one.body for one in await bells(publisher, inbox, len(mine), within=30.0)] == mine
    assert len(heard) < 10


def test_a_strangers_bell_is_one_body() -> None:
    assert bodies_of(Message(b"s", b"", b"abc", b"NATS/1.0\r\nMurmur-Sizes: 1 1\r\n\r\n")) == [b"abc"]
    assert bodies_of(Message(b"s", b"", b"abc", b"NATS/1.0\r\nMurmur-Sizes: x -1\r\n\r\n")) == [b"abc"]
    assert bodies_of(Message(b"s", b"", b"abc", b"NATS/1.0\r\nMurmur-Sizes: 1 0 2\r\n\r\n")) == [b"a", b"", b"bc"]


async def test_a_bell_that_nobody_hears_waits_in_the_stream(nats_server: NatsServer) -> None:
    async with opened(nats_server, "unheard.tasks") as worker:
        rung = [Outgoing("inbox.unheard", b"result", f"r{number}", is_bell=True) for number in range(3)]
        await worker.ack([], rung)
    async with opened(nats_server, "unheard.tasks") as publisher:
        await publisher.open([TopicSpec("inbox.unheard", TopicKind.INBOX)])
        assert [one.id for one in await bells(publisher, "inbox.unheard", 3, within=30.0)] == ["r0", "r1", "r2"]


async def test_who_may_not_ring_sends_by_the_stream(start_nats: NatsStarter) -> None:
    server = start_nats(password="of a test", permissions={"publish": {"deny": ["murmur.bell.>"]}})
    async with opened(server, "mute.tasks") as worker, opened(server, "mute.tasks") as publisher:
        await publisher.open([TopicSpec("inbox.mute", TopicKind.INBOX)])
        await publisher.receive("", {"inbox.mute": 10}, credit=10, wait=0.0)
        await worker.ack([], [Outgoing("inbox.mute", b"result", "r", is_bell=True)])
        assert [one.id for one in await bells(publisher, "inbox.mute", 1, within=30.0)] == ["r"]


async def test_requests_made_together_each_have_their_own_end(nats_server: NatsServer) -> None:
    async with operator(nats_server.url) as link:
        most = int(link.info["max_payload"])
        asked = [Request("nobody.there"), Request("nobody.there", b"x" * (most + 1)), Request("$JS.API.INFO")]
        silent, large, info = await link.ask_all(asked)
    assert isinstance(silent, Message)
    assert silent.status == NO_RESPONDERS
    assert isinstance(large, PayloadTooLarge)
    assert isinstance(info, Message)
    assert b"account_info" in info.body
