"""Opening a SQLite file that several processes may open at the same moment."""

import sqlite3
import time
from typing import Final

BUSY: Final = 8.0  # seconds another process may hold the file
_AGAIN: Final = 0.02  # seconds


def opened(path: str, *, check_same_thread: bool = True) -> sqlite3.Connection:
    """Return a connection in autocommit mode, whose commits are on disk when they return. Raises `sqlite3.Error`.

    Transactions are begun by hand. Turning to the write-ahead log wants the file alone, and does not wait for it as
    other statements do: where processes open a new file together, all but one are refused for an instant.
    """
    sql = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=check_same_thread)
    until = time.monotonic() + BUSY
    try:
        while True:
            try:
                sql.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(_AGAIN)
        sql.execute("PRAGMA synchronous = FULL")
    except BaseException:
        sql.close()
        raise
    return sql
