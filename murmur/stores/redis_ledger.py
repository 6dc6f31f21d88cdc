"""Writing rows on Redis: what many tasks want in one loop turn becomes one script.

Admissions, endings and returns each travel joined. Every write is guarded by its token on the
server and may be repeated, so the link repeats it by itself when a connection breaks. Beside
a fused transport the books of what is held are kept here, also for callers cancelled since.
"""

from collections.abc import Sequence
from typing import Final, TypeVar, cast

from attrs import frozen

from murmur.names import Topics
from murmur.store import Admission, NewTask, Written
from murmur.stores.redis_rows import WRITTEN, Ending, Return, admitted, admitting, ending, hold_of, returning
from murmur.transports.redis_joint import Joint
from murmur.transports.redis_link import RedisLink
from murmur.transports.redis_scripts import Script, load
from murmur.transports.redis_session import CHUNK, Session
from murmur.transports.redis_wire import Argument, Call, Finish, Reply

_ADMIT: Final = load("murmur.stores", "admit")
_COMPLETE: Final = load("murmur.stores", "complete")
_REQUEUE: Final = load("murmur.stores", "requeue")

Write = TypeVar("Write", Ending, Return)


@frozen
class Keys:
    """Where the rows of a namespace stand, and for how long (seconds) when they are over."""

    topics: Topics
    rows: str
    journals: str
    retention: int


class Ledger:
    """The writes of one store. `session`: of the transport it is fused with, or None."""

    def __init__(self, link: RedisLink, keys: Keys, session: Session | None) -> None:
        self._link, self._keys, self._session = link, keys, session
        self._moves = int(session is not None)
        self._admitting: Joint[NewTask] = Joint(link, self._admit_call, most=CHUNK)
        self._ending: Joint[Ending] = Joint(link, self._ending_call, most=CHUNK, ended=self._close_books)
        self._returning: Joint[Return] = Joint(link, self._return_call, most=CHUNK, ended=self._close_books)

    async def admit(self, tasks: Sequence[NewTask]) -> list[Admission]:
        """Make rows, and enqueue messages. Raises as the link does."""
        if not tasks:
            return []
        answers: list[Admission] = []
        for reply, start, part in await self._admitting.ask(tasks):
            answers += admitted(part, reply, start)
        return answers

    async def end(self, endings: Sequence[Ending]) -> list[Written]:
        """Write terminal results. Raises as the link does."""
        return await self._write(self._ending, endings)

    async def put_back(self, returns: Sequence[Return]) -> list[Written]:
        """Queue tasks again. Raises as the link does."""
        return await self._write(self._returning, returns)

    async def _write(self, joint: Joint[Write], writes: Sequence[Write]) -> list[Written]:
        if not writes:
            return []
        if self._session is not None:
            for one in writes:
                hold_of(one.claim.delivery).is_settling = True
        answers: list[Written] = []
        for reply, start, part in await joint.ask(writes):
            codes = cast(bytes, reply)[start : start + len(part)]
            answers += [WRITTEN[code] for code in codes]
        return answers

    def _close_books(self, writes: Sequence[Ending] | Sequence[Return], reply: Reply) -> None:
        """What was written, or refused as stale, is no longer held; what failed still is."""
        if self._session is None:
            return
        held = self._session.held
        for one in writes:
            delivery = one.claim.delivery
            hold_of(delivery).is_settling = False
            if reply is not None:
                held.pop(delivery, None)

    def _admit_call(self, tasks: list[NewTask], finish: Finish) -> Call:
        return self._call(_ADMIT, [self._keys.rows, self._moves, *admitting(tasks)], finish)

    def _ending_call(self, endings: list[Ending], finish: Finish) -> Call:
        keys = self._keys
        head = (keys.rows, self._moves, keys.retention, keys.journals)
        return self._call(_COMPLETE, [*head, *ending(endings, keys.topics)], finish)

    def _return_call(self, returns: list[Return], finish: Finish) -> Call:
        keys = self._keys
        return self._call(_REQUEUE, [keys.rows, self._moves, *returning(returns)], finish)

    def _call(self, script: Script, arguments: list[Argument], finish: Finish) -> Call:
        return self._link.script_call(script, (), arguments, finish, is_repeatable=True)
