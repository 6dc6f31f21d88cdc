"""Messages to names, and those that come from the fleet; what is asked for within a process is in `named_asks`.

Nothing is said before what the actor did is committed: a letter remembers its answer until it is told to give it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from murmur.envelope import TaskMessage
from murmur.outcome import Answer, Bury, GiveBack, Retry, Start, before_start
from murmur.policy import Redelivery
from murmur.publisher import Publisher
from murmur.store import Claim, Completion
from murmur.task_queue import Ending, Release, TaskQueue, Work
from murmur.worker.attempt import Attempt, End, Stop
from murmur.worker.crew import Crew
from murmur.worker.endings import Endings
from murmur.worker.host import Host
from murmur.worker.settler import Settler

Verdict = Answer | Retry | Bury | GiveBack


class Run(Protocol):
    """One handling of one message; an `Attempt`, or what is as good as one."""

    async def run(self, publisher: Publisher) -> End:
        """Run it to its end; never raises."""

    def stop(self, why: Stop) -> None:
        """End it from outside; the first reason counts."""

    @property
    def claim(self) -> Claim:
        """The right to run it."""

    @property
    def message(self) -> TaskMessage:
        """The task."""

    @property
    def duration_ms(self) -> int:
        """How long it has been running, milliseconds."""

    @property
    def limit(self) -> float | None:
        """Seconds it may take."""


class Letter(Protocol):
    """One message to one name."""

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for it."""

    @property
    def task_id(self) -> str:
        """The task that it is."""

    @property
    def address(self) -> tuple[str, str]:
        """The agent and the name that it is for."""

    def known(self, result: bytes) -> None:
        """It was applied before: this was its result."""

    def is_refused(self, redelivery: Redelivery) -> bool:
        """Whether it may not start: then that is its answer."""

    def attempt(self, cell: Host, crew: Crew, task: asyncio.Task[None]) -> Run:
        """Return what is to be run."""

    def succeeded(self, body: bytes, run: Run) -> bytes | None:
        """It has its output; returns what is to be kept of it with the state. Raises `PayloadTooLarge`."""

    def failed(self, error: BaseException, verdict: Verdict, *, duration_ms: int) -> None:
        """It has its error, and this is the verdict on it."""

    def settle(self) -> None:
        """Give the answer."""

    def give_back(self, delay: float = 0.0) -> None:
        """It was not applied, and is somebody else's now, or another time's."""

    def refuse(self) -> None:
        """Nothing is handled here any more."""

    async def lost(self) -> None:
        """It is no longer ours."""


class Posted:
    """A task of the fleet."""

    __slots__ = ("_ending", "_endings", "_on_end", "_queue", "_settler", "is_wanted", "work")

    def __init__(
        self,
        work: Work,
        *,
        endings: Endings,
        settler: Settler,
        queue: TaskQueue,
        on_end: Callable[["Posted"], object],
    ) -> None:
        self.work = work
        self.is_wanted = True  # until it is no longer ours
        self._endings, self._settler, self._queue, self._on_end = endings, settler, queue, on_end
        self._ending: Ending | None = None

    @property
    def task_id(self) -> str:
        """See `Letter`."""
        return self.work.claim.task_id

    @property
    def address(self) -> tuple[str, str]:
        """See `Letter`."""
        return self.work.message.agent, self.work.message.key or ""

    def known(self, result: bytes) -> None:
        """See `Letter`."""
        self._ending = Completion(self.work.claim, result)

    def is_refused(self, redelivery: Redelivery) -> bool:
        """See `Letter`."""
        claim, message = self.work.claim, self.work.message
        decision = before_start(claim, message, redelivery, now=time.time())
        if isinstance(decision, Start):
            return False
        self._ending = self._endings.unstarted(claim, message, decision)
        return True

    def attempt(self, cell: Host, crew: Crew, task: asyncio.Task[None]) -> Run:
        """See `Letter`."""
        attempt = Attempt(self.work, cell, queue=crew.queue, slots=crew.slots)
        attempt.task = task
        return attempt

    def succeeded(self, body: bytes, run: Run) -> bytes | None:
        """See `Letter`."""
        ending = self._endings.output(self.work.claim, self.work.message, body, duration_ms=run.duration_ms)
        self._ending = ending
        return ending.result

    def failed(self, error: BaseException, verdict: Verdict, *, duration_ms: int) -> None:
        """See `Letter`."""
        claim, message = self.work.claim, self.work.message
        self._ending = self._endings.failed(claim, message, error, verdict, duration_ms=duration_ms)

    def settle(self) -> None:
        """See `Letter`."""
        self._on_end(self)
        if self._ending is not None:
            self._settler.settle(self._ending)

    def give_back(self, delay: float = 0.0) -> None:
        """See `Letter`."""
        self._on_end(self)
        self._settler.settle(Release(self.work.claim, delay))

    def refuse(self) -> None:
        """See `Letter`."""
        self.give_back()

    async def lost(self) -> None:
        """See `Letter`."""
        self._on_end(self)
        await self._queue.disown(self.work.claim)
