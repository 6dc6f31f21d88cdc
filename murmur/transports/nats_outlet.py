"""Sending to NATS: publishing, and every way a delivery ends.

Publishes go out together and their answers are awaited together; acks of one loop turn share
a round trip. Giving back is publishing a copy that carries the count, then settling: the
server counts every other way of giving back, and a stale one of those would take the message
from its new owner. A crash in between leaves two copies, of which the row admits one.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
from loguru import logger

from murmur.errors import BrokerRefused, BrokerUnreachable, MurmurError, OutcomeUnknown, PayloadTooLarge
from murmur.limits import MAX_ENVELOPE
from murmur.transport import Delivery, Outgoing, Receipt, Refusal, Settled
from murmur.transports.nats_answers import NO_RESPONDERS, JetStreamError, kept
from murmur.transports.nats_bells import Bells
from murmur.transports.nats_inbox import ACK
from murmur.transports.nats_intake import hold_of
from murmur.transports.nats_link import Request
from murmur.transports.nats_session import DELAY, DELIVERIES, MESSAGE_ID, OUR_ID, Session
from murmur.transports.nats_wire import Message, encoded_headers

ROOM: Final = 16 * 1024  # bytes that headers may take of what the server lets through
_MOST: Final = 512  # messages under way at once
_MOST_BYTES: Final = 4 * 1024 * 1024

T = TypeVar("T")


class Outlet:
    """The sending half of a transport."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bells = Bells(session.link, session.streams)
        self._changes: set[asyncio.Task[Any]] = set()  # they go on when their caller is cancelled
        self._is_inbox_kept = False  # whether we saw the stream of the inboxes
        self._doubted: set[str] = set()  # topics where a message had no answer

    @property
    def max_body(self) -> int:
        """The largest body the server takes, beside its headers."""
        return min(MAX_ENVELOPE, int(self._session.link.info.get("max_payload", MAX_ENVELOPE))) - ROOM

    async def publish(self, messages: Sequence[Outgoing]) -> list[Receipt | Refusal]:
        """Add messages; an id that the server remembers adds nothing."""
        if self._doubted or not self._is_inbox_kept:
            try:
                await self._see_that_it_is_kept({one.topic for one in messages})
            except (BrokerUnreachable, BrokerRefused, OutcomeUnknown) as error:
                is_definite = not isinstance(error, OutcomeUnknown)
                return [Refusal(one.id, str(error), definite=is_definite) for one in messages]
        return await self._publish([(one, self._headers(one)) for one in messages])

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing] = ()) -> list[Settled]:
        """Emit, then settle."""
        ours = [one for one in deliveries if self._session.ours(one)]
        if (ours or not deliveries) and emit and not await self._emitted(emit):
            held = set(ours)
            return [_answer(one, "unknown" if one in held else "lost") for one in deliveries]
        return await self._settled(deliveries, ours)

    async def release(self, deliveries: Sequence[Delivery], *, delay: float, counted: bool) -> list[Settled]:
        """Give back as copies."""
        ours = [one for one in deliveries if self._session.ours(one)]
        answers = await self._publish([self._copy(one, delay=delay, counted=counted) for one in ours])
        failed = {one for one, answer in zip(ours, answers, strict=True) if isinstance(answer, Refusal)}
        settled = await self._settled(deliveries, [one for one in ours if one not in failed])
        return [
            _answer(one, "unknown") if one in failed else answer
            for one, answer in zip(deliveries, settled, strict=True)
        ]

    async def bury(self, delivery: Delivery, letter: bytes) -> Settled:
        """Move a delivery to the dead topic of its spec."""
        session = self._session
        if not session.ours(delivery):
            return _answer(delivery, "lost")
        dead_topic = session.spec(delivery.topic).dead_topic or ""
        message_id = delivery.id or f"{delivery.topic}:{hold_of(delivery).sequence}"
        headers = {**delivery.headers, MESSAGE_ID: message_id, OUR_ID: delivery.id}
        (answer,) = await self._publish([(Outgoing(dead_topic, letter, message_id), headers)])
        if isinstance(answer, Refusal):
            logger.warning("the dead letter of {} cannot be kept: {}", delivery.id, answer.problem)
            return _answer(delivery, "unknown")
        return (await self._settled([delivery], [delivery]))[0]

    async def shielded(self, change: Coroutine[Any, Any, T]) -> T:
        """Await a change that goes on when its caller is cancelled."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def rest(self) -> None:
        """Wait until no change is under way."""
        while self._changes:
            await asyncio.wait(self._changes)

    # -- publishing -------------------------------------------------------------------------------------------------

    async def _see_that_it_is_kept(self, topics: set[str]) -> None:
        """Make the streams of topics where that is in doubt. Raises as `Streams.declare` does.

        The server says that no stream keeps a subject only where nobody else listens. A plain subscriber, a program
        that waits at its inbox or `nats sub '>'`, hears the message then, and we hear nothing.
        """
        inboxes = {one for one in topics if self._session.streams.is_inbox(one)}
        doubted = self._doubted & topics
        if inboxes and not self._is_inbox_kept:
            doubted.add(next(iter(inboxes)))  # one stream keeps them all
        if doubted:
            await self._session.streams.declare(list(doubted))
            self._doubted -= topics
            self._is_inbox_kept = self._is_inbox_kept or bool(inboxes)

    def _doubt(self, topic: str) -> None:
        if self._session.streams.is_inbox(topic):
            self._is_inbox_kept = False
        else:
            self._doubted.add(topic)

    def _headers(self, message: Outgoing) -> dict[str, str]:
        headers = dict(message.headers)
        if message.id:
            headers[MESSAGE_ID] = message.id
            if self._session.streams.is_inbox(message.topic):  # all inboxes share a stream, and so its memory for ids
                headers |= {MESSAGE_ID: f"{message.id} {message.topic}", OUR_ID: message.id}
        if message.not_before:
            headers[DELAY] = f"{message.not_before:.3f}"
        return headers

    def _copy(self, delivery: Delivery, *, delay: float, counted: bool) -> tuple[Outgoing, dict[str, str]]:
        hold = hold_of(delivery)
        again = f"again {hold.sequence} {hold.number}"
        headers = {**delivery.headers, MESSAGE_ID: again}
        if delivery.id:
            headers[OUR_ID] = delivery.id
        else:
            headers[OUR_ID] = ""
        if (count := delivery.deliveries - (not counted)) > 0:
            headers[DELIVERIES] = str(count)
        if delay > 0:
            headers[DELAY] = f"{delay:.3f}"
        return Outgoing(delivery.topic, delivery.body, again), headers

    async def _publish(self, messages: Sequence[tuple[Outgoing, Mapping[str, str]]]) -> list[Receipt | Refusal]:
        most = self.max_body
        answers: list[Receipt | Refusal | None] = [None] * len(messages)
        under_way: list[int] = []
        size = 0
        for index, (message, _) in enumerate(messages):
            if len(message.body) > most:
                problem = PayloadTooLarge(what=f"message {message.id!r}", size=len(message.body), limit=most)
                answers[index] = Refusal(message.id, str(problem), definite=True)
                continue
            under_way.append(index)
            size += len(message.body)
            if len(under_way) >= _MOST or size >= _MOST_BYTES:
                await self._sent(messages, under_way, answers)
                under_way, size = [], 0
        await self._sent(messages, under_way, answers)
        return [one for one in answers if one is not None]

    async def _sent(
        self,
        messages: Sequence[tuple[Outgoing, Mapping[str, str]]],
        places: Sequence[int],
        answers: list[Receipt | Refusal | None],
    ) -> None:
        """Send at once, and enter the answers; what no stream keeps is sent again when one does."""
        streams, link = self._session.streams, self._session.link
        subjects = {topic: streams.subject(topic) for topic in {messages[at][0].topic for at in places}}
        requests = {
            at: Request(subjects[message.topic], message.body, encoded_headers(headers) if headers else b"")
            for at, (message, headers) in ((at, messages[at]) for at in places)
        }
        is_repeatable = all(messages[at][0].id for at in places)
        came = dict(zip(places, await link.ask_all(list(requests.values()), is_repeatable=is_repeatable), strict=True))
        homeless = [at for at, one in came.items() if isinstance(one, Message) and one.status == NO_RESPONDERS]
        try:
            if homeless:  # no stream keeps these subjects, or not any more
                await streams.declare(list(dict.fromkeys(messages[at][0].topic for at in homeless)))
                again = await link.ask_all([requests[at] for at in homeless], is_repeatable=is_repeatable)
                came.update(zip(homeless, again, strict=True))
        except (BrokerUnreachable, BrokerRefused, OutcomeUnknown) as error:
            came.update(dict.fromkeys(homeless, error))
        for at, one in came.items():
            if isinstance(one, OutcomeUnknown):
                self._doubt(messages[at][0].topic)
            answers[at] = _receipt(messages[at][0].id, requests[at].subject, one)

    # -- settling ---------------------------------------------------------------------------------------------------

    async def _emitted(self, emit: Sequence[Outgoing]) -> bool:
        """Publish what goes with a settle; False if it is not known to be there. What is refused for good is told."""
        bells: list[Outgoing] = []
        by_stream: list[Outgoing] = []
        most = self.max_body
        for one in emit:
            (bells if one.is_bell and len(one.body) <= most else by_stream).append(one)
        if bells:
            try:
                by_stream += await self._bells.ring(bells, most=most)
            except (OutcomeUnknown, BrokerUnreachable):
                return False
        for answer in await self.publish(by_stream):
            if isinstance(answer, Refusal):
                if not answer.definite:
                    return False
                logger.warning("{} was not sent, who waits for it must ask: {}", answer.id, answer.problem)
        return True

    async def _settled(self, deliveries: Sequence[Delivery], ours: Sequence[Delivery]) -> list[Settled]:
        session = self._session
        now = time.monotonic()
        settling = [one for one in ours if one in session.held and hold_of(one).is_valid(now)]
        reason: Literal["done", "unknown"] = "done"
        if settling:
            try:
                session.link.answer_all([hold_of(one).reply for one in settling], ACK)
                await session.link.synced()
            except (OutcomeUnknown, BrokerUnreachable):
                reason = "unknown"
            else:
                for one in settling:
                    hold_of(one).is_done = True
                    session.drop(one)
        settled = set(settling)
        return [_answer(one, reason if one in settled else "lost") for one in deliveries]


def _answer(delivery: Delivery, reason: Literal["done", "lost", "unknown"]) -> Settled:
    if hold_of(delivery).is_done:
        return Settled(delivery.id, True, "done")
    return Settled(delivery.id, False, reason)


def _receipt(message_id: str, subject: str, answer: Message | MurmurError) -> Receipt | Refusal:
    """Return what became of a publish."""
    if isinstance(answer, MurmurError):
        return Refusal(message_id, str(answer), definite=not isinstance(answer, OutcomeUnknown))
    if answer.status:
        return Refusal(message_id, f"no stream keeps {subject!r} now: {answer.status_text}", definite=False)
    try:
        there = kept(answer)
    except JetStreamError as error:
        return Refusal(message_id, str(error), definite=True)
    except msgspec.DecodeError:
        return Refusal(message_id, "somebody else answers on this subject", definite=False)
    return Receipt(message_id, str(there.seq), duplicate=there.duplicate)
