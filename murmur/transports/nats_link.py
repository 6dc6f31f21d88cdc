"""The link to NATS: one connection that comes back when it breaks, and calls over it.

Every call ends within its deadline and says how: with the answer, with `BrokerUnreachable` (it
was never sent), `BrokerRefused` (no right to it), or `OutcomeUnknown` (it was sent, and no
answer came). What may be repeated is sent again on the next connection while there is time.
JetStream's own errors are the caller's business, see `nats_answers`.
"""

import asyncio
import json
import random
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct

from murmur.broker_url import BrokerURL
from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, MurmurError, OutcomeUnknown, PayloadTooLarge
from murmur.transports.nats_answers import answer_of, letting
from murmur.transports.nats_wire import Message, Subscriber, Wire, connect, request_line

DEADLINE: Final = 10.0  # seconds that a call may take
PING_AFTER: Final = 10.0  # seconds of silence
LONGEST_PAUSE: Final = 30.0  # seconds between two attempts to connect
SHORTEST_PAUSE: Final = 0.1
_QUIET_WITHIN: Final = 3.0  # seconds until a subscription that was ended is quiet
_TICK: Final = 1.0  # seconds between two looks at the deadlines
_SUBJECT_OF_ERROR: Final = re.compile(r'for (?:publish|subscription) to "([^"]+)"', re.IGNORECASE)


class Request(Struct, frozen=True, gc=False):
    """What is asked. `headers`: as they are sent."""

    subject: str
    body: bytes = b""
    headers: bytes = b""


Answers = list[Message | MurmurError]


class _Batch:
    """Requests that were made together: one future for all their answers, however each ends."""

    __slots__ = ("answers", "deadline", "future", "is_repeatable", "missing", "was_sent")

    def __init__(self, size: int, *, is_repeatable: bool) -> None:
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Answers] = loop.create_future()
        self.answers: list[Any] = [None] * size
        self.missing, self.deadline = size, loop.time() + DEADLINE
        self.is_repeatable, self.was_sent = is_repeatable, False

    def answer(self, index: int, answer: Message | MurmurError) -> None:
        self.answers[index] = answer
        self.missing -= 1
        if not self.missing and not self.future.done():  # else its owner was cancelled
            self.future.set_result(self.answers)


_Call = tuple[_Batch, int, str, bytes]  # its batch and place there, its subject, its line


class Listening:
    """A subscription that outlives connections."""

    __slots__ = ("sid", "subject", "subscriber")

    def __init__(self, sid: int, subject: str, subscriber: Subscriber) -> None:
        self.sid, self.subject, self.subscriber = sid, subject, subscriber


def pause(away: float, chance: float) -> float:
    """Return how long to wait before the next attempt to connect, `away` seconds after the connection broke.

    Jitter over up to half the time it was away, so that a short outage is felt shortly and a long one does not end in a
    stampede. `chance`: 0 to 1.
    """
    return SHORTEST_PAUSE + chance * min(LONGEST_PAUSE - SHORTEST_PAUSE, away / 2)


