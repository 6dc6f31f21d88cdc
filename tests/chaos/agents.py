"""The agent of the storm: it notes each start, books an effect with its key in one transaction, and answers a square.

One task in twenty raises each time, as poison does. HISTORY and RECEIVER name the files.
"""

import asyncio
import os
import random
import sqlite3

from murmur import Actor, Backoff, Redelivery
from tests.chaos.history import note


def is_poison(number: int) -> bool:
    """Whether a task raises, whatever is done about it."""
    return number % 20 == 7


class Storm(Actor[int, int]):
    """Squares a number, slowly, and books it."""

    # Its processes are crashed from outside: no number of crashes is its fault.
    redelivery = Redelivery(max_deliveries=3, max_crashes=1_000, backoff=Backoff(initial=0.1, cap=0.5))

    async def receive(self, number: int) -> int:
        context = self.context
        note(os.environ["HISTORY"], "start", task=context.task_id, token=context.token, attempt=context.attempt)
        await asyncio.sleep(random.random() * 0.2)
        if is_poison(number):
            raise ConnectionError(f"task {number} is poison")
        await asyncio.to_thread(book, os.environ["RECEIVER"], context.idempotency_key, context.token)
        await asyncio.sleep(random.random() * 0.1)
        return number * number


def book(path: str, key: str, token: int) -> None:
    """Book an effect unless its key is booked: the two commit together. The table itself would take it twice."""
    sql = sqlite3.connect(path, timeout=30.0, isolation_level=None)
    try:
        sql.execute("BEGIN IMMEDIATE")
        if sql.execute("SELECT 1 FROM effects WHERE key = ?", (key,)).fetchone() is None:
            sql.execute("INSERT INTO effects VALUES (?, ?)", (key, token))
        sql.execute("COMMIT")
    finally:
        sql.close()
