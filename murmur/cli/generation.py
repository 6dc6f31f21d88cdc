"""A worker that is one generation of `--reload`: tells its keeper that it serves, drains when the keeper is gone."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from attrs import frozen

from murmur.cancelling import cancelled

if TYPE_CHECKING:
    from murmur.worker import Worker

VARIABLE: Final = "MURMUR_GENERATION"  # "{descriptor of a socket to the keeper}:{number}"


@frozen
class Generation:
    """This process, as its keeper numbers it."""

    number: int
    keeper: socket.socket

    @contextlib.asynccontextmanager
    async def told(self, worker: "Worker") -> AsyncIterator[None]:
        """Tell the keeper, for the length of the block, how the worker stands."""
        telling = asyncio.ensure_future(self._tell(worker))
        try:
            yield
        finally:
            await cancelled([telling])
            self.keeper.close()

    async def _tell(self, worker: "Worker") -> None:
        loop = asyncio.get_running_loop()
        await worker.start()  # begun or not, it returns once it serves
        with contextlib.suppress(OSError):
            await loop.sock_sendall(self.keeper, b"1")
            await loop.sock_recv(self.keeper, 1)  # both end when there is no keeper any more
        os.kill(os.getpid(), signal.SIGTERM)


def this_generation() -> Generation | None:
    """Return which generation this process is; None if nobody keeps it. Its own children are not told."""
    text = os.environ.pop(VARIABLE, "")
    if not text:
        return None
    descriptor, _, number = text.partition(":")
    keeper = socket.socket(fileno=int(descriptor))
    keeper.setblocking(False)
    keeper.set_inheritable(False)
    return Generation(int(number), keeper)
