"""One gather in progress: a window of open slots over a lazy source of inputs.

The pump fills the window, waits until something happened, hands over what finished, and
fills again. It never lists the inputs, keeps nothing of a finished slot, and ends every
slot: by its result, by the publisher's own timeout or deadline, or because nobody serves
the agent. What it gives up it cancels on the fleet, except in a named batch.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from attrs import field, frozen
from loguru import logger

from murmur.errors import (
    BrokerUnreachable,
    DuplicateTaskId,
    GaveUp,
    InputError,
    MurmurError,
    NeedsStore,
    NoWorkers,
    OutcomeUnknown,
    PayloadTooLarge,
    SpawnError,
    SpawnLimit,
)
from murmur.presence import Presence
from murmur.publisher import Parking
from murmur.runtime.engine import Engine
from murmur.runtime.inputs import Inputs, Prepared, Stamp
from murmur.runtime.manifest import Manifest
from murmur.runtime.slots import Slot
from murmur.task import AgentResult

_QUIET: Final = 2.5  # seconds without a result until somebody looks who serves the agent
_TOLD_AFTER: Final = 5.0  # seconds nobody serves the agent until the user is told

Finished = tuple[int, AgentResult[Any]]


@frozen
class Terms:
    """How long a batch waits, and for how many at once. Seconds."""

    max_concurrency: int = 100
    timeout: float | None = None
    deadline: float | None = None
    no_workers_after: float = 60.0
    broker: str = ""
    progress: Callable[[int, int, int | None], object] | None = field(default=None)
    parking: Parking | None = None  # of a parent that holds its slot between results


class Batch:
    """See the module's text. Call `next` until it returns nothing, and `close` at the end."""

    def __init__(
        self, engine: Engine, stamp: Stamp, inputs: Inputs, terms: Terms, *, manifest: Manifest | None
    ) -> None:
        self._engine = engine
        self._stamp = stamp
        self._inputs = inputs
        self._terms = terms
        self._manifest = manifest
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Slot] = {}  # by index
        self._ends: deque[tuple[float, Slot]] = deque()  # when each open slot's timeout is over, in order
        self._ready: list[Finished] = []
        self._waker = asyncio.Event()
        self._done = self._failed = 0
        self._is_sealed = manifest is None
        self._deadline = None if terms.deadline is None else self._loop.time() + terms.deadline
        self._heard = self._loop.time()
        self._nobody_since: float | None = None
        self._is_told = False
        self._unserved: NoWorkers | None = None
        self._unlisted: str | None = None  # why the manifest could not be written
        engine.waiters[self] = None

    async def next(self) -> list[Finished]:
        """Return finished slots as soon as there are some, each once, as (index, result); none: all were returned."""
        while True:
            await self._fill()
            if self._ready:
                ready, self._ready = self._ready, []
                return ready
            if self._open or not self._inputs.ended:
                await self._wait()
            elif not self._is_sealed:
                await self._seal()
            else:
                return []

    def close(self) -> None:
        """Stop listening. What is still open is no longer wanted, and cancelled on the fleet."""
        self._engine.waiters.pop(self, None)
        self._inputs.close()
        self._let_go()

    # -- filling ----------------------------------------------------------------------------------

    async def _fill(self) -> None:
        while not self._inputs.ended:
            at = self._inputs.count
            items = self._inputs.take(self._terms.max_concurrency - len(self._open), self._waker)
            if not items:
                return
            prepared = self._prepared(at, items)
            if self._manifest is not None and prepared and self._unlisted is None:
                await self._list(self._manifest, prepared)
            now = self._loop.time()
            for index, one in prepared:
                self._publish(index, one, now)
            if self._ready:
                return

    async def _list(self, manifest: Manifest, prepared: list[tuple[int, Prepared]]) -> None:
        """Have the manifest hold these tasks before they are published. If it can't, none of the batch is any more."""
        try:
            await manifest.check([one.digest for _, one in prepared])
        except (OutcomeUnknown, BrokerUnreachable) as error:
            self._unlisted = str(error)

    def _prepared(self, at: int, items: list[object]) -> list[tuple[int, Prepared]]:
        prepared = []
        for index, item in enumerate(items, start=at):
            try:
                prepared.append((index, self._stamp.prepare(index, item)))
            except (InputError, PayloadTooLarge, NeedsStore, SpawnLimit) as error:
                if at == 0:  # nothing is published yet: the caller's mistake is raised
                    raise
                self._answer(index, "", error)
        return prepared

    def _publish(self, index: int, one: Prepared, now: float) -> None:
        task_id = one.task.task_id
        if self._unlisted is not None:
            problem = f"the manifest of its batch could not be written: {self._unlisted}"
            self._answer(index, task_id, SpawnError(task_id, self._stamp.entry.name, problem, definite=True))
            return
        if self._unserved is not None:
            self._answer(index, task_id, self._unserved)
            return
        if self._deadline is not None and now >= self._deadline:
            self._answer(index, task_id, self._gave_up(task_id, "deadline", self._terms.deadline))
            return
        twin = self._engine.open_slot(task_id)
        if twin is not None and twin.asker is self:
            self._answer(index, task_id, DuplicateTaskId(task_id, twin.index, index))
            return
        slot = Slot(self, self._stamp.entry, index, one.task, opened_at=now)
        self._open[index] = slot
        if self._terms.timeout is not None:
            self._ends.append((now + self._terms.timeout, slot))
        self._engine.submit(slot)

    async def _seal(self) -> None:
        assert self._manifest is not None
        self._is_sealed = True
        if self._unlisted is not None:
            return  # it was not written to its end
        try:
            await self._manifest.seal()
        except (OutcomeUnknown, BrokerUnreachable) as error:  # every slot has its result: that counts more
            logger.warning("the manifest of {} was not sealed: {}", self._stamp.batch_id, error)

    # -- waiting ----------------------------------------------------------------------------------

    async def _wait(self) -> None:
        self._waker.clear()
        ends = self._next_end()
        timer = None if ends is None else self._loop.call_at(ends, self._waker.set)
        try:
            if self._terms.parking is None:
                await self._waker.wait()
            else:
                async with self._terms.parking.parked():
                    await self._waker.wait()
        finally:
            if timer is not None:
                timer.cancel()
        if ends is not None:
            self._end_what_is_over(self._loop.time())

    def _next_end(self) -> float | None:
        while self._ends and not self._ends[0][1].is_open:
            self._ends.popleft()
        ends = [self._ends[0][0]] if self._ends else []
        if self._deadline is not None:
            ends.append(self._deadline)
        return min(ends, default=None)

    def _end_what_is_over(self, now: float) -> None:
        over: list[Slot] = []
        while self._ends and (self._ends[0][0] <= now or not self._ends[0][1].is_open):
            over.append(self._ends.popleft()[1])
        self._give_up([s for s in over if s.is_open], "timeout", self._terms.timeout)
        if self._deadline is not None and now >= self._deadline:
            self._give_up(list(self._open.values()), "deadline", self._terms.deadline)

    def _give_up(self, slots: list[Slot], which: str, after: float | None) -> None:
        if not slots:
            return
        for slot in slots:
            self._engine.forget(slot)
            task_id = slot.task.task_id
            error = (
                self._no_workers((), self._loop.time()) if self._nobody_since else self._gave_up(task_id, which, after)
            )
            self._answer(slot.index, task_id, error)
        self._cancel(slots, f"its publisher's {which} of {after:g} s was over")

    # -- what happens -----------------------------------------------------------------------------

    def finished(self, slot: Slot, result: AgentResult[Any]) -> None:
        """A slot has its result."""
        self._open.pop(slot.index, None)
        self._heard = self._loop.time()
        self._nobody_since = None
        self._record(slot.index, result)

    def is_waiting(self, now: float) -> bool:
        """Whether nothing was heard for a while."""
        return bool(self._open or self._unserved) and now - self._heard > _QUIET

    def looked(self, now: float, notes: tuple[Presence, ...]) -> None:
        """Somebody looked who serves what: tell the user, and at last give up, if nobody serves our agent."""
        if any(self._stamp.entry.name in note.agents for note in notes):
            self._nobody_since = self._unserved = None
            return
        self._nobody_since = self._nobody_since or self._heard
        waited = now - self._nobody_since
        error = self._no_workers(notes, now)
        if waited >= _TOLD_AFTER and not self._is_told:
            self._is_told = True
            sys.stderr.write(f"{error.code} {error}\n")
        limit = self._terms.timeout if self._terms.timeout is not None else self._terms.no_workers_after
        if waited >= limit and self._open:
            self._unserved = error
            slots = list(self._open.values())
            for slot in slots:
                self._engine.forget(slot)
                self._answer(slot.index, slot.task.task_id, error)
            self._cancel(slots, "nobody served its agent")

    def _answer(self, index: int, task_id: str, error: MurmurError) -> None:
        """Fill a slot with an error of ours."""
        self._open.pop(index, None)
        self._record(index, AgentResult(task_id=task_id, agent_name=self._stamp.entry.name, error=error))

    def _record(self, index: int, result: AgentResult[Any]) -> None:
        self._ready.append((index, result))
        self._waker.set()
        if result.error is None:
            self._done += 1
        else:
            self._failed += 1
        if self._terms.progress is not None:
            self._terms.progress(self._done, self._failed, self._inputs.total)

    def _let_go(self) -> None:
        """The caller stopped listening, or was cancelled: what is open is no longer wanted."""
        slots = list(self._open.values())
        self._open.clear()
        for slot in slots:
            self._engine.forget(slot)
        self._cancel(slots, "its publisher was cancelled")

    def _cancel(self, slots: Iterable[Slot], why: str) -> None:
        slots = list(slots)
        if slots and not self._stamp.keep and not self._stamp.is_repeatable:
            self._engine.in_background(self._engine.cancel(slots, why))

    def _gave_up(self, task_id: str, which: str, after: float | None) -> GaveUp:
        return GaveUp(task_id=task_id, agent=self._stamp.entry.name, which=which, after=after or 0.0)

    def _no_workers(self, notes: tuple[Presence, ...], now: float) -> NoWorkers:
        return NoWorkers(
            agent=self._stamp.entry.name,
            broker=self._terms.broker,
            waited=now - (self._nobody_since or now),
            seen=tuple(str(note) for note in notes),
        )
