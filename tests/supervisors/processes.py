"""What tests with real processes share: specs, pids, and waiting for the facts instead of sleeping."""

import os
import time
from collections.abc import Callable
from typing import Any, Final

import anyio

from supervisors import ChildSpec, Intensity, Isolation, Strategy, Supervisor, SupervisorSpec
from supervisors.events import EventStream, TreeEvent

OFTEN: Final = Intensity(max_restarts=1_000, period=60.0)


def process(start: Callable[..., Any] | str, name: str = "a", **options: Any) -> ChildSpec:
    """A child in a process of its own."""
    return ChildSpec(id=name, start=start, isolation=Isolation.PROCESS, **options)


def tree(*children: ChildSpec, strategy: Strategy = Strategy.ONE_FOR_ONE, **options: Any) -> SupervisorSpec:
    """A supervisor that does not give up."""
    return SupervisorSpec(strategy=strategy, intensity=OFTEN, children=children, **options)


def info_of(sup: Supervisor, name: str = "a") -> Any:
    """What the child said when it was ready."""
    return next(child.info for child in sup.which_children() if child.id == name)


async def until(condition: Callable[[], object], *, within: float = 60.0) -> None:
    """Wait until `condition()` is true; fail after `within` seconds."""
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


async def next_of(stream: EventStream, kind: type[TreeEvent], *, within: float = 60.0) -> Any:
    """The next event of this kind."""
    with anyio.fail_after(within):
        async for event in stream:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the stream ended without {kind.__name__}")


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_dead(*pids: int, within: float = 60.0) -> list[int]:
    """Wait until none of these lives; return those that still do."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and any(map(is_alive, pids)):
        time.sleep(0.005)
    return [pid for pid in pids if is_alive(pid)]


def descendants(root: int | None = None) -> set[int]:
    """All processes below `root`, or below this one, zombies too."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, last = set[int](), {root or os.getpid()}
    while last:
        last = {pid for pid, parent in parents.items() if parent in last}
        found |= last
    return found
