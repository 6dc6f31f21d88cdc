"""An effect in a database, exactly once: it commits together with the key of the work.

    python examples/exactly_once_database.py

The first attempt writes its effect and is lost before anybody hears of it. The second one finds
the key and adds nothing.
"""

import asyncio
import sqlite3
import tempfile
from pathlib import Path
from typing import ClassVar

from murmur import Actor, AgentRuntime


class Booker(Actor[int, int]):
    """Books an amount, and returns the balance."""

    database: ClassVar[Path]
    lost: ClassVar[int] = 1  # how many attempts break after they booked

    async def receive(self, amount: int) -> int:
        balance = book(self.database, self.context.idempotency_key, amount)
        if Booker.lost:
            Booker.lost -= 1
            raise ConnectionError("gone after the booking, before the result")
        return balance


def book(database: Path, key: str, amount: int) -> int:
    """Book an amount under a key, unless that key was booked; return the balance."""
    sql = sqlite3.connect(database)
    with sql:  # one transaction: the key and its effect, or neither
        sql.execute("CREATE TABLE IF NOT EXISTS bookings (key TEXT PRIMARY KEY, amount INTEGER)")
        sql.execute("INSERT OR IGNORE INTO bookings VALUES (?, ?)", (key, amount))
        ((balance,),) = sql.execute("SELECT sum(amount) FROM bookings")
    sql.close()
    return int(balance)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Booker.database = Path(folder) / "bookings.db"
        async with AgentRuntime() as runtime:
            result = await runtime.run(Booker, 5)
        print(f"booked {result.unwrap()} in {result.metadata.attempts} attempts")


if __name__ == "__main__":
    asyncio.run(main())
