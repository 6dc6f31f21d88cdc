"""The node's side of one worker process: what it was given, what it asks, and what becomes of it when it dies.

What a process says of a task counts only while the node holds the claim it was given, so a task can be taken from it
at any time. From the frame that says how an attempt ended, the ending is the node's: the process may die.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from attrs import define, evolve, field
from loguru import logger

from murmur.errors import BadSignature, LeaseLost, MurmurError
from murmur.idempotency import IdempotencyHook, Token
from murmur.store import Claim
from murmur.task_queue import TaskQueue, Work
from murmur.transport import Refusal
from murmur.worker import wire
from supervisors.channel import ChannelClosed
from supervisors.process import Link

_REPLIES_WAIT: Final = 5.0  # seconds one look into an inbox waits


class Desk(Protocol):
    """What a seat needs of the pool it belongs to."""

    @property
    def queue(self) -> TaskQueue:
        """The broker."""

    @property
    def idempotency(self) -> IdempotencyHook | None:
        """The worker's hook."""

    async def work_for(self, seat: "Seat", room: dict[str, int], credit: int) -> list[wire.Given]:
        """Wait for tasks that a process may have: so many of each agent, at most `credit`."""

    def ended(self, claim: Claim, one: wire.Ended) -> None:
        """A process said how an attempt ended."""


