"""Keeping leases: a thread with a connection of its own, which a blocked event loop cannot hold up.

A beat tells the server that a message is still being worked on. The server takes it from
anybody, also from who lost the message long ago. So nothing is said of a hold whose lease is
over by our own clock: it is reported as lost. A beat counts from before it was sent, and only
once the server has read it.
"""

import asyncio
import threading
import time
from typing import Final

from murmur.errors import BadURL, BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transport import Delivery
from murmur.transports.nats_link import NatsLink
from murmur.transports.nats_session import Hold, Session

_BEAT: Final = b"+WPI"
_SHORTEST: Final = 0.02  # seconds between two looks
_LONGEST: Final = 1.0


class LeaseKeeper:
    """Renews what a session holds, and reports what it could not keep to the session's loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._every = _LONGEST
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def keep(self, lease: float) -> None:
        """From now on look often enough for this lease."""
        self._every = max(_SHORTEST, min(self._every, lease / 8))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="murmur-nats-leases", daemon=True)
            self._thread.start()

    async def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        link = NatsLink(self._session.link.raw, name=f"{self._session.link.name} leases")
        try:
            while not self._stop.is_set():
                await asyncio.sleep(self._every)
                due, lost = self._look()
                if lost and not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._session.give_up, lost)
                if due:
                    await self._beat(link, due)
        finally:
            await link.close()

    def _look(self) -> tuple[list[Hold], list[Delivery]]:
        now = time.monotonic()
        due, lost = [], []
        for delivery, hold in self._session.held.copy().items():
            if hold.lease is None:
                continue
            if not hold.is_valid(now):
                lost.append(delivery)
            elif now - hold.beat_at >= hold.lease / 3 - self._every:
                due.append(hold)
        return due, lost

    async def _beat(self, link: NatsLink, due: list[Hold]) -> None:
        patience = max(self._every, min(hold.lease or 1.0 for hold in due) / 4)
        try:
            async with asyncio.timeout(patience):
                await link.open()
                now = time.monotonic()
                beaten = [hold for hold in due if hold.is_valid(now)]
                link.answer_all([hold.reply for hold in beaten], _BEAT)
                await link.synced()
        except (BadURL, BrokerUnreachable, BrokerRefused, OutcomeUnknown, TimeoutError):
            return  # again at the next look; what is over by then is lost
        for hold in beaten:
            hold.beat_at = max(hold.beat_at, now)
