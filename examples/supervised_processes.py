"""Two processes read mail for addresses; one is killed from outside, one hangs, and the work goes on.

    python supervised_processes.py

The pattern they search with is the classic one that some texts make run for years, holding the interpreter lock
so that nothing in that process can notice. Its supervisor does: the stacks are written down, the process is killed,
a fresh one takes over, and the text that is to blame is put aside. And one process is killed with kill -9, as an
operator or a kernel out of memory would: its text is given to the next one.
"""

import json
import os
import re
import signal
from collections import deque
from functools import partial

import anyio
from attrs import define, field

from supervisors import ChildContext, ChildSpec, Intensity, Isolation, SupervisorSpec, Watchdog, open_supervisor
from supervisors.channel import ChannelClosed
from supervisors.events import ChildExited, ChildStarted, EventStream
from supervisors.process import Link, ProcessContext
from supervisors.reasons import Hung

ADDRESS = re.compile(r"([a-z]+)+@example\.org")
MAIL = {f"letter {n}": f"from ann@example.org to bob{'bob' * n}@example.org" for n in range(1, 13)}
MAIL["letter 5"] = "a" * 60  # no address at all, and found out only after 2**60 steps
QUICK = Watchdog(every=0.1, late=0.3, loop_silent=1.0, thread_silent=5.0)


async def read_mail(ctx: ProcessContext) -> None:
    """In a process of its own: answer each letter with the addresses in it."""
    ctx.ready(os.getpid())
    while True:
        name, text = json.loads(await ctx.link.receive())
        ctx.beat(name)  # read by the supervisor also when the next line never returns
        found = [match.group() for match in ADDRESS.finditer(text)]
        await ctx.link.send(json.dumps(found).encode())
        ctx.done()


@define
class Desk:
    """In the supervisor's process: what is to be read, what was found, what was given up."""

    waiting: deque[str]  # names of letters
    found: dict[str, list[str]] = field(factory=dict)
    blamed: set[str] = field(factory=set)
    in_hand: dict[int, str] = field(factory=dict)  # by pid
    is_done: anyio.Event = field(factory=anyio.Event)

    async def hand_out(self, ctx: ChildContext, link: Link) -> None:
        """Beside each reader, as long as it lives: give it letters, take its answers."""
        while self.waiting:
            name = self.in_hand[link.pid] = self.waiting.popleft()
            try:
                await link.send(json.dumps([name, MAIL[name]]).encode())
                self.found[name] = json.loads(await link.receive())
            except ChannelClosed:
                return  # the reader died; why decides what becomes of the letter
            del self.in_hand[link.pid]
            self.settle()
            await anyio.sleep(0.05)

    def take_back(self, pid: int, *, is_to_blame: bool) -> None:
        """What a dead reader had in hand is read by the next one, unless it is to blame for the death."""
        name = self.in_hand.pop(pid, None)
        if name is not None and is_to_blame:
            self.blamed.add(name)
        elif name is not None:
            self.waiting.append(name)
        self.settle()

    def settle(self) -> None:
        """Every letter was read or given up: tell."""
        if len(self.found) + len(self.blamed) == len(MAIL):
            self.is_done.set()


async def report(events: EventStream, desk: Desk, pids: dict[str, int]) -> None:
    """Say what happens to the readers, and give their letters back."""
    async for event in events:
        match event:
            case ChildExited(child=child, reason=reason):
                print(f"  {child} (pid {pids[child]}) {reason}")
                if isinstance(reason, Hung):
                    print(f"    it was in: {_where(reason.stacks)}")
                desk.take_back(pids[child], is_to_blame=isinstance(reason, Hung))
            case ChildStarted(child=child, info=int(pid)):
                print(f"  {child} replaced by pid {pid}")
                pids[child] = pid


async def main() -> None:
    """Read all mail, whatever happens."""
    desk = Desk(deque(MAIL))
    reader = partial(
        ChildSpec, start=read_mail, isolation=Isolation.PROCESS, watchdog=QUICK, peer=desk.hand_out, shutdown=1.0
    )
    spec = SupervisorSpec(intensity=Intensity(5, period=60.0), children=(reader(id="reader-1"), reader(id="reader-2")))
    async with open_supervisor(spec) as supervisor, anyio.create_task_group() as tasks:
        pids = {child.id: child.info for child in supervisor.which_children() if isinstance(child.info, int)}
        tasks.start_soon(report, supervisor.events(), desk, pids)
        print(f"{len(MAIL)} letters, readers {pids}; kill -9 {pids['reader-1']}")
        os.kill(pids["reader-1"], signal.SIGKILL)
        with anyio.fail_after(30):
            await desk.is_done.wait()
        tasks.cancel_scope.cancel()
    addresses = sum(len(found) for found in desk.found.values())
    print(f"{len(desk.found)} letters read, {addresses} addresses found; put aside: {', '.join(sorted(desk.blamed))}")


def _where(stacks: str) -> str:
    """The line of this file in a dump of stacks."""
    return next((line.strip() for line in stacks.splitlines() if "read_mail" in line), "somewhere else")


if __name__ == "__main__":
    anyio.run(main)
