"""Children that are real processes: started, killed, restarted, stopped, and never left behind."""

import os
import signal
import sys

import anyio
import anyio.lowlevel
import pytest

from supervisors import (
    ChildSpec,
    Init,
    Processes,
    RemoteError,
    Restart,
    Shutdown,
    StartFailed,
    State,
    Strategy,
    SupervisorSpec,
    open_supervisor,
)
from supervisors.child import ChildContext
from supervisors.events import ChildExited, ChildFailed, ChildStarted, ChildStopped
from supervisors.reasons import Crashed, Escalated, Exited, ExitReason, Killed, Normal, Stopped
from tests.backends import ASYNCIO, TRIO, every_backend, on
from tests.supervisors import process_children as children
from tests.supervisors.processes import (
    descendants,
    info_of,
    is_alive,
    next_of,
    process,
    tree,
    until,
    wait_dead,
)


@every_backend
async def test_a_killed_child_is_noticed_and_replaced() -> None:
    async with open_supervisor(tree(process(children.wait))) as sup:
        first, events = info_of(sup), sup.events()
        os.kill(first, signal.SIGKILL)
        assert (await next_of(events, ChildExited)).reason == Killed(signal.SIGKILL)
        second = (await next_of(events, ChildStarted)).info
        assert second != first
        assert is_alive(second)
    assert wait_dead(first, second) == []


@every_backend
async def test_a_child_runs_on_its_own_loop_of_the_same_kind_in_its_own_session() -> None:
    async with open_supervisor(tree(process(children.meddle))) as sup:
        seen = info_of(sup)
        assert seen["session"] == seen["pid"] != os.getpid()
        assert seen["is_sigint_ignored"]
        assert seen["is_term_default"]
        here = type(anyio.lowlevel.current_token().native_token).__module__
        assert seen["loop"].partition(".")[0] == here.partition(".")[0]
        assert seen["path"] == "root/a"


@on(ASYNCIO)
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("return", Normal()),
        ("sys.exit", Exited(3)),
        ("os._exit", Exited(7)),
        ("255", Exited(255)),
        ("segfault", Killed(signal.SIGSEGV)),
        ("abort", Killed(signal.SIGABRT)),
        (str(int(signal.SIGTERM)), Killed(signal.SIGTERM)),
        (str(int(signal.SIGKILL)), Killed(signal.SIGKILL)),
    ],
)
async def test_how_a_process_ended(how: str, reason: ExitReason) -> None:
    async with open_supervisor(tree()) as sup:
        events = sup.events()
        await sup.start_child(process(children.end, args=(how,), restart=Restart.TEMPORARY))
        assert (await next_of(events, ChildExited)).reason == reason


@on(ASYNCIO)
@pytest.mark.parametrize(("how", "kind"), [("raise", "KeyError"), ("memory", "MemoryError"), ("interrupt", "Keyboard")])
async def test_what_a_child_raises_is_a_crash_of_its_own(how: str, kind: str) -> None:
    async with open_supervisor(tree()) as sup:
        events = sup.events()
        await sup.start_child(process(children.end, args=(how,), restart=Restart.TEMPORARY))
        reason = (await next_of(events, ChildExited)).reason
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, RemoteError)
        assert kind in reason.error.record.type


@on(ASYNCIO)
async def test_an_error_that_pickle_would_break_arrives_whole() -> None:
    async with open_supervisor(tree()) as sup:
        events = sup.events()
        await sup.start_child(process(children.fail_oddly, restart=Restart.TEMPORARY))
        reason = (await next_of(events, ChildExited)).reason
    assert isinstance(reason, Crashed)
    assert isinstance(reason.error, RemoteError)
    record = reason.error.record
    assert record.type.endswith("process_children.Picky")
    assert record.message == "code 9"
    assert record.notes == ("a note",)
    assert "in fail_oddly" in record.traceback
    assert record.cause is not None
    assert "at the bottom" in record.cause.message


@on(ASYNCIO, TRIO)
async def test_a_child_is_asked_to_stop_and_its_answer_is_heard() -> None:
    async with open_supervisor(tree(process(children.finish, args=("all done",)), process(children.wait, "b"))) as sup:
        events = sup.events()
        await sup.terminate_child("a")
        assert (await next_of(events, ChildStopped)).reason == Stopped("all done")
        await sup.terminate_child("b")
        assert (await next_of(events, ChildStopped)).reason == Stopped()


