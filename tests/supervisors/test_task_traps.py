"""Tasks are supervised in the ways they are known to go wrong, on every event loop there is."""

import asyncio
import gc
import random
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from supervisors import (
    Backoff,
    ChildContext,
    ChildSpec,
    Exceeded,
    Intensity,
    Restart,
    StartFailed,
    State,
    Strategy,
    SupervisorFailed,
    SupervisorSpec,
    open_supervisor,
)
from supervisors.events import ChildEvent, ChildExited, ChildStarted, ChildStopped
from supervisors.reasons import Crashed, Killed, Stopped, Stuck
from supervisors.testing import Puppet, Recorder, VirtualClock, settle

pytestmark = pytest.mark.anyio

LOOPS: list[Any] = ["asyncio", ("asyncio", {"use_uvloop": True}), "trio"]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def one(start: Any, **options: Any) -> SupervisorSpec:
    return SupervisorSpec(children=[ChildSpec(id="child", start=start, **options)], intensity=Intensity(5))


async def test_a_group_of_errors_is_one_crash() -> None:
    async def fails(ctx: ChildContext) -> None:
        ctx.ready()
        if ctx.incarnation == 1:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(raises, ValueError("a"))
        await anyio.sleep_forever()

    async def raises(error: Exception) -> None:
        raise error

    async with open_supervisor(one(fails)) as sup:
        seen = Recorder(sup)
        await seen.until(lambda event: isinstance(event, ChildStarted))
        (exited,) = seen.of(ChildExited)
        assert isinstance(exited.reason, Crashed)
        assert isinstance(exited.reason.error, ExceptionGroup)


async def test_a_scope_that_was_cancelled_inside_is_the_childs_own_business() -> None:
    async def gives_up(ctx: ChildContext) -> None:
        ctx.ready()
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        await anyio.sleep_forever()

    async with open_supervisor(one(gives_up)) as sup:
        await settle()
        assert sup.which_children()[0].incarnation == 1
        assert sup.which_children()[0].state is State.UP


async def test_a_shielded_clean_up_is_waited_for_within_its_time() -> None:
    done: list[str] = []

    async def cleans(_ctx: ChildContext) -> None:
        _ctx.ready()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
                done.append("clean")

    async with open_supervisor(one(cleans)) as sup:
        seen = Recorder(sup)
    assert done == ["clean"]
    assert seen.of(ChildStopped)[0].reason == Stopped()


async def test_an_asynchronous_generator_is_finalised_when_its_child_is_stopped() -> None:
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.append("generator")

    async def reads(ctx: ChildContext) -> None:
        ctx.ready()
        async for _ in numbers():
            pass

    async with open_supervisor(one(reads)):
        await settle()
    assert closed == ["generator"]


async def test_a_swallowed_cancellation_is_stuck_and_nothing_is_started_beside_it() -> None:
    released, started = anyio.Event(), 0

    async def swallows(ctx: ChildContext) -> None:
        nonlocal started
        started += 1
        ctx.ready()
        with anyio.CancelScope(shield=True):  # what swallows it looks like this to a supervisor
            await released.wait()

    clock = VirtualClock()
    spec = one(swallows, shutdown=2.0)
    below = SupervisorSpec(children=[ChildSpec(id="below", start=spec)], intensity=Intensity(5))
    with pytest.raises(SupervisorFailed) as failed:
        async with open_supervisor(below, clock=clock) as sup, anyio.create_task_group() as tasks:
            tasks.start_soon(sup.supervisor("below").terminate_child, "child")
            await settle()
            while await clock.jump():
                pass
            assert isinstance(sup.ended, Stuck)
            assert sup.ended.path == "root/below/child"
            released.set()
            tasks.cancel_scope.cancel()
    assert isinstance(failed.value.reason, Stuck)
    assert "only its process can be killed" in str(failed.value)
    assert started == 1


async def test_cancelling_a_tree_whose_child_cancelled_itself_ends() -> None:
    async def cancels_itself(ctx: ChildContext) -> None:
        ctx.ready()
        try:
            await anyio.sleep_forever()
        finally:
            if isinstance(anyio.get_cancelled_exc_class(), type) and issubclass(
                anyio.get_cancelled_exc_class(), asyncio.CancelledError
            ):
                task = asyncio.current_task()
                assert task is not None
                task.cancel()

    with anyio.fail_after(5):
        async with open_supervisor(one(cancels_itself)):
            await settle()


