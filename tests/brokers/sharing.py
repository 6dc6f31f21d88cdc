"""One server for all processes of a test run: the first that needs it starts it, and ends it once all are done.

It dies with the process that started it (see `server.py`), so who comes later and finds it gone starts another. Users
are told by files named for their processes: a lock would be held on by whatever a test forked and left behind.
"""

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil

from tests.brokers.server import Server

_WITHIN: Final = 600.0  # seconds that who started a server waits for the others to be done
_uses = itertools.count(1)


@contextlib.contextmanager
def shared(folder: Path, start: Callable[[Path], tuple[Server, str]], answers: Callable[[str], bool]) -> Iterator[str]:
    """Give the address of one server to all who come with the same folder; `start` returns a server and its address."""
    folder.mkdir(exist_ok=True)
    place, users = folder / "address", folder / "users"
    users.mkdir(exist_ok=True)
    mine = users / f"{os.getpid()}.{next(_uses)}"
    own = None
    with _alone(folder):
        address = place.read_text() if place.exists() else ""
        if not address or not answers(address):
            own, address = start(folder)
            place.write_text(address)
        mine.touch()
    try:
        yield address
    finally:
        mine.unlink()
        if own is not None:
            _end(own, address, folder)


def _end(server: Server, address: str, folder: Path) -> None:
    deadline = time.monotonic() + _WITHIN
    while True:
        with _alone(folder):
            used = any(_lives(int(user.stem)) for user in (folder / "users").iterdir())
            if not used or time.monotonic() > deadline:
                if (folder / "address").read_text() == address:
                    (folder / "address").unlink()  # who comes now starts another
                break
        time.sleep(0.2)
    server.kill()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
