"""Holds a process child to its limits: in the child, before anything of the user's runs there.

Memory is limited as RLIMIT_DATA, not as address space: that also counts what libraries only reserve. Where a cgroup
is given the kernel counts instead, for the child and all its tools together. A child that cannot be limited
does not start. What a child may use is said in `limits`; its number of processes without a cgroup is watched by `life`.
"""

import os
import resource
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from attrs import define

from supervisors.errors import SupervisorError
from supervisors.limits import Limits
from supervisors.process.strays import MARK

_WORSE: Final = 300  # of 1000: how much sooner than its supervisor a child dies when the machine is out of memory
_WORST: Final = 1_000


@define
class NotConfined(SupervisorError):
    """A child cannot be held to its limits."""

    what: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"the child cannot be held to its limits: {self.what}: {self.problem}; {self.advice}"


def die_first() -> None:
    """Have the kernel prefer this process to its supervisor when memory is used up. Where it can be told."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        worse = min(int(file.read()) + _WORSE, _WORST)
        file.seek(0)
        file.write(str(worse))


def confine(limits: Limits) -> None:
    """Hold this process to `limits`, and all it starts. Raises NotConfined."""
    if limits.environment is not None:
        _keep(limits.environment)
    if limits.files is not None:
        _limit(resource.RLIMIT_NOFILE, limits.files)
    if limits.cgroup is not None:
        _join(limits)
    elif limits.memory is not None:
        _limit(resource.RLIMIT_DATA, _allocated() + limits.memory)


def cgroup_of(limits: Limits | None, pid: int) -> Path | None:
    """The cgroup that the child of this pid makes for itself."""
    return None if limits is None or limits.cgroup is None else Path(limits.cgroup) / f"supervisors-{pid}"


def clear(cgroup: Path) -> bool:
    """Kill all that is left in a dead child's cgroup. Returns whether the kernel killed there for memory."""
    kills = b"0"
    with suppress(OSError):
        lines = (cgroup / "memory.events").read_bytes().splitlines()
        kills = next((line.split()[1] for line in lines if line.startswith(b"oom_kill ")), kills)
    with suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")
    return int(kills) > 0


def is_removed(cgroup: Path) -> bool:
    """Remove a cleared cgroup. False: something in it is still dying, try again."""
    with suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()


def _keep(patterns: tuple[str, ...]) -> None:
    for name in tuple(os.environ):
        if name != MARK and not any(fnmatchcase(name, pattern) for pattern in patterns):
            del os.environ[name]


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _allocated() -> int:
    """Bytes that RLIMIT_DATA counts."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError as error:
        advice = "leave `memory` out where there is no /proc"
        raise NotConfined("memory", str(error), advice) from error


def _join(limits: Limits) -> None:
    """Make a cgroup of one's own below the given one, and move there."""
    cgroup = cgroup_of(limits, os.getpid())
    assert cgroup is not None
    try:
        cgroup.mkdir(exist_ok=True)
        if limits.memory is not None:
            (cgroup / "memory.max").write_text(str(limits.memory))
            with suppress(OSError):  # a kernel without swap
                (cgroup / "memory.swap.max").write_text("0")
        if limits.processes is not None:
            (cgroup / "pids.max").write_text(str(limits.processes))
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        with suppress(OSError):
            cgroup.rmdir()
        advice = (
            "give a cgroup of version 2 that is delegated to this user, without processes in it, and with "
            "'+memory +pids' in its cgroup.subtree_control"
        )
        raise NotConfined(f"cgroup {limits.cgroup}", str(error), advice) from error
