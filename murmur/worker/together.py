"""Loops that belong together: where one breaks the others end too, so that whoever begins them again begins them all.

`asyncio.gather` raises the first error and leaves the other loops to run, with nobody who could end them.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from murmur.cancelling import cancelled


async def together(*loops: Coroutine[Any, Any, object]) -> None:
    """Run until all ended, one raised, or this is cancelled; none runs on then. Raises what the first raised."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancelled(tasks)


async def first(*loops: Coroutine[Any, Any, object]) -> None:
    """Run until one ended, or this is cancelled; none runs on then. Raises what that one raised."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancelled(tasks)
