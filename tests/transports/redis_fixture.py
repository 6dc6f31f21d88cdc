"""A redis-server of a test's own: started on a free port, stopped, killed and started again."""

import asyncio
import contextlib
import shutil
import socket
import tempfile
from pathlib import Path

from murmur.transports.redis_link import RedisLink


class RedisServer:
    """One server with an append-only file, so that what it confirmed outlives `kill`."""

    def __init__(self, *options: str) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="murmur-redis-"))
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and return once it answers."""
        settings = {"port": self.port, "bind": "127.0.0.1", "dir": self._place, "save": "", "appendonly": "yes"}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", *arguments, *self._options, stdout=asyncio.subprocess.DEVNULL
        )
        deadline = asyncio.get_running_loop().time() + 10.0
        while not await self._answers():
            assert asyncio.get_running_loop().time() < deadline, "redis-server did not start"
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it as `kill -9` does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def remove(self) -> None:
        """End it and forget its files."""
        await self.kill()
        shutil.rmtree(self._place, ignore_errors=True)

    async def ask(self, *command: str | bytes | int) -> object:
        """Run a command as an operator would."""
        link = RedisLink(self.url, name="operator")
        await link.open()
        try:
            return await link.ask(*command)
        finally:
            await link.close()

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
