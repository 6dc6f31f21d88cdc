"""A bounded mailbox with two lanes: what a system says is read before what users say, and never refused."""

import enum
from collections import deque
from typing import Final, Generic, TypeVar

from anyio import Event, lowlevel
from attrs import define, field

from supervisors.errors import MailboxClosed, MailboxFull
from supervisors.validation import member, whole_number

M = TypeVar("M")

_FAIR_AFTER: Final = 64  # puts: then the loop gets a turn, or a busy sender would starve who reads


class Overflow(enum.Enum):
    """What a full mailbox does with one message more."""

    WAIT = "wait"  # the sender waits
    REJECT = "reject"  # the sender gets MailboxFull
    DROP_OLDEST = "drop_oldest"  # the oldest one is forgotten; `dropped` counts them


@define(eq=False)
class Mailbox(Generic[M]):
    """Messages for one reader, of any number of senders. `capacity` bounds the users' lane."""

    capacity: int = field(default=100, validator=whole_number(1))
    overflow: Overflow = field(default=Overflow.WAIT, kw_only=True, validator=member(Overflow))
    dropped: int = field(default=0, init=False)
    _system: "deque[M]" = field(factory=deque, init=False)
    _users: "deque[M]" = field(factory=deque, init=False)
    _arrived: Event = field(factory=Event, init=False)
    _room: Event = field(factory=Event, init=False)
    _puts: int = field(default=0, init=False)
    _is_closed: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._system) + len(self._users)

    async def put(self, message: M) -> None:
        """Add a message; what happens where there is no room is the mailbox's `overflow`.

        Raises: MailboxFull, MailboxClosed.
        """
        self._puts += 1
        if self._puts % _FAIR_AFTER == 0:
            await lowlevel.checkpoint()
        while self.overflow is Overflow.WAIT and len(self._users) >= self.capacity and not self._is_closed:
            self._room = Event() if self._room.is_set() else self._room
            await self._room.wait()
        self.put_nowait(message)

    def put_nowait(self, message: M) -> None:
        """Add a message without waiting. Raises: MailboxFull, also where `put` would wait; MailboxClosed."""
        self._check_open()
        if len(self._users) >= self.capacity:
            if self.overflow is not Overflow.DROP_OLDEST:
                raise MailboxFull(self.capacity)
            self._users.popleft()
            self.dropped += 1
        self._users.append(message)
        self._arrived.set()

    def put_system(self, message: M) -> None:
        """Add a message that is read before all others and always has room. Raises MailboxClosed."""
        self._check_open()
        self._system.append(message)
        self._arrived.set()

    async def get(self) -> M:
        """Return the next message, the system's first. Raises MailboxClosed once it is closed and empty."""
        while not len(self):
            self._check_open()
            self._arrived = Event()
            await self._arrived.wait()
        if self._system:
            return self._system.popleft()
        message = self._users.popleft()
        self._room.set()
        return message

    def close(self) -> None:
        """Take nothing more. What is there can still be read."""
        self._is_closed = True
        self._arrived.set()
        self._room.set()

    def _check_open(self) -> None:
        if self._is_closed:
            raise MailboxClosed
