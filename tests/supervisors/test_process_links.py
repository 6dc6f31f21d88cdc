"""What a process child and its peer say to each other, and children that are replaced in time."""

import os
import signal
from pathlib import Path

import anyio
import pytest

from supervisors import ChildContext, Recycle, Restart, Watchdog, open_supervisor
from supervisors.channel import ChannelBroken
from supervisors.events import ChildExited, ChildRecycled
from supervisors.process import Link
from supervisors.reasons import Crashed, Killed
from tests.backends import ASYNCIO, every_backend, on
from tests.supervisors import process_children as children
from tests.supervisors.processes import info_of, is_alive, next_of, process, tree, until, wait_dead

QUICK = Watchdog(every=0.05)
MIB = 1 << 20


@every_backend
async def test_a_child_and_its_peer_talk_and_a_peer_that_crashes_ends_the_child() -> None:
    async with open_supervisor(tree()) as sup:
        events = sup.events()
        await sup.start_child(process(children.echo, peer=children.rpc_peer, restart=Restart.TEMPORARY))
        reason = (await next_of(events, ChildExited)).reason
        assert isinstance(reason, Crashed)
        assert str(reason.error) == "echoed"


@on(ASYNCIO)
async def test_a_flood_of_both_sides_arrives() -> None:
    count, size, done = 100, 100_000, anyio.Event()

    async def peer(ctx: ChildContext, link: Link) -> None:
        await children.both_ways(link, count, size)
        assert await link.receive() == b"done"
        done.set()

    async def run() -> None:
        async with open_supervisor(tree(process(children.flood, args=(count, size), peer=peer))):
            await done.wait()

    with anyio.fail_after(20):
        await run()


@on(ASYNCIO)
async def test_the_peer_ends_with_its_process_and_comes_back_with_the_next() -> None:
    pids: list[int] = []
    ended: list[int] = []

    async def peer(ctx: ChildContext, link: Link) -> None:
        pids.append(link.pid)
        try:
            await link.receive()
        finally:
            ended.append(link.pid)

    async with open_supervisor(tree(process(children.wait, peer=peer))) as sup:
        await until(lambda: pids)
        events = sup.events()
        os.kill(info_of(sup), signal.SIGKILL)
        assert (await next_of(events, ChildExited)).reason == Killed(signal.SIGKILL)
        await until(lambda: len(pids) == 2)
        assert ended == pids[:1]
        assert pids[1] == info_of(sup)
    assert ended == pids


@on(ASYNCIO)
async def test_a_child_that_breaks_the_channel_is_replaced_and_nothing_else() -> None:
    async with open_supervisor(tree(process(children.wait, "good"))) as sup:
        good, events = info_of(sup, "good"), sup.events()
        await sup.start_child(process(children.garbage, restart=Restart.TEMPORARY))
        reason = (await next_of(events, ChildExited)).reason
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, ChannelBroken)
        assert is_alive(good)


@on(ASYNCIO)
@pytest.mark.parametrize(
    ("recycle", "work", "why"),
    [
        (Recycle(tasks=3, jitter=0.0), (5,), "5 tasks done, 3 allowed"),
        (Recycle(age=0.3), (0,), "s old"),
        (Recycle(memory=20 * MIB), (0, 60 * MIB), "bytes grown"),
    ],
)
async def test_a_used_up_process_is_replaced_the_fresh_one_first(
    recycle: Recycle, work: tuple[int, ...], why: str
) -> None:
    seen: list[int] = []

    async def peer(ctx: ChildContext, link: Link) -> None:
        seen.append(link.pid)
        # The old one is told to stop only when the fresh one is ready.
        assert len(seen) == 1 or is_alive(seen[-2])
        await anyio.sleep_forever()

    child = process(children.work, args=work, recycle=recycle, watchdog=QUICK, peer=peer)
    async with open_supervisor(tree(child)) as sup:
        events = sup.events()
        assert why in (await next_of(events, ChildRecycled)).why
        await until(lambda: len(seen) > 1 and not is_alive(seen[0]))
        assert sup.which_children()[0].restarts == 0
        assert info_of(sup) in seen[1:]
        assert not any(isinstance(event, ChildExited) for event in events.read())
    assert wait_dead(*seen) == []


@on(ASYNCIO)
async def test_a_fresh_process_that_does_not_start_leaves_the_old_one_at_work(tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"
    recycle = Recycle(age=0.1, retry=0.05)
    async with open_supervisor(
        tree(process(children.once, args=(str(attempts),), recycle=recycle, watchdog=QUICK))
    ) as sup:
        first, events = info_of(sup), sup.events()
        await until(lambda: attempts.stat().st_size >= 3)
        assert is_alive(first)
        assert info_of(sup) == first
        assert not events.read()


@on(ASYNCIO)
async def test_a_process_that_dies_while_a_fresh_one_starts_takes_it_along(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.touch()
    child = process(
        children.first_ready,
        args=(str(pids),),
        recycle=Recycle(age=0.05),
        watchdog=QUICK,
        restart=Restart.TEMPORARY,
    )
    async with open_supervisor(tree(child)) as sup:
        events = sup.events()
        await until(lambda: len(pids.read_text().split()) == 2)
        first, second = map(int, pids.read_text().split())
        assert is_alive(first)
        os.kill(first, signal.SIGKILL)
        assert (await next_of(events, ChildExited)).reason == Killed(signal.SIGKILL)
        assert not is_alive(second)


@on(ASYNCIO)
async def test_a_used_up_process_that_still_drains_ends_with_the_one_that_took_over() -> None:
    recycle = Recycle(age=0.2, jitter=0.0)
    child = process(children.deaf, recycle=recycle, watchdog=QUICK, shutdown=60.0, restart=Restart.TEMPORARY)
    async with open_supervisor(tree(child)) as sup:
        first, events = info_of(sup), sup.events()
        second = (await next_of(events, ChildRecycled)).info
        assert is_alive(first)
        os.kill(second, signal.SIGKILL)
        assert (await next_of(events, ChildExited)).reason == Killed(signal.SIGKILL)
        assert not is_alive(first)
