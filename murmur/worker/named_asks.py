"""A message asked for within this process: no broker carries it, and its answer is a future.

It is handled like any task, with the same codec, decisions and commits. It only goes without what has no use in one
process, a claim, a row and an encoded result, and is therefore its own attempt: an ask takes microseconds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from msgspec import Raw

from murmur.codec import Misfit
from murmur.context import Context
from murmur.envelope import VERSION, TaskMessage
from murmur.errors import InputError, OutputError, TaskCancelled
from murmur.errors.results import failure_class
from murmur.outcome import GiveBack, Retry
from murmur.policy import Redelivery
from murmur.publisher import Parent, Publisher
from murmur.store import Claim
from murmur.transport import Delivery
from murmur.worker.attempt import End, Output, Raised, Stop, Stopped, StrayCancellation
from murmur.worker.crew import Crew
from murmur.worker.endings import described
from murmur.worker.host import Host
from murmur.worker.named_letters import Run, Verdict

_NOWHERE: Final = Delivery("", b"", {}, "", 1, None)


class Asked:
    """See `Letter`. Also the run of itself, and the journal and parking of its actor."""

    __slots__ = (
        "_answer",
        "_began",
        "_body",
        "_cell",
        "_crew",
        "_delay",
        "_error",
        "_failures",
        "_left",
        "_repost",
        "_since",
        "_steps",
        "_stop_reason",
        "_task",
        "_task_id",
        "_timer",
        "address",
        "attempts",
        "reply",
    )

    def __init__(
        self,
        address: tuple[str, str],
        body: bytes,
        task_id: tuple[str, int],
        loop: asyncio.AbstractEventLoop,
        repost: Callable[["Asked"], None],
    ) -> None:
        self.address = address
        self._task_id = task_id
        self.reply: asyncio.Future[bytes] = loop.create_future()
        self.attempts = 0
        self._body = body
        self._failures = 0
        self._repost = repost
        self._error: BaseException | None = None
        self._delay: float | None = None
        self._steps: dict[str, bytes] | None = None

    # -- as a letter ------------------------------------------------------------------------------

    @property
    def task_id(self) -> str:
        """Made when somebody wants to know it."""
        owner, number = self._task_id
        return f"{owner}-{number}"

    @property
    def is_wanted(self) -> bool:
        """Whether the asker waits."""
        return not self.reply.done()

    def known(self, result: bytes) -> None:
        """Never: nothing of it is kept."""

    def is_refused(self, redelivery: Redelivery) -> bool:  # noqa: ARG002  it has no deadline; its failures end below
        """Never."""
        return False

    def attempt(self, cell: Host, crew: Crew, task: asyncio.Task[None]) -> Run:
        """See `Letter`."""
        self._cell, self._crew, self._task = cell, crew, task
        self._stop_reason: Stop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began = time.perf_counter()
        self.attempts += 1
        return self

    def succeeded(self, body: bytes, run: Run) -> bytes | None:  # noqa: ARG002  nobody is told how long it took
        """See `Letter`. An output of any size reaches the asker."""
        self._answer = body
        return None

    def failed(self, error: BaseException, verdict: Verdict, *, duration_ms: int) -> None:  # noqa: ARG002  likewise
        """See `Letter`."""
        if isinstance(verdict, Retry | GiveBack):
            self._delay = verdict.delay
            self._failures += isinstance(verdict, Retry)
            return
        kind, text = described(error)
        self._error = failure_class(kind)(self.task_id, self.address[0], kind, text)

    def settle(self) -> None:
        """See `Letter`."""
        if self._delay is not None:
            delay, self._delay = self._delay, None
            self.give_back(delay)
        elif self.reply.done():
            return
        elif self._error is not None:
            self.reply.set_exception(self._error)
        else:
            self.reply.set_result(self._answer)

    def give_back(self, delay: float = 0.0) -> None:
        """See `Letter`."""
        asyncio.get_running_loop().call_later(delay, self._repost, self)

    def refuse(self) -> None:
        """See `Letter`."""
        if not self.reply.done():
            kind = TaskCancelled.__name__
            self.reply.set_exception(TaskCancelled(self.task_id, self.address[0], kind, "its runtime was closed"))

    async def lost(self) -> None:
        """The asker waits no more."""

    # -- as an attempt ----------------------------------------------------------------------------

    @property
    def claim(self) -> Claim:
        """What an attempt of a task would hold."""
        return Claim(self.task_id, self.attempts, _NOWHERE, None, self.attempts, self._failures)

    @property
    def message(self) -> TaskMessage:
        """What a task would say."""
        agent, key = self.address
        return TaskMessage(v=VERSION, task_id=self.task_id, agent=agent, key=key, input=Raw(self._body))

    @property
    def duration_ms(self) -> int:
        """How long it has been running, milliseconds; measured only where somebody hears of it."""
        return int((time.perf_counter() - self._began) * 1000)

    @property
    def limit(self) -> float | None:
        """Seconds it may take."""
        return self._cell.actor.timeout

    def stop(self, why: Stop) -> None:
        """End it from outside."""
        if self._stop_reason is None:
            self._stop_reason = why
            self._task.cancel()

    async def run(self, publisher: Publisher) -> End:
        """Run it to its end; never raises."""
        cell, entry = self._cell, self._cell.entry
        instance = None
        try:
            try:
                value = entry.input.decode(self._body)
            except Misfit as misfit:
                raise InputError(entry.name, entry.input.type_name, misfit.problems) from None
            instance = cell.resident or await cell.instance()
            instance.context = _Context(self, publisher)
            if (limit := cell.actor.timeout) is not None:
                self._start_clock(limit)
            output = await instance.receive(value)
            if self._timer is not None:
                self._timer.cancel()
            try:
                body = entry.output.encode_checked(output)
            except Misfit as misfit:
                raise OutputError(entry.name, self.task_id, entry.output.type_name, misfit.problems) from misfit
        except BaseException as error:  # noqa: BLE001  user code: everything it raises becomes a value
            if self._timer is not None:
                self._timer.cancel()
            if self._stop_reason is not None:
                self._task.uncancel()
                return Stopped(self._stop_reason, instance)
            return Raised(StrayCancellation() if isinstance(error, asyncio.CancelledError) else error, instance)
        if self._stop_reason is not None and self._stop_reason is not Stop.DRAIN:
            return Stopped(self._stop_reason, instance)
        return Output(body)

    async def record(self, name: str, value: bytes) -> bytes:
        """See `Journal`."""
        if self._steps is None:
            self._steps = {}
        return self._steps.setdefault(name, value)

    async def recorded(self, name: str) -> bytes | None:
        """See `Journal`."""
        return None if self._steps is None else self._steps.get(name)

    @asynccontextmanager
    async def parked(self) -> AsyncIterator[None]:
        """See `Parking`."""
        if self._timer is not None:
            self._timer.cancel()
            self._left -= asyncio.get_running_loop().time() - self._since
        async with self._crew.slots.parking():
            yield
        if self._timer is not None:
            self._start_clock(self._left)

    def _start_clock(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._left, self._since = seconds, loop.time()
        self._timer = loop.call_later(max(seconds, 0.0), self.stop, Stop.TIMEOUT)


class _Context(Context):
    """A context that is filled when it is first looked at: most messages are handled without."""

    __slots__ = ("_asked",)

    def __init__(self, asked: Asked, publisher: Publisher) -> None:
        self._asked = asked
        self._publisher = publisher

    def __getattr__(self, name: str) -> Any:
        if name not in Context.__slots__:
            raise AttributeError(f"a context has no {name!r}")
        asked, (agent, key) = self._asked, self._asked.address
        super().__init__(
            task_id=asked.task_id,
            agent=agent,
            batch_id=None,
            attempt=asked.attempts,
            token=asked.attempts,
            deadline=None,
            idempotency_key=asked.task_id,
            headers={},
            journal=asked,
            publisher=self._publisher,
            parent=Parent(asked.task_id, asked.task_id, 0, {}, asked),
            key=key,
        )
        return getattr(self, name)
