"""What is left of processes: worker processes below a node, files a node holds, and orphans."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from typing import Final

import psutil

_PATIENCE: Final = 120.0  # seconds for a node to start, and to be idle again, on a busy machine
_ORPHANS_GONE: Final = 5.0  # seconds after which nothing of a dead node may live
_SLACK: Final = 4  # files: connections that are being made, a process that is being replaced


def below(node: "subprocess.Popen[bytes]") -> list[int]:
    """Return the pids of a node's worker processes: the children of its fork server."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [worker.pid for server in psutil.Process(node.pid).children() for worker in server.children()]
    return []


def thaw(process: psutil.Process) -> None:
    """Let a frozen process go on, if it lives."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


async def files_of(node: "subprocess.Popen[bytes]") -> int:
    """Return how many files a node and its fork server hold, once it has its worker processes."""
    async with asyncio.timeout(_PATIENCE):
        while not below(node):
            await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    return _files(node)


async def leaked_files(node: "subprocess.Popen[bytes]", before: int) -> list[str]:
    """Return a complaint if a node that is idle again keeps more files than before."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while _files(node) > before + _SLACK:
                await asyncio.sleep(0.5)
    kept = _files(node)
    return [f"leak: a node holds {kept} files, {before} before the storm"] if kept > before + _SLACK else []


async def orphans(mark: str) -> list[str]:
    """Return a complaint for each process with this in its environment that outlives its node."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ORPHANS_GONE):
            while [*_marked(mark)]:
                await asyncio.sleep(0.2)
    return [f"orphan: {process}" for process in _marked(mark)]


def _files(node: "subprocess.Popen[bytes]") -> int:
    process = psutil.Process(node.pid)
    return process.num_fds() + sum(server.num_fds() for server in process.children())


def _marked(mark: str) -> Iterator[psutil.Process]:
    name, _, value = mark.partition("=")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                yield process