@on(ASYNCIO)
@pytest.mark.parametrize("shutdown", [0.1, Shutdown.BRUTAL_KILL])
async def test_a_child_that_does_not_stop_is_killed(shutdown: float | Shutdown) -> None:
    async with open_supervisor(tree(process(children.deaf, shutdown=shutdown))) as sup:
        events, pid = sup.events(), info_of(sup)
        with anyio.fail_after(3):
            await sup.terminate_child("a")
        assert isinstance((await next_of(events, ChildStopped)).reason, Killed)
        assert not is_alive(pid)


@on(ASYNCIO)
async def test_a_child_may_decline_or_know_no_context() -> None:
    async with open_supervisor(tree(process(children.ignore), process(children.without_context, "b"))) as sup:
        assert [child.state for child in sup.which_children()] == [State.UNDEFINED, State.UP]


@on(ASYNCIO)
async def test_a_child_that_never_becomes_ready_is_given_up_and_gone() -> None:
    before = descendants()
    with pytest.raises(StartFailed, match=r"root/a was not ready after 0.5 s; call ctx.ready\(\)"):
        async with open_supervisor(tree(process(children.never_ready, start_timeout=0.5))):
            pass
    assert wait_dead(*(descendants() - before - _trackers())) == []


@on(ASYNCIO)
@pytest.mark.parametrize(
    ("how", "said"), [("os._exit", "exited with code 7"), ("return", "before it called ctx.ready")]
)
async def test_a_child_that_ends_before_it_is_ready_failed_to_start(how: str, said: str) -> None:
    with pytest.raises(StartFailed, match=said):
        async with open_supervisor(tree(process(children.end, args=(how,), kwargs={"ready": False}))):
            pass


@on(ASYNCIO)
async def test_one_supervisor_mixes_tasks_processes_and_supervisors() -> None:
    async def task(ctx: ChildContext) -> None:
        ctx.ready()
        await anyio.sleep_forever()

    inner = SupervisorSpec(children=(process(children.wait, "deep"),))
    spec = tree(
        ChildSpec(id="task", start=task),
        process(children.wait, "process"),
        ChildSpec(id="supervisor", start=inner),
        strategy=Strategy.ONE_FOR_ALL,
    )
    async with open_supervisor(spec) as sup:
        deep, events = info_of(sup.supervisor("supervisor"), "deep"), sup.events()
        os.kill(info_of(sup, "process"), signal.SIGKILL)
        assert (await next_of(events, ChildExited)).child == "process"
        started = [(await next_of(events, ChildStarted)).child for _ in range(4)]
        assert started == ["task", "process", "deep", "supervisor"]
        assert not is_alive(deep)


@on(ASYNCIO)
async def test_a_supervisor_may_run_in_a_process_and_its_giving_up_is_told() -> None:
    async with open_supervisor(tree(process(children.PIDS, "up"))) as sup:
        events = sup.events()
        await sup.start_child(process(children.FAILING, "b", restart=Restart.TEMPORARY))
        reason = (await next_of(events, ChildExited)).reason
        assert isinstance(reason, Escalated)
        assert reason.child == "inner"
        await sup.terminate_child("up")
        assert (await next_of(events, ChildStopped)).reason == Stopped("shutdown")


@on(ASYNCIO)
async def test_a_supervisor_in_a_process_may_decline() -> None:
    async with open_supervisor(tree(process(Init(_nothing)))) as sup:
        assert sup.count_children().active == 0


def _nothing() -> None:
    return None


@on(ASYNCIO)
async def test_stopping_during_a_start_waits_for_nobody() -> None:
    events = None
    with anyio.fail_after(5):
        async with open_supervisor(tree()) as sup, anyio.create_task_group() as tasks:
            events = sup.events()
            tasks.start_soon(_start_in_vain, sup)
            await until(lambda: sup.count_children().specs == 1)
            sup.request_shutdown()
    assert isinstance((await next_of(events, ChildFailed)).reason, Killed)


async def _start_in_vain(sup: object) -> None:
    with pytest.raises(StartFailed):
        await sup.start_child(process(children.never_ready))  # type: ignore[attr-defined]  # a Supervisor


@on(ASYNCIO)
async def test_children_are_spawned_where_there_is_no_fork_server() -> None:
    processes = Processes(method="spawn")
    async with open_supervisor(tree(process(children.wait)), processes=processes) as sup:
        first, events = info_of(sup), sup.events()
        os.kill(first, signal.SIGKILL)
        second = (await next_of(events, ChildStarted)).info
        assert is_alive(second)
    assert wait_dead(first, second) == []


def _trackers() -> set[int]:
    """multiprocess's own resource tracker lives as long as the interpreter."""
    tracker = sys.modules.get("multiprocess.resource_tracker")
    return set() if tracker is None else {tracker._resource_tracker._pid}
