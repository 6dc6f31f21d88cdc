"""Everything that runs in one worker: begins attempts, concludes them, and ends them when told to.

One task of the event loop per attempt. What an attempt's end means is asked of
`murmur.outcome`, put into bytes by `Endings` and written by the `Settler`; this module
connects them, and is the one loop in which a bug of ours may not cost a paid result.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import field, frozen
from loguru import logger

from murmur import stowage
from murmur.actor import Actor
from murmur.envelope import Stowed, TaskMessage
from murmur.errors import ActorBroken, NeedsStore, PayloadTooLarge
from murmur.limits import ENVELOPE_ROOM
from murmur.outcome import Answer, GiveBack, Retry, Start, after_failure, before_start
from murmur.patience import patiently
from murmur.policy import Directive, default_directive
from murmur.publisher import Publisher
from murmur.store import Claim
from murmur.task_queue import Ending, Release, TaskQueue, Work
from murmur.worker.attempt import STUCK_AFTER, Attempt, Deferred, Output, Raised, Stop, Stopped, timed_out
from murmur.worker.endings import Endings
from murmur.worker.guard import Idempotency
from murmur.worker.hooks import Hooks, call
from murmur.worker.host import Host
from murmur.worker.named_door import door_of
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots

_SHOWN_OF_ERROR: Final = 300  # characters in a line of the log

_BROKEN_PAUSE = 1.0  # seconds a task is away whose actor could not be started


def _nobody_listens(_: Attempt) -> None:
    """The end of an attempt interests nobody else."""


@frozen
class Crew:
    """The running attempts of one worker, by task id. `escalated` is set by an error that its actor escalates.

    `on_ended` hears of each attempt that is over; so is one that ignores its cancellation, though its code runs on.
    """

    queue: TaskQueue
    slots: Slots
    settler: Settler
    endings: Endings
    hooks: Hooks
    publisher: Publisher
    idempotency: Idempotency | None = None
    hosts: dict[str, Host] = field(factory=dict)
    running: dict[str, Attempt] = field(factory=dict)
    escalated: asyncio.Event = field(factory=asyncio.Event)
    on_ended: Callable[[Attempt], object] = _nobody_listens
    _doors: dict[str, Host] = field(factory=dict)
    _disowning: set[asyncio.Future[None]] = field(factory=set)

    @property
    def free(self) -> int:
        """How many more tasks may begin."""
        return self.slots.free

    @property
    def broken(self) -> dict[str, str]:
        """Agents that cannot be served now, and why."""
        return {host.entry.name: host.held for host in self.hosts.values() if host.held}

    def room(self) -> Mapping[str, int]:
        """Return how many messages each agent may take now; agents that may take none are left out."""
        free = self.slots.free
        room = {
            name: free if host.room is None else min(host.room, free)
            for name, host in self.hosts.items()
            if host.serves
        }
        return {name: most for name, most in room.items() if most > 0}

    def begin(self, work: Work) -> None:
        """Start an attempt at a granted task."""
        host = self._host_of(work.message)
        attempt = Attempt(work, host, queue=self.queue, slots=self.slots, idempotency=self.idempotency)
        host.running += 1
        self.running[work.message.task_id] = attempt
        has_slot = self.slots.try_enter()
        attempt.on_stuck = self._stuck
        attempt.task = asyncio.get_running_loop().create_task(self._run(attempt, has_slot=has_slot))

    def lose(self, claim_of: object) -> None:
        """A delivery, or a task by its id, is no longer ours: end its attempt, write nothing."""
        for attempt in [self.running.get(claim_of)] if isinstance(claim_of, str) else list(self.running.values()):
            if attempt is not None and (isinstance(claim_of, str) or attempt.claim.delivery is claim_of):
                attempt.stop(Stop.LOST)

    def claims(self) -> list[Claim]:
        """Return the rights this worker holds now."""
        return [attempt.claim for attempt in self.running.values()]

    async def drain(self, within: float) -> None:
        """Let running attempts end for `within` seconds, then give the rest back uncounted."""
        if self.running:
            await asyncio.wait([a.task for a in self.running.values() if a.task], timeout=within)
        await self.stop_all()
        for host in self.hosts.values():
            await host.stop("drain")

    async def stop_all(self) -> None:
        """Give every running task back, uncounted; wait for the attempts to end, but not for ever."""
        tasks = [attempt.task for attempt in self.running.values() if attempt.task]
        for attempt in list(self.running.values()):
            attempt.stop(Stop.DRAIN)
        if tasks:
            await asyncio.wait(tasks, timeout=STUCK_AFTER)
            for attempt in list(self.running.values()):
                self._stuck(attempt)

    def _host_of(self, message: TaskMessage) -> Host:
        """Return the host of a message; one for a name is passed on."""
        host = self.hosts[message.agent]
        if message.key is None or host.actor.named is None:
            return host
        if message.agent not in self._doors:
            self._doors[message.agent] = door_of(host)
        return self._doors[message.agent]

    # -- one attempt ------------------------------------------------------------------------------

    async def _run(self, attempt: Attempt, *, has_slot: bool) -> None:
        try:
            if not has_slot:
                await self.slots.enter()
            await self._attempt(attempt)
        except BaseException as error:  # noqa: BLE001  ours, or a cancel outside user code: the task goes back
            if not isinstance(error, asyncio.CancelledError):
                logger.exception("the worker broke at task {}", attempt.claim.task_id)
            if not attempt.is_stuck:
                self.settler.settle(Release(attempt.claim, _BROKEN_PAUSE))
        finally:
            if not attempt.is_stuck:
                self._over(attempt)

    def _over(self, attempt: Attempt) -> None:
        if self.running.get(attempt.claim.task_id) is attempt:
            del self.running[attempt.claim.task_id]
        attempt.host.running -= 1
        self.slots.leave()
        self.on_ended(attempt)

    def _stuck(self, attempt: Attempt) -> None:
        """It ignores its cancellation: what was to become of its task becomes of it now, whatever the code does."""
        if attempt.is_stuck or self.running.get(attempt.claim.task_id) is not attempt:
            return
        attempt.is_stuck = True
        claim, message = attempt.claim, attempt.message
        logger.error(
            "{} task {} ignores its cancellation ({}); it is concluded, but only the end of its process stops its code",
            message.agent,
            claim.task_id,
            attempt.stop_reason.value if attempt.stop_reason else "asked to end",
        )
        if attempt.stop_reason is Stop.TIMEOUT:
            error = timed_out(claim, message.agent, attempt.limit)
            self.settler.settle(self.endings.failed(claim, message, error, Answer(), duration_ms=attempt.duration_ms))
        elif attempt.stop_reason is Stop.LOST:
            self._disowning.add(disowning := asyncio.ensure_future(self.queue.disown(claim)))
            disowning.add_done_callback(self._disowning.discard)
        else:
            self.settler.settle(Release(claim))
        self._over(attempt)

    async def _attempt(self, attempt: Attempt) -> None:
        claim, message, host = attempt.claim, attempt.message, attempt.host
        decision = before_start(claim, message, host.redelivery, now=time.time())
        if not isinstance(decision, Start):
            self.settler.settle(self.endings.unstarted(claim, message, decision))
            return
        if self.hooks.start:
            await call(self.hooks.start, claim.task_id, message.agent)
        end = await attempt.run(self.publisher)
        if attempt.is_stuck:
            return  # its ending was written long ago
        if isinstance(end, Output):
            await self._completed(attempt, end)
        elif isinstance(end, Deferred):
            self.settler.settle(Release(claim, end.delay))
        elif isinstance(end, Raised):
            await self._raised(attempt, end.error, end.instance)
        else:
            await self._stopped(attempt, end)

    async def _completed(self, attempt: Attempt, end: Output) -> None:
        duration = attempt.duration_ms
        try:
            is_large = len(end.body) > self.queue.inline - ENVELOPE_ROOM
            stowed = await self._stowed(attempt, end.body) if is_large else None
            ending: Ending = self.endings.output(
                attempt.claim, attempt.message, end.body, duration_ms=duration, stowed=stowed
            )
        except (PayloadTooLarge, NeedsStore) as error:
            await self._raised(attempt, error, None)
            return
        self.settler.settle(ending)
        if self.hooks.complete:
            await call(self.hooks.complete, attempt.claim.task_id, attempt.message.agent, duration)

    async def _stowed(self, attempt: Attempt, output: bytes) -> Stowed:
        """Put an output that is too large for its result into the store. It is paid: while that is away, this waits."""
        what = f"the output of {attempt.message.agent}"
        stowed = stowage.reference(self.queue.store, what, attempt.claim.task_id, output)
        await patiently(lambda: stowage.put(self.queue.store, stowed, output))
        return stowed

    async def _raised(self, attempt: Attempt, error: BaseException, instance: Actor[Any, Any] | None) -> None:
        claim, message, host = attempt.claim, attempt.message, attempt.host
        if isinstance(error, ActorBroken):
            self.settler.settle(Release(claim, _BROKEN_PAUSE))
            return
        directive = Directive.RESUME if instance is None else directive_of(instance, error)
        verdict = after_failure(directive, claim, host.redelivery, random=random.random())  # noqa: S311  jitter
        self.settler.settle(self.endings.failed(claim, message, error, verdict, duration_ms=attempt.duration_ms))
        log_failure(claim, message.agent, error, verdict)
        if instance is not None:
            if directive is Directive.RESUME:
                host.give_back(instance)
            else:
                await host.drop(instance, error, message.input)
        if directive is Directive.STOP:
            host.is_stopped = True
            host.on_held(host, "stopped by the directive of an error")
        elif directive is Directive.ESCALATE:
            self.escalated.set()
        if self.hooks.error:
            await call(self.hooks.error, claim.task_id, message.agent, error)

    async def _stopped(self, attempt: Attempt, end: Stopped) -> None:
        if end.why is Stop.TIMEOUT:
            await self._raised(attempt, timed_out(attempt.claim, attempt.host.entry.name, attempt.limit), end.instance)
        elif end.why is Stop.DRAIN:
            self.settler.settle(Release(attempt.claim))
        else:
            logger.info(
                "task {} is no longer ours at token {}; it was ended", attempt.claim.task_id, attempt.claim.token
            )
            await self.queue.disown(attempt.claim)


def directive_of(instance: Actor[Any, Any], error: BaseException) -> Directive:
    """Ask the actor; an answer that is none, or a bug in it, falls back to the default."""
    try:
        answer = instance.decide(error)
    except Exception:  # noqa: BLE001  user code
        logger.exception("decide() of {} failed; the default holds", type(instance).__qualname__)
        return default_directive(error)
    return answer if isinstance(answer, Directive) else default_directive(error)


def log_failure(claim: Claim, agent: str, error: BaseException, verdict: object) -> None:
    """Say in one line what failed, and what follows."""
    if isinstance(verdict, Retry):
        what = f"tried again in {verdict.delay:.1f} s"
    else:
        what = {Answer: "answered with the error", GiveBack: "given back"}.get(type(verdict), "dead-lettered")
    logger.warning(
        "{} task {} attempt {} {}: {}",
        agent,
        claim.task_id,
        claim.attempts,
        what,
        _in_a_line(error),
    )


def _in_a_line(error: BaseException) -> str:
    """Return an error as one line, whatever its text is."""
    text = f"{type(error).__name__}: {error}"
    line = "".join(char if char.isprintable() else " " for char in text[:_SHOWN_OF_ERROR])
    return line if len(text) <= _SHOWN_OF_ERROR else f"{line}…"
