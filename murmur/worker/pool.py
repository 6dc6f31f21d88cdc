"""The worker processes of a node: who gets which task, and what a death means for those it had in hand.

A process that was killed from outside makes nobody suspect: its tasks are given back, uncounted. One that died of
itself (a segfault, an abort, memory, an odd exit) or was killed because it hung had tasks in hand of which one is to
blame: alone, the task is, and its crash is counted; several are suspects, which run one by one in a process of their
own until each is cleared or dies alone. See docs/explanation/guarantees.md.
"""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

from attrs import define, field
from loguru import logger

from murmur.envelope import ErrorNote, decode_result
from murmur.errors import TaskFailed
from murmur.idempotency import IdempotencyHook
from murmur.patience import patiently
from murmur.policy import Redelivery
from murmur.store import Claim, Failure
from murmur.task_queue import Ending, Release, TaskQueue, Work
from murmur.transport import Delivery
from murmur.worker import wire
from murmur.worker.hooks import Hooks, call
from murmur.worker.inside import Setting, work
from murmur.worker.seat import Seat, settled
from murmur.worker.settler import Settler
from supervisors import ChildContext, ChildSpec, Exceeded, Intensity, Isolation, Strategy, SupervisorSpec, Watchdog
from supervisors.events import ChildExited, ChildStopped, EventStream
from supervisors.process import Link
from supervisors.reasons import ExitReason, Killed, Normal, Stopped

WATCHDOG: Final = Watchdog()
_WAIT: Final = 5.0  # seconds one read of the mailboxes waits
_OUTSIDE: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_SUSPECTS_KEPT: Final = 10_000


