"""Frames over a socket: cut anywhere, flooded from both sides, and fed with nonsense."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisors.channel import MAX_BACKLOG, Channel, ChannelBroken, ChannelClosed, Lane, Splitter, frame
from tests.backends import every_backend

ints = msgspec.msgpack.Decoder(int)
encode = msgspec.msgpack.encode


class End:
    """One end, and what it was told."""

    def __init__(self, sock: socket.socket, **limits: int) -> None:
        self.heard: list[int] = []
        self.channel: Channel[int] = Channel(sock, ints, self.heard.append, **limits)


@asynccontextmanager
async def pair(**limits: int) -> AsyncIterator[tuple[End, End]]:
    """Two ends that talk to each other."""
    left, right = (End(sock, **limits) for sock in socket.socketpair())
    async with anyio.create_task_group() as tasks:
        for end in (left, right):
            tasks.start_soon(end.channel.run)
        with anyio.fail_after(20):
            yield left, right
        for end in (left, right):
            end.channel.close()


@given(st.lists(st.tuples(st.sampled_from([Lane.CONTROL, Lane.BULK]), st.binary(max_size=40))), st.data())
def test_frames_come_out_whole_however_they_are_cut(frames: list[tuple[Lane, bytes]], data: Any) -> None:
    stream, splitter, found = b"".join(frame(*one) for one in frames), Splitter(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:cut])
        stream = stream[cut:]
    assert found == frames


@given(st.binary(max_size=200))
def test_garbage_gives_what_it_begins_with_or_a_refusal(garbage: bytes) -> None:
    frames: list[tuple[Lane, bytes]] = []
    with suppress(ChannelBroken):
        frames.extend(Splitter(max_frame=64).feed(garbage))
    assert b"".join(frame(*one) for one in frames) == garbage[: sum(len(payload) + 5 for _, payload in frames)]
    assert all(len(payload) <= 64 for _, payload in frames)


@every_backend
async def test_two_that_flood_each_other_do_not_wait_for_ever() -> None:
    async with pair(window=1 << 16) as (left, right):

        async def flood(end: End) -> None:
            for n in range(300):
                await end.channel.send_bulk(bytes([n % 256]) * 10_000)

        async def read(end: End) -> None:
            for n in range(300):
                assert await end.channel.receive_bulk() == bytes([n % 256]) * 10_000

        async with anyio.create_task_group() as tasks:
            for end in (left, right):
                tasks.start_soon(flood, end)
            for end in (left, right):
                tasks.start_soon(read, end)


@every_backend
async def test_who_does_not_read_stops_its_sender_and_not_control() -> None:
    async with pair(window=1_000) as (left, right):
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await left.channel.send_bulk(bytes(500))
                sent += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            while sent < 2:
                await anyio.sleep(0.001)
            left.channel.send(encode(7))
            while right.heard != [7]:
                await anyio.sleep(0.001)
            assert sent == 2
            await right.channel.receive_bulk()
            while sent < 3:
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()


@every_backend
@pytest.mark.parametrize(
    ("nonsense", "problem"),
    [
        (b"\xff" * 16, "lane 255"),
        (frame(Lane.CONTROL, b"\xc1"), "not a message"),
        (frame(Lane.CONTROL, encode("text")), "not a message"),
        (frame(Lane.CONTROL, b"\x91" * 100_000), "not a message"),
        (frame(Lane.GRANT, b"abc"), "a grant of 3 bytes"),
        (frame(Lane.BULK, bytes(900)) * 4, "without credit"),
    ],
)
async def test_nonsense_breaks_the_channel_after_what_was_right(nonsense: bytes, problem: str) -> None:
    ours, theirs = socket.socketpair()
    end = End(ours, window=1_000, max_frame=1_000_000 if len(nonsense) > 9_000 else 1_000)
    with theirs, anyio.fail_after(5):
        theirs.sendall(frame(Lane.CONTROL, encode(1)) + nonsense)
        await end.channel.run()
    assert end.heard == [1]
    assert problem in str(end.channel.failure)
    with pytest.raises(ChannelClosed):
        end.channel.send(encode(2))
    with pytest.raises(ChannelClosed):
        await end.channel.send_bulk(b"")


@every_backend
async def test_the_last_words_of_a_dead_peer_are_heard() -> None:
    ours, theirs = socket.socketpair()
    end = End(ours)
    with theirs:
        theirs.sendall(frame(Lane.CONTROL, encode(1)) + frame(Lane.CONTROL, encode(2)))
    end.channel.drain()
    assert end.heard == [1, 2]
    end.channel.close()


@every_backend
async def test_a_peer_that_never_reads_control_breaks_the_channel_before_memory_is_full() -> None:
    ours, theirs = socket.socketpair()
    end = End(ours)
    size = 1 << 20
    with theirs:
        for _ in range(MAX_BACKLOG // size + 2):
            if not end.channel.is_closed:
                end.channel.send(encode(bytes(size)))
    assert "does not read" in str(end.channel.failure)
    end.channel.close()


@every_backend
async def test_closing_wakes_up_whoever_waits() -> None:
    async with pair() as (left, right), anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(ChannelClosed):
                await left.channel.receive_bulk()

        tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        right.channel.close()
