"""A module that imports well, and ends every worker process that imports it a moment later."""

import os
import threading

from multiprocess import parent_process

from murmur import Actor

if parent_process() is not None:
    threading.Timer(0.2, os._exit, (7,)).start()


class Doomed(Actor[int, int]):
    """Has no process that lives."""

    async def receive(self, number: int) -> int:
        return number
