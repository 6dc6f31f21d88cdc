"""`murmur worker start --reload`: one generation of the worker serves; changed code starts the next one beside it.

Only when the next generation serves is the one before told to drain, so no moment is without a worker, no task is given
up and none that ended runs again. A generation that does not start, because its code fails to import for instance, has
told so itself; the one before keeps serving. Generations are processes: nothing of the old code is left in the new.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click
from attrs import define, field
from loguru import logger

from murmur.cancelling import cancelled
from murmur.cli.generation import VARIABLE
from murmur.errors import MissingExtra

WATCHED: Final = (".py", ".yaml", ".yml")
_DEBOUNCE: Final = 300  # ms in which changes count as one
_FIRST_PAUSE: Final = 1.0  # seconds until a generation that ended by itself is replaced; doubles up to
_LONGEST_PAUSE: Final = 30.0


def folders_of(given: Sequence[str], apps: Iterable[str], folders: Iterable[str]) -> list[Path]:
    """Return the folders to watch: those given, or else where the agents come from and the working folder."""
    found = [Path(one) for one in given] or [
        Path.cwd(),
        *(Path(one) for one in folders),
        *(Path(app).parent for app in apps if app.endswith(".py")),
    ]
    for one in found:
        if not one.is_dir():
            raise click.UsageError(f"--reload-dir {one}: no such folder")
    return list(dict.fromkeys(one.resolve() for one in found))


async def keep(arguments: Sequence[str], folders: Sequence[Path]) -> int:
    """Keep `murmur` with these arguments serving until SIGTERM or SIGINT; return the exit code.

    Raises: MissingExtra, where watchfiles is not installed.
    """
    changes = _changes(folders)
    keeper = _Keeper(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, keeper.end)
    watching = asyncio.ensure_future(_noted(changes, keeper))
    try:
        return await keeper.run()
    finally:
        await cancelled([watching])


@define(eq=False)
class _Generation:
    number: int
    process: asyncio.subprocess.Process
    ear: socket.socket
    is_up: asyncio.Future[bool] = field(init=False)
    exited: asyncio.Future[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.is_up = asyncio.ensure_future(self._up())
        self.exited = asyncio.ensure_future(self.process.wait())
        self.exited.add_done_callback(self._gone)

    @property
    def serves(self) -> bool:
        """Whether it said so, and is still there."""
        return self.is_up.done() and not self.exited.done() and self.is_up.result()

    async def _up(self) -> bool:
        return bool(await asyncio.get_running_loop().sock_recv(self.ear, 1))

    def _gone(self, _: object) -> None:
        self.is_up.cancel()
        self.ear.close()

    def drain(self) -> None:
        """Have it drain; told so again, end at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)


@define(eq=False)
class _Keeper:
    arguments: Sequence[str]
    _changes: set[str] = field(factory=set)
    _news: asyncio.Event = field(factory=asyncio.Event)
    _ending: asyncio.Event = field(factory=asyncio.Event)
    _made: int = 0
    _alive: list[_Generation] = field(factory=list)
    _code: int = 0  # of the generation that ended last

    def changed(self, paths: Iterable[str]) -> None:
        """Files of the code were written."""
        self._changes.update(paths)
        self._news.set()

    def end(self) -> None:
        """Have all generations drain; called again, have them end at once."""
        self._ending.set()
        self._news.set()
        for one in self._alive:
            one.drain()

    async def run(self) -> int:
        """Keep one generation serving. The first has to start; one that was told to leave is the last."""
        current = await self._next()
        pause = _FIRST_PAUSE
        while current is not None and not self._ending.is_set():
            await self._until([current.exited])
            if self._ending.is_set() or (current.exited.done() and current.exited.result() == 0):
                break
            if current.exited.done():
                logger.error("generation {} ended with {}", current.number, current.exited.result())
                await self._until([], timeout=pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
            made = await self._next()
            if self._ending.is_set():
                break
            if made is not None:
                logger.info("generation {} serves; {} drains", made.number, current.number)
                current.drain()
                current = made
            else:
                rest = "nobody serves" if current.exited.done() else f"generation {current.number} keeps serving"
                logger.error("generation {} did not start, exit code {}; {}", self._made, self._code, rest)
        while self._alive:
            await asyncio.wait([one.exited for one in self._alive])
        return self._code

    async def _next(self) -> _Generation | None:
        """Start a generation and wait until it serves; None if it does not. One that code overtakes begins anew."""
        while not self._ending.is_set():
            if self._changes:
                logger.info("changed: {}", ", ".join(sorted(self._changes)))
                self._changes.clear()
            made = await self._started()
            begins: list[asyncio.Future[Any]] = [made.is_up, made.exited]
            while not any(one.done() for one in begins) and not self._changes and not self._ending.is_set():
                await self._until(begins)
            if made.serves:
                return made
            if not any(one.done() for one in begins):
                made.drain()  # overtaken, or told to end
            if not self._changes:
                await asyncio.wait([made.exited])
                return None
        return None

    async def _started(self) -> _Generation:
        self._made += 1
        ear, mouth = socket.socketpair()
        ear.setblocking(False)
        with mouth:
            environment = {
                **os.environ,
                VARIABLE: f"{mouth.fileno()}:{self._made}",
                # Byte code is recognised by whole seconds: what is saved twice within one would run as it was first.
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "murmur.cli.main", *self.arguments),
                pass_fds=[mouth.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C is the keeper's, who passes it on once
            )
        made = _Generation(self._made, process, ear)
        self._alive.append(made)
        made.exited.add_done_callback(lambda exited: self._gone(made, exited.result()))
        return made

    def _gone(self, one: _Generation, code: int) -> None:
        self._alive.remove(one)
        self._code = abs(code)

    async def _until(self, futures: Sequence[asyncio.Future[Any]], *, timeout: float | None = None) -> None:
        """Wait for a future, a change, the end, or so many seconds."""
        self._news.clear()
        if self._changes or self._ending.is_set():
            return
        news = asyncio.ensure_future(self._news.wait())
        await asyncio.wait([*futures, news], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        news.cancel()


def _changes(folders: Sequence[Path]) -> AsyncIterator[set[tuple[Any, str]]]:
    try:
        import watchfiles  # noqa: PLC0415  optional
    except ImportError as error:
        raise MissingExtra(package="watchfiles", extra="reload") from error
    default = watchfiles.DefaultFilter()  # leaves .git, .venv, caches and the like out
    return watchfiles.awatch(
        *folders,
        watch_filter=lambda change, path: path.endswith(WATCHED) and default(change, path),
        debounce=_DEBOUNCE,
    )


async def _noted(changes: AsyncIterator[set[tuple[Any, str]]], keeper: _Keeper) -> None:
    async for some in changes:
        keeper.changed(_short(path) for _, path in some)


def _short(path: str) -> str:
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