@define(eq=False)
class Pool:
    """`count` worker processes below one supervisor, and the seats of those that live."""

    queue: TaskQueue
    settler: Settler
    hooks: Hooks
    setting: Setting
    count: int
    redelivery: Mapping[str, Redelivery]
    idempotency: IdempotencyHook | None = None
    seats: dict[int, Seat] = field(factory=dict)  # by pid
    _pids: dict[tuple[str, int], int] = field(factory=dict)  # by child and incarnation
    _reading: asyncio.Lock = field(factory=asyncio.Lock)
    _suspects: dict[str, None] = field(factory=dict)  # task ids, oldest first
    _apart: deque[Work] = field(factory=deque)  # suspects that wait for a process of their own
    _draining: asyncio.Event = field(factory=asyncio.Event)
    _read: asyncio.Future[Any] | None = None  # of the mailboxes, at this moment
    _hooks_running: set[asyncio.Task[None]] = field(factory=set)

    def spec(self) -> SupervisorSpec:
        """Return the supervisor of the processes."""
        return SupervisorSpec(
            strategy=Strategy.ONE_FOR_ONE,
            intensity=Intensity(max_restarts=max(20, 4 * self.count), period=10.0),
            exceeded=Exceeded.PAUSE,
            pause=5.0,
            children=[
                ChildSpec(
                    id=f"process-{number}",
                    start=work,
                    args=(self.setting,),
                    isolation=Isolation.PROCESS,
                    peer=self._sit,
                    watchdog=WATCHDOG,
                    shutdown=2.0,
                )
                for number in range(1, self.count + 1)
            ],
        )

    async def listen(self, events: EventStream) -> None:
        """Hear how processes end, and decide what becomes of what they had in hand."""
        async for event in events:
            match event:
                case ChildExited() | ChildStopped():
                    self._died(self._pids.pop((event.child, event.incarnation), 0), event.reason)

    # -- work -------------------------------------------------------------------------------------

    async def work_for(self, seat: Seat, room: dict[str, int], credit: int) -> list[wire.Given]:
        """Wait for tasks for a process; one process at a time reads."""
        async with self._reading:
            if self._draining.is_set() or seat.is_alone or credit <= 0:
                return []
            if self._apart and seat is min(self.seats.values(), key=lambda one: len(one.claims)):
                if seat.claims:
                    return []  # it takes no more, and when it is empty one of those
                seat.is_alone = True
                return self._started(seat, [self._apart.popleft()])
            work = await self._taken(room, credit)
            self._apart += [one for one in work if one.claim.task_id in self._suspects]
            clear = [one for one in work if one.claim.task_id not in self._suspects]
            if seat.link.pid in self.seats:
                return self._started(seat, clear)
            self._release(clear)  # it died while we read
            return []

    async def _taken(self, room: dict[str, int], credit: int) -> Sequence[Work]:
        """Read the mailboxes and have what came granted. A drain ends the wait."""
        reading = self._read = asyncio.ensure_future(
            patiently(lambda: self.queue.receive(room, credit=credit, wait=_WAIT))
        )
        try:
            deliveries = await reading
        except asyncio.CancelledError:
            reading.cancel()
            reading.add_done_callback(self._brought_back)  # what came in the same instant is nobody's yet
            if self._draining.is_set() and reading.cancelled():
                return ()
            raise
        if not deliveries:
            return ()
        granted = self.queue.granted(deliveries)
        if granted is not None:
            return granted
        granting = asyncio.ensure_future(patiently(lambda: self.queue.grant(deliveries)))
        try:
            return await asyncio.shield(granting)
        except asyncio.CancelledError:
            granting.add_done_callback(self._given_back)
            raise

    def _brought_back(self, reading: "asyncio.Future[Sequence[Delivery]]") -> None:
        if reading.cancelled() or reading.exception() is not None or not (deliveries := reading.result()):
            return
        granted = self.queue.granted(deliveries)
        if granted is not None:
            self._release(granted)
            return
        granting = asyncio.ensure_future(patiently(lambda: self.queue.grant(deliveries)))
        granting.add_done_callback(self._given_back)

    def _given_back(self, granting: "asyncio.Future[Sequence[Work]]") -> None:
        if not granting.cancelled() and granting.exception() is None:
            self._release(granting.result())

    def _release(self, work: Sequence[Work]) -> None:
        for one in work:
            self.settler.settle(Release(one.claim))

    def _started(self, seat: Seat, work: Sequence[Work]) -> list[wire.Given]:
        for one in work if self.hooks.start else ():
            self._hook(call(self.hooks.start, one.claim.task_id, one.message.agent))
        return seat.give(work)

    def ended(self, claim: Claim, one: wire.Ended) -> None:
        """A process said how an attempt ended: write it."""
        self._suspects.pop(claim.task_id, None)
        if one.kind == "disown":
            self._hook(self.queue.disown(claim))
            return
        ending: Ending = wire.ending_of(one, claim)
        self.settler.settle(ending)
        agent = self.queue.topics.agent_of(claim.delivery.topic)
        if one.kind == "complete" and (self.hooks.complete or self.hooks.error):
            result = decode_result(one.result)
            if result.success:
                self._hook(call(self.hooks.complete, claim.task_id, agent, result.duration_ms))
            else:
                error = TaskFailed(claim.task_id, agent, result.error_type or "", result.error_message or "")
                self._hook(call(self.hooks.error, claim.task_id, agent, error))
        elif one.error is not None and self.hooks.error:
            error = TaskFailed(claim.task_id, agent, one.error.error_type, one.error.message)
            self._hook(call(self.hooks.error, claim.task_id, agent, error))

    def lose(self, claim_of: object) -> None:
        """A delivery, or a task by its id, is no longer ours: take it from whoever has it."""
        for waiting in [one for one in self._apart if claim_of in (one.claim.delivery, one.claim.task_id)]:
            self._apart.remove(waiting)
        for seat in self.seats.values():
            for held in list(seat.claims.values()):
                if claim_of in (held.claim.delivery, held.claim.task_id):
                    seat.lose(held.claim)

    async def renew(self) -> None:
        """Renew what is in hand, where the store does not do so by itself."""
        claims = [work.claim for seat in self.seats.values() for work in seat.claims.values()]
        claims += [work.claim for work in self._apart]
        if not claims:
            return
        for claim, is_ours in zip(claims, await patiently(lambda: self.queue.store.renew(claims)), strict=True):
            if not is_ours:
                self.lose(claim.delivery)
                await self.queue.disown(claim)

    @property
    def running(self) -> int:
        """Tasks in hand of all processes."""
        return sum(len(seat.claims) for seat in self.seats.values())

    async def drain(self, seconds: float) -> None:
        """Have all processes drain, and give back what they do not end."""
        self._draining.set()
        if self._read is not None:
            self._read.cancel()
        self._release(self._apart)
        self._apart.clear()
        await asyncio.gather(*(settled(seat, seconds) for seat in list(self.seats.values())))
        self.give_all_back()

    def give_all_back(self) -> None:
        """Give back whatever a process has in hand, uncounted."""
        for seat in self.seats.values():
            held, seat.claims = list(seat.claims.values()), {}
            self._release(held)

    # -- processes --------------------------------------------------------------------------------

    async def _sit(self, ctx: ChildContext, link: Link) -> None:
        child = ctx.id.removesuffix(".peer")
        for one, incarnation in [place for place in self._pids if place[0] == child]:
            self._died(self._pids.pop((one, incarnation)), Killed())  # whose end nobody heard of
        self._pids[child, ctx.incarnation] = link.pid
        seat = self.seats[link.pid] = Seat(self, link)
        await seat.serve()

    def _died(self, pid: int, reason: ExitReason) -> None:
        seat = self.seats.pop(pid, None)
        if seat is None:
            return
        held, seat.claims = list(seat.claims.values()), {}
        if isinstance(reason, Normal | Stopped) or (isinstance(reason, Killed) and reason.signal in (0, *_OUTSIDE)):
            self._release(held)
        elif len(held) == 1:
            logger.error("task {} crashed its process: {}", held[0].claim.task_id, reason)
            self._crashed(held[0], reason)
        else:
            logger.error("a worker process {}; {} tasks it had in hand run one by one", reason, len(held))
            for one in held:
                self._suspects[one.claim.task_id] = None
            while len(self._suspects) > _SUSPECTS_KEPT:
                del self._suspects[next(iter(self._suspects))]
            self._release(held)

    def _crashed(self, work: Work, reason: ExitReason) -> None:
        claim = work.claim
        note = ErrorNote(
            attempt=claim.attempts,
            error_type=type(reason).__name__,
            message=f"its process {reason}",
            at=time.time(),
            worker_id=self.setting.worker_id,
        )
        redelivery = self.redelivery.get(work.message.agent, Redelivery())
        self.settler.settle(Failure(claim, redelivery.backoff.delay(claim.crashes, random=0.5), note, crashed=True))

    def _hook(self, running: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(running)
        self._hooks_running.add(task)
        task.add_done_callback(self._hooks_running.discard)
