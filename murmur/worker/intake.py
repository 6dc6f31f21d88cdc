"""The intake of a worker: takes tasks off the broker, never more than there is room for, and says who begins them.

One loop reads for all agents and places at once. What has changed meanwhile ends a read that waits, if it does
not ask for what there is room for now. Where a task runs, and what becomes of it, is left to the places.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from murmur.task_queue import Release, TaskQueue, Work
from murmur.transport import Delivery
from murmur.worker.pools import Place
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots

_WAIT: Final = 5.0  # seconds one read of the mailboxes waits
_LOOK: Final = 0.5  # seconds between two looks for room: a process that was slow tells nobody that it is fresh again


@define(eq=False)
class Intake:
    """Reads for `places`, at most `read_at_most` messages at once; `place_of` a task begins it."""

    queue: TaskQueue
    settler: Settler
    slots: Slots
    read_at_most: int
    places: Callable[[], Sequence[Place]]
    place_of: Callable[[Work], Place]
    away: Collection[str] = ()  # agents whose mailbox is not read here
    wait: float = _WAIT
    _room: asyncio.Event = field(factory=asyncio.Event)
    _receiving: asyncio.Task[Any] | None = None
    _is_stirred: bool = False
    _reading: Mapping[str, int] = field(factory=dict)  # what the read that waits now asks for

    async def run(self) -> None:
        """Read until cancelled. What was received and not begun then is given back."""
        while True:
            await self.settler.has_room()
            self._room.clear()
            room, credit = self._room_now()
            if not room:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._room.wait()
                continue
            deliveries = await self._received(room, credit)
            if deliveries:
                await self._begun(deliveries)

    def roomier(self) -> None:
        """There may be room. A read that waits goes on, unless there is room now for an agent it does not ask for."""
        self._room.set()
        if self._receiving is not None and not self._is_stirred:
            self._is_stirred = True  # once for all that happens in this turn of the loop
            asyncio.get_running_loop().call_soon(self._stir)

    def _stir(self) -> None:
        self._is_stirred = False
        if self._receiving is not None and any(self._room_of(place).keys() - self._reading for place in self.places()):
            self.look_again()

    def wake(self) -> None:
        """There may be room. A read that waits ends by itself: one that is ended may bring things back out of order."""
        self._room.set()

    def look_again(self) -> None:
        """What is served here changed: a read that waits ends."""
        self._room.set()
        if self._receiving is not None:
            receiving, self._receiving = self._receiving, None
            receiving.cancel()

    def _room_now(self) -> tuple[Mapping[str, int], int]:
        """Return how many messages each agent may take, and all together: whichever come, each place has room."""
        room: dict[str, int] = {}
        credit = self.read_at_most
        for place in self.places():
            if here := self._room_of(place):
                room |= here
                credit = min(credit, place.free)
        return room, credit

    def _room_of(self, place: Place) -> dict[str, int]:
        return {name: most for name, most in place.room().items() if name not in self.away}

    async def _received(self, room: Mapping[str, int], credit: int) -> Sequence[Delivery]:
        """Wait for messages; a change of what is served here ends the wait early."""
        task = self._receiving = asyncio.current_task()
        self._reading = room
        try:
            return await self.settler.rights.patiently(lambda: self.queue.receive(room, credit=credit, wait=self.wait))
        except asyncio.CancelledError:
            if self._receiving is None and task is not None and not task.uncancel():
                return ()
            raise
        finally:
            self._receiving = None

    async def _begun(self, deliveries: Sequence[Delivery]) -> None:
        """Begin deliveries; what did not come granted has to be first."""
        for work in self.queue.granted(deliveries) or await self._granted(deliveries):
            self.place_of(work).begin(work)

    async def _granted(self, deliveries: Sequence[Delivery]) -> Sequence[Work]:
        """Have deliveries granted. Ended meanwhile, give back what was granted: nothing new starts."""
        granting = asyncio.ensure_future(self.settler.rights.patiently(lambda: self.queue.grant(deliveries)))
        try:
            return await asyncio.shield(granting)
        except asyncio.CancelledError:
            granting.add_done_callback(self._given_back)
            raise

    def _given_back(self, granting: "asyncio.Future[Sequence[Work]]") -> None:
        if not granting.cancelled() and granting.exception() is None:
            for work in granting.result():
                self.settler.settle(Release(work.claim))
