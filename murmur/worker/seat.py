"""The node's side of one worker process: what it was given, what it asks, and what becomes of it when it dies.

What a process says of a task counts only while the node holds the claim it was given, so a task can be taken from it
at any time. From the frame that says how an attempt ended, the ending is the node's: the process may die.
Who gets which task is decided in `pool`; what processes may ask is answered in `desk`.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from attrs import define, field
from loguru import logger

from murmur.errors import LeaseLost, MurmurError
from murmur.named import shard_of
from murmur.store import Claim
from murmur.task_queue import Work
from murmur.worker import wire
from murmur.worker.desk import Desk
from murmur.worker.slots import Slots
from supervisors.channel import ChannelClosed
from supervisors.process import Link
from supervisors.watchdog import Verdict

_DRAINED_WITHIN: Final = 2.0  # seconds a process may take beyond its drain; the node itself has 4.5


class Owner(Protocol):
    """What a seat needs of the pool it belongs to."""

    slots: Slots

    def ended(self, work: Work, one: wire.Ended) -> None:
        """A process said how an attempt ended."""

    def over(self, work: Work) -> None:
        """A task is no longer in hand."""

    def changed(self) -> None:
        """A seat has room, or none any more."""

    def held(self, seat: "Seat", one: wire.Held) -> None:
        """An agent cannot be served there now, or can again."""


@define(eq=False)
class Seat:
    """One worker process, from its start to its end. `share`: how many tasks it works on at once."""

    pool: Owner
    link: Link
    desk: Desk
    share: int
    is_spare: bool = False  # it runs suspects, one at a time, and nothing else
    began: float = field(factory=time.monotonic)
    in_hand: dict[str, Work] = field(factory=dict)  # by task id
    lost: set[str] = field(factory=set)  # of those in hand: no longer ours, whatever comes of them
    parked: int = 0
    held: dict[str, str] = field(factory=dict)  # agents it cannot serve now, and why
    is_closed: bool = False  # it drains or is to be replaced, and gets nothing more
    drained: asyncio.Event = field(factory=asyncio.Event)
    _is_over: bool = False
    _out: asyncio.Queue[bytes] = field(factory=asyncio.Queue)
    _giving: list[wire.Given] = field(factory=list)
    _calls: dict[int, asyncio.Task[None]] = field(factory=dict)

    @property
    def free(self) -> int:
        """How many more tasks it may get now."""
        if self.is_closed or self.is_spare or self.link.verdict is Verdict.LATE:
            return 0
        return max(self.share - (len(self.in_hand) - self.parked), 0)

    async def serve(self) -> None:
        """Answer the process as long as it lives."""
        writing = asyncio.ensure_future(self._write())
        try:
            while True:
                self._heard(wire.from_worker.decode(await self.link.receive()))
        except ChannelClosed:
            return  # it died; the supervisor says of what
        finally:
            writing.cancel()
            self._is_over = True
            for call in self._calls.values():
                call.cancel()
            for words in self.link.take():
                message = wire.from_worker.decode(words)
                if isinstance(message, wire.Endings | wire.Parking):
                    self._heard(message)

    def tell(self, message: wire.FromNode) -> None:
        """Send a frame after all others; a process that died meanwhile does not matter."""
        self._flush()
        self._out.put_nowait(wire.encode(message))

    def give(self, work: Work) -> None:
        """Have the process begin a task, with all others of this loop turn."""
        self.in_hand[work.claim.task_id] = work
        if not self._giving:
            asyncio.get_running_loop().call_soon(self._flush)
        self._giving.append(wire.given(work))

    def lose(self, claim: Claim) -> None:
        """A task is no longer ours: have the process end it, and write nothing of it."""
        self.lost.add(claim.task_id)
        self.tell(wire.Lose(claim.task_id))

    def claims(self) -> list[Claim]:
        """Return the rights to what it has in hand, those that were lost left out."""
        return [work.claim for task_id, work in self.in_hand.items() if task_id not in self.lost]

    def emptied(self) -> list[Work]:
        """It is dead, or may run on for nothing: take everything from it and return what is still ours."""
        self.is_closed = self._is_over = True
        self.drained.set()  # who waits for that waits for nobody
        works = [work for task_id, work in self.in_hand.items() if task_id not in self.lost]
        for _ in range(len(self.in_hand) - self.parked):
            self.pool.slots.leave()
        self.in_hand.clear()
        self.lost.clear()
        self.parked = 0
        return works

    async def drain(self, seconds: float) -> None:
        """Have the process drain, and wait for it. One that does not is stuck: it is killed, and its tools with it."""
        self.is_closed = True
        self.tell(wire.Drain(seconds))
        try:
            async with asyncio.timeout(seconds + _DRAINED_WITHIN):
                await self.drained.wait()
        except TimeoutError:
            logger.error(
                "worker process {} did not drain in {:g} s; killed, its tasks given back", self.link.pid, seconds
            )
            if not self._is_over:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.link.pid, signal.SIGKILL)

    # -- inside -----------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._giving:
            given, self._giving = self._giving, []
            self._out.put_nowait(wire.encode(wire.Work(given)))

    async def _write(self) -> None:
        try:
            while True:
                await self.link.send(await self._out.get())
        except ChannelClosed:
            return

    def _heard(self, message: wire.FromWorker) -> None:
        match message:
            case wire.Endings():
                for one in message.endings:
                    self._ended(one)
                self.pool.changed()
            case wire.Asked():
                self._call(message.number, self._answer(message))
            case wire.Abandoned():
                if (call := self._calls.get(message.number)) is not None:
                    call.cancel()
            case wire.Parking():
                self._park(parks=message.parks)
            case wire.Held():
                self.pool.held(self, message)
            case wire.Retiring():
                logger.info("worker process {} is replaced when it is idle: {}", self.link.pid, message.why)
                self.is_closed = True
                self.tell(wire.Retire())

    def _ended(self, one: wire.Ended) -> None:
        work = self.in_hand.get(one.task_id)
        if work is None or work.claim.token != one.token:
            return  # taken from it meanwhile
        del self.in_hand[one.task_id]
        self.pool.slots.leave()
        if one.task_id in self.lost:
            self.lost.discard(one.task_id)
            one = wire.Ended(one.task_id, one.token, "disown")  # whatever it did: its message is not to stay with us
        self.pool.ended(work, one)
        if self.is_spare and work.message.key is not None:  # its name lives on elsewhere
            self.tell(wire.Leave(work.message.agent, shard_of(work.message.key)))

    def _park(self, *, parks: bool) -> None:
        self.parked += 1 if parks else -1
        if parks:
            self.pool.slots.leave()
            self.pool.changed()
        else:
            self.pool.slots.take()

    async def _resume(self) -> None:
        """A parked task goes on: it waits for a slot, and has one from here on."""
        try:
            await self.pool.slots.resume()
        except asyncio.CancelledError:
            if self._is_over and not self.in_hand:
                self.pool.slots.leave()  # it had been counted out already
            raise
        finally:
            self.parked = max(self.parked - 1, 0)

    def _call(self, number: int, answering: Coroutine[Any, Any, None]) -> None:
        call = self._calls[number] = asyncio.get_running_loop().create_task(answering)
        call.add_done_callback(lambda _: self._calls.pop(number, None))

    async def _answer(self, asked: wire.Asked) -> None:
        error = None
        try:
            arguments = wire.ARGUMENTS[asked.verb].decode(asked.arguments)
            value = wire.encode(await self._verb(asked.verb)(*arguments))
        except LeaseLost as lost:
            error, value = "LeaseLost", f"{lost.task_id} {lost.token}".encode()
        except MurmurError as problem:
            error, value = type(problem).__name__, str(problem).encode()
        except Exception as problem:  # noqa: BLE001  one call of one process must not end the node
            logger.exception("the node could not answer {}", asked.verb)
            error, value = type(problem).__name__, str(problem).encode()
        self.tell(wire.Answer(asked.number, value, error))

    def _verb(self, name: str) -> Callable[..., Coroutine[Any, Any, object]]:
        match name:
            case "resume":
                return self._resume
            case "drained":
                return self._drained
            case "record":
                return self._record
            case _:
                verb: Callable[..., Coroutine[Any, Any, object]] = getattr(self.desk, name)
                return verb

    async def _record(self, task_id: str, token: int, name: str, value: bytes) -> bytes:
        work = self.in_hand.get(task_id)
        if work is None or work.claim.token != token or task_id in self.lost:
            raise LeaseLost(task_id=task_id, token=token)
        return await self.desk.record(work.claim, name, value)

    async def _drained(self) -> None:
        self.drained.set()
