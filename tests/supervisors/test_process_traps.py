"""The ways in which process supervision is known to go wrong, each with real processes."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest

from supervisors import Processes, Restart, Watchdog, open_supervisor
from supervisors.channel import Lane, frame
from supervisors.events import ChildExited, ChildLate, ChildStarted, ChildStopped
from supervisors.process.child import open_processes
from supervisors.process.fork_server import ServedProcess
from supervisors.process.messages import Go, Order, encode
from supervisors.process.spawner import Spawner
from supervisors.process.target import pack
from supervisors.reasons import Hung, Killed, Stopped
from tests.backends import ASYNCIO, UVLOOP, on
from tests.supervisors import process_children as children
from tests.supervisors.processes import descendants, info_of, is_alive, next_of, process, tree, until, wait_dead

pytestmark = pytest.mark.timeout(110)

QUICK = Watchdog(every=0.05, late=0.15, loop_silent=0.5, thread_silent=2.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_supervisor(number: signal.Signals) -> None:
    _kill_supervisor(number)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_nothing_outlives_any_of_50_killed_supervisors() -> None:
    for _ in range(50):
        _kill_supervisor(signal.SIGKILL)


def _kill_supervisor(number: signal.Signals) -> None:
    program = [sys.executable, "-m", "tests.supervisors.orphaning"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        try:
            pids = json.loads(supervisor.stdout.readline())
            assert len(pids) >= 3 * 4 + 1
            supervisor.send_signal(number)
            supervisor.wait(60)
        finally:
            supervisor.kill()
    assert wait_dead(*pids) == []


@on(ASYNCIO)
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_death_is_noticed_though_a_grandchild_holds_all_file_descriptors_and_all_tools_die(method: str) -> None:
    processes = Processes(method=method)
    async with open_supervisor(tree(process(children.with_tools, args=(False,))), processes=processes) as sup:
        first, events = info_of(sup), sup.events()
        os.kill(first["pid"], signal.SIGKILL)
        with anyio.fail_after(30):
            assert (await next_of(events, ChildExited)).reason == Killed(signal.SIGKILL)
        await until(lambda: not any(map(is_alive, first["tools"])), within=30)
        second = (await next_of(events, ChildStarted)).info
        assert all(map(is_alive, second["tools"]))
    assert wait_dead(*second["tools"]) == []


@on(ASYNCIO)
async def test_a_tool_that_hides_ends_with_its_supervisor() -> None:
    async with open_supervisor(tree(process(children.with_a_hidden_tool))) as sup:
        hidden = info_of(sup)
        assert is_alive(hidden)
    assert wait_dead(hidden) == []


@on(ASYNCIO)
async def test_a_dead_fork_server_takes_its_children_along_and_is_replaced() -> None:
    async with open_supervisor(tree(process(children.wait), process(children.wait, "b"))) as sup:
        old, events = [info_of(sup), info_of(sup, "b")], sup.events()
        os.kill(psutil.Process(old[0]).ppid(), signal.SIGKILL)
        for _ in old:
            assert isinstance((await next_of(events, ChildExited)).reason, Killed)
        await until(lambda: sup.count_children().active == 2)
        new = [info_of(sup), info_of(sup, "b")]
        assert not any(map(is_alive, old))
        assert all(map(is_alive, new))
    assert wait_dead(*new) == []


@on(ASYNCIO)
@pytest.mark.parametrize("how", ["sleep", "spin", "regex"])
async def test_a_hung_child_is_found_dumped_and_replaced(how: str) -> None:
    await _hang(how, times=2)


@pytest.mark.soak
@on(ASYNCIO, UVLOOP)
@pytest.mark.parametrize("how", ["sleep", "spin", "regex"])
async def test_hung_children_are_found_dumped_and_replaced_every_time(how: str) -> None:
    await _hang(how, times=20)


async def _hang(how: str, times: int) -> None:
    child = process(children.hang, args=(how, f"task of {how}"), watchdog=QUICK)
    async with open_supervisor(tree(child)) as sup:
        events = sup.events()
        for _ in range(times):
            pid, began = info_of(sup), anyio.current_time()
            reason = (await next_of(events, ChildExited)).reason
            assert isinstance(reason, Hung)
            assert reason.note == f"task of {how}"
            assert "process_children.py" in reason.stacks
            assert "in hang" in reason.stacks
            assert not is_alive(pid)
            assert anyio.current_time() - began < QUICK.loop_silent + QUICK.dump + 30.0
            assert is_alive((await next_of(events, ChildStarted)).info)


@on(ASYNCIO)
async def test_a_stopped_process_is_hung_though_it_can_tell_nothing() -> None:
    watchdog = Watchdog(every=0.05, late=0.15, loop_silent=0.5, thread_silent=2.0, dump=0.2)
    async with open_supervisor(tree(process(children.wait, watchdog=watchdog))) as sup:
        events = sup.events()
        os.kill(info_of(sup), signal.SIGSTOP)
        reason = (await next_of(events, ChildExited)).reason
        assert isinstance(reason, Hung)
        assert reason.silent == "thread"


@on(ASYNCIO)
async def test_a_slow_child_is_told_of_and_lives() -> None:
    child = process(children.slow_once, args=(0.4,), watchdog=Watchdog(every=0.05, late=0.15, loop_silent=20.0))
    async with open_supervisor(tree(child)) as sup:
        events = sup.events()
        assert (await next_of(events, ChildLate)).silent > 0.15
        assert is_alive(info_of(sup))


@on(ASYNCIO)
async def test_no_exit_code_is_wrong_under_parallel_starts() -> None:
    await _exit_codes(64)


@pytest.mark.soak
@on(ASYNCIO, UVLOOP)
async def test_no_exit_code_of_600_is_wrong_under_parallel_starts() -> None:
    await _exit_codes(600)


async def _exit_codes(count: int) -> None:
    """Short children, 16 at a time, of 16 supervisors: each starts its own one after another."""
    wrong: list[str] = []

    async def run_some(numbers: range) -> None:
        for n in numbers:
            async with open_supervisor(tree(), processes=shell) as own:
                events = own.events()
                how = "sys.exit" if n % 2 else "return"
                await own.start_child(process(children.end, f"c{n}", args=(how,), restart=Restart.TEMPORARY))
                reason = str((await next_of(events, ChildExited, within=60)).reason)
                if reason != ("exited with code 3" if n % 2 else "normal"):
                    wrong.append(f"{n}: {reason}")

    async with open_processes() as shell, anyio.create_task_group() as tasks:
        for lane in range(16):
            tasks.start_soon(run_some, range(lane, count, 16))
    assert wrong == []


@on(ASYNCIO)
async def test_restarts_leave_nothing_behind() -> None:
    await _restarts(30)


@pytest.mark.soak
@on(ASYNCIO, UVLOOP)
async def test_200_restarts_leave_nothing_behind() -> None:
    await _restarts(200)


async def _restarts(count: int) -> None:
    me = psutil.Process()

    def footprint() -> tuple[int, int, int, int]:
        below = [psutil.Process(pid) for pid in descendants()]
        zombies = sum(process.status() == psutil.STATUS_ZOMBIE for process in below)
        return me.num_fds(), threading.active_count(), len(below), zombies

    async with open_supervisor(tree(process(children.wait))) as sup:
        events = sup.events()

        async def restart(times: int) -> None:
            for _ in range(times):
                os.kill(info_of(sup), signal.SIGKILL)
                await next_of(events, ChildStarted)

        await restart(10)
        gc.collect()
        before, memory = footprint(), me.memory_full_info().uss
        await restart(count)
        gc.collect()
        await until(lambda: footprint() == before)
        assert me.memory_full_info().uss - memory < 1 << 20


@pytest.mark.soak  # it measures: in every build, `test_every_call_of_a_process_comes_from_one_thread` holds the same
@on(ASYNCIO)
async def test_the_loop_is_never_blocked_by_processes() -> None:
    worst = [0.0]

    async def measure() -> None:
        while True:
            began = time.perf_counter()
            await anyio.lowlevel.checkpoint()
            worst[-1] = max(worst[-1], time.perf_counter() - began)

    async with open_supervisor(tree()) as sup:
        await sup.start_child(process(children.wait, "first"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(measure)
            for n in range(20):
                worst.append(0.0)
                await sup.start_child(process(children.wait, f"c{n}"))
                await sup.terminate_child(f"c{n}")
            tasks.cancel_scope.cancel()
    # What waits for a process would do so each time; a busy machine holds us up now and then.
    assert sorted(worst)[10] < 0.1


@on(ASYNCIO)
@pytest.mark.parametrize("is_told", [True, False])
async def test_a_child_runs_nothing_before_it_is_watched(tmp_path: Path, is_told: bool) -> None:
    spawner, trace = Spawner(Processes()), tmp_path / "trace"
    order = Order(id="a", path="root/a", incarnation=1, backend="asyncio", is_uvloop=False, every=1.0)
    child = await spawner.start(order, lambda: pack(children.once, (str(trace),), {}))
    if is_told:
        child.connection.sendall(frame(Lane.CONTROL, encode(Go())))
        await until(trace.exists)
    child.connection.shutdown(socket.SHUT_WR)
    with anyio.fail_after(5):
        await anyio.wait_readable(child.death)
    await spawner.reap(child)
    await spawner.close()
    assert trace.exists() == is_told


@on(ASYNCIO)
async def test_every_call_of_a_process_comes_from_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    for name in ("start", "join", "close"):
        original = getattr(ServedProcess, name)

        def recorded(*args: Any, original: Callable[..., Any] = original) -> Any:
            threads.add(threading.get_ident())
            return original(*args)

        monkeypatch.setattr(ServedProcess, name, recorded)
    async with open_supervisor(tree(*(process(children.wait, f"c{n}") for n in range(3)))) as sup:
        events = sup.events()
        os.kill(info_of(sup, "c1"), signal.SIGKILL)
        await next_of(events, ChildStarted)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@on(ASYNCIO)
async def test_ctrl_c_reaches_no_child() -> None:
    async with open_supervisor(tree(process(children.finish, args=("in peace",)))) as sup:
        pid = info_of(sup)
        assert os.getsid(pid) != os.getsid(0)
        os.kill(pid, signal.SIGINT)
        events = sup.events()
        await sup.terminate_child("a")
        assert (await next_of(events, ChildStopped)).reason == Stopped("in peace")
