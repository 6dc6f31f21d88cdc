"""A pool of worker processes: who gets which task, and what a death means for those a process had in hand.

A task goes to the process that has the least to do. What a death means is told by `death`; suspects run in a spare
process, one at a time, until each is cleared or dies alone. See docs/explanation/guarantees.md.
"""

import asyncio
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from attrs import define, field
from loguru import logger

from murmur.envelope import ErrorNote
from murmur.policy import Redelivery
from murmur.registry import AnyActor
from murmur.store import Claim, Failure
from murmur.task_queue import Ending, Release, TaskQueue, Work
from murmur.worker import wire
from murmur.worker.death import Blame, blame, deaths, exit_of, is_of_itself, is_suspect
from murmur.worker.desk import Desk
from murmur.worker.early import EarlyEnds
from murmur.worker.echo import echo
from murmur.worker.endings import Endings
from murmur.worker.hooks import Hooks, call, call_ended
from murmur.worker.inside import work
from murmur.worker.named_pins import Pins
from murmur.worker.seat import Seat
from murmur.worker.setting import Keeping, Setting
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots
from murmur.worker.spares import PREFIX, Spares
from supervisors import (
    ChildContext,
    ChildSpec,
    Exceeded,
    Intensity,
    Isolation,
    Output,
    Restart,
    Supervisor,
    SupervisorSpec,
)
from supervisors.process import Link
from supervisors.reasons import ExitReason, Killed

_BYSTANDER: Final = 2  # deaths beside which a task may stand before it is itself in doubt
_BYSTANDERS_KEPT: Final = 10_000
_UNHEARD: Final = 5.0  # seconds after a process fell silent its end must have been heard
_STACK_KEPT: Final = 16_384  # characters of the stacks in a dead letter


