"""What a dead process leaves behind: what it was at, where it stood, and whether it ever came to run anything."""

import os
import signal
import threading
from functools import partial
from typing import Any

import anyio
import psutil
import pytest

from supervisors import (
    ChildSpec,
    Processes,
    RemoteError,
    Restart,
    Shutdown,
    StartFailed,
    Supervisor,
    SupervisorSpec,
    open_supervisor,
)
from supervisors.events import ChildExited
from supervisors.process.beats import _NUMBER, _NUMBER_AT, Page
from supervisors.process.stacks import MOST_STACKS, StackFile
from supervisors.reasons import MOST_LINE, Crashed, Exited, ExitReason, Killed, NotLoaded, OutOfMemory, Stopped
from supervisors.remote_error import record_error
from tests.backends import ASYNCIO, TRIO, on
from tests.supervisors import process_children as children
from tests.supervisors.processes import info_of, next_of, process, tree, until


@on(ASYNCIO)
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("segfault", Killed(signal.SIGSEGV)),
        ("abort", Killed(signal.SIGABRT)),
        ("os._exit", Exited(7)),
        (str(int(signal.SIGKILL)), Killed(signal.SIGKILL)),
        ("raise", Crashed(KeyError("lost"))),
    ],
)
async def test_of_twenty_tasks_the_one_that_ran_is_named_when_the_process_dies(how: str, reason: ExitReason) -> None:
    async with open_supervisor(tree()) as sup:
        events = sup.events()
        await sup.start_child(process(children.die_at, args=(20, 7, how), restart=Restart.TEMPORARY))
        ended = (await next_of(events, ChildExited, within=30)).reason
    assert type(ended) is type(reason)
    assert ended == reason or isinstance(ended, Crashed)
    assert ended.note == "task 7"
    assert "at 'task 7'" in str(ended)
    is_fault = how in ("segfault", "abort")
    assert ("process_children.py" in getattr(ended, "stacks", "")) == is_fault
    assert ("in end" in getattr(ended, "stacks", "")) == is_fault


@on(ASYNCIO, TRIO)
async def test_the_stacks_of_all_processes_are_dumped_on_request_also_when_they_hang() -> None:
    below = SupervisorSpec(children=(process(children.wait, "c"),))
    hanging = process(children.hang, args=("regex", ""), watchdog=None, shutdown=Shutdown.BRUTAL_KILL)
    async with open_supervisor(tree(hanging, process(children.wait, "b"), ChildSpec(id="s", start=below))) as sup:
        await _hangs(sup)
        for _ in range(2):
            stacks = await sup.dump_stacks(patience=30.0)
            assert sorted(stacks) == ["root/a", "root/b", "root/s/c"]
            assert all(text.count("Current thread") == 1 for text in stacks.values())
            assert "in hang" in stacks["root/a"]
            assert "in hang" not in stacks["root/b"]
        assert list(await sup.supervisor("s").dump_stacks(patience=30.0)) == ["root/s/c"]
        events = sup.events()
        os.kill(info_of(sup, "b"), signal.SIGABRT)
        stacks["b"] = (await next_of(events, ChildExited, within=30)).reason.stacks
        assert stacks["b"].startswith("Fatal Python error: Aborted")
        assert stacks["b"].count("Current thread") == 1


async def _hangs(sup: Supervisor) -> None:
    with anyio.fail_after(30):
        while "in hang" not in (await sup.dump_stacks())["root/a"]:
            await anyio.sleep(0.05)


@on(ASYNCIO)
async def test_asking_for_the_stacks_of_a_process_that_dies_waits_for_nobody() -> None:
    async with open_supervisor(tree(process(children.wait, restart=Restart.TEMPORARY))) as sup:
        events, pid = sup.events(), info_of(sup)
        os.kill(pid, signal.SIGSTOP)  # it will not answer
        await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, within=30)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(_no_stacks, sup, patience=600.0))
                await anyio.wait_all_tasks_blocked()
                os.kill(pid, signal.SIGKILL)
        await next_of(events, ChildExited, within=30)
        assert await sup.dump_stacks() == {}


async def _no_stacks(sup: Supervisor, patience: float) -> None:
    assert await sup.dump_stacks(patience=patience) == {"root/a": ""}


def test_a_process_killed_while_it_writes_its_note_leaves_the_one_before() -> None:
    page = Page.create()
    page.write_note("first")
    page.write_note("second")
    before = page._memory[:]
    page.write_note("third, and longer")
    after = page._memory[:]
    written = [at for at in range(_NUMBER_AT + _NUMBER.size, len(after)) if before[at] != after[at]]
    for torn in range(len(written)):
        page._memory[:] = before
        for at in written[:torn]:
            page._memory[at] = after[at]
        assert page.note() == "second"
    page._memory[:] = after
    assert page.note() == "third, and longer"
    page.close()


def test_of_too_many_stacks_those_from_the_current_thread_on_are_kept() -> None:
    file = StackFile()
    other, current = b"Thread 0x1 (most recent call first):\n" * 1_000, b"Current thread 0x2\n  in guilty\n"
    with open(file.fd, "wb", closefd=False) as out:
        out.write(other + current + other)
    assert file.text().startswith("Current thread 0x2\n  in guilty")
    assert len(file.text()) == MOST_STACKS
    file.close()


@on(ASYNCIO)
async def test_what_cannot_be_loaded_is_told_from_what_crashes() -> None:
    async def reason_of(start: Any, *args: object, **options: Any) -> ExitReason:
        with pytest.raises(StartFailed) as failure:
            await sup.start_child(process(start, args=args, restart=Restart.TEMPORARY, **options))
        return failure.value.reason

    async with open_supervisor(tree()) as sup:
        unimportable = await reason_of("tests.supervisors.unimportable:run")
        assert isinstance(unimportable, NotLoaded)
        assert isinstance(unimportable.error, RemoteError)
        assert "unimportable.py" in unimportable.error.record.traceback
        assert isinstance(await reason_of(children.wait, children.NotHere()), NotLoaded)  # arrives, and is not unpacked
        assert isinstance(await reason_of(children.wait, threading.Lock()), NotLoaded)  # cannot be sent
        assert isinstance(await reason_of("tests.supervisors.process_children:SLEEP"), NotLoaded)
        assert type(await reason_of(children.end, "raise", kwargs={"ready": False})) is Crashed
        assert isinstance(await reason_of(children.end, "os._exit", kwargs={"ready": False}), Exited)
        assert type(await reason_of(children.wait, "one argument too many")) is Crashed


@on(ASYNCIO)
async def test_what_cannot_be_preloaded_is_not_loaded() -> None:
    with pytest.raises(StartFailed) as failure:
        async with open_supervisor(tree(process(children.wait)), processes=Processes(preload=("nowhere_at_all",))):
            pass
    assert isinstance(failure.value.reason, NotLoaded)


ERROR = RuntimeError("first line\nsecond line\u2028" + "x" * 10_000)


@pytest.mark.parametrize(
    "reason",
    [
        Crashed(ERROR),
        Crashed(RemoteError(record_error(ERROR))),
        NotLoaded(ERROR),
        Stopped("one\ntwo"),
        Killed(9, "one\r\ntwo", note="a\nb", stacks="c\nd"),
        Exited(3, note="a\nb"),
        OutOfMemory(note="a\nb"),
    ],
)
def test_a_reason_is_one_line_of_a_log(reason: ExitReason) -> None:
    assert len(str(reason).splitlines()) == 1
    assert len(str(reason)) <= MOST_LINE
    assert len(repr(reason).splitlines()) == 1
