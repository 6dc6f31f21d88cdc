"""Ending tasks of our own.

One cancellation is not enough where libraries are called: before Python 3.12 `asyncio.wait_for` loses one that comes
as the call it waits for ends, and every client library waits so somewhere. A loop that connects again for ever would
then run for ever, and whoever waits for its end, too.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

_AGAIN: Final = 0.1  # seconds until a task that goes on is cancelled once more


async def cancelled(tasks: Iterable["asyncio.Future[Any] | None"]) -> None:
    """Cancel tasks, in order, and wait until all have ended; what they ended in is dropped. None was never begun."""
    all_of_them = [task for task in tasks if task is not None]
    going = all_of_them
    while going:
        for task in going:
            task.cancel()
        await asyncio.wait(going, timeout=_AGAIN)
        going = [task for task in going if not task.done()]
    for task in all_of_them:
        _ = task.cancelled() or task.exception()  # looked at, so that nobody complains of it later
