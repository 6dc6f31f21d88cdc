"""Starting a worker's tree: one whose processes are killed meanwhile is tried again, for it may well start."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from loguru import logger

from murmur.worker.death import was_killed
from supervisors import Processes, StartFailed, Supervisor, SupervisorSpec, open_supervisor

_TRIALS: Final = 5  # of starting a tree whose processes are killed meanwhile


@asynccontextmanager
async def opened_tree(spec: Callable[[], SupervisorSpec], *, processes: Processes) -> AsyncIterator[Supervisor]:
    """Start a tree, made anew for each trial; end it with the block. Raises `StartFailed`."""
    for trials_left in reversed(range(_TRIALS)):
        async with AsyncExitStack() as stack:
            try:
                supervisor = await stack.enter_async_context(open_supervisor(spec(), processes=processes))
            except StartFailed as failed:
                if trials_left and was_killed(failed):
                    logger.warning("{}; it is tried again", failed)
                    continue
                raise
            yield supervisor
        return
