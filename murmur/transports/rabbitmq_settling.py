"""Every way a delivery from RabbitMQ ends: settled, given back, buried.

Giving back is publishing a copy, with its confirm, and then settling the original: the only way
that RabbitMQ before 4.3 does not count, and the only one that can wait. A crash in between leaves
two; the row of the task lets one of them run. An ack has no answer, so a question is asked behind it.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Literal, TypeVar, cast

from loguru import logger

from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.transport import Delivery, Outgoing, Settled
from murmur.transports.rabbitmq_box import Hold
from murmur.transports.rabbitmq_frames import Message
from murmur.transports.rabbitmq_outlet import Answer, Outlet
from murmur.transports.rabbitmq_queues import LONGEST_DELAY, delayed
from murmur.transports.rabbitmq_wire import ServerError, WireLost

T = TypeVar("T")


class Settling:
    """Ends deliveries. What it does goes on when its caller is cancelled."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._changes: set[asyncio.Task[object]] = set()

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing]) -> list[Settled]:
        """Publish, then settle; where publishing is in doubt, nothing is settled."""
        held = _begun(deliveries)
        if emit and (held or not deliveries):
            try:
                answers = await self._outlet.publish([await self._outlet.addressed(one) for one in emit])
            except BrokerUnreachable as error:
                answers = [Answer(failure=str(error))] * len(emit)
            except BrokerRefused as error:
                answers = [Answer(failure=str(error), refusal=error)] * len(emit)
            if any(answer.failure and not answer.is_final for answer in answers):
                _ended(held)
                _raise_refusal(answers)
                return [_told(one) for one in deliveries]
            for one, answer in zip(emit, answers, strict=True):
                if answer.failure:
                    logger.warning("{} cannot be sent to {}: {}", one.id, one.topic[:80], answer.failure)
        await self._settle(held)
        return [_told(one) for one in deliveries]

    async def release(self, deliveries: Sequence[Delivery], *, delay: float, counted: bool) -> list[Settled]:
        """Give back, after a delay if any."""
        held = _begun(deliveries)
        copies = []
        for one in held:
            count = _hold(one).count - 1 + counted
            queue = delayed(one.topic, min(delay, LONGEST_DELAY)) if delay > 0 else one.topic
            copies.append(Message(queue, one.body, one.id, one.headers, count, is_urgent=True))
        await self._replace(held, copies)
        return [_told(one) for one in deliveries]

    async def bury(self, delivery: Delivery, dead_topic: str, letter: bytes) -> Settled:
        """Move a delivery to the dead topic."""
        held = _begun((delivery,))
        await self._replace(held, [Message(dead_topic, letter, one.id, one.headers) for one in held])
        return _told(delivery)

    async def shielded(self, change: Coroutine[None, None, T]) -> T:
        """Await a change that goes on when its caller is cancelled."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def rest(self) -> None:
        """Wait until no change is under way."""
        while self._changes:
            await asyncio.wait(self._changes)

    # -- inside -----------------------------------------------------------------------------------

    async def _replace(self, held: Sequence[Delivery], copies: Sequence[Message]) -> None:
        """Publish a copy for each, and settle those whose copy is there."""
        if not held:
            return
        there: list[Delivery] = []
        answers: list[Answer] = []
        try:
            for queue in {copy.queue for copy in copies if ".delay." in copy.queue}:
                await self._outlet.keep_delay(queue)
            answers = await self._outlet.publish(copies)
            there = [one for one, answer in zip(held, answers, strict=True) if answer.position]
        except BrokerUnreachable as error:
            logger.debug("nothing was given back: {}", error)
        finally:
            _ended([one for one in held if one not in there])
        await self._settle(there)
        _raise_refusal(answers)

    async def _settle(self, held: Sequence[Delivery]) -> None:
        """Ack, and wait until RabbitMQ has it."""
        for one in held:
            hold = _hold(one)
            if hold.renewed is not None:
                await asyncio.wait([hold.renewed])
        for box in {_hold(one).box for one in held}:
            box.ack([_hold(one) for one in held if _hold(one).box is box])
        with contextlib.suppress(ServerError, WireLost, ConnectionResetError):  # then they are lost, and marked so
            await asyncio.gather(*(box.acked() for box in {_hold(one).box for one in held if not _hold(one).is_lost}))
        for one in held:
            hold = _hold(one)
            hold.is_done = hold.is_acked and not hold.is_lost
            hold.box.held.pop(one, None)
        _ended(held)


def _begun(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Return those that are ours to end, and that nobody is ending."""
    held = [one for one in deliveries if one in _hold(one).box.held and not _hold(one).is_settling]
    for one in held:
        _hold(one).is_settling = True
    return held


def _ended(held: Sequence[Delivery]) -> None:
    for one in held:
        _hold(one).is_settling = False


def _raise_refusal(answers: Sequence[Answer]) -> None:
    if refusal := next((answer.refusal for answer in answers if answer.refusal is not None), None):
        raise refusal


def _hold(delivery: Delivery) -> Hold:
    return cast(Hold, delivery.token)


def _told(delivery: Delivery) -> Settled:
    hold = _hold(delivery)
    reason: Literal["done", "lost", "unknown"] = "done" if hold.is_done else "lost" if hold.is_lost else "unknown"
    return Settled(delivery.id, hold.is_done, reason)
