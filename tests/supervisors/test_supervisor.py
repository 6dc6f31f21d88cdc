"""Supervisors over real anyio tasks: order, restarts, limits, requests, and children that misbehave."""

import asyncio
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from supervisors import (
    AlreadyPresent,
    AlreadyStarted,
    AutoShutdown,
    Backoff,
    ChildContext,
    ChildCounts,
    ChildSpec,
    Intensity,
    IntensityExceeded,
    NotFound,
    Restart,
    Running,
    SpecError,
    StartFailed,
    State,
    Strategy,
    SupervisorFailed,
    SupervisorSpec,
    open_supervisor,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Log:
    """What children did, and levers to make them end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.crash: dict[str, anyio.Event] = {}
        self.changed = anyio.Event()

    def add(self, line: str) -> None:
        self.lines.append(line)
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, count: int) -> list[str]:
        with anyio.fail_after(5):
            while len(self.lines) < count:
                await self.changed.wait()
        return self.lines

    def child(self, name: str, *, error: Exception | None = None, **options: object) -> ChildSpec:
        async def run(ctx: ChildContext) -> None:
            self.crash[name] = anyio.Event()
            self.add(f"start {name}")
            ctx.ready()
            try:
                await self.crash[name].wait()
            except BaseException:
                self.add(f"stop {name}")
                raise
            self.add(f"exit {name}")
            if error is not None:
                raise error

        return ChildSpec(id=name, start=run, **options)  # type: ignore[arg-type]  # options of a spec


def spec(
    *children: ChildSpec, strategy: Strategy = Strategy.ONE_FOR_ONE, restarts: int = 3, **more: object
) -> SupervisorSpec:
    intensity = Intensity(max_restarts=restarts, period=60.0)
    return SupervisorSpec(strategy=strategy, intensity=intensity, children=children, **more)  # type: ignore[arg-type]


async def test_children_start_in_order_and_stop_in_reverse() -> None:
    log = Log()
    async with open_supervisor(spec(log.child("a"), log.child("b"), log.child("c"))) as sup:
        assert [c.state for c in sup.which_children()] == [State.UP] * 3
        assert sup.count_children() == ChildCounts(specs=3, active=3, supervisors=0, workers=3)
    assert log.lines == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


@pytest.mark.parametrize(
    ("strategy", "after"),
    [
        (Strategy.ONE_FOR_ONE, ["exit b", "start b"]),
        (Strategy.ONE_FOR_ALL, ["exit b", "stop c", "stop a", "start a", "start b", "start c"]),
        (Strategy.REST_FOR_ONE, ["exit b", "stop c", "start b", "start c"]),
    ],
)
async def test_who_is_restarted(strategy: Strategy, after: list[str]) -> None:
    log = Log()
    children = (log.child("a"), log.child("b", error=RuntimeError("x")), log.child("c"))
    async with open_supervisor(spec(*children, strategy=strategy)):
        log.crash["b"].set()
        assert (await log.until(3 + len(after)))[3:] == after


@pytest.mark.parametrize(
    ("restart", "error", "is_restarted"),
    [
        (Restart.PERMANENT, None, True),
        (Restart.TRANSIENT, None, False),
        (Restart.TRANSIENT, RuntimeError("x"), True),
        (Restart.TEMPORARY, RuntimeError("x"), False),
    ],
)
async def test_restart_types(restart: Restart, error: Exception | None, is_restarted: bool) -> None:
    log = Log()
    async with open_supervisor(spec(log.child("a", error=error, restart=restart))) as sup:
        log.crash["a"].set()
        await log.until(3 if is_restarted else 2)
        await anyio.wait_all_tasks_blocked()
        assert log.lines.count("start a") == (2 if is_restarted else 1)
        assert sup.count_children().specs == (0 if restart is Restart.TEMPORARY else 1)


async def test_one_restart_too_many_ends_the_supervisor_and_its_block() -> None:
    log = Log()
    with pytest.raises(SupervisorFailed, match=r"gave up on 'b' after more than 1 restarts within 60 s; .* boom"):
        async with open_supervisor(spec(log.child("a"), log.child("b", error=RuntimeError("boom")), restarts=1)):
            log.crash["b"].set()
            await log.until(4)
            log.crash["b"].set()
            await anyio.sleep_forever()
    assert log.lines[-1] == "stop a"


async def test_a_failing_start_stops_those_before_it() -> None:
    log = Log()

    async def fails(_: ChildContext) -> None:
        raise ValueError("no port")

    with pytest.raises(StartFailed, match="'b' failed to start: crashed: ValueError: no port"):
        async with open_supervisor(spec(log.child("a"), ChildSpec(id="b", start=fails))):
            pytest.fail("the block must not run")
    assert log.lines == ["start a", "stop a"]


async def test_a_child_that_never_gets_ready_fails_its_start() -> None:
    async def silent(_: ChildContext) -> None:
        await anyio.sleep_forever()

    async def returns(_: ChildContext) -> None:
        return

    with pytest.raises(StartFailed, match=r"not ready after 0.05 s"):
        async with open_supervisor(spec(ChildSpec(id="a", start=silent, start_timeout=0.05))):
            pytest.fail("the block must not run")
    with pytest.raises(StartFailed, match="returned before it called"):
        async with open_supervisor(spec(ChildSpec(id="a", start=returns))):
            pytest.fail("the block must not run")


async def test_a_child_may_decline() -> None:
    async def declines(ctx: ChildContext) -> None:
        ctx.ignore()

    async with open_supervisor(spec(ChildSpec(id="a", start=declines))) as sup:
        assert sup.count_children() == ChildCounts(specs=1, active=0, supervisors=0, workers=1)


async def test_requests_are_answered_as_otp_does() -> None:
    log = Log()
    async with open_supervisor(spec(log.child("a"))) as sup:
        with pytest.raises(AlreadyStarted):
            await sup.start_child(log.child("a"))
        started = await sup.start_child(log.child("b"))
        assert started is not None
        assert started.id == "b"
        with pytest.raises(Running):
            await sup.delete_child("b")
        with pytest.raises(Running):
            await sup.restart_child("b")
        await sup.terminate_child("b")
        await sup.terminate_child("b")
        with pytest.raises(AlreadyPresent):
            await sup.start_child(log.child("b"))
        await sup.restart_child("b")
        await sup.terminate_child("b")
        await sup.delete_child("b")
        with pytest.raises(NotFound):
            await sup.delete_child("b")
        with pytest.raises(SpecError, match="significant of child 'c'"):
            await sup.start_child(log.child("c", significant=True, restart=Restart.TRANSIENT))


@pytest.mark.parametrize("revive", [False, True])
async def test_a_group_restart_revives_what_an_operator_stopped_only_if_told_so(revive: bool) -> None:
    log = Log()
    children = (log.child("a", error=RuntimeError("x")), log.child("b"))
    async with open_supervisor(spec(*children, strategy=Strategy.ONE_FOR_ALL, revive=revive)) as sup:
        await sup.terminate_child("b")
        log.crash["a"].set()
        await log.until(6 if revive else 5)
        await anyio.wait_all_tasks_blocked()
        assert log.lines.count("start b") == (2 if revive else 1)


async def test_the_end_of_a_significant_child_ends_its_supervisor() -> None:
    log = Log()
    significant = log.child("a", significant=True, restart=Restart.TRANSIENT)
    async with open_supervisor(spec(significant, log.child("b"), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT)):
        log.crash["a"].set()
        await anyio.sleep_forever()
    assert log.lines[-1] == "stop b"


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    log = Log()
    with pytest.raises(KeyError, match="mine"):
        async with open_supervisor(spec(log.child("a"))):
            raise KeyError("mine")
    assert log.lines == ["start a", "stop a"]


async def test_cancelling_the_block_from_outside_stops_the_children() -> None:
    log = Log()
    with anyio.move_on_after(0.05) as scope:
        async with open_supervisor(spec(log.child("a"), log.child("b"))):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert log.lines == ["start a", "start b", "stop b", "stop a"]


def raising(make: Callable[[], BaseException]) -> Callable[[ChildContext], object]:
    async def run(ctx: ChildContext) -> None:
        ctx.ready()
        await anyio.lowlevel.checkpoint()
        raise make()

    return run


@pytest.mark.parametrize("make", [lambda: ExceptionGroup("many", [ValueError("a")]), lambda: BaseException("odd")])
async def test_nothing_a_child_raises_reaches_its_siblings(make: Callable[[], BaseException]) -> None:
    log = Log()
    misbehaving = ChildSpec(id="b", start=raising(make), restart=Restart.TEMPORARY)  # type: ignore[arg-type]
    async with open_supervisor(spec(log.child("a"), misbehaving)) as sup:
        with anyio.fail_after(5):
            while sup.count_children().specs > 1:
                await anyio.sleep(0.001)
        assert log.lines == ["start a"]


@pytest.mark.parametrize(
    "make", [lambda: SystemExit(3), lambda: BaseExceptionGroup("many", [ValueError("a"), SystemExit(3)])]
)
async def test_an_exit_of_the_interpreter_stops_the_tree_in_order_and_goes_on(
    make: Callable[[], BaseException],
) -> None:
    log = Log()
    fatal = ChildSpec(id="c", start=raising(make), restart=Restart.TEMPORARY)  # type: ignore[arg-type]
    inner = ChildSpec(id="inner", start=spec(log.child("b"), fatal), restart=Restart.TEMPORARY)
    with pytest.raises(SystemExit, match="3"):
        async with open_supervisor(spec(log.child("a"), inner)):
            await anyio.sleep_forever()
    assert log.lines == ["start a", "start b", "stop b", "stop a"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stray_cancellation_ends_only_its_child(anyio_backend: str) -> None:
    log = Log()

    async def awaits_a_cancelled_task(ctx: ChildContext) -> None:
        ctx.ready()
        inner = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        inner.cancel()
        await inner

    async def cancels_itself(ctx: ChildContext) -> None:
        ctx.ready()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    strays = [
        ChildSpec(id=f.__name__, start=f, restart=Restart.TEMPORARY) for f in (awaits_a_cancelled_task, cancels_itself)
    ]
    async with open_supervisor(spec(log.child("a"), *strays)) as sup:
        async with asyncio.timeout(5):
            while sup.count_children().specs > 1:
                await asyncio.sleep(0.001)
        assert log.lines == ["start a"]


def test_restarts_older_than_the_period_do_not_count() -> None:
    assert Intensity(max_restarts=1, period=5.0).admit((0.0,), now=5.1) == (5.1,)
    with pytest.raises(IntensityExceeded):
        Intensity(max_restarts=1, period=5.0).admit((0.0,), now=5.0)


def test_a_backoff_grows_to_its_cap_and_jitters_below() -> None:
    steady = Backoff(initial=0.5, factor=2.0, cap=3.0, jitter=False)
    assert [steady.delay(n, random=0.5) for n in (0, 1, 2, 3, 5_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert Backoff(initial=1.0, factor=2.0, cap=30.0).delay(2, random=0.25) == 1.0
