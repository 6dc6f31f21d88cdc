"""The one thread that has a SQLite file open: what was asked for meanwhile becomes one transaction.

A commit with `synchronous=FULL` waits for the disk, some milliseconds. Calls that come while it
waits go together into the next one, so a busy store pays for few.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from msgspec import Struct

from murmur.stores.sqlite_file import opened

T = TypeVar("T")

_TOGETHER: Final = 256  # calls in one transaction


class _Call(Struct, eq=False):
    do: Callable[[], Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: Exception | None = None


class Writer(threading.Thread):
    """Runs calls in order. Between `start` and `stop`."""

    def __init__(self, path: str) -> None:
        super().__init__(name=f"sqlite {path}", daemon=True)
        self._path = path
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self.connection: sqlite3.Connection | None = None  # of this thread alone; there once the first call runs

    async def run_in(self, do: Callable[[], T]) -> T:
        """Return what `do` returns in the writer's thread, when it is on disk.

        Raises what `do` raises: then all that it did is undone; `sqlite3.Error` when the transaction failed, and
        nothing of it is there.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._calls.put(_Call(do, answer, loop))
        return await answer

    def stop(self) -> None:
        """Close the file after what was asked for before; the thread ends soon."""
        self._calls.put(None)

    def run(self) -> None:
        """Work until told to stop."""
        while (call := self._calls.get()) is not None:
            calls, is_last = self._waiting(call)
            try:
                self._commit(calls)
            except Exception as error:  # noqa: BLE001  each caller hears it
                self._undo()
                for one in calls:
                    one.result, one.error = None, error
            for one in calls:
                _tell(one)
            if is_last:
                break
        if self.connection is not None:
            self.connection.close()

    def _waiting(self, first: _Call) -> tuple[list[_Call], bool]:
        """Return a call and those that wait behind it, and whether the end came with them."""
        calls = [first]
        while len(calls) < _TOGETHER:
            try:
                call = self._calls.get_nowait()
            except Empty:
                break
            if call is None:
                return calls, True
            calls.append(call)
        return calls, False

    def _commit(self, calls: list[_Call]) -> None:
        sql = self.connection
        if sql is None:
            sql = self.connection = opened(self._path)
        sql.execute("BEGIN IMMEDIATE")
        for call in calls:
            sql.execute("SAVEPOINT call")
            try:
                call.result = call.do()
            except sqlite3.Error:
                raise  # the file's trouble, and so everybody's
            except Exception as error:  # noqa: BLE001  this caller's alone
                call.error = error
                sql.execute("ROLLBACK TO call")
            sql.execute("RELEASE call")
        sql.execute("COMMIT")

    def _undo(self) -> None:
        if self.connection is not None and self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


def _tell(call: _Call) -> None:
    def settle() -> None:
        if call.answer.done():
            return  # nobody waits any more
        if call.error is not None:
            call.answer.set_exception(call.error)
        else:
            call.answer.set_result(call.result)

    if not call.loop.is_closed():
        call.loop.call_soon_threadsafe(settle)