class NatsLink:
    """Requests and messages on one NATS. Belongs to the loop that opened it."""

    def __init__(self, url: str, *, name: str) -> None:
        self.url = BrokerURL.parse(url)
        self.shown, self.name, self.raw = str(self.url), name, url
        self.inbox = f"_INBOX.{secrets.token_hex(10)}"
        self.generation = 0  # counts connections
        self.wire: Wire | None = None
        self.denied: set[str] = set()  # subjects we have no right to, as far as we heard
        self._tls: Any = None
        self._sid = 1
        self._number = 0
        self._reply_to = f"{self.inbox}.c.".encode()
        self._calls: dict[int, _Call] = {}  # sent or waiting, oldest first
        self._listening: dict[int, Listening] = {}
        self._told: list[Callable[[bool], None]] = []  # when a connection breaks, and when there is one again
        self._syncing: asyncio.Future[None] | None = None
        self._unsynced: set[asyncio.Future[None]] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_up = asyncio.Event()
        self._is_closed = False
        self._refusal: BrokerRefused | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Raises `BadURL`, `BrokerUnreachable`, `BrokerRefused` within 10 s. Idempotent."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open())
        await asyncio.shield(self._opening)

    async def close(self) -> None:
        """Disconnect; what waits is told. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        await cancelled([self._connecting])
        if self.wire is not None:
            await self.wire.finish()
        for number in list(self._calls):
            self._give_up(number, "closed")

    async def up(self, within: float) -> bool:
        """Return whether there is a connection within so many seconds. Raises `BrokerRefused`."""
        if self._refusal is not None:
            raise self._refusal
        try:
            async with asyncio.timeout(within):
                await self._is_up.wait()
        except TimeoutError:
            return False
        return True

    def tell(self, told: Callable[[bool], None]) -> None:
        """Have `told` called with False when the connection breaks, and with True when there is one again."""
        self._told.append(told)

    @property
    def info(self) -> Mapping[str, Any]:
        """What the server says of itself."""
        return self.wire.info if self.wire is not None else {}

    # -- calls ------------------------------------------------------------------------------------------------------

    def ask_all(self, requests: Sequence[Request], *, is_repeatable: bool = True) -> asyncio.Future[Answers]:
        """Send requests at once; the future ends in what became of each: its answer, or an error as the module's text
        says."""
        batch = _Batch(len(requests), is_repeatable=is_repeatable)
        if not requests:
            batch.future.set_result([])
            return batch.future
        problem = self._unreachable("closed") if self._is_closed else self._refusal
        if problem is not None:
            for index in range(len(requests)):
                batch.answer(index, problem)
            return batch.future
        most, number, lines = int(self.info.get("max_payload", 1 << 30)), self._number, []
        for index, one in enumerate(requests):
            size = len(one.headers) + len(one.body)
            if size > most:
                # The server would not only refuse it but close the connection, and with it all that is under way.
                batch.answer(index, PayloadTooLarge(what=one.subject, size=size, limit=most))
                continue
            number += 1
            line = request_line(one.subject, b"%b%d" % (self._reply_to, number), one.headers, one.body)
            self._calls[number] = batch, index, one.subject, line
            lines.append(line)
        self._number = number
        if self.wire is not None:
            batch.was_sent = True
            self.wire.send(b"".join(lines))
        return batch.future

    async def ask(
        self, subject: str, body: bytes = b"", headers: bytes = b"", *, is_repeatable: bool = True
    ) -> Message:
        """Send a request and return its answer. Raises as the module's text says."""
        (answer,) = await self.ask_all([Request(subject, body, headers)], is_repeatable=is_repeatable)
        if isinstance(answer, MurmurError):
            raise answer
        return answer

    async def api(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream's API: `subject` is what follows `$JS.API.`. Raises `JetStreamError` besides."""
        body = b"" if request is None else json.dumps(request).encode()
        return answer_of(await self.ask(f"$JS.API.{subject}", body))

    def say(self, subject: str, body: bytes = b"", *, headers: bytes = b"", reply: str = "") -> bool:
        """Send a message without waiting for anything; False without a connection."""
        if self.wire is None:
            return False
        self.wire.publish(subject, body, reply=reply, headers=headers)
        return True

    def answer_all(self, replies: Iterable[bytes], body: bytes) -> None:
        """Say the same to everybody who told where; nothing without a connection."""
        if self.wire is not None:
            rest = b" %d\r\n%b\r\n" % (len(body), body)
            self.wire.send(b"".join([b"PUB %b%b" % (reply, rest) for reply in replies]))

    async def synced(self) -> None:
        """Wait until the server has read all that was sent before; those of one loop turn share a round trip.

        Raises `OutcomeUnknown` when the connection broke or is silent, `BrokerUnreachable` when there was none.
        """
        if self.wire is None:
            raise self._unreachable("no connection")
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_future()
            self.wire.at_last(partial(self._sync, self._syncing, self.wire))
        try:
            async with asyncio.timeout(DEADLINE):
                await asyncio.shield(self._syncing)
        except TimeoutError:
            raise OutcomeUnknown(call="settle", problem="no answer in time") from None

    def listen(self, subject: str, subscriber: Subscriber) -> Listening:
        """Have the messages of a subject handed over, on this connection and the next ones."""
        self._sid += 1
        listening = self._listening[self._sid] = Listening(self._sid, subject, subscriber)
        if self.wire is not None:
            self.wire.subscribe(listening.sid, subject, subscriber)
        return listening

    def forget(self, listening: Listening) -> None:
        """End one of which nothing more will come."""
        if self._listening.pop(listening.sid, None) is not None and self.wire is not None:
            self.wire.subscribers.pop(listening.sid, None)
            self.wire.send(b"UNSUB %d\r\n" % listening.sid)

    async def unlisten(self, listening: Listening) -> None:
        """End it; returns once no message of it is under way."""
        if self._listening.pop(listening.sid, None) is None or self.wire is None:
            return
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.wire.unsubscribe(listening.sid, partial(_end, ended))
        await asyncio.wait([ended], timeout=_QUIET_WITHIN)

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._tls = await asyncio.to_thread(self.url.tls)
        self._connected(await self._connect())
        self._watch(asyncio.get_running_loop().time())

    async def _connect(self) -> Wire:
        """Connect to one of the hosts, in an order of chance."""
        addresses = random.sample(self.url.hosts, len(self.url.hosts)) or [("localhost", 4222)]
        problem: Exception | None = None
        for host, port in addresses:
            try:
                return await connect(
                    self.url, host, port, name=self.name, tls=self._tls, on_lost=self._lost, on_error=self._failed
                )
            except BrokerUnreachable as error:
                problem = error
        assert problem is not None
        raise problem

    def _connected(self, wire: Wire) -> None:
        self.generation += 1
        self.wire, self._refusal = wire, None
        self.denied.clear()
        self._subscribe(wire)
        for batch, _, _, line in self._calls.values():
            batch.was_sent = True
            wire.send(line)
        self._is_up.set()
        if self.generation > 1:
            for tell in self._told:
                tell(True)

    def _subscribe(self, wire: Wire) -> None:
        wire.subscribe(1, f"{self.inbox}.c.*", self._answered)
        for listening in self._listening.values():
            wire.subscribe(listening.sid, listening.subject, listening.subscriber)

    def _permit(self, refusal: BrokerRefused) -> None:
        """The server has read our subscriptions: unless it refused again, answers come from now on."""
        if self._refusal is refusal:
            self._refusal = None

    def _answered(self, message: Message) -> None:
        number = message.subject[len(self._reply_to) :]
        call = self._calls.pop(int(number), None) if number.isdigit() else None
        if call is not None:
            call[0].answer(call[1], message)

    def _sync(self, syncing: asyncio.Future[None], wire: Wire) -> None:
        self._syncing = None
        self._unsynced.add(syncing)
        syncing.add_done_callback(self._unsynced.discard)
        if wire.is_closed:
            self._break(syncing, "the connection broke")
        else:
            wire.ping(partial(_end, syncing))

    def _break(self, syncing: asyncio.Future[None], problem: str) -> None:
        if not syncing.done():
            syncing.set_exception(OutcomeUnknown(call="settle", problem=problem))
            syncing.exception()  # its owner may have been cancelled

    def _failed(self, problem: str) -> None:
        """The server complained: of a subject we have no right to, or of us; then it also closes the connection."""
        found = _SUBJECT_OF_ERROR.search(problem)
        if found is None:
            return
        self.denied.add(found[1])
        refused = BrokerRefused(url=self.shown, problem=problem, mend=letting(problem, found[1]))
        if found[1].lower() == f"{self.inbox}.c.*".lower():
            self._refusal = refused  # no answer can come
        for number, (batch, index, subject, _) in list(self._calls.items()):
            if subject.lower() == found[1].lower() or found[1].lower().startswith("_inbox."):
                del self._calls[number]
                batch.answer(index, refused)

    def _lost(self, problem: str) -> None:
        """Begin to connect again; settle or keep what was under way."""
        self.wire = None
        self._is_up.clear()
        for number, (batch, _, _, _) in list(self._calls.items()):
            if batch.was_sent and not batch.is_repeatable:
                self._give_up(number, f"the connection broke: {problem}")
        for syncing in list(self._unsynced):
            self._break(syncing, f"the connection broke: {problem}")
        for tell in self._told:
            tell(False)
        if not self._is_closed and (self._connecting is None or self._connecting.done()):
            self._connecting = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        loop = asyncio.get_running_loop()
        left_at, wait = loop.time(), 0.0
        while True:
            await asyncio.sleep(wait)
            wait = pause(loop.time() - left_at, random.random())  # noqa: S311  jitter, no secret
            try:
                wire = await self._connect()
            except BrokerRefused as error:
                self._refusal = error
                for batch, index, _, _ in self._calls.values():
                    batch.answer(index, error)
                self._calls.clear()
                continue
            except BrokerUnreachable:
                continue
            self._connected(wire)
            if not wire.is_closed:
                return

    def _watch(self, due: float) -> None:
        """Look after deadlines and silence, once a second."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = loop.call_later(_TICK, self._watch, now + _TICK)
        if now - due > _TICK:
            return  # the loop was blocked: answers may be there that nobody read yet
        for number, (batch, _, _, _) in list(self._calls.items()):
            if batch.deadline > now:
                break
            self._give_up(number, "no answer in time" if batch.was_sent else "no connection")
        wire = self.wire
        if wire is not None and self._refusal is not None:
            self._subscribe(wire)  # the right may have been given meanwhile, and nobody would tell
            wire.ping(partial(self._permit, self._refusal))
        if wire is not None and now - wire.heard_at >= PING_AFTER:
            if now - wire.heard_at >= PING_AFTER + DEADLINE:
                wire.abort("no answer in time")
            else:
                wire.ping(_ignore)

    def _give_up(self, number: int, problem: str) -> None:
        batch, index, subject, _ = self._calls.pop(number)
        is_unknown = batch.was_sent
        batch.answer(index, OutcomeUnknown(call=subject, problem=problem) if is_unknown else self._unreachable(problem))

    def _unreachable(self, problem: str) -> BrokerUnreachable:
        return BrokerUnreachable(url=self.shown, after=DEADLINE, problem=problem)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ignore() -> None:
    """That it is answered is all."""
