"""The event loop of a process child: the same task child as anywhere, its outcome told over the channel.

So what a child may do, and what becomes of whatever it raises, is the same in a process as in a task.
When the channel ends, the supervisor is gone, and this process ends at once with all of its group.
"""

import os
import socket
from collections.abc import Callable

import anyio
from anyio import Event
from anyio.abc import TaskGroup

from supervisors.channel import Channel
from supervisors.child import Failed, Ignored, Launch, Started, StartOutcome
from supervisors.clock import LoopClock
from supervisors.process.beats import Page, private_memory
from supervisors.process.confine import NotConfined, confine
from supervisors.process.context import Link, ProcessContext
from supervisors.process.exits import from_system_exit
from supervisors.process.guard import kill_group
from supervisors.process.messages import (
    Ended,
    FromSupervisor,
    Order,
    Ready,
    Refused,
    Said,
    Stop,
    encode,
    from_supervisor,
)
from supervisors.process.target import unpack, unsent
from supervisors.reasons import Crashed, Exited, ExitReason, Fatal, Killed, Normal, NotLoaded
from supervisors.spec import ChildSpec
from supervisors.task_child import TaskChild


def live(order: Order, connection: socket.socket, page: Page, leave: Callable[[int], None]) -> int:
    """Run the child to its end, on an event loop of its own. Returns the exit code; `leave` is told before clean-up."""
    options = {"use_uvloop": True} if order.is_uvloop else {}
    return anyio.run(_Inside(order, connection, page, leave).run, backend=order.backend, backend_options=options)


class _Inside:
    """One life of the child."""

    def __init__(self, order: Order, connection: socket.socket, page: Page, leave: Callable[[int], None]) -> None:
        self._order = order
        self._page = page
        self._leave = leave
        self._reason: ExitReason = Normal()
        self._ended = Event()
        self._is_asked = Event()
        self._channel = Channel(connection, from_supervisor, self._on_message)

    async def run(self) -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hold_channel)
            tasks.start_soon(self._beat)
            outcome = await self._started(tasks)
            if isinstance(outcome, Started):
                await self._ended.wait()
            code = self._say_how_it_ended(outcome)
            await self._channel.flush()
            self._leave(code)
            tasks.cancel_scope.cancel()
        return code

    async def _started(self, tasks: TaskGroup) -> StartOutcome:
        target = self._order.target
        assert target is not None
        try:
            if self._order.limits is not None:
                confine(self._order.limits)
            function, args, kwargs = unpack(target)
            spec = ChildSpec(id=self._order.id, start=function, args=args, kwargs=kwargs, start_timeout=None)
        except BaseException as error:  # noqa: BLE001  importing a user's module may raise anything: the start failed
            if target.by_value and not isinstance(error, NotConfined):
                error = unsent(target.name, f"{type(error).__name__}: {error}")
            return Failed(NotLoaded(error))
        launch = Launch(
            spec=spec,
            path=self._order.path,
            incarnation=self._order.incarnation,
            on_exit=self._on_exit,
            clock=LoopClock(),
        )
        child = _Child(launch, tasks, self._page, self._channel)
        tasks.start_soon(self._stop_when_asked, child)
        return await child.start()

    async def _stop_when_asked(self, child: TaskChild) -> None:
        await self._is_asked.wait()
        await child.stop(None)  # the supervisor has the clock, and SIGKILL

    def _say_how_it_ended(self, outcome: StartOutcome) -> int:
        reason = outcome.reason if isinstance(outcome, Failed) else self._reason
        reason, code = _exit_of(reason)
        is_refused = isinstance(outcome, Ignored)
        self._channel.send(encode(Refused() if is_refused else Ended(Said.of(reason))))
        return code

    def _on_exit(self, reason: ExitReason) -> None:
        self._reason = reason
        self._ended.set()

    def _on_message(self, message: FromSupervisor) -> None:
        if isinstance(message, Stop):
            self._is_asked.set()

    async def _hold_channel(self) -> None:
        await self._channel.run()
        kill_group(os.getpid())
        os._exit(1)

    async def _beat(self) -> None:
        while True:
            self._page.beat_of_loop()
            await anyio.sleep(self._order.every)


class _Child(TaskChild):
    """A task child whose words go to another process."""

    def __init__(self, launch: Launch, tasks: TaskGroup, page: Page, channel: "Channel[FromSupervisor]") -> None:
        super().__init__(launch, tasks)
        self._page = page
        self._channel = channel

    def _context(self) -> ProcessContext:
        launch = self._launch
        return ProcessContext(
            id=launch.spec.id,
            path=launch.path,
            incarnation=launch.incarnation,
            on_ready=self._on_ready,
            on_beat=self._page.write_note,
            trap=self._trap,
            link=Link(self._channel, os.getpid()),
            on_done=self._page.add_tasks,
        )

    def _on_ready(self, info: object) -> None:
        if self._outcome is not None:
            return
        try:
            message = encode(Ready(info))
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"ctx.ready() in a process takes plain data; {error}") from error
        self._page.set_memory(private_memory())
        self._channel.send(message)
        super()._on_ready(info)


def _exit_of(reason: ExitReason) -> tuple[ExitReason, int]:
    """The reason as the supervisor is to see it, and the exit code. A SystemExit is meant for this process alone."""
    if isinstance(reason, Fatal):
        if isinstance(reason.error, SystemExit):
            return from_system_exit(reason.error.code)
        return Crashed(reason.error), 1
    if isinstance(reason, Exited):
        return reason, reason.code
    return reason, 1 if isinstance(reason, Crashed | Killed) else 0
