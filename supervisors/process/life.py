"""One operating-system process from its start to its end: what it says, what its silence means, how it ended.

Only its pidfd says that it is dead: an exit code, the end of a pipe and a sentinel lie in known cases. The watchdog
reads its beats (see `beats`) from the moment it is ready; before that it has its start timeout. Which process is
the child of a supervisor, and when a fresh one takes over, is left to `child`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from anyio import CancelScope, Event
from anyio.abc import TaskGroup
from attrs import evolve

from supervisors.channel import Channel, ChannelClosed
from supervisors.child import Failed, Ignored, Launch, Started, StartOutcome
from supervisors.errors import EndedBeforeReady, SupervisorError
from supervisors.limits import Limits
from supervisors.output import Line
from supervisors.process.bootstrap import DUMP_SIGNAL
from supervisors.process.context import Link
from supervisors.process.exits import Evidence, classify
from supervisors.process.messages import Ended, FromChild, Go, Hello, Order, Ready, Refused, Stop, encode, from_child
from supervisors.process.spawner import PreloadFailed, Spawned, Spawner
from supervisors.process.target import NotSendable, pack
from supervisors.reasons import Crashed, ExitReason, Hung, Normal, NotLoaded, OverLimit, Stuck
from supervisors.recycle import Usage
from supervisors.spec import ChildSpec
from supervisors.task_child import TaskChild
from supervisors.watchdog import Verdict, Watchdog, Watched

KILL_PATIENCE: Final = 1.0  # seconds a killed process has to be dead, before it is taken for stuck in the kernel
_COUNT_EVERY: Final = 0.2  # seconds


class Life:
    """One process. `run` is its task; it ends when the process is dead and everything of it is given back."""

    def __init__(self, launch: Launch, order: Order, spawner: Spawner, tasks: TaskGroup) -> None:
        self.settled = Event()  # it is ready, or it is over
        self.ended = Event()
        self.outcome: StartOutcome | None = None
        self.reason: ExitReason | None = None
        self.on_late: Callable[[float], None] = lambda _silent: None
        self.on_line: Callable[[str, Line], None] = lambda _stream, _line: None
        self._launch = launch
        self._order = order
        self._spawner = spawner
        self._tasks = tasks  # of the tree
        self._starting = CancelScope()
        self._process: Spawned | None = None
        self._channel: Channel[FromChild] | None = None
        self._link: Link | None = None
        self._peer: TaskChild | None = None
        self._watch_tasks: TaskGroup | None = None  # all that watches the process; gone before it is reaped
        self._dumping = anyio.Lock()
        self._is_asked = False
        self._is_refused = False
        self._evidence = Evidence(code=None)
        self._ready_at = 0.0
        self._ready_memory = 0

    async def run(self) -> None:
        """Start it, watch it, and clear up after it."""
        with self._starting:
            try:
                spec = self._launch.spec
                self._process = await self._spawner.start(
                    self._order, lambda: pack(spec.start, spec.args, spec.kwargs), is_heard=spec.output is not None
                )
            except NotSendable as error:
                self._evidence = Evidence(code=None, verdict=NotLoaded(error))
            except SupervisorError as error:
                self._evidence = Evidence(code=None, verdict=Crashed(error))
        if self._process is not None:
            if self._evidence.killed:  # in the very moment it came
                self._process.kill()
            await self._watch_over(self._process)
        self._over(classify(self._evidence))

    async def stop(self, grace: float | None) -> ExitReason:
        """Ask it to end, wait `grace` seconds (None: for ever), kill it; 0 kills at once."""
        if grace != 0:
            self._is_asked = True
            self._send(Stop())
            with self._launch.clock.timeout(grace):
                await self.ended.wait()
        if self.reason is None:
            self.kill(f"did not end within {grace:g} s" if grace else "at once, as asked")
            with anyio.move_on_after(KILL_PATIENCE):
                await self.ended.wait()
        return self.reason or Stuck(self._launch.path, (grace or 0.0) + KILL_PATIENCE)

    def kill(self, why: str, verdict: ExitReason | None = None) -> None:
        """SIGKILL it and its group, or give up starting it. The first reason counts."""
        if not self._evidence.killed:
            self._evidence = evolve(self._evidence, killed=why, verdict=self._evidence.verdict or verdict)
        if self._process is None:
            self._starting.cancel()
        else:
            self._process.kill()

    def usage(self) -> Usage:
        """What it has used up since it was ready."""
        assert self._process is not None
        pulse = self._process.page.read()
        memory = max(pulse.memory - self._ready_memory, 0)
        return Usage(tasks=pulse.tasks, age=anyio.current_time() - self._ready_at, memory=memory)

    async def stacks(self, patience: float) -> str:
        """What its threads are at. Empty if it is not running, or does not say so within `patience` seconds."""
        answers: list[str] = []
        is_over = Event()

        async def ask(process: Spawned) -> None:
            try:
                answers.append(await self._dumped(process, patience))
            finally:
                is_over.set()

        if self._process is not None and self._watch_tasks is not None:
            self._watch_tasks.start_soon(ask, self._process)  # it ends before its file is closed
            await is_over.wait()
        return "".join(answers)

    # ---- while it runs

    async def _watch_over(self, process: Spawned) -> None:
        self._channel = Channel(process.connection, from_child, self._on_message)
        self._link = Link(self._channel, process.pid)
        async with anyio.create_task_group() as tasks:
            self._watch_tasks = tasks
            tasks.start_soon(self._hold_channel, self._channel)
            if self._launch.spec.watchdog is not None:
                tasks.start_soon(self._watch, process, self._launch.spec.watchdog)
            if self._launch.spec.limits is not None:
                tasks.start_soon(self._count, process, self._launch.spec.limits)
            if process.pipes is not None and self._launch.spec.output is not None:
                tasks.start_soon(process.pipes.read, self._launch.spec.output, self._hand_on)
            await anyio.wait_readable(process.death)
            self._channel.drain()  # its last words
            tasks.cancel_scope.cancel()
        self._watch_tasks = None
        if self._peer is not None:
            stuck = await self._peer.stop(0)
            if isinstance(stuck, Stuck):
                self._evidence = evolve(self._evidence, verdict=stuck)
        self._evidence = evolve(self._evidence, note=process.page.note(), stacks=process.stacks.text())
        code = await self._spawner.reap(process)
        is_oom = code == -9 and not self._evidence.killed and self._spawner.is_oom(process)
        self._evidence = evolve(self._evidence, code=code, is_oom=is_oom)

    async def _hold_channel(self, channel: "Channel[FromChild]") -> None:
        await channel.run()
        if channel.failure is not None:
            self.kill("broken channel", Crashed(channel.failure))

    def _on_message(self, message: FromChild) -> None:
        match message:
            case Hello(failures) if failures:
                self.kill("not preloaded", NotLoaded(PreloadFailed(failures)))
            case Hello():
                self._send(Go())
                if self._is_asked:
                    self._send(Stop())
            case Ready(info):
                self._on_ready(info)
            case Refused():
                self._is_refused = True
            case Ended(said):
                self._evidence = evolve(self._evidence, said=said.reason())

    def _on_ready(self, info: object) -> None:
        if self.outcome is not None or self._process is None or self._link is None:
            return
        self._ready_at = anyio.current_time()
        self._ready_memory = self._process.page.read().memory
        self.outcome = Started(info)
        self.settled.set()
        peer = self._launch.spec.peer
        if peer is not None:
            spec = ChildSpec(id=f"{self._launch.spec.id}.peer", start=peer, args=(self._link,), start_timeout=None)
            launch = evolve(self._launch, spec=spec, path=f"{self._launch.path}.peer", on_exit=self._on_peer_exit)
            self._peer = TaskChild(launch, self._tasks)
            self._tasks.start_soon(self._hold_peer, self._peer)

    async def _hold_peer(self, peer: TaskChild) -> None:
        outcome = await peer.start()
        if isinstance(outcome, Failed):
            self._on_peer_exit(outcome.reason)

    def _on_peer_exit(self, reason: ExitReason) -> None:
        """A peer need not say that it is ready, and may return; that it fails when the process dies is no news."""
        is_crash = isinstance(reason, Crashed) and not isinstance(reason.error, EndedBeforeReady)
        if is_crash and self._channel is not None and not self._channel.is_closed:
            self.kill("its peer crashed", reason)

    def _send(self, message: Go | Stop) -> None:
        if self._channel is not None:
            with suppress(ChannelClosed):  # it is dying, and how is seen soon
                self._channel.send(encode(message))

    def _hand_on(self, stream: str, line: Line) -> None:
        try:
            self.on_line(stream, line)
        except Exception as error:  # noqa: BLE001  whoever was given it may raise anything
            self.kill("its output is not taken", Crashed(error))

    # ---- the watchdog

    async def _watch(self, process: Spawned, watchdog: Watchdog) -> None:
        await self.settled.wait()
        now = anyio.current_time()
        watched = Watched(loop=-1, thread=-1, loop_at=now, thread_at=now)
        while True:
            pulse, now = process.page.read(), anyio.current_time()
            watched = watched.seen(loop=pulse.loop, thread=pulse.thread, now=now)
            verdict = watchdog.judge(watched, now=now)
            if verdict in (Verdict.LOOP_HUNG, Verdict.FROZEN):
                await self._end_hung(process, watchdog, watched)
                return
            self._tell(verdict, now - watched.loop_at)
            await anyio.sleep(watchdog.every / 2)

    def _tell(self, verdict: Verdict, silent: float) -> None:
        assert self._link is not None
        before, self._link.verdict = self._link.verdict, verdict
        if verdict is Verdict.LATE and before is not Verdict.LATE:
            self.on_late(silent)

    async def _end_hung(self, process: Spawned, watchdog: Watchdog, watched: Watched) -> None:
        now = anyio.current_time()
        is_frozen = now - watched.thread_at > watchdog.loop_silent
        silent, since = ("thread", watched.thread_at) if is_frozen else ("loop", watched.loop_at)
        stacks = await self._dumped(process, watchdog.dump)
        self.kill("hung", Hung(silent, now - since, process.page.note(), stacks))

    async def _dumped(self, process: Spawned, patience: float) -> str:
        async with self._dumping:
            return await process.stacks.dumped(lambda: process.send_signal(DUMP_SIGNAL), patience)

    async def _count(self, process: Spawned, limits: Limits) -> None:
        """Where the kernel does not, see that it is not too many."""
        while limits.processes is not None and limits.cgroup is None:
            count = await self._spawner.count(process)
            if count > limits.processes:
                why = OverLimit("processes and threads", count, limits.processes)
                self.kill("too many processes", why)
            await anyio.sleep(_COUNT_EVERY)

    # ---- at its end

    def _over(self, reason: ExitReason) -> None:
        if not isinstance(self.outcome, Started):
            if reason == Normal() and not self._is_refused:
                reason = Crashed(EndedBeforeReady(self._launch.path))
            self.outcome = Ignored() if self._is_refused else Failed(reason)
        self.reason = reason
        self._process = self._channel = None
        self.settled.set()
        self.ended.set()
