"""A program that is one tree, for tests of `run`: it behaves as its first argument says."""

import contextlib
import signal
import sys

import anyio

from supervisors import (
    AutoShutdown,
    ChildContext,
    ChildSpec,
    Intensity,
    Isolation,
    Restart,
    Shutdown,
    SupervisorSpec,
    run,
)

WHAT, BACKEND = sys.argv[1:]
HANGING = ChildSpec(
    id="hanging",
    start="tests.supervisors.process_children:hang",
    args=("regex", "ages"),
    isolation=Isolation.PROCESS,
    shutdown=Shutdown.BRUTAL_KILL,
    watchdog=None,
)


async def child(ctx: ChildContext) -> None:
    if WHAT == "not_started":
        raise RuntimeError("no database")
    if WHAT == "slow_start":
        print("up", flush=True)
        await anyio.sleep(60)
    ctx.ready()
    if WHAT == "stuck":
        await anyio.wait_all_tasks_blocked()  # the tree is up: a signal before that only ends its start
    print("up", flush=True)
    match WHAT:
        case "crashes":
            raise RuntimeError("always")
        case "exits":
            sys.exit(3)
        case "done":
            return
        case "finishes" | "hanging":
            await ctx.stopping.wait()
            await anyio.sleep(0.3)
            print("finished", flush=True)
            return
        case "stuck":
            while True:
                with contextlib.suppress(BaseException):
                    await anyio.sleep_forever()
    try:
        if WHAT == "ignores":
            with anyio.CancelScope(shield=True):
                await anyio.sleep_forever()
        await anyio.sleep_forever()
    finally:
        print("stopped", flush=True)


done = WHAT == "done"
signal.alarm(60)
run(
    SupervisorSpec(
        children=[
            *([HANGING] if WHAT == "hanging" else []),
            ChildSpec(
                id="child",
                start=child,
                restart=Restart.TRANSIENT if done else Restart.PERMANENT,
                significant=done,
                shutdown=Shutdown.INFINITY if WHAT == "ignores" else 0.5 if WHAT == "stuck" else 5.0,
            ),
        ],
        auto_shutdown=AutoShutdown.ANY_SIGNIFICANT if done else AutoShutdown.NEVER,
        intensity=Intensity(2),
    ),
    name="program",
    drain=1.0 if WHAT == "ignores" else 20.0,
    backend=BACKEND,  # type: ignore[arg-type]
)
