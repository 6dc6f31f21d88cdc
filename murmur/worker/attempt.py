"""One attempt at one task: structure the input, let the actor work, and say how it ended.

Whatever user code does ends here in a value: an output, an error of any kind, a stray
cancellation, an exit. Only the worker's own reasons to stop (`Stop`) are told apart, by what
was noted before the cancel, never by what came back.
"""

import asyncio
import enum
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from msgspec import Raw, json

from murmur import stowage
from murmur.actor import Actor
from murmur.codec import Misfit
from murmur.context import Context
from murmur.envelope import TaskMessage, digest
from murmur.errors import IdempotencyConflict, InputError, OutputError, TaskTimeout
from murmur.idempotency import Conflict, Duplicate, Run, Token
from murmur.patience import patiently
from murmur.publisher import Parent, Publisher
from murmur.store import Claim
from murmur.task_queue import TaskQueue, Work
from murmur.worker.guard import Guard, Idempotency
from murmur.worker.host import Host
from murmur.worker.slots import Slots

_LOOK: Final = 0.25  # seconds, doubled with each look at work that somebody else does
STUCK_AFTER: Final = 5.0  # seconds after its cancellation an attempt is taken for one that ignores it
_UNASKED: Final = 1.0  # seconds until a hook that did not answer is asked again


class Stop(enum.Enum):
    """Why a worker ends an attempt that has not ended by itself."""

    TIMEOUT = "timeout"  # the attempt's own clock
    LOST = "lost"  # another worker owns the task, or it was cancelled
    DRAIN = "drain"  # the worker goes, or its actors are restarted


class Output:
    """The attempt returned this, encoded."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


class Raised:
    """The attempt raised, and its actor, if it came to that, said what it means."""

    __slots__ = ("error", "instance")

    def __init__(self, error: BaseException, instance: Actor[Any, Any] | None) -> None:
        self.error = error
        self.instance = instance


class Deferred:
    """Nothing ran: the work under its idempotency key is somebody else's now, or nobody could be asked whose it is."""

    __slots__ = ("delay",)

    def __init__(self, delay: float) -> None:
        self.delay = delay  # seconds until it is worth another look


class Stopped:
    """The worker ended it."""

    __slots__ = ("instance", "why")

    def __init__(self, why: Stop, instance: Actor[Any, Any] | None) -> None:
        self.why = why
        self.instance = instance


End = Output | Raised | Stopped | Deferred


class StrayCancellation(RuntimeError):
    """User code let a cancellation escape that nobody of ours had asked for."""

    def __init__(self) -> None:
        super().__init__("the actor was cancelled from inside: a task or scope it awaited was cancelled")