@define(eq=False)
class Seat:
    """One worker process, from its start to its end."""

    pool: Desk
    link: Link
    claims: dict[str, Work] = field(factory=dict)  # by task id: what it has in hand
    is_alone: bool = False  # it runs one suspect, and gets nothing else
    drained: asyncio.Event = field(factory=asyncio.Event)
    _sending: asyncio.Lock = field(factory=asyncio.Lock)
    _calls: set[asyncio.Task[None]] = field(factory=set)

    async def serve(self) -> None:
        """Answer the process as long as it lives."""
        try:
            while True:
                message = wire.from_worker.decode(await self.link.receive())
                if isinstance(message, wire.Endings):
                    self._ended(message.endings)
                else:
                    call = asyncio.ensure_future(self._answer(message))
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)
        except ChannelClosed:
            return  # it died; the supervisor says of what
        finally:
            for call in self._calls:
                call.cancel()

    async def tell(self, message: wire.FromNode) -> None:
        """Send a frame; a process that died meanwhile does not matter."""
        try:
            async with self._sending:
                await self.link.send(wire.encode(message))
        except ChannelClosed:
            return

    def give(self, work: Sequence[Work]) -> list[wire.Given]:
        """Note what the process has in hand from now on."""
        for one in work:
            self.claims[one.claim.task_id] = one
        return [wire.given(one) for one in work]

    # -- what it asks -----------------------------------------------------------------------------

    async def _answer(self, asked: wire.Asked) -> None:
        error = None
        try:
            arguments = wire.ARGUMENTS[asked.verb].decode(asked.arguments)
            result = await getattr(self, f"_{asked.verb}")(*arguments)
            value = wire.encode(result)
        except LeaseLost as lost:
            error, value = "LeaseLost", f"{lost.task_id} {lost.token}".encode()
        except MurmurError as problem:
            error, value = type(problem).__name__, str(problem).encode()
        except Exception as problem:  # noqa: BLE001  one call of one process must not end the node
            logger.exception("the node could not answer {}", asked.verb)
            error, value = type(problem).__name__, str(problem).encode()
        await self.tell(wire.Answer(asked.number, value, error))

    async def _work(self, room: dict[str, int], credit: int) -> list[wire.Given]:
        return await self.pool.work_for(self, room, credit)

    async def _record(self, task_id: str, token: int, name: str, value: bytes) -> bytes:
        held = self.claims.get(task_id)
        if held is None or held.claim.token != token:
            raise LeaseLost(task_id=task_id, token=token)
        return await self.pool.queue.store.record(held.claim, name, value)

    async def _recorded(self, task_id: str, name: str) -> bytes | None:
        return await self.pool.queue.store.recorded(task_id, name)

    async def _read(self, task_ids: list[str]) -> Sequence[Any]:
        rows = await self.pool.queue.store.read(task_ids)
        return [
            row if row is None or row.result is None else evolve(row, result=self._opened(row.result)) for row in rows
        ]

    async def _get(self, keys: list[str]) -> Sequence[bytes | None]:
        return list(await self.pool.queue.store.get(keys))

    async def _put(self, key: str, value: bytes, ttl: float | None) -> None:
        await self.pool.queue.store.put(key, value, ttl=ttl)

    async def _listed(self, prefix: str) -> Mapping[str, bytes]:
        return await self.pool.queue.store.listed(prefix)

    async def _cancel(self, results: dict[str, bytes]) -> Mapping[str, Any]:
        return await self.pool.queue.cancel(results)

    async def _submit(self, tasks: list[Any]) -> list[tuple[object, object]]:
        answers = await self.pool.queue.submit(tasks)
        return [(None, one) if isinstance(one, Refusal) else (one, None) for one in answers]

    async def _open_tasks(self, agents: list[str]) -> None:
        await self.pool.queue.open_tasks(agents)

    async def _open_inbox(self, inbox: str) -> None:
        await self.pool.queue.open_inbox(inbox)

    async def _replies(self, inbox: str, wait: float) -> list[bytes]:
        found = await self.pool.queue.replies(inbox, wait=min(wait, _REPLIES_WAIT))
        return [body for delivery in found if (body := self._opened(delivery.body))]

    def _opened(self, body: bytes) -> bytes:
        """Return a result whose signature is ours; nothing, which is no result, where it is not."""
        try:
            return self.pool.queue.opened(body)
        except BadSignature as error:
            logger.warning("{}: a result was left aside: {}", error.code, error)
            return b""

    async def _is_empty(self, agent: str) -> bool:
        return await self.pool.queue.is_empty(agent)

    async def _claim_key(self, key: str, task_id: str, number: int, digest: str, lease: float) -> object:
        return wire.said(await self._hook().claim(key, Token(task_id, number), digest, lease))

    async def _renew_key(self, key: str, task_id: str, number: int, lease: float) -> bool:
        return await self._hook().renew(key, Token(task_id, number), lease)

    async def _complete_key(self, key: str, task_id: str, number: int, output: bytes) -> object:
        return wire.said(await self._hook().complete(key, Token(task_id, number), output))

    async def _abandon_key(self, key: str, task_id: str, number: int) -> None:
        await self._hook().abandon(key, Token(task_id, number))

    def _hook(self) -> IdempotencyHook:
        assert self.pool.idempotency is not None
        return self.pool.idempotency

    async def _drained(self) -> None:
        self.drained.set()

    # -- what it says -----------------------------------------------------------------------------

    def _ended(self, endings: list[wire.Ended]) -> None:
        for one in endings:
            held = self.claims.get(one.task_id)
            if held is None or held.claim.token != one.token:
                continue  # taken from it meanwhile
            del self.claims[one.task_id]
            self.pool.ended(held.claim, one)
        if not self.claims:
            self.is_alone = False

    def lose(self, claim: Claim) -> None:
        """Take a task from the process."""
        if self.claims.get(claim.task_id) is not None:
            del self.claims[claim.task_id]
            call = asyncio.ensure_future(self.tell(wire.Lose(claim.task_id)))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)


async def settled(seat: Seat, seconds: float) -> None:
    """Have a process drain, and wait for it."""
    await seat.tell(wire.Drain(seconds))
    try:
        async with asyncio.timeout(seconds + _REPLIES_WAIT):
            await seat.drained.wait()
    except TimeoutError:
        logger.error("worker process {} did not drain in {:g} s; its tasks are given back", seat.link.pid, seconds)
