"""What must be done beside the work: leases that lapsed, delays that are over, boots that are gone.

Any process does it for all, in scripts that change each entry once however many run them.
An earlier boot of this consumer counts as gone when none of its connections is left at the
server; what it held is given back at once. Where that cannot be seen, its lease decides.
Without a fused store this runs by itself; with one the store's `sweep` is called instead.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Final, cast

from loguru import logger

from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transports.redis_entries import milliseconds
from murmur.transports.redis_scripts import load
from murmur.transports.redis_session import Giving, Session, connection_name
from murmur.transports.redis_wire import Argument, ServerError

_INHERITED: Final = Giving(is_counted=True, is_lapsed=True)
_SWEEP: Final = load("murmur.transports", "sweep")
_FORGET_AFTER: Final = 3_600.0  # seconds of idleness of a consumer that holds nothing
_MOST: Final = 200  # entries moved in one script
_LONGEST: Final = 10.0  # seconds between two sweeps


class Upkeep:
    """Sweeps the topics of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._running: asyncio.Task[None] | None = None
        self._is_due = asyncio.Event()

    def start(self) -> None:
        """Sweep by itself from now on."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    def hurry(self) -> None:
        """Something was delayed: look when it is due."""
        self.start()
        self._is_due.set()

    async def close(self) -> None:
        """End it."""
        await cancelled([self._running])

    async def sweep(self, topics: Sequence[str]) -> float | None:
        """Give back what lapsed, move on what is due; return seconds until the next is due. Raises as the link does."""
        session = self._session
        await self.inherit(topics)
        leases = [spec.lease for name in topics if (spec := session.specs.get(name)) is not None]
        default = min((lease for lease in leases if lease is not None), default=None)
        arguments: list[Argument] = [session.rows.prefix, session.rows.retention]
        arguments += ["" if default is None else milliseconds(default), milliseconds(_FORGET_AFTER), _MOST]
        while True:
            reply = await session.link.run(_SWEEP, topics, arguments, is_repeatable=True)
            lapsed, due, next_due, more = cast(list[int], reply)
            if lapsed:
                logger.info("gave back {} entries whose lease had lapsed", lapsed)
            if not more and due < _MOST:
                return None if next_due < 0 else next_due / 1000

    async def inherit(self, topics: Sequence[str]) -> None:
        """Give back what earlier boots of this consumer held, where they are provably gone. Raises as the link does."""
        session = self._session
        for topic in topics:
            for consumer in await self._earlier(topic):
                if await self._is_gone(consumer):
                    entries = [(topic, ref) for ref in await session.pending(topic, consumer)]
                    logger.info("takes over {} entries of {} from {}", len(entries), topic, consumer)
                    await session.give_back(entries, consumer=consumer, how=_INHERITED)

    async def _earlier(self, topic: str) -> list[str]:
        """Return other boots of this consumer that still hold something of a topic."""
        session = self._session
        found: set[str] = set()
        for stream in (f"{topic}:again", topic):
            try:
                reply = await session.link.ask("XPENDING", stream, "workers", is_repeatable=True)
            except ServerError as error:
                if error.code not in ("NOGROUP", "ERR"):
                    raise
                continue
            for name, _ in cast(list[tuple[bytes, bytes]], cast(list[object], reply)[3] or []):
                found.add(name.decode("utf-8", "replace"))
        return [
            one for one in sorted(found) if one.startswith(f"{session.identity}#") and not one.startswith(session.boot)
        ]

    async def _is_gone(self, consumer: str) -> bool:
        """Whether the server has no connection of that boot; unknown counts as there."""
        try:
            clients = cast(bytes, await self._session.link.ask("CLIENT", "LIST", is_repeatable=True))
        except (ServerError, BrokerRefused):
            return False  # not allowed to everybody
        name = connection_name(consumer.rpartition(".")[0])
        return f" name={name} ".encode() not in clients

    async def _run(self) -> None:
        next_due: float | None = None
        while True:
            leases = [spec.lease for spec in self._session.specs.values() if spec.lease is not None]
            wait = min([_LONGEST, *(lease / 3 for lease in leases)]) * random.uniform(0.8, 1.0)  # noqa: S311  jitter
            if next_due is not None:
                wait = min(wait, next_due)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._is_due.wait()
            self._is_due.clear()
            try:
                next_due = await self.sweep(self._session.work_topics())
            except (BrokerUnreachable, OutcomeUnknown, BrokerRefused):
                next_due = None  # the link comes back by itself; a missing right shows in what is called
