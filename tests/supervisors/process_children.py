"""Start functions of process children under test: a child imports them by name."""

import os

import anyio

from supervisors.process import ProcessContext


async def wait(ctx: ProcessContext) -> None:
    """Run until stopped."""
    ctx.ready(os.getpid())
    await anyio.sleep_forever()
