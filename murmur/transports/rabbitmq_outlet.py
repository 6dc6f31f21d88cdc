"""Sending to RabbitMQ: messages with their confirms, and queues made where they are missing.

RabbitMQ confirms a message to a queue that does not exist, after returning it: so all are sent as
mandatory, and one that comes back makes its queue and goes once more. Confirms come for many at a
time. A message whose confirm never came is unknown: it may be there twice if its publisher repeats it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from pamqp import commands

from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.transport import Outgoing
from murmur.transports.rabbitmq_frames import Content, Message, problem
from murmur.transports.rabbitmq_link import DEADLINE, RabbitLink
from murmur.transports.rabbitmq_queues import DELAY_MARGIN, declaration, delayed
from murmur.transports.rabbitmq_wire import Channel, ServerError, Wire, WireLost

_GONE_FOR: Final = 0.5  # seconds a queue that vanished stays away at least


class Answer(Struct, frozen=True):
    """What became of one message: `position` if it was confirmed, else why not.

    `is_definite`: it is not there. `is_final`: it can never be. `refusal`: the right to it is missing.
    """

    position: str = ""
    failure: str = ""
    is_definite: bool = True
    is_final: bool = False
    refusal: BrokerRefused | None = None


_UNROUTABLE: Final = Answer(failure="no queue takes it", is_definite=False)


class _Batch:
    """Messages sent by one call."""

    def __init__(self, size: int) -> None:
        self.answers: list[Answer | None] = [None] * size
        self.missing = size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, index: int, answer: Answer) -> None:
        if self.answers[index] is None:
            self.answers[index] = answer
            self.missing -= 1
            if not self.missing and not self.done.done():
                self.done.set_result(None)


class Outlet:
    """The sending half of a transport, on a connection of its own."""

    def __init__(self, url: str, *, name: str, boot: str, heartbeat: int, prefix: str) -> None:
        self.link = RabbitLink(url, name=name, heartbeat=heartbeat, prepare=self._prepare)
        self._boot, self._prefix = boot, prefix
        self._channel: Channel | None = None
        self._questions: Channel | None = None
        self._is_opening = asyncio.Lock()
        self._serial = 0  # of all messages of this boot
        self._tag = 0  # of the last message on this channel
        self._unconfirmed: dict[int, tuple[_Batch, int, Message]] = {}
        self._fresh: dict[str, float] = {}  # delay queues, and until when they surely stay

    async def publish(self, messages: Sequence[Message]) -> list[Answer]:
        """Send messages; one answer each, in order. Ends within 10 s."""
        until = asyncio.get_running_loop().time() + DEADLINE
        found = [problem(message) for message in messages]
        answers = [None if text is None else Answer(failure=text, is_final=True) for text in found]
        for _ in range(2):
            todo = [index for index, answer in enumerate(answers) if answer is None]
            if not todo:
                break
            for index, answer in zip(todo, await self._sent([messages[at] for at in todo], until), strict=True):
                answers[index] = answer
            lost = {messages[at].queue for at in todo if answers[at] == _UNROUTABLE}
            if not lost:
                break
            for queue in lost:
                refusal = await self._made(queue)
                for at in todo:
                    if messages[at].queue == queue and answers[at] == _UNROUTABLE:
                        answers[at] = refusal
        return [answer or _UNROUTABLE for answer in answers]

    async def addressed(self, one: Outgoing) -> Message:
        """Return what is sent for a message: to its queue, or to one where it waits first. Raises as `declare` does."""
        queue = one.topic
        if one.not_before is not None and one.not_before > 0:
            queue = delayed(one.topic, one.not_before)
            await self.keep_delay(queue)
        return Message(queue, one.body, one.id, one.headers)

    async def declare(self, queue: str) -> None:
        """Make a queue unless it is there. Raises `BrokerUnreachable`, `BrokerRefused`."""
        await self._asked(queue, declaration(queue, prefix=self._prefix))

    async def count(self, queue: str) -> int:
        """Return how many messages wait in a queue. Raises as `declare` does."""
        try:
            return await self._asked(queue, commands.Queue.Declare(queue=queue, passive=True))
        except BrokerRefused as error:
            if "NOT_FOUND" in error.problem:
                return 0
            raise

    async def _asked(self, queue: str, method: commands.Queue.Declare) -> int:
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    channel = await self._asking()
                    try:
                        count: int = (await channel.ask(method)).message_count
                    except ServerError as error:
                        if f"'{queue}'" in str(error):
                            raise
                        continue  # the channel was closed for another queue's sake
                    return count
        except TimeoutError:
            raise self.link.unreachable(f"it does not answer about queue {queue}") from None
        except (ServerError, WireLost) as error:
            raise self.link.told(error) from None

    async def keep_delay(self, queue: str) -> None:
        """Make a delay queue, and see that it outlives what is put into it now."""
        now = asyncio.get_running_loop().time()
        if self._fresh.get(queue, 0.0) < now:
            await self.declare(queue)
            self._fresh = {name: until for name, until in self._fresh.items() if until > now}
            self._fresh[queue] = now + DELAY_MARGIN / 2

    async def _asking(self) -> Channel:
        """Return the channel on which queues are made; an error closes it."""
        wire = await self.link.up(DEADLINE)
        if wire is None:
            raise self.link.unreachable("there is no connection")
        async with self._is_opening:
            if self._questions is None or self._questions.closed is not None:
                self._questions = await wire.channel()
            return self._questions

    # -- inside -----------------------------------------------------------------------------------

    async def _prepare(self, wire: Wire) -> None:
        self._channel = channel = await wire.channel()
        self._tag = 0
        channel.on_confirm, channel.on_content, channel.on_closed = self._confirmed, self._returned, self._closed
        await channel.ask(commands.Confirm.Select())

    async def _made(self, queue: str) -> Answer | None:
        """Make a queue that was missing; return what to answer if that is impossible."""
        self._fresh.pop(queue, None)
        # Whoever reads it was forgotten with it, and is told so only if it is not there again already.
        await asyncio.sleep(_GONE_FOR)
        try:
            await self.declare(queue)
        except BrokerRefused as error:
            return Answer(failure=str(error))
        except BrokerUnreachable as error:
            return Answer(failure=str(error), is_definite=False)
        return None

    async def _sent(self, messages: Sequence[Message], until: float) -> list[Answer]:
        loop = asyncio.get_running_loop()
        try:
            wire = await self.link.up(max(0.0, until - loop.time()))
            if wire is not None and wire.blocked is not None:
                async with asyncio.timeout(max(0.0, until - loop.time())):
                    await wire.unblocked()
        except BrokerRefused as error:
            return [Answer(failure=str(error), refusal=error)] * len(messages)
        except TimeoutError:
            why = self.link.wire.blocked if self.link.wire is not None else ""
            return [Answer(failure=f"RabbitMQ takes no messages at present: {why}", is_definite=False)] * len(messages)
        channel = self._channel
        if wire is None or wire.lost is not None or channel is None or channel.closed is not None:
            return [Answer(failure=str(self.link.unreachable("there is no connection")))] * len(messages)
        batch = _Batch(len(messages))
        for index, message in enumerate(messages):
            self._tag += 1
            self._unconfirmed[self._tag] = (batch, index, message)
            channel.publish(message)
        done, _ = await asyncio.wait([batch.done], timeout=max(0.0, until - loop.time()))
        if not done:  # what was written and not read must not be read later, when it was given up
            wire.abort(WireLost("no confirm came in time"))
        return [answer or Answer(failure="no confirm came in time", is_definite=False) for answer in batch.answers]

    def _confirmed(self, method: commands.Basic.Ack | commands.Basic.Nack) -> None:
        tag = method.delivery_tag or 0
        tags = [tag] if not method.multiple else []
        for one in self._unconfirmed if method.multiple else ():
            if one > tag:
                break
            tags.append(one)
        is_taken = isinstance(method, commands.Basic.Ack)
        for one in tags:
            batch, index, _ = self._unconfirmed.pop(one)
            self._serial += 1
            refusal = Answer(failure="RabbitMQ did not take it: is its queue full?", is_definite=False)
            batch.answer(index, Answer(position=f"{self._boot}-{self._serial}") if is_taken else refusal)

    def _returned(self, content: Content) -> None:
        """Take note that a message reached no queue; its confirm comes all the same."""
        returned: Any = content.method
        for batch, index, message in self._unconfirmed.values():
            is_it = (message.queue, message.id) == (returned.routing_key, content.properties.message_id or "")
            if is_it and batch.answers[index] is None:
                batch.answer(index, _UNROUTABLE)
                return

    def _closed(self, error: Exception) -> None:
        """Answer what was not confirmed: too large if that is why, else unknown."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        sizes = [word for word in str(error).split() if word.isdigit()] if "message size" in str(error) else []
        told = self.link.told(error)
        refusal = told if isinstance(told, BrokerRefused) and not sizes else None
        for batch, index, message in unconfirmed.values():
            is_to_blame = sizes[:1] == [str(len(message.body))]
            answer = Answer(failure=str(error), is_definite=is_to_blame, is_final=is_to_blame, refusal=refusal)
            batch.answer(index, answer)
        if self._channel is not None and self._channel.wire.lost is None:  # the server closed the channel alone
            self._channel.wire.abort(WireLost(str(error)))