@define(eq=False)
class Pool:
    """`count` worker processes below one supervisor, for the agents of `setting`. `on_room`: there may be room now."""

    id: str  # of its supervisor
    queue: TaskQueue
    settler: Settler
    slots: Slots  # of the whole node
    endings: Endings
    hooks: Hooks
    desk: Desk
    setting: Setting
    keeping: Keeping
    count: int
    concurrency: int  # of all its processes together
    redelivery: Mapping[str, Redelivery]
    on_room: Callable[[], object]
    supervisor: Callable[[], Supervisor | None]
    seats: dict[int, Seat] = field(factory=dict)  # by pid
    stopped: dict[str, str] = field(factory=dict)  # agents that nobody serves any more, and why
    _running: Counter[str] = field(factory=Counter)  # tasks in hand, by agent
    _pids: dict[tuple[str, int], int] = field(factory=dict)  # by path and incarnation
    _apart: deque[Work] = field(factory=deque)  # suspects that wait for a process of their own
    _beside: Counter[str] = field(factory=Counter)  # deaths beside which a task stood, by task id
    _spares: Spares = field(init=False)
    pins: Pins = field(init=False)
    early: EarlyEnds = field(init=False)
    _is_draining: bool = False
    _hooks_running: set[asyncio.Task[None]] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.pins = Pins(self)
        self.early = EarlyEnds(self.count)
        self._spares = Spares(self._spare, self.supervisor, lambda: bool(self._apart) and not self._is_draining)

    def spec(self) -> SupervisorSpec:
        """Return the supervisor of the processes.

        Most deaths are a task's, or an operator's, and must not stop the others' work: three a second of each process
        are those. Only what dies faster than that has its fault in the process itself, and is paused.
        """
        return SupervisorSpec(
            intensity=Intensity(max_restarts=30 * max(self.count, 2), period=10.0),
            exceeded=Exceeded.PAUSE,
            pause=5.0,
            children=[self._process(f"process-{number}") for number in range(1, self.count + 1)],
        )

    # -- a place for tasks ------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more tasks its processes may get now."""
        if self._is_draining or len(self._apart) > self.concurrency:
            return 0
        return min(sum(seat.free for seat in self.seats.values()), self.slots.free)

    def room(self) -> Mapping[str, int]:
        """Return how many messages each agent may take now; agents that may take none are left out."""
        if not (most := self.free):
            return {}
        room = {name: min(most, self._room_of(name, actor)) for name, actor in self.setting.agents.items()}
        return {name: count for name, count in room.items() if count > 0}

    def begin(self, work: Work) -> None:
        """Give a granted task to a process. One that nobody can take any more goes back to the broker."""
        if is_suspect(work.claim.errors):
            self._apart.append(work)
            self._next_suspect()
            return
        seats = [seat for seat in self.seats.values() if seat.free and work.message.agent not in seat.held]
        if not seats or self._is_draining:
            self.settler.settle(Release(work.claim))
            return
        self.give(min(seats, key=lambda seat: len(seat.in_hand)), work)

    def lose(self, claim_of: object) -> None:
        """A delivery, or a task by its id, is no longer ours: take it from whoever has it."""
        for waiting in [one for one in self._apart if claim_of in (one.claim.delivery, one.claim.task_id)]:
            self._apart.remove(waiting)
            self.disown(waiting)
            self.pins.over(waiting, is_back=False)
        for seat in self.seats.values():
            for claim in seat.claims():
                if claim_of in (claim.delivery, claim.task_id):
                    seat.lose(claim)

    def claims(self) -> list[Claim]:
        """Return the rights to all it has."""
        held = [claim for seat in self.seats.values() for claim in seat.claims()]
        return held + [one.claim for one in self._apart]

    @property
    def running(self) -> int:
        """Tasks in hand of all processes."""
        return sum(len(seat.in_hand) for seat in self.seats.values())

    @property
    def broken(self) -> dict[str, str]:
        """Agents that none of its processes can serve now, and why."""
        seats = list(self.seats.values())
        nowhere = [agent for agent in self.setting.agents if seats and all(agent in seat.held for seat in seats)]
        return {agent: seats[0].held[agent] for agent in nowhere} | self.stopped

    async def drain(self, seconds: float) -> None:
        """Have all processes drain, and give back what they do not end."""
        self._is_draining = True
        self._spares.close()
        self._release(self._apart)
        for one in self._apart:
            self.pins.over(one, is_back=True)
        self._apart.clear()
        await asyncio.gather(*(seat.drain(seconds) for seat in list(self.seats.values())))
        await self.stop_all()

    async def stop_all(self) -> None:
        """Give back whatever a process has in hand, uncounted."""
        self._spares.close()
        for seat in self.seats.values():
            self._release(self._emptied(seat))

    # -- what seats say ---------------------------------------------------------------------------

    def ended(self, work: Work, one: wire.Ended) -> None:
        """A process said how an attempt ended: write it."""
        claim, agent = work.claim, work.message.agent
        self._running[agent] -= 1
        self.early.worked()
        self._beside.pop(claim.task_id, None)
        if one.kind == "disown":
            self.disown(work)
            self.over(work)
            return
        ending: Ending = wire.ending_of(one, claim)
        self.settler.settle(ending)
        self.over(work, is_back=one.kind == "release")
        if self.hooks.complete or self.hooks.error:
            self._aside(call_ended(self.hooks, claim.task_id, agent, result=one.result, error=one.error))

    def over(self, work: Work, *, is_back: bool = False) -> None:
        """A task is in no process's hand any more."""
        self.pins.over(work, is_back=is_back)

    def disown(self, work: Work) -> None:
        """Let go of the message of a task that is no longer ours."""
        self._aside(self.queue.disown(work.claim))

    def has_room(self, agent: str) -> bool:
        """Whether one more task of an agent may run, as far as its class is concerned."""
        return self._room_of(agent, self.setting.agents[agent]) > 0

    def can_serve(self, agent: str) -> bool:
        """Whether any of its processes can serve an agent now."""
        return agent not in self.broken

    def changed(self) -> None:
        """A process has room, or is idle."""
        self._next_suspect()
        self.pins.stir()
        self.on_room()

    def held(self, seat: Seat, one: wire.Held) -> None:
        """An agent cannot be served by a process now, or can again."""
        if one.why is None:
            seat.held.pop(one.agent, None)
        else:
            seat.held[one.agent] = one.why
            logger.error("worker process {} does not serve {} now: {}", seat.link.pid, one.agent, one.why)
        if one.for_good and one.why is not None:
            self.stopped[one.agent] = one.why
        self.on_room()

    def died(self, path: str, incarnation: int, reason: ExitReason) -> None:
        """A child of the tree ended: if it was a process of this pool, decide what becomes of what it had in hand."""
        seat = self.seats.pop(self._pids.pop((path, incarnation), 0), None)
        if is_of_itself(reason) and (seat is None or not seat.in_hand) and self._is_ours(path):
            age, pid = (0.0, 0) if seat is None else (time.monotonic() - seat.began, seat.link.pid)
            self.early.ended(reason, pid=pid, age=age, alive=self.seats)
        if seat is None:
            return
        held = {work.claim.task_id: work for work in self._emptied(seat)}
        verdict = self._blamed(reason, held)
        if verdict != Blame():
            logger.error("worker process {} {}; it had {} tasks in hand", seat.link.pid, reason, len(held))
        for task_id, one in held.items():
            if task_id == verdict.guilty:
                self._crashed(one, reason)
            elif task_id in verdict.suspects:
                note = self._note(one, reason, suspect=True)
                self.settler.settle(Failure(one.claim, 0.0, note, is_suspect=True))
            else:
                self.settler.settle(Release(one.claim))
        self.changed()

    # -- processes --------------------------------------------------------------------------------

    def _process(self, name: str, *, restart: Restart = Restart.PERMANENT) -> ChildSpec:
        return ChildSpec(
            id=name,
            start=work,
            args=(self.setting,),
            restart=restart,
            isolation=Isolation.PROCESS,
            peer=self._sit,
            watchdog=self.keeping.watchdog,
            limits=self.keeping.confined(os.environ),
            output=Output(to=echo),
            shutdown=2.0,
        )

    def _is_ours(self, path: str) -> bool:
        """Whether this is the path of a process that is always kept."""
        above, _, name = path.rpartition("/")
        return above.endswith(f"/{self.id}") and not name.startswith(PREFIX)

    def _spare(self, name: str) -> ChildSpec:
        return self._process(name, restart=Restart.TEMPORARY)

    async def _sit(self, ctx: ChildContext, link: Link) -> None:
        path = ctx.path.removesuffix(".peer")
        for before in [place for place in self._pids if place[0] == path]:
            self.died(*before, Killed())  # whose end nobody heard of
        self._pids[path, ctx.incarnation] = link.pid
        is_spare = path.rpartition("/")[2].startswith(PREFIX)
        share = math.ceil(self.concurrency / self.count)
        seat = self.seats[link.pid] = Seat(self, link, self.desk, share, is_spare)
        self.changed()
        try:
            await seat.serve()
        finally:  # its end is an event; should that be lost, nobody else would take from it what it had
            asyncio.get_running_loop().call_later(_UNHEARD, self.died, path, ctx.incarnation, Killed())

    # -- inside -----------------------------------------------------------------------------------

    def _room_of(self, name: str, actor: AnyActor) -> int:
        if name in self.stopped or all(name in seat.held for seat in self.seats.values() if seat.free):
            return 0
        return self.concurrency if actor.concurrency is None else actor.concurrency - self._running[name]

    def give(self, seat: Seat, one: Work) -> None:
        """Have a process begin a task."""
        self.slots.take()
        self._running[one.message.agent] += 1
        if self.hooks.start:
            self._aside(call(self.hooks.start, one.claim.task_id, one.message.agent))
        seat.give(one)

    def _next_suspect(self) -> None:
        if self._apart:
            idle = next((one for one in self.seats.values() if one.is_spare and not one.in_hand), None)
            if idle is not None and not idle.is_closed:
                self.give(idle, self._apart.popleft())
        self._spares.stir()

    def _emptied(self, seat: Seat) -> list[Work]:
        for one in seat.in_hand.values():
            self._running[one.message.agent] -= 1
            if one.claim.task_id in seat.lost:
                self._aside(self.queue.disown(one.claim))  # it cannot say so itself any more
        gone = list(seat.in_hand.values())
        asyncio.get_running_loop().call_soon(self._gone, gone)  # behind what becomes of them, in the same write
        return seat.emptied()

    def _gone(self, works: Iterable[Work]) -> None:
        for one in works:
            self.pins.over(one, is_back=True)
        self.pins.stir()

    def _blamed(self, reason: ExitReason, held: Mapping[str, Work]) -> Blame:
        """Blame as `death` does, but doubt whoever stood beside too many deaths, too: it may have been he."""
        verdict = blame(reason, held, at=getattr(reason, "note", ""))
        if verdict == Blame() or verdict.suspects == held.keys():
            return verdict
        for task_id in held:
            self._beside[task_id] += 1
        while len(self._beside) > _BYSTANDERS_KEPT:
            del self._beside[next(iter(self._beside))]
        doubted = {task_id for task_id in held if self._beside[task_id] >= _BYSTANDER} - {verdict.guilty}
        return Blame(verdict.guilty, verdict.suspects | doubted)

    def _crashed(self, one: Work, reason: ExitReason) -> None:
        claim, message = one.claim, one.message
        redelivery = self.redelivery.get(message.agent, Redelivery())
        note = self._note(one, reason)
        logger.error("task {} took its process with it: {}", claim.task_id, reason)
        if deaths(claim) + 1 >= redelivery.max_crashes:
            self.settler.settle(self.endings.wrecked(claim, message, note, deaths=deaths(claim) + 1))
        else:
            delay = redelivery.backoff.delay(claim.crashes, random=0.5)
            self.settler.settle(Failure(claim, delay, note, crashed=True))

    def _note(self, one: Work, reason: ExitReason, *, suspect: bool = False) -> ErrorNote:
        actor = self.setting.agents[one.message.agent]
        stacks: str = getattr(reason, "stacks", "")
        return ErrorNote(
            attempt=one.claim.attempts,
            error_type=type(reason).__name__,
            message=f"its process {reason}",
            at=time.time(),
            worker_id=self.setting.worker_id,
            suspect=suspect,
            exit=exit_of(reason),
            handler=f"{actor.__module__}:{actor.__qualname__}.receive",
            stack=stacks[-_STACK_KEPT:] or None,
        )

    def _release(self, works: Iterable[Work]) -> None:
        for one in works:
            self.settler.settle(Release(one.claim))

    def _aside(self, running: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(running)
        self._hooks_running.add(task)
        task.add_done_callback(self._hooks_running.discard)
