"""A network that misbehaves: a TCP proxy in front of a server, which can cut, swallow, refuse, delay and throttle."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards connections to a port of this host until it is told otherwise."""

    def __init__(self, port: int) -> None:
        self.port = 0  # ours, once it is open
        self.is_refusing = False
        self.loses_requests = False  # swallows what clients send
        self.loses_replies = False  # swallows what the server sends
        self.delay = 0.0  # seconds each part waits, either way
        self.bytes_per_second = 0  # in each direction of each connection; 0: as fast as it goes
        self._server_port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break all connections, as a reset would."""
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        """Behave from now on. What was swallowed is gone: connections that missed something are broken."""
        self.is_refusing = self.loses_requests = self.loses_replies = False
        self.delay, self.bytes_per_second = 0.0, 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.is_refusing:
            writer.transport.abort()
            return
        to_server = None
        with contextlib.suppress(OSError, asyncio.CancelledError):
            to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._writers |= {writer, to_server[1]}
            try:
                await asyncio.gather(
                    self._forward(reader, to_server[1], is_reply=False),
                    self._forward(to_server[0], writer, is_reply=True),
                )
            finally:
                self._writers -= {writer, to_server[1]}
        if to_server is not None:
            to_server[1].transport.abort()
        writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        while part := await reader.read(65_536):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.bytes_per_second:
                await asyncio.sleep(min(len(part) / self.bytes_per_second, 1.0))
            if not (self.loses_replies if is_reply else self.loses_requests):
                writer.write(part)
        writer.transport.abort()
