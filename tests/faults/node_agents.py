"""Agents for nodes with worker processes: they wait, block, leave tools running, and cannot be asked to end.

Every start and end is appended to the ledger file, one line each, and so is every tool that is started.
"""

import asyncio
import ctypes
import os
import signal
import subprocess

from murmur import Actor, Backoff, Redelivery


def note(line: str) -> None:
    with open(os.environ["LEDGER"], "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def hold_the_lock(seconds: float) -> None:
    """Be in C, holding the interpreter lock: no other thread of this process runs."""
    left = int(seconds)
    while left:
        left = ctypes.PyDLL(None).sleep(left)


class Work(Actor[float, float]):
    """Take as many seconds as told."""

    async def receive(self, seconds: float) -> float:
        note(f"start {self.context.task_id} {self.context.token} {os.getpid()}")
        await asyncio.sleep(seconds)
        note(f"end {self.context.task_id} {self.context.token} {os.getpid()}")
        return seconds


class Hog(Actor[float, str]):
    """Under its first token: leave tools running, some in a session of their own, and block. Then: answer."""

    redelivery = Redelivery(max_crashes=3, backoff=Backoff(initial=0.05, cap=0.1))

    async def receive(self, seconds: float) -> str:
        note(f"start {self.context.task_id} {self.context.token} {os.getpid()}")
        if self.context.token == 1:
            leave_tools_running()
            hold_the_lock(seconds)
        note(f"end {self.context.task_id} {self.context.token} {os.getpid()}")
        return "done"


def leave_tools_running() -> None:
    """Start a tool, and one that leads a session of its own and has another below it; note their pids."""
    plain = subprocess.Popen(["sleep", "3600"])
    script = f"sleep 3600 & echo tool x $! $$ >> {os.environ['LEDGER']}; exec sleep 3600"
    subprocess.Popen(["sh", "-c", script], start_new_session=True)
    note(f"tool x {plain.pid} 0")


class Blocker(Actor[float, str]):
    """Has its process ignore SIGTERM, and waits."""

    async def receive(self, seconds: float) -> str:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note(f"start {self.context.task_id} {self.context.token} {os.getpid()}")
        await asyncio.sleep(seconds)
        return "done"