@pytest.mark.parametrize("on_stop", ["stop", "slow", "crash", "normal", "ignore"])
async def test_a_shutdown_is_over_in_the_time_its_children_were_given(on_stop: str) -> None:
    clock = VirtualClock()
    children = [Puppet(f"p{n}", on_stop=on_stop).spec(clock, shutdown=0.5) for n in range(4)]
    ended: list[float] = []

    async def close(sup: Any) -> None:
        await sup.shutdown()
        ended.append(clock.now())

    async with (
        open_supervisor(SupervisorSpec(children=children), clock=clock) as sup,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(close, sup)
        await settle()
        while not ended:
            assert await clock.jump()
    assert ended[0] <= 4 * 0.5


async def test_a_request_is_answered_while_a_restart_waits() -> None:
    clock, broken, other = VirtualClock(), Puppet("broken"), Puppet("other")
    slow = Backoff(initial=60.0, factor=1.0, cap=60.0, jitter=False)
    spec = SupervisorSpec(
        strategy=Strategy.ONE_FOR_ONE,
        intensity=Intensity(1, period=300.0),
        children=[broken.spec(clock, backoff=slow), other.spec(clock)],
        exceeded=Exceeded.PAUSE,
        pause=100.0,
    )
    async with open_supervisor(spec, clock=clock) as sup:
        broken.end()
        await settle()
        broken.end()
        await settle()
        assert sup.which_children()[0].state in (State.RESTARTING, State.PAUSED)
        await sup.terminate_child("other")
        await sup.restart_child("other")
        await sup.terminate_child("broken")  # ends the waiting, too
        await clock.advance(1_000.0)
        assert [child.state for child in sup.which_children()] == [State.UNDEFINED, State.UP]
        assert broken.starts == 2


async def test_the_stream_of_events_tells_the_state() -> None:
    clock, dice = VirtualClock(), random.Random(7)
    puppets = [Puppet(f"p{n}", plan=["ok", "ok", "error"] if n == 1 else ()) for n in range(4)]
    restarts = [Restart.PERMANENT, Restart.TRANSIENT, Restart.TRANSIENT, Restart.TEMPORARY]
    children = [puppet.spec(clock, restart=how) for puppet, how in zip(puppets, restarts, strict=True)]
    spec = SupervisorSpec(strategy=Strategy.REST_FOR_ONE, children=children, intensity=Intensity(1_000))
    async with open_supervisor(spec, clock=clock) as sup:
        seen, up = Recorder(sup), {child.id: child.incarnation for child in sup.which_children()}
        for _ in range(60):
            puppet = dice.choice([each for each in puppets if each.is_up])
            puppet.end(dice.choice([None, Stopped(), Killed()]))
            await settle()
            if dice.random() < 0.3:
                with anyio.move_on_after(1):
                    await sup.terminate_child("p2")
        for event in seen.events:
            assert isinstance(event, ChildEvent) or not hasattr(event, "incarnation")
            if isinstance(event, ChildStarted):
                assert event.child not in up
                up[event.child] = event.incarnation
            elif isinstance(event, ChildExited | ChildStopped):
                assert up.pop(event.child) == event.incarnation
        assert up == {c.id: c.incarnation for c in sup.which_children() if c.state is State.UP}


async def test_a_thousand_restarts_leave_nothing_behind() -> None:
    clock, puppet = VirtualClock(), Puppet("child")
    spec = SupervisorSpec(children=[puppet.spec(clock)], intensity=Intensity(10_000))

    async def crash(times: int) -> None:
        for _ in range(times):
            puppet.end()
            await settle()

    async with open_supervisor(spec, clock=clock) as sup:
        await crash(50)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await crash(1_000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert sup.which_children()[0].restarts == 1_050
    assert grown < 100_000  # the window of restarts itself: a float each


async def test_a_child_that_never_gets_ready_is_named() -> None:
    clock = VirtualClock()
    failures: list[StartFailed] = []

    async def open_it() -> None:
        try:
            async with open_supervisor(one(anyio.Event().wait, start_timeout=None), clock=clock):
                pass  # a function without a context is ready when it begins
            async with open_supervisor(one(lambda _ctx: anyio.sleep_forever(), start_timeout=7.0), clock=clock):
                raise AssertionError
        except StartFailed as failure:
            failures.append(failure)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_it)
        await clock.advance(8.0)
    assert "child" in str(failures[0])
