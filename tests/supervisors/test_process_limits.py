"""What a process child may use: who eats too much is refused or dies, and nobody beside it."""

import os
from pathlib import Path
from typing import Any

import pytest

from supervisors import ChildSpec, Limits, RemoteError, Restart, SpecError, StartFailed, open_supervisor
from supervisors.events import ChildExited
from supervisors.process import confine
from supervisors.reasons import Crashed, NotLoaded, OverLimit
from tests.backends import ASYNCIO, on
from tests.supervisors import process_children as children
from tests.supervisors.processes import descendants, info_of, is_alive, next_of, process, tree, until

MIB = 1 << 20


@on(ASYNCIO)
async def test_a_child_gets_what_it_may_use_and_its_tools_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISED_SECRET", "x")
    monkeypatch.setenv("SUPERVISED_A", "x")
    limits = Limits(environment=("PATH", "SUPERVISED_?", "NOT_THERE"), files=64)
    async with open_supervisor(tree(process(children.confined, limits=limits), process(children.confined, "b"))) as sup:
        bound, free = info_of(sup), info_of(sup, "b")
    assert set(bound["environment"]) == {"PATH", "SUPERVISED_A", "SUPERVISORS_CHILD"}
    assert set(bound["tool"]) - {"_", "PWD", "SHLVL", "LC_CTYPE"} == {"PATH", "SUPERVISED_A", "SUPERVISORS_CHILD"}
    assert {"SUPERVISED_SECRET", *os.environ} <= set(free["environment"])
    assert bound["files"] == [64, 64]
    assert free["files"][0] > 64
    assert bound["core"] == free["core"] == [0, 0]
    own = int(Path("/proc/self/oom_score_adj").read_text())  # noqa: ASYNC240
    assert bound["oom"] == free["oom"] == min(own + 300, 1_000)


@on(ASYNCIO)
async def test_memory_is_refused_to_who_eats_too_much_and_to_nobody_else() -> None:
    small = Limits(memory=64 * MIB)
    async with open_supervisor(tree(process(children.eat, args=(16 * MIB,), limits=small))) as sup:
        with pytest.raises(StartFailed) as failure:
            await sup.start_child(process(children.eat, "b", args=(128 * MIB,), limits=small))
        await sup.start_child(process(children.eat, "c", args=(128 * MIB,)))
        assert sup.count_children().active == 2
    assert isinstance(failure.value.reason, Crashed)
    assert isinstance(failure.value.reason.error, RemoteError)
    assert failure.value.reason.error.record.type == "builtins.MemoryError"


@on(ASYNCIO)
async def test_who_starts_too_many_processes_is_killed_with_all_of_them() -> None:
    async with open_supervisor(tree(process(children.wait, limits=Limits(processes=20)))) as sup:
        events, before = sup.events(), descendants()
        bomb = process(children.bomb, "b", args=(200,), limits=Limits(processes=20), restart=Restart.TEMPORARY)
        await sup.start_child(bomb)
        reason = (await next_of(events, ChildExited, within=30)).reason
        assert isinstance(reason, OverLimit)
        assert reason.used > reason.allowed == 20
        assert reason.note == "boom"
        await until(lambda: not any(map(is_alive, descendants() - before)), within=30)
        assert is_alive(info_of(sup))


@on(ASYNCIO)
async def test_a_child_whose_cgroup_cannot_be_made_does_not_start(tmp_path: Path) -> None:
    async with open_supervisor(tree()) as sup:
        with pytest.raises(StartFailed, match=r"cannot be held to its limits: cgroup /proc/nowhere: .*delegated") as no:
            await sup.start_child(process(children.wait, limits=Limits(cgroup="/proc/nowhere")))
    assert isinstance(no.value.reason, NotLoaded)


def test_a_cgroup_of_its_own_holds_the_child_and_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that looks like one: a delegated cgroup is there on few machines that run tests."""
    limits = Limits(cgroup=str(tmp_path), memory=5_000, processes=7)
    monkeypatch.setattr(confine.resource, "setrlimit", pytest.fail)  # the cgroup counts, and nothing else
    confine.confine(limits)
    own = confine.cgroup_of(limits, os.getpid())
    assert own is not None
    written = {file.name: file.read_text() for file in own.iterdir()}
    pid = str(os.getpid())
    assert written == {"memory.max": "5000", "memory.swap.max": "0", "pids.max": "7", "cgroup.procs": pid}
    for file in own.iterdir():
        file.unlink()
    assert not confine.clear(own)
    (own / "memory.events").write_text("low 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert confine.clear(own)
    assert (own / "cgroup.kill").read_text() == "1"
    assert not confine.is_removed(own)  # not empty: as if something were dying
    for file in own.iterdir():
        file.unlink()
    assert confine.is_removed(own)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Limits(memory=0), "memory must be a whole number of at least 1; got 0"),
        (lambda: Limits(environment=("A=1",)), "environment must be names of variables"),
        (lambda: Limits(cgroup="here"), "cgroup must be the absolute path of a cgroup, or None; got 'here'"),
        (
            lambda: ChildSpec(id="a", start="m:f", limits=Limits()),
            "limits of child 'a' must be None with Isolation.TASK",
        ),
    ],
)
def test_a_wrong_limit_is_refused_by_name(build: Any, said: str) -> None:
    with pytest.raises(SpecError, match="must be") as refused:
        build()
    assert said in str(refused.value)
