"""One thread for what must never be called from two.

With `Process.join` in several threads up to a quarter of all clean exits were reported as 255: `start` polls all
children, and two threads read one status pipe. And the kernel's parent-death signal is tied to the thread that
forked, so that thread has to live as long as the processes do. What is called here is left to `spawner`.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, current_token
from attrs import define, field

T = TypeVar("T")


@define(eq=False)
class _Job(Generic[T]):
    """A call, who waits for it, and how its result is undone if nobody does any more."""

    call: Callable[[], T]
    undo: Callable[[T], None] | None
    token: EventLoopToken = field(factory=current_token)
    done: anyio.Event = field(factory=anyio.Event)
    results: list[T] = field(factory=list)
    error: BaseException | None = None
    is_abandoned: bool = False

    def run(self) -> None:
        """In the thread: call, and wake up whoever waits."""
        if self.is_abandoned:
            return
        try:
            self.results.append(self.call())
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            self.error = error
        loop: Any = self.token.native_token
        post = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon  # asyncio, trio
        with contextlib.suppress(RuntimeError):  # the loop is closed, and who waited was cancelled before
            post(self.done.set)

    def take_back(self) -> None:
        """In the thread, after `run`: undo what was done for nobody."""
        if self.undo is not None:
            for result in self.results:
                self.undo(result)


class OneThread:
    """Runs calls one after another, in their order. `idle` is called when nothing waits, and must not raise."""

    def __init__(self, name: str, idle: Callable[[], None]) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = idle
        # A daemon: an interpreter that ends does not wait for it.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, call: Callable[[], T], *, undo: Callable[[T], None] | None = None) -> T:
        """Run `call` there and return what it returns. When this is cancelled, its result is given to `undo`, there."""
        job = _Job(call, undo)
        self._calls.put(job.run)
        try:
            await job.done.wait()
        except BaseException:
            job.is_abandoned = True
            self._calls.put(job.take_back)
            raise
        if job.error is not None:
            raise job.error
        return job.results[0]

    def end(self) -> None:
        """End the thread after what waits now. Nothing can be called after that."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            if self._calls.empty():
                self._idle()
