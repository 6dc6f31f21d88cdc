"""Processes of their own for suspects: started when there is one, ended when there has been none for a while.

So a task that takes its process with it takes nobody else along, and nobody waits for it to be found out.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Final

from attrs import define, field
from loguru import logger

from supervisors import ChildSpec, Supervisor
from supervisors.errors import SupervisorError

PREFIX: Final = "suspects-"
_AGAIN: Final = 1.0  # seconds until one that could not be started is tried again
_LINGER: Final = 5.0  # seconds a spare process without work is kept


@define(eq=False)
class Spares:
    """The spare processes of one pool, one at a time. `supervisor`: that of the pool, None while there is none."""

    make: Callable[[str], ChildSpec]
    supervisor: Callable[[], Supervisor | None]
    is_wanted: Callable[[], bool]
    _running: asyncio.Task[None] | None = None
    _stirred: asyncio.Event = field(factory=asyncio.Event)
    _numbers: Iterator[int] = field(factory=lambda: itertools.count(1))

    def stir(self) -> None:
        """Something may be there to do."""
        self._stirred.set()
        if self._running is None and self.is_wanted():
            self._running = asyncio.get_running_loop().create_task(self._keep())
            self._running.add_done_callback(self._over)

    def close(self) -> None:
        """Start no more."""
        if self._running is not None:
            self._running.cancel()

    async def _keep(self) -> None:
        """Keep one spare as long as it is wanted. One that dies is gone, and the next is started."""
        supervisor = self.supervisor()
        if supervisor is None:
            await asyncio.sleep(_LINGER)  # the pool itself is being started again
            return
        name = f"{PREFIX}{next(self._numbers)}"
        await supervisor.start_child(self.make(name))
        while any(child.id == name for child in supervisor.which_children()):
            self._stirred.clear()
            try:
                async with asyncio.timeout(_LINGER):
                    await self._stirred.wait()
            except TimeoutError:
                if not self.is_wanted():
                    await supervisor.terminate_child(name)
                    return

    def _over(self, keeping: "asyncio.Task[None]") -> None:
        self._running = None
        if keeping.cancelled():
            return
        if (error := keeping.exception()) is None:
            self.stir()
            return
        logger.opt(exception=None if isinstance(error, SupervisorError) else error).warning(
            "a process for suspects could not be kept: {}", error
        )
        asyncio.get_running_loop().call_later(_AGAIN, self.stir)
