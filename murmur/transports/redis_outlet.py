"""Sending to Redis: publishing, and every way a delivery ends.

Publishes and acks of one loop turn are joined into one script. A change that ends our
ownership is guarded by it on the server; one whose outcome is unknown is tried once more,
and the books are kept even where the caller was cancelled meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Literal, Protocol, TypeVar, cast

import hiredis
from attrs import frozen

from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown, PayloadTooLarge
from murmur.transport import Delivery, Outgoing, Receipt, Refusal, Settled
from murmur.transports.redis_entries import Hold, encoded_headers, published
from murmur.transports.redis_joint import Joint
from murmur.transports.redis_scripts import load
from murmur.transports.redis_session import CHUNK, Giving, Session
from murmur.transports.redis_wire import Argument, Call, Finish, Reply

MAX_BODY: Final = 64 * 1024 * 1024  # bytes; more would hold the server up, which does one thing at a time

_PUBLISH: Final = load("murmur.transports", "publish")
_SETTLE: Final = load("murmur.transports", "settle")
_BURY: Final = load("murmur.transports", "bury")
_UNKNOWN: Final = ord("2")
_REASONS: Final[Mapping[int, Literal["done", "lost", "unknown"]]] = {
    ord("0"): "lost",
    ord("1"): "done",
    _UNKNOWN: "unknown",
}

T = TypeVar("T")
K = TypeVar("K")


@frozen(eq=False)
class _Settling:
    """What one `ack` settles and emits. `is_repeat`: an earlier try may have done it."""

    held: Sequence[Delivery]
    emit: Sequence[Outgoing]
    is_repeat: bool


class _Change(Protocol):
    """A guarded change. `is_repeat`: an earlier try may have done it."""

    def __call__(self, *, is_repeat: bool) -> Awaitable[bytes]: ...


class Outlet:
    """The sending half of a transport. `window`: seconds in which an id published again adds nothing."""

    def __init__(self, session: Session, *, window: float) -> None:
        self._session = session
        self._window = max(1, round(window))
        self._changes: set[asyncio.Task[object]] = set()  # they go on when their caller is cancelled
        self._publishing: Joint[Outgoing] = Joint(session.link, self._publish_call, most=CHUNK)
        self._settling: Joint[_Settling] = Joint(session.link, self._settle_call, most=CHUNK, ended=self._settled)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Receipt | Refusal]:
        """Add messages; an id seen within the window on its topic adds nothing."""
        fitting = [message for message in messages if len(message.body) <= MAX_BODY]
        answers: list[Receipt | Refusal] = []
        try:
            for reply, start, part in await self._publishing.ask(fitting) if fitting else ():
                answers += map(_receipt, part, cast(list[Reply], reply)[start : start + len(part)])
        except (BrokerUnreachable, BrokerRefused, OutcomeUnknown) as error:
            is_definite = not isinstance(error, OutcomeUnknown)
            answers = [Refusal(message.id, str(error), is_definite) for message in fitting]
        if len(fitting) == len(messages):
            return answers
        answered = iter(answers)
        return [next(answered) if len(one.body) <= MAX_BODY else _too_large(one) for one in messages]

    async def ack(self, deliveries: Sequence[Delivery], emit: Sequence[Outgoing] = ()) -> Sequence[Settled]:
        """Settle and emit in one step; nothing is emitted where no delivery was left to settle."""
        held = [one for one in deliveries if one in self._session.held]
        reasons: dict[Delivery, int] = {}
        if held or (emit and not deliveries):
            for one in held:
                _hold(one).is_settling = True
            codes = await self._surely(partial(self._settle, held, emit))
            reasons = dict(zip(held, codes or b"2" * len(held), strict=True))
        return [_answer(one, reasons.get(one)) for one in deliveries]

    async def release(self, deliveries: Sequence[Delivery], *, delay: float, counted: bool) -> list[Settled]:
        """Give back, after a delay if any."""
        session = self._session
        held = [one for one in deliveries if one in session.held]
        reasons: dict[Delivery, int] = {}
        for consumer, theirs in grouped(held, consumer_of):
            for one in theirs:
                _hold(one).is_settling = True
            entries = [(one.topic, _hold(one).ref) for one in theirs]
            give_back = partial(session.give_back, entries, consumer=consumer, how=Giving(delay, counted))
            codes = await self._surely(give_back)
            self._close_books(theirs, codes)
            reasons |= zip(theirs, codes or b"2" * len(theirs), strict=True)
        return [_answer(one, reasons.get(one)) for one in deliveries]

    async def bury(self, delivery: Delivery, letter: bytes) -> Settled:
        """Move a delivery to the dead topic of its spec."""
        session = self._session
        dead_topic = session.spec(delivery.topic).dead_topic or ""
        if delivery not in session.held:
            return _answer(delivery, None)
        hold = _hold(delivery)

        async def bury(*, is_repeat: bool) -> bytes:
            ours = (hold.consumer, hold.ref, delivery.id)
            arguments = (self._window, *ours, letter, encoded_headers(delivery.headers), int(is_repeat))
            reply = await session.link.run(_BURY, (delivery.topic, dead_topic), arguments)
            return b"%d" % cast(int, reply)

        hold.is_settling = True
        codes = await self._surely(bury)
        self._close_books((delivery,), codes)
        return _answer(delivery, codes[0] if codes else ord("2"))

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

    # -- inside -----------------------------------------------------------------------------------------------------

    def _publish_call(self, messages: list[Outgoing], finish: Finish) -> Call:
        session = self._session
        arguments: list[Argument] = [self._window, session.rows.retention]
        is_repeatable = True
        for message in messages:
            is_inbox = session.is_inbox(message.topic)
            arguments += published(message, is_inbox=is_inbox)
            is_repeatable = is_repeatable and (is_inbox or bool(message.id))
        return session.link.script_call(_PUBLISH, (), arguments, finish, is_repeatable=is_repeatable)

    def _settle_call(self, groups: list[_Settling], finish: Finish) -> Call:
        session = self._session
        arguments: list[Argument] = [self._window, session.rows.retention]
        for group in groups:
            arguments += (int(group.is_repeat), len(group.held), len(group.emit))
            for one in group.held:
                arguments += (one.topic, _hold(one).ref, _hold(one).consumer)
            for message in group.emit:
                arguments += published(message, is_inbox=session.is_inbox(message.topic))
        return session.link.script_call(_SETTLE, (), arguments, finish, is_repeatable=False)

    async def _settle(self, held: Sequence[Delivery], emit: Sequence[Outgoing], *, is_repeat: bool) -> bytes:
        ((reply, start, _),) = await self._settling.ask((_Settling(held, emit, is_repeat),))
        return cast(list[bytes], reply)[start]

    def _settled(self, groups: list[_Settling], reply: Reply) -> None:
        """Keep the books, also of what was asked by somebody cancelled since."""
        answers = cast(list[bytes] | None, reply)
        for index, group in enumerate(groups):
            self._close_books(group.held, answers[index] if answers else None)

    def _close_books(self, held: Sequence[Delivery], codes: bytes | None) -> None:
        for index, one in enumerate(held):
            hold = _hold(one)
            hold.is_settling = False
            if codes is not None:
                self._session.held.pop(one, None)
                hold.is_done = hold.is_done or codes[index : index + 1] == b"1"

    async def _surely(self, change: _Change) -> bytes | None:
        """Return the answer to a guarded change, repeated once if its outcome was unknown; None if it stays so."""
        for is_repeat in (False, True):
            try:
                return await change(is_repeat=is_repeat)
            except OutcomeUnknown:
                continue
            except BrokerUnreachable:
                break
        return None


def grouped(items: Iterable[T], key: Callable[[T], K]) -> list[tuple[K, list[T]]]:
    """Return items by key, in the order the keys came."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())


def consumer_of(delivery: Delivery) -> str:
    """Return by which name a delivery is held."""
    return _hold(delivery).consumer


def _hold(delivery: Delivery) -> Hold:
    return cast(Hold, delivery.token)


def _answer(delivery: Delivery, code: int | None) -> Settled:
    """Tell what settling came to; None: it was not held any more."""
    hold = delivery.token
    if isinstance(hold, Hold) and hold.is_done:
        return Settled(delivery.id, True, "done")
    return Settled(delivery.id, False, "lost" if code is None else _REASONS[code])


def _receipt(message: Outgoing, reply: Reply) -> Receipt | Refusal:
    if isinstance(reply, bytes):
        position = reply.decode()
        return Receipt(message.id, position.removeprefix("="), duplicate=position.startswith("="))
    problem = str(reply) if isinstance(reply, hiredis.ReplyError) else "the server answered something else"
    return Refusal(message.id, problem, definite=True)


def _too_large(message: Outgoing) -> Refusal:
    problem = PayloadTooLarge(what=f"message {message.id!r}", size=len(message.body), limit=MAX_BODY)
    return Refusal(message.id, str(problem), definite=True)