class Attempt:
    """A running attempt. Also the `Journal` and the `Parking` its actor reaches through its context."""

    __slots__ = (
        "_clock_left",
        "_clock_since",
        "_guard",
        "_idempotency",
        "_queue",
        "_slots",
        "_timer",
        "began",
        "host",
        "is_stuck",
        "on_stuck",
        "parent",
        "stop_reason",
        "task",
        "work",
    )

    def __init__(
        self, work: Work, host: Host, *, queue: TaskQueue, slots: Slots, idempotency: Idempotency | None = None
    ) -> None:
        self.work = work
        self.host = host
        self.task: asyncio.Task[None] | None = None
        self.stop_reason: Stop | None = None
        self.on_stuck: Callable[[Attempt], object] | None = None
        self.is_stuck = False  # it went on after it was cancelled, and its task without it
        self.began = time.perf_counter()
        self._queue = queue
        self._slots = slots
        self._idempotency = idempotency
        self._guard: Guard | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._clock_left: float | None = None
        self._clock_since = 0.0
        message = work.message
        self.parent = Parent(
            task_id=message.task_id,
            root_id=message.root_id or message.task_id,
            depth=message.depth,
            headers=message.headers,
            parking=self,
        )

    @property
    def claim(self) -> Claim:
        """The right to run it."""
        return self.work.claim

    @property
    def message(self) -> TaskMessage:
        """The task."""
        return self.work.message

    @property
    def duration_ms(self) -> int:
        """How long it has been running, milliseconds."""
        return int((time.perf_counter() - self.began) * 1000)

    @property
    def limit(self) -> float | None:
        """Seconds it may take: its task's own limit, or its agent's."""
        return self.message.timeout if self.message.timeout is not None else self.host.actor.timeout

    def stop(self, why: Stop) -> None:
        """End it from outside; the first reason counts."""
        if self.stop_reason is None and self.task is not None:
            self.stop_reason = why
            self.task.cancel()
            if self.on_stuck is not None:
                asyncio.get_running_loop().call_later(STUCK_AFTER, self.on_stuck, self)

    async def run(self, publisher: Publisher) -> End:
        """Run it to its end; never raises."""
        instance: Actor[Any, Any] | None = None
        try:
            if (stowed := self.message.stowed) is not None:
                self.message.input = Raw(await stowage.fetched(self._queue.store, stowed, within=math.inf))
            value = self._input()
            instance = await self.host.instance()
            key = self.message.idempotency_key or instance.idempotency_key(value) or self.claim.task_id
            if self._idempotency is not None and (known := await self._claimed(self._idempotency, key)) is not None:
                self.host.give_back(instance)
                return known
            instance.context = self._context(publisher, key)
            self._start_clock(self.limit)
            output = await instance.receive(value)
            self._stop_clock()
            body = self._encoded(output)
            if self._guard is not None:
                kept = await self._guard.kept(body)
                self._guard = None
                if kept is None:
                    self.host.give_back(instance)
                    return Deferred(0.0)
                body = kept
        except BaseException as error:  # noqa: BLE001  user code: everything it raises becomes a value
            self._stop_clock()
            end = self._ended(error, instance)
            if self._guard is not None:
                await self._guard.abandon()
            return end
        if self.stop_reason is not None and self.stop_reason is not Stop.DRAIN:
            return Stopped(self.stop_reason, instance)  # it swallowed the cancel: its time was over all the same
        self.host.give_back(instance)
        return Output(body)

    # -- what its actor reaches -------------------------------------------------------------------

    async def record(self, name: str, value: bytes) -> bytes:
        """See `Journal`."""
        # What it cost is paid: while the store is away this waits, and ends with the attempt at the latest.
        return await patiently(lambda: self._queue.store.record(self.claim, name, value))

    async def recorded(self, name: str) -> bytes | None:
        """See `Journal`."""
        return await patiently(lambda: self._queue.store.recorded(self.claim.task_id, name))

    @asynccontextmanager
    async def parked(self) -> AsyncIterator[None]:
        """See `Parking`."""
        self._stop_clock()
        async with self._slots.parking():
            yield
        self._start_clock(self._clock_left)

    # -- inside -----------------------------------------------------------------------------------

    def _input(self) -> Any:
        codec = self.host.entry.input
        try:
            return codec.decode(self.message.input)
        except Misfit as misfit:
            raise InputError(self.host.entry.name, codec.type_name, misfit.problems) from None

    def _encoded(self, output: object) -> bytes:
        codec = self.host.entry.output
        try:
            return codec.encode_checked(output)
        except Misfit as misfit:
            raise OutputError(self.host.entry.name, self.claim.task_id, codec.type_name, misfit.problems) from misfit

    def _ended(self, error: BaseException, instance: Actor[Any, Any] | None) -> End:
        if self.stop_reason is not None:
            if self.task is not None:
                self.task.uncancel()
            return Stopped(self.stop_reason, instance)
        if isinstance(error, asyncio.CancelledError):
            error = StrayCancellation()
        return Raised(error, instance)

    async def _claimed(self, idempotency: Idempotency, key: str) -> Output | Deferred | None:
        """Claim the work under its key; return how the attempt ends at once, None if user code is to run."""
        agent = self.message.agent
        self._guard = idempotency.guard(agent, key, Token(self.claim.task_id, self.claim.token))
        claimed = await self._guard.claim(_digest_of(self.message))
        if isinstance(claimed, Run):
            self._guard.hold()
            return None
        self._guard = None
        if isinstance(claimed, Duplicate):
            return Output(claimed.output)
        if isinstance(claimed, Conflict):
            raise IdempotencyConflict(agent, key)
        if claimed is None:
            return Deferred(_UNASKED)
        return Deferred(min(claimed.retry_after, _LOOK * 2 ** min(self.claim.attempts, 7)))

    def _context(self, publisher: Publisher, key: str) -> Context:
        message = self.message
        return Context(
            task_id=message.task_id,
            agent=message.agent,
            batch_id=message.batch_id,
            attempt=self.claim.attempts,
            token=self.claim.token,
            deadline=message.deadline,
            idempotency_key=key,
            headers=message.headers,
            journal=self,
            publisher=publisher,
            parent=self.parent,
            key=message.key,
        )

    def _start_clock(self, seconds: float | None) -> None:
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        self._clock_left, self._clock_since = seconds, loop.time()
        self._timer = loop.call_later(max(seconds, 0.0), self.stop, Stop.TIMEOUT)

    def _stop_clock(self) -> None:
        if self._timer is not None and self._clock_left is not None:
            self._timer.cancel()
            self._timer = None
            self._clock_left -= asyncio.get_running_loop().time() - self._clock_since


def _digest_of(message: TaskMessage) -> str:
    """Return what tells one input from another, however its JSON is written."""
    return digest(json.encode(json.decode(message.input), order="sorted"))


def timed_out(claim: Claim, agent: str, limit: float | None) -> TaskTimeout:
    """Return the error of an attempt whose clock ran out."""
    return TaskTimeout(
        task_id=claim.task_id,
        agent=agent,
        error_type=TaskTimeout.__name__,
        message=f"an attempt took longer than {limit or 0.0:g} s",
    )
