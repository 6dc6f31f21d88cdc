"""Start functions of process children under test: a child imports them by name."""

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio

from supervisors import ChildContext, ChildSpec, Exit, Intensity, SupervisorSpec
from supervisors.process import Link, ProcessContext
from supervisors.reasons import Stopped

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


async def wait(ctx: ProcessContext) -> None:
    """Run until stopped."""
    ctx.ready(os.getpid())
    await anyio.sleep_forever()


async def without_context() -> None:
    """Ready at once."""
    await anyio.sleep_forever()


async def finish(ctx: ProcessContext, word: str) -> None:
    """Ask to finish; say that it did."""
    ctx.ready(os.getpid())
    await ctx.stopping.wait()
    raise Exit(Stopped(word))


async def ignore(ctx: ProcessContext) -> None:
    """Decline."""
    ctx.ignore()


async def deaf(ctx: ProcessContext) -> None:
    """Neither cancellation nor SIGTERM ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctx.ready(os.getpid())
    while True:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60)


async def never_ready(ctx: ProcessContext) -> None:
    """Not ready, ever."""
    await anyio.sleep_forever()


async def end(ctx: ProcessContext, how: str, *, ready: bool = True) -> None:
    """End in one of many ways."""
    if ready:
        ctx.ready(os.getpid())
    match how:
        case "return":
            return
        case "raise":
            raise KeyError("lost")
        case "sys.exit":
            sys.exit(3)
        case "os._exit":
            os._exit(7)
        case "255":
            os._exit(255)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "memory":
            raise MemoryError
        case "interrupt":
            raise KeyboardInterrupt
        case _:
            os.kill(os.getpid(), int(how))
            await anyio.sleep_forever()


async def die_at(ctx: ProcessContext, count: int, fatal: int, how: str) -> None:
    """Have many tasks in hand, mark each when it comes to run, and die in one; those after it only wait."""
    ctx.ready()

    async def task(number: int) -> None:
        if number <= fatal:
            await anyio.sleep(0.001 * number)
            ctx.mark(f"task {number}")
        if number == fatal:
            await end(ctx, how, ready=False)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(task, number)


async def confined(ctx: ProcessContext) -> None:
    """Say what the process may use."""
    tool = subprocess.run(["env"], capture_output=True, text=True, check=True)  # noqa: ASYNC221
    ctx.ready(
        {
            "pid": os.getpid(),
            "environment": sorted(os.environ),
            "tool": sorted(line.partition("=")[0] for line in tool.stdout.splitlines()),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "oom": int(Path("/proc/self/oom_score_adj").read_text()),  # noqa: ASYNC240
        }
    )
    await anyio.sleep_forever()


async def eat(ctx: ProcessContext, size: int) -> None:
    """Take so many bytes, and say so."""
    eaten = bytearray(size)
    ctx.ready(len(eaten))
    await anyio.sleep_forever()


async def bomb(ctx: ProcessContext, count: int) -> None:
    """Start so many tools, as fast as it can."""
    ctx.ready(os.getpid())
    ctx.mark("boom")
    tools = [subprocess.Popen(["sleep", "600"]) for _ in range(count)]  # noqa: ASYNC220
    await anyio.sleep_forever()
    del tools


async def talk(ctx: ProcessContext) -> None:
    """Print in all the ways there are, and die in the middle of a line."""
    ctx.ready()
    print("printed")
    print("a warning", file=sys.stderr)
    subprocess.run(["sh", "-c", "echo by a tool; echo complaint >&2"], check=True)  # noqa: ASYNC221
    os.write(1, b"no \xff end")
    await end(ctx, "segfault", ready=False)


async def print_flood(ctx: ProcessContext, count: int) -> None:
    """Print so many lines as fast as they are taken, a line that is too long, and the last one."""
    ctx.ready()
    for _ in range(count // 1_000):
        os.write(1, b"blabla\n" * 1_000)
    os.write(2, b"x" * 300_000 + b"\n")
    print("the last one")
    await anyio.sleep_forever()


class NotHere:
    """Can be sent, but not unpacked anywhere else."""

    def __reduce__(self) -> tuple[object, ...]:
        return _only_in, (os.getpid(),)


def _only_in(pid: int) -> None:
    if os.getpid() != pid:
        raise LookupError("not here")


class Picky(Exception):
    """Cannot be unpickled: its argument has no default."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


async def fail_oddly(ctx: ProcessContext) -> None:
    """Raise something that pickle would break, because of something else."""
    ctx.ready()
    try:
        int("at the bottom")
    except ValueError as error:
        picky = Picky(code=9)
        picky.add_note("a note")
        raise picky from error


async def hang(ctx: ProcessContext, how: str, note: str) -> None:
    """Stop scheduling, in one of three ways."""
    ctx.ready(os.getpid())
    await anyio.sleep(0.1)
    ctx.beat(note)
    match how:
        case "sleep":
            time.sleep(600)  # noqa: ASYNC251  that is the point
        case "spin":
            while True:
                pass
        case "regex":
            re.match(r"(a+)+$", "a" * 64 + "b")  # holds the interpreter lock for ages


