"""Names in worker processes: each shard is pinned to one process, and each name has one message at a time there.

The node keeps the mail, so a name that has much of it takes one slot, as it should, and what a process had in hand when
it died is one message a name: it goes back with all that waits behind it, and comes back in order. A shard whose
process died is pinned to another one, which restores its names; a new process gets its share of shards that rest.
"""

import asyncio
from collections import deque
from typing import Protocol

from attrs import define, field

from murmur.named import shard_of
from murmur.store import Claim
from murmur.task_queue import Release, Work
from murmur.worker import wire
from murmur.worker.death import is_suspect
from murmur.worker.seat import Seat
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots

Name = tuple[str, str]  # agent, key


class Processes(Protocol):
    """The pool, as far as names are concerned."""

    settler: Settler
    slots: Slots
    seats: dict[int, Seat]
    stopped: dict[str, str]

    def begin(self, work: Work) -> None:
        """Run a suspect in a process of its own."""

    def give(self, seat: Seat, one: Work) -> None:
        """Have a process begin a task."""

    def disown(self, work: Work) -> None:
        """Let go of the message of a task that is no longer ours."""

    def has_room(self, agent: str) -> bool:
        """Whether one more task of an agent may run."""

    def can_serve(self, agent: str) -> bool:
        """Whether any of its processes can serve an agent now."""


@define(eq=False)
class Pins:
    """The names of one pool."""

    pool: Processes
    _mail: dict[Name, deque[Work]] = field(factory=dict)  # the first of each is in hand, or waits for a slot
    _waiting: dict[Name, None] = field(factory=dict)  # names whose first message waits for a slot, in order
    _pins: dict[tuple[str, int], int] = field(factory=dict)  # agent and shard → pid
    _lost: set[str] = field(factory=set)  # task ids in `_mail` that are no longer ours
    _is_closing: bool = False
    _rests: asyncio.Event = field(factory=asyncio.Event)  # set, and made anew, when a name has no mail any more

    @property
    def held(self) -> int:
        """Messages in hand."""
        return sum(map(len, self._mail.values()))

    def serves(self, agent: str) -> bool:
        """Whether an agent can be served now."""
        return self.pool.can_serve(agent)

    def begin(self, work: Work) -> None:
        """Handle a granted task in its turn."""
        name = (work.message.agent, work.message.key or "")
        mail = self._mail.setdefault(name, deque())
        mail.append(work)
        if len(mail) == 1:
            self._waiting[name] = None
        self.stir()

    def stir(self) -> None:
        """Give processes what they may have now."""
        if self._is_closing:
            self._give_back_waiting()
            return
        for name in list(self._waiting):
            mail = self._mail[name]
            while mail and mail[0].claim.task_id in self._lost:
                self._forget(mail.popleft())
            if not mail:
                self._rest(name)
                continue
            first = mail[0]
            if is_suspect(first.claim.errors):
                del self._waiting[name]
                self.pool.begin(first)
                continue
            if not self.pool.slots.free:
                return
            seat = self._seat(name) if self.pool.has_room(name[0]) else None
            if seat is not None and seat.free and name[0] not in seat.held:
                del self._waiting[name]
                self.pool.give(seat, first)

    def over(self, work: Work, *, is_back: bool) -> None:
        """A task is no longer in hand of a process. `is_back`: it was given back, and so is what waits behind it."""
        name = (work.message.agent, work.message.key or "")
        mail = self._mail.get(name)
        if mail is None or mail[0] is not work:
            return
        mail.popleft()
        if is_back or self._is_closing:
            self._release(mail)
        if mail:
            self._waiting[name] = None
        else:
            self._rest(name)

    def lose(self, claim_of: object) -> None:
        """A delivery, or a task by its id, is no longer ours; what a process has in hand of it is the pool's to end."""
        for one in self._here():
            if claim_of in (one.claim.delivery, one.claim.task_id):
                self._lost.add(one.claim.task_id)

    def claims(self) -> list[Claim]:
        """Return the rights to what waits here; those in hand of a process are the pool's to tell."""
        return [one.claim for one in self._here() if one.claim.task_id not in self._lost]

    def is_at_work(self, agent: str, shard: int) -> bool:
        """Whether a name of a shard has mail."""
        return any(name == agent and shard_of(key) == shard for name, key in self._mail)

    async def leave(self, agent: str, shard: int, *, is_lost: bool) -> None:
        """Have the process let all names of a shard go; return when nothing of it is in hand."""
        for name in [one for one in self._mail if one[0] == agent and shard_of(one[1]) == shard]:
            mail = self._mail[name]
            first = mail.popleft() if name not in self._waiting else None
            self._release(mail)
            if first is not None:
                mail.append(first)
            else:
                self._rest(name)
        self._unpin((agent, shard), is_lost=is_lost)
        while self.is_at_work(agent, shard):
            await self._rests.wait()

    async def drain(self, within: float) -> None:
        """Give back what is in no process's hand; the pool drains what is."""
        self._is_closing = True
        self._give_back_waiting()
        try:
            async with asyncio.timeout(within + 1.0):
                while self._mail:
                    await self._rests.wait()
        except TimeoutError:
            return  # the pool gives it back

    # -- inside -----------------------------------------------------------------------------------

    def _here(self) -> list[Work]:
        """Return what is in no process's hand."""
        return [one for name, mail in self._mail.items() for one in list(mail)[name not in self._waiting :]]

    def _seat(self, name: Name) -> Seat | None:
        """Return the process that a name is pinned to; pin its shard anew if that is dead, or has far too many."""
        place = (name[0], shard_of(name[1]))
        seats = {pid: seat for pid, seat in self.pool.seats.items() if not (seat.is_spare or seat.is_closed)}
        if not seats:
            return None
        counts = dict.fromkeys(seats, 0)
        for pid in self._pins.values():
            if pid in counts:
                counts[pid] += 1
        pinned, least = self._pins.get(place), min(counts, key=lambda pid: counts[pid])
        if pinned in seats and (counts[pinned] <= counts[least] + 1 or self._has_others(place, name)):
            return seats[pinned]
        self._unpin(place)
        self._pins[place] = least
        return seats[least]

    def _has_others(self, place: tuple[str, int], name: Name) -> bool:
        """Whether another name of a shard is at work, so that it cannot move."""
        return any(other != name and (other[0], shard_of(other[1])) == place for other in self._mail)

    def _unpin(self, place: tuple[str, int], *, is_lost: bool = False) -> None:
        seat = self.pool.seats.get(self._pins.pop(place, 0))
        if seat is not None:
            seat.tell(wire.Leave(*place, is_lost))

    def _give_back_waiting(self) -> None:
        for name in list(self._waiting):
            self._release(self._mail[name])
            self._rest(name)

    def _release(self, mail: deque[Work]) -> None:
        for one in mail:
            if one.claim.task_id in self._lost:
                self._forget(one)
            else:
                self.pool.settler.settle(Release(one.claim))
        mail.clear()

    def _forget(self, lost: Work) -> None:
        self._lost.discard(lost.claim.task_id)
        self.pool.disown(lost)

    def _rest(self, name: Name) -> None:
        self._waiting.pop(name, None)
        del self._mail[name]
        self._rests.set()
        self._rests = asyncio.Event()
