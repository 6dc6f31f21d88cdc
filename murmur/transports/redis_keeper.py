"""Keeping leases: a thread that renews what this process holds, whatever its event loop does.

User code may block the loop for longer than a lease; its tasks must not be handed to others
for that. So a daemon thread with a connection of its own renews every third of a lease, in
one script for many. It stops where the loop has given no sign of life for a minute: then it
hangs, and others may have its tasks. What the server says is no longer ours is reported.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen
from redis import connection as redis_connection
from redis import exceptions

from murmur.transports.redis_link import RedisLink
from murmur.transports.redis_scripts import load
from murmur.transports.redis_wire import Argument, connection_options

RENEW: Final = load("murmur.transports", "renew")

HANGS_AFTER: Final = 60.0  # seconds without a beat of the loop
BEAT_EVERY: Final = 1.0  # seconds
_CHUNK: Final = 200  # leases in one script: about 3 ms of the server
_RETRY: Final = 0.5  # seconds after a failure


@frozen(eq=False)
class Lease:
    """One lease: what to report if it is lost, whose it is, and its arguments for `renew.lua`."""

    holder: object
    consumer: str
    arguments: tuple[Argument, ...]


class LeaseKeeper:
    """Renews `held()` every third of the shortest lease; calls `lost` in the loop with holders that lost theirs."""

    def __init__(
        self,
        link: RedisLink,
        *,
        rows: str,
        held: Callable[[], list[Lease]],  # called from the thread
        lost: Callable[[list[object]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link, self._rows = link, rows
        self._every = math.inf
        self._held, self._lost, self._clock = held, lost, clock
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Event()
        self._is_stopped = False
        self._beat_at = clock()
        self._beating: asyncio.TimerHandle | None = None
        self._connection: redis_connection.AbstractConnection | None = None
        self._thread = threading.Thread(target=self._run, name="murmur-leases", daemon=True)

    def keep(self, lease: float) -> None:
        """Renew so often that a lease of so many seconds does not lapse. The first call begins it."""
        if lease / 3 < self._every:
            self._every = lease / 3
            self._wake.set()
        if not self._thread.is_alive():
            self._beat()
            self._thread.start()

    def nudge(self) -> None:
        """Look at once, for instance because news may have been missed."""
        self._wake.set()

    async def stop(self) -> None:
        """End the thread and its connection."""
        if self._beating is not None:
            self._beating.cancel()
        self._is_stopped = True
        self._wake.set()
        await self._loop.run_in_executor(None, self._thread.join)

    def _beat(self) -> None:
        self._beat_at = self._clock()
        self._beating = self._loop.call_later(BEAT_EVERY, self._beat)

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait = self._every
        while True:
            self._wake.wait(wait)
            self._wake.clear()
            if self._is_stopped:
                self._disconnect()
                return
            wait = self._every
            if self._clock() - self._beat_at >= HANGS_AFTER:
                continue
            try:
                self._renew(self._held())
            except (exceptions.RedisError, OSError):
                self._disconnect()
                wait = min(self._every, _RETRY)

    def _renew(self, leases: Sequence[Lease]) -> None:
        by_consumer: dict[str, list[Lease]] = {}
        for lease in leases:
            by_consumer.setdefault(lease.consumer, []).append(lease)
        for consumer, theirs in by_consumer.items():
            for first in range(0, len(theirs), _CHUNK):
                chunk = theirs[first : first + _CHUNK]
                arguments = [argument for lease in chunk for argument in lease.arguments]
                codes = self._call(self._rows, consumer, *arguments)
                lost = [lease.holder for lease, code in zip(chunk, codes, strict=True) if code == ord("0")]
                if lost:
                    self._report(lost)

    def _report(self, lost: list[object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._lost, lost)

    def _call(self, *arguments: Argument) -> bytes:
        connection = self._connected()
        for command in (("EVALSHA", RENEW.sha), ("EVAL", RENEW.source)):
            connection.send_command(*command, 0, *arguments)  # type: ignore[no-untyped-call]  # redis-py left it so
            try:
                answer = connection.read_response()
            except exceptions.NoScriptError:
                continue
            if isinstance(answer, bytes):
                return answer
        raise exceptions.InvalidResponse("renew.lua answered something else")

    def _connected(self) -> redis_connection.AbstractConnection:
        if self._connection is None:
            parsed = redis_connection.parse_url(self._link.url)  # type: ignore[no-untyped-call]  # redis-py left it so
            kind = parsed.get("connection_class", redis_connection.Connection)
            connection = kind(**connection_options(self._link.url))
            connection.connect()
            self._connection = connection
            connection.send_command("CLIENT", "SETNAME", self._link.name)
            with contextlib.suppress(exceptions.ResponseError):  # not allowed to everybody
                connection.read_response()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()  # type: ignore[no-untyped-call]  # redis-py left it so
            self._connection = None
