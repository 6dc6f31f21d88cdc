"""Looks at a worker and writes down what is seen: its counters and its supervision tree, as one beat."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import define, field

from murmur.beats import DRAINING, SERVING, STARTING, Beat, Branch
from murmur.envelope import VERSION
from murmur.worker.pool import Pool
from murmur.worker.seat import Seat
from murmur.worker.tree import Tree
from supervisors import ChildInfo

_RATE_OVER: Final = 10.0  # seconds
_SHOWN_OF_CAUSE: Final = 200  # characters
_SHOWN_AGENTS: Final = 20  # of one process: a beat is small
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@define
class Report:
    """Makes the beats of one boot of a worker."""

    tree: Tree
    incarnation: str
    processes: int
    every: float
    _past: list[tuple[float, int]] = field(factory=list)  # monotonic time, tasks ended until then

    def beat(self, state: str = "") -> Beat:
        """Return how the worker stands now; `state` in place of what is seen."""
        note, tally, children = self.tree.note(), self.tree.settler.tally, self.tree.children
        seen = STARTING if not children else DRAINING if self.tree.is_draining else SERVING
        return Beat(
            v=VERSION,
            worker_id=note.worker_id,
            incarnation=self.incarnation,
            host=socket.gethostname(),
            pid=os.getpid(),
            state=state or seen,
            at=time.time(),
            started_at=note.started_at,
            every=self.every,
            agents=note.agents,
            broken=note.broken,
            concurrency=note.concurrency,
            processes=self.processes,
            running=note.running,
            ended=tally.ended,
            failed=tally.failed,
            rate=self._rate(tally.ended),
            restarts=sum(_restarts(children)),
            rss=resident(os.getpid()),
            last_error=tally.last_error,
            tree=self._branches(children),
        )

    def _rate(self, ended: int) -> float:
        now = time.monotonic()
        self._past.append((now, ended))
        while len(self._past) > 2 and self._past[1][0] <= now - _RATE_OVER:
            del self._past[0]
        since, before = self._past[0]
        return round((ended - before) / (now - since), 2) if now > since else 0.0

    def _branches(self, children: Sequence[ChildInfo]) -> tuple[Branch, ...]:
        below = {pid: _actors(pool, seat) for pool in self.tree.pools for pid, seat in pool.seats.items()}
        found = tuple(_branch(child, below) for child in children)
        if not (hosts := self.tree.crew.hosts.values()):
            return found
        actors = tuple(
            Branch(id=h.entry.name, state="up" if h.serves else "held", running=h.running, cause=h.held) for h in hosts
        )
        return (*found, Branch(id="actors", state="up", children=actors))


def resident(pid: int) -> int | None:
    """Return the bytes of memory a process holds; None where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def _actors(pool: Pool, seat: Seat) -> tuple[Branch, ...]:
    """Return the agents of one process; of very many, those that are at work or held."""
    working = Counter(work.message.agent for work in seat.in_hand.values())
    agents = pool.setting.agents if len(pool.setting.agents) <= _SHOWN_AGENTS else working.keys() | seat.held.keys()
    return tuple(
        Branch(id=name, state="held" if name in seat.held else "up", running=working[name], cause=seat.held.get(name))
        for name in sorted(agents)
    )


def _branch(child: ChildInfo, actors: dict[int, tuple[Branch, ...]]) -> Branch:
    pid = child.info if isinstance(child.info, int) and child.up_since is not None else None
    below = None if pid is None else actors.get(pid)
    return Branch(
        id=child.id,
        state=child.state.value,
        pid=pid,
        rss=None if pid is None else resident(pid),
        running=None if below is None else sum(one.running or 0 for one in below),
        restarts=child.restarts,
        cause=child.cause.partition("\n")[0][:_SHOWN_OF_CAUSE] or None,
        children=tuple(_branch(one, actors) for one in child.children or ()) if below is None else below,
    )


def _restarts(children: Sequence[ChildInfo]) -> Iterator[int]:
    for child in children:
        yield child.restarts
        yield from _restarts(child.children or ())
