"""One publisher's link to the fleet: submits slots, fills them from the inbox, asks for what did not ring.

Whatever batches of one runtime are open share this: one submit per loop turn, one inbox,
one question a second about slots that are late. The stored row is the truth and the inbox a
bell: a slot whose bell was missed is asked for, one whose row is gone is submitted again
under the same id. Nothing is kept for a finished slot.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from loguru import logger
from msgspec import Raw
from msgspec.structs import replace

from murmur import presence, stowage
from murmur.cancelling import cancelled
from murmur.envelope import ResultMessage, Stowed
from murmur.errors import BadEnvelope, BrokerUnreachable, MurmurError, OutcomeUnknown, SpawnError
from murmur.runtime.slots import Slot, cancelled_result, result_of
from murmur.store import Admission, Row, State
from murmur.task_queue import TaskQueue
from murmur.transport import Refusal

_TURN: Final = 500  # tasks one submit or one question carries at most
_LATE: Final = 5.0  # seconds after which a slot that did not ring is asked for
_SHARED_LATE: Final = 1.0  # the same, for a slot whose bell rings elsewhere
_ROUND: Final = 1.0  # seconds between two rounds of questions
_SUBMIT_WITHIN: Final = 10.0  # seconds until a task that could not be published says so
_ORPHANED: Final = 60.0  # seconds a queued row waits beside an empty mailbox until its message counts as lost
_FETCH_WITHIN: Final = 30.0  # seconds an output may take to come from the store
_AGAIN: Final = 0.25  # seconds before an unknown publish is tried again


class Waiter(Protocol):
    """A batch, as far as the rounds are concerned."""

    def looked(self, now: float, notes: tuple[presence.Presence, ...]) -> None:
        """Somebody looked who serves what."""

    def is_waiting(self, now: float) -> bool:
        """Whether nothing was heard for so long that somebody should look."""


class Engine:
    """See the module's text. Belongs to the event loop it was opened in."""

    def __init__(self, queue: TaskQueue, *, runtime_id: str, owns_queue: bool, lease: float | None = None) -> None:
        self.queue = queue
        self.inbox = queue.topics.inbox(runtime_id)
        self._runtime_id = runtime_id
        self._owns_queue = owns_queue
        self._lease = lease  # of an embedded worker's tasks; a mere publisher has none
        self._slots: dict[str, Slot] = {}
        self._outbox: list[Slot] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False
        self._declared: set[str] = set()
        self.waiters: dict[Waiter, None] = {}
        self._has_slots = asyncio.Event()

    async def open(self) -> None:
        """Connect and listen; the second call finds it done. Raises `BrokerUnreachable`, `BrokerRefused`."""
        if self._is_open:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            if self._opening.done() and not self._opening.cancelled() and self._opening.exception():
                self._opening = None
            raise

    async def begin(self) -> None:
        """Open, or leave nothing open: nobody comes back to one that could not begin."""
        try:
            await self.open()
        except BaseException:
            await self.queue.close(grace=0.0)
            raise

    async def declare(self, agent: str) -> None:
        """Make sure an agent's mailbox exists, so that tasks can wait there for its first worker."""
        if agent not in self._declared:
            await self.queue.open_tasks([agent])
            self._declared.add(agent)

    async def close(self) -> None:
        """Stop listening; open slots stay as they are on the fleet. Idempotent."""
        await cancelled(self._tasks)
        if self._owns_queue and self._opening is not None:
            await self.queue.close()
        self._opening, self._is_open = None, False
        self._declared.clear()

    def submit(self, slot: Slot) -> None:
        """Open a slot: its task is published with all others of this loop turn."""
        task_id = slot.task.task_id
        slot.next = self._slots.get(task_id)
        self._slots[task_id] = slot
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(slot)
        self._has_slots.set()

    async def submit_now(self, slot: Slot) -> None:
        """Open a slot and return once its publishing has been answered."""
        slot.next = self._slots.get(slot.task.task_id)
        self._slots[slot.task.task_id] = slot
        self._has_slots.set()
        await asyncio.shield(self.in_background(self._submit([slot])))

    def open_slot(self, task_id: str) -> Slot | None:
        """Return the slot that waits for a task, if one does."""
        return self._slots.get(task_id)

    def forget(self, slot: Slot) -> None:
        """Close a slot whose result nobody waits for."""
        slot.is_open = False
        self._drop(slot)

    async def cancel(self, slots: Iterable[Slot], why: str) -> None:
        """End the tasks of slots on the fleet, as far as they have not ended. Errors are logged: nobody waits."""
        slots = list(slots)
        try:
            for start in range(0, len(slots), _TURN):
                tasks = [slot.task for slot in slots[start : start + _TURN]]
                results = {one.task_id: cancelled_result(one.task_id, one.agent, None, why) for one in tasks}
                await self.queue.cancel(results, [one for one in tasks if one.is_new])
            waiting = [slot.task.task_id for slot in slots if slot.is_open]
            for row in await self.queue.store.read(waiting) if waiting else ():
                if row is not None and row.result is not None:  # who waits in a mailbox is rung by nobody else
                    self._ring(row.result)
        except (OutcomeUnknown, BrokerUnreachable) as error:
            logger.warning("{} tasks could not be cancelled: {}", len(slots), error)

    def in_background(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run something of ours that nobody awaits; it ends with the engine at the latest."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- opening and the two loops ----------------------------------------------------------------

    async def _open(self) -> None:
        if self._owns_queue:
            await self.queue.open(owner=self._runtime_id, lease=self._lease)
        await self.queue.open_inbox(self.inbox)
        self.in_background(self._for_ever(self._listen))
        self.in_background(self._for_ever(self._rounds))
        self._is_open = True

    async def _for_ever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Begin a loop again that ended in an error: one bad reply must not deafen the publisher."""
        while True:
            try:
                await loop()
            except (OutcomeUnknown, BrokerUnreachable) as error:
                logger.info("the broker is away: {}", error)
            except Exception:  # noqa: BLE001  the loop that turns a crash into a new beginning
                logger.exception("a loop of the publisher broke and begins again")
            await asyncio.sleep(_AGAIN)

    async def _listen(self) -> None:
        while True:
            for delivery in await self.queue.replies(self.inbox, wait=5.0):
                self._ring(delivery.body)

    async def _rounds(self) -> None:
        while True:
            await self._has_slots.wait()
            await asyncio.sleep(_ROUND)
            if not self._slots and not self.waiters:
                self._has_slots.clear()
                continue
            now = asyncio.get_running_loop().time()
            await self._ask(now)
            waiting = [waiter for waiter in self.waiters if waiter.is_waiting(now)]
            if waiting:
                notes = await presence.seen(self.queue.store)
                for waiter in waiting:
                    waiter.looked(now, notes)

    def _ring(self, body: bytes) -> None:
        try:
            message = self.queue.result(body)
        except BadEnvelope as error:
            logger.warning("{}: a reply was left aside: {}", error.code, error)
            return
        slot = self._slots.pop(message.task_id, None)
        if slot is None:
            return
        if message.stowed is not None:
            self.in_background(self._fetch(message, message.stowed, slot))
        else:
            self._finish(message, slot)

    async def _fetch(self, message: ResultMessage, stowed: Stowed, slot: Slot | None) -> None:
        """Finish slots whose output is not in their result."""
        try:
            message.output = Raw(await stowage.fetched(self.queue.store, stowed, within=_FETCH_WITHIN))
        except MurmurError as error:
            while slot is not None:
                slot.fail(error)
                slot = slot.next
        else:
            self._finish(message, slot)

    def _finish(self, message: ResultMessage, slot: Slot | None) -> None:
        while slot is not None:
            slot.finish(result_of(message, slot.entry))
            if slot.task.stowed is not None and message.success and self._owns_queue:
                self.in_background(self._tidy(slot.task.stowed))
            slot = slot.next

    async def _tidy(self, stowed: Stowed) -> None:
        """Forget an input that nobody needs any more; if not now, then with the retention."""
        with contextlib.suppress(OutcomeUnknown, BrokerUnreachable):
            await stowage.forget(self.queue.store, stowed)

    # -- submitting -------------------------------------------------------------------------------

    def _flush(self) -> None:
        slots, self._outbox = self._outbox, []
        for start in range(0, len(slots), _TURN):
            self.in_background(self._submit(slots[start : start + _TURN]))

    async def _submit(self, slots: list[Slot]) -> None:
        """Publish, again and again under the same ids while the outcome is unknown, for ten seconds at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _SUBMIT_WITHIN
        while slots:
            try:
                answers = await self.queue.submit([slot.task for slot in slots])
            except (OutcomeUnknown, BrokerUnreachable) as error:
                if loop.time() >= until:
                    self._unpublished(slots, error)
                    return
                await asyncio.sleep(_AGAIN)
                continue
            except Exception as error:  # noqa: BLE001  whatever broke, these slots must not wait for ever
                logger.exception("publishing broke")
                self._unpublished(slots, error)
                return
            slots = self._answered(slots, answers, give_up=loop.time() >= until)
            if slots:
                await asyncio.sleep(_AGAIN)

    def _answered(self, slots: list[Slot], answers: Iterable[Admission | Refusal], *, give_up: bool) -> list[Slot]:
        """Act on the answers of one submit; return the slots to try again."""
        again = []
        for slot, answer in zip(slots, answers, strict=True):
            if isinstance(answer, Refusal):
                if answer.definite or give_up:
                    self._fail(slot, SpawnError(slot.task.task_id, slot.entry.name, answer.problem, answer.definite))
                else:
                    again.append(slot)
            elif answer.result is not None:
                self._ring(answer.result)
            elif not answer.fresh:
                slot.is_shared = True
        return again

    def _unpublished(self, slots: list[Slot], error: Exception) -> None:
        definite = isinstance(error, BrokerUnreachable)
        for slot in slots:
            self._fail(slot, SpawnError(slot.task.task_id, slot.entry.name, str(error), definite))

    def _fail(self, slot: Slot, error: SpawnError) -> None:
        self._drop(slot)
        slot.fail(error)

    def _drop(self, slot: Slot) -> None:
        """Take a slot out of the table, and out of the chain of those that wait for the same task."""
        first = self._slots.get(slot.task.task_id)
        if first is slot:
            if slot.next is None:
                del self._slots[slot.task.task_id]
            else:
                self._slots[slot.task.task_id] = slot.next
            return
        while first is not None:
            if first.next is slot:
                first.next = slot.next
            first = first.next

    # -- asking -----------------------------------------------------------------------------------

    async def _ask(self, now: float) -> None:
        """Read the rows of slots that are late; resubmit those whose row the server lost."""
        if not self.queue.store.keeps_rows:
            return  # there is nobody to ask
        late = [s for s in self._slots.values() if now - s.opened_at > (_SHARED_LATE if s.is_shared else _LATE)]
        empty: dict[str, bool] = {}  # by agent, as asked in this round
        for start in range(0, len(late), _TURN):
            part = late[start : start + _TURN]
            for slot, row in zip(part, await self.queue.store.read([s.task.task_id for s in part]), strict=True):
                if not slot.is_open:
                    continue
                slot.opened_at = now  # asked: not again before it is late again
                if row is None:
                    slot.task = replace(slot.task, is_new=False)  # or not begun yet: from now on it has a row
                    self._declared.discard(self.queue.topics.mailbox_of(slot.task.topic))
                    self._outbox.append(slot)
                elif row.result is not None:
                    self._ring(row.result)
                    if slot.task.task_id in self._slots:  # the truth itself cannot be read: waiting would not mend it
                        self._drop(slot)
                        slot.fail(BadEnvelope(problem=f"the stored result of task {slot.task.task_id} is not readable"))
                elif await self._is_orphaned(slot, row, now, empty):
                    self._outbox.append(slot)
        if self._outbox:
            self._flush()

    async def _is_orphaned(self, slot: Slot, row: Row, now: float, empty: dict[str, bool]) -> bool:
        """Whether a row waits for a message that its broker lost; another one is harmless, so long as they are few."""
        agent = self.queue.topics.mailbox_of(slot.task.topic)
        if row.state is State.QUEUED and agent not in empty:
            empty[agent] = await self.queue.is_empty(agent)
        if row.state is not State.QUEUED or not empty[agent]:
            slot.orphaned_at = None
            return False
        if slot.orphaned_at is None:
            slot.orphaned_at = now
        if now - slot.orphaned_at < _ORPHANED:
            return False
        slot.orphaned_at = None
        logger.warning("the message of task {} is gone; it is published again", slot.task.task_id)
        return True