async def slow_once(ctx: ProcessContext, seconds: float) -> None:
    """Block the loop for a while, then go on."""
    ctx.ready(os.getpid())
    await anyio.sleep(0.1)
    time.sleep(seconds)  # noqa: ASYNC251  that is the point
    await anyio.sleep_forever()


async def with_tools(ctx: ProcessContext, busy: bool) -> None:
    """Start a tool, a tool with a session of its own, and a fork that holds all file descriptors."""
    tool = subprocess.Popen(SLEEP)  # noqa: ASYNC220
    loner = subprocess.Popen(SLEEP, start_new_session=True)  # noqa: ASYNC220
    fork = os.fork()
    if fork == 0:
        time.sleep(600)  # noqa: ASYNC251
    ctx.ready({"pid": os.getpid(), "tools": [tool.pid, loner.pid, fork]})
    await anyio.sleep(0.05)
    if busy:
        re.match(r"(a+)+$", "a" * 64 + "b")
    await anyio.sleep_forever()


async def with_a_hidden_tool(ctx: ProcessContext) -> None:
    """Start a tool that nothing ties to us: a session of its own, and nothing in its environment."""
    hidden = subprocess.Popen(SLEEP, start_new_session=True, env={})  # noqa: ASYNC220
    ctx.ready(hidden.pid)
    await ctx.stopping.wait()


async def work(ctx: ProcessContext, tasks: int, eat: int = 0) -> None:
    """Report tasks done and eat memory, then wait for the end."""
    ctx.ready(os.getpid())
    eaten = bytearray(eat)
    ctx.done(tasks)
    await ctx.stopping.wait()
    del eaten


async def once(ctx: ProcessContext, attempts: str) -> None:
    """Start the first time only; count the attempts in a file."""
    with open(attempts, "ab") as file:  # noqa: ASYNC230
        file.write(b".")
        is_first = file.tell() == 1
    if not is_first:
        raise RuntimeError("only once")
    ctx.ready(os.getpid())
    await anyio.sleep_forever()


async def first_ready(ctx: ProcessContext, pids: str) -> None:
    """Write down the own pid; only the first is ever ready."""
    with open(pids, "a") as file:  # noqa: ASYNC230
        is_first = file.tell() == 0
        print(os.getpid(), file=file)
    if is_first:
        ctx.ready()
    await anyio.sleep_forever()


async def echo(ctx: ProcessContext) -> None:
    """Send back what comes."""
    ctx.ready()
    while True:
        await ctx.link.send(await ctx.link.receive())


async def flood(ctx: ProcessContext, count: int, size: int) -> None:
    """Send and receive a lot at once."""
    ctx.ready()
    await both_ways(ctx.link, count, size)
    await ctx.link.send(b"done")
    await anyio.sleep_forever()


async def both_ways(link: Link, count: int, size: int) -> None:
    """Send and receive so many bytes so many times, at once."""

    async def send() -> None:
        for _ in range(count):
            await link.send(bytes(size))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        for _ in range(count):
            if await link.receive() != bytes(size):
                raise RuntimeError("not what was sent")


async def garbage(ctx: ProcessContext) -> None:
    """Write nonsense where frames are expected."""
    ctx.ready(os.getpid())
    os.write(ctx.link._channel._socket.fileno(), b"\xff" * 64)
    await anyio.sleep_forever()


async def crashing_peer(ctx: ChildContext, link: Link) -> None:
    """A peer that cannot go on."""
    raise RuntimeError(f"peer of {link.pid}")


async def rpc_peer(ctx: ChildContext, link: Link) -> None:
    """Ask, and expect the same back."""
    for word in (b"one", b"", b"x" * 300_000):
        await link.send(word)
        if await link.receive() != word:
            raise RuntimeError("not an echo")
    raise RuntimeError("echoed")


async def crash(ctx: ChildContext) -> None:
    """Crash at once."""
    ctx.ready()
    raise RuntimeError("always")


PIDS = SupervisorSpec(children=(ChildSpec(id="inner", start=wait),))
FAILING = SupervisorSpec(
    intensity=Intensity(max_restarts=1, period=60.0), children=(ChildSpec(id="inner", start=crash),)
)


async def meddle(ctx: ProcessContext) -> None:
    """Say what the process is like inside."""
    ctx.ready(
        {
            "pid": os.getpid(),
            "session": os.getsid(0),
            "is_sigint_ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            "is_term_default": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
            "anthropic": "anthropic" in sys.modules,
            "loop": type(anyio.lowlevel.current_token().native_token).__module__,
            "path": ctx.path,
        }
    )
    await anyio.sleep_forever()


async def ready_with_object(ctx: ProcessContext) -> None:
    """Say something that no frame can carry."""
    ctx.ready(object())
