"""The link to NATS: one connection that comes back when it breaks, and calls over it.

Every call ends within its deadline and says how: with the answer, with `BrokerUnreachable` (it
was never sent), `BrokerRefused` (no right to it), or `OutcomeUnknown` (it was sent, and no
answer came). What may be repeated is sent again on the next connection while there is time.
JetStream's own errors are the caller's business: `JetStreamError`.
"""

import asyncio
import json
import random
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from murmur.broker_url import BrokerURL
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown, PayloadTooLarge
from murmur.transports.nats_wire import Message, Subscriber, Wire, connect

DEADLINE: Final = 10.0  # seconds that a call may take
PING_AFTER: Final = 10.0  # seconds of silence
LONGEST_PAUSE: Final = 30.0  # seconds between two attempts to connect
SHORTEST_PAUSE: Final = 0.1
_QUIET_WITHIN: Final = 3.0  # seconds until a subscription that was ended is quiet
_TICK: Final = 1.0  # seconds between two looks at the deadlines
_SUBJECT_OF_ERROR: Final = re.compile(r'for (?:publish|subscription) to "([^"]+)"', re.IGNORECASE)
NO_RESPONDERS: Final = 503


class JetStreamError(Exception):
    """JetStream answered a request with an error. `code` is its own number, `status` like that of HTTP."""

    def __init__(self, subject: str, *, status: int, code: int, text: str) -> None:
        super().__init__(text)
        self.subject, self.status, self.code = subject, status, code


class _Call:
    """A request under way."""

    __slots__ = ("body", "deadline", "future", "headers", "is_repeatable", "subject", "was_sent")

    def __init__(
        self, subject: str, body: bytes, headers: bytes, future: asyncio.Future[Message], *, is_repeatable: bool
    ) -> None:
        self.subject, self.body, self.headers, self.future = subject, body, headers, future
        self.is_repeatable, self.was_sent = is_repeatable, False
        self.deadline = future.get_loop().time() + DEADLINE


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
        self._tls: Any = None
        self._sid = 1
        self._number = 0
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
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self.wire is not None:
            await self.wire.finish()
        for number in list(self._calls):
            self._give_up(number, "closed")

    async def up(self, within: float) -> bool:
        """Return whether there is a connection within so many seconds. Raises `BrokerRefused`."""
        if self._refusal is not None:
            raise self._refusal
        try:
            await asyncio.wait_for(self._is_up.wait(), within)
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

    def ask(
        self, subject: str, body: bytes = b"", headers: bytes = b"", *, is_repeatable: bool = True
    ) -> asyncio.Future[Message]:
        """Send a request; the future ends in its answer or raises what the module's text says."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        call = _Call(subject, body, headers, future, is_repeatable=is_repeatable)
        if self._is_closed:
            future.set_exception(self._unreachable("closed"))
        elif self._refusal is not None:
            future.set_exception(self._refusal)
        elif len(body) + len(headers) > (most := int(self.info.get("max_payload", 1 << 30))):
            # The server would not only refuse it but close the connection, and with it all that is under way.
            future.set_exception(PayloadTooLarge(what=subject, size=len(body) + len(headers), limit=most))
        else:
            self._number += 1
            self._calls[self._number] = call
            if self.wire is not None:
                self._send(self._number, call)
        return future

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

    async def synced(self) -> None:
        """Wait until the server has read all that was sent before; those of one loop turn share a round trip.

        Raises `OutcomeUnknown` when the connection broke or is silent, `BrokerUnreachable` when there was none.
        """
        if self.wire is None:
            raise self._unreachable("no connection")
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self._sync, self._syncing, self.wire)
        try:
            await asyncio.wait_for(asyncio.shield(self._syncing), DEADLINE)
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
        wire.subscribe(1, f"{self.inbox}.c.*", self._answered)
        for listening in self._listening.values():
            wire.subscribe(listening.sid, listening.subject, listening.subscriber)
        for number, call in self._calls.items():
            self._send(number, call)
        self._is_up.set()
        if self.generation > 1:
            for tell in self._told:
                tell(True)

    def _send(self, number: int, call: _Call) -> None:
        assert self.wire is not None
        call.was_sent = True
        self.wire.publish(call.subject, call.body, reply=f"{self.inbox}.c.{number}", headers=call.headers)

    def _answered(self, message: Message) -> None:
        number = message.subject[message.subject.rfind(b".") + 1 :]
        call = self._calls.pop(int(number), None) if number.isdigit() else None
        if call is not None and not call.future.done():
            call.future.set_result(message)

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
        refused = BrokerRefused(url=self.shown, problem=problem)
        for number, call in list(self._calls.items()):
            if call.subject.lower() == found[1].lower() or found[1].lower().startswith("_inbox."):
                del self._calls[number]
                if not call.future.done():
                    call.future.set_exception(refused)

    def _lost(self, problem: str) -> None:
        """Begin to connect again; settle or keep what was under way."""
        self.wire = None
        self._is_up.clear()
        for number, call in list(self._calls.items()):
            if call.was_sent and not call.is_repeatable:
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
                for call in self._calls.values():
                    if not call.future.done():
                        call.future.set_exception(error)
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
        for number, call in list(self._calls.items()):
            if call.deadline > now:
                break
            self._give_up(number, "no answer in time" if call.was_sent else "no connection")
        wire = self.wire
        if wire is not None and now - wire.heard_at >= PING_AFTER:
            if now - wire.heard_at >= PING_AFTER + DEADLINE:
                wire.abort("no answer in time")
            else:
                wire.ping(_ignore)

    def _give_up(self, number: int, problem: str) -> None:
        call = self._calls.pop(number)
        if call.future.done():
            return
        if call.was_sent:
            call.future.set_exception(OutcomeUnknown(call=call.subject, problem=problem))
        else:
            call.future.set_exception(self._unreachable(problem))
        call.future.exception()  # its owner may have been cancelled

    def _unreachable(self, problem: str) -> BrokerUnreachable:
        return BrokerUnreachable(url=self.shown, after=DEADLINE, problem=problem)


def answer_of(message: Message) -> dict[str, Any]:
    """Return what JetStream answered. Raises `JetStreamError`."""
    subject = message.subject.decode("utf-8", "replace")
    if message.status:
        raise JetStreamError(subject, status=message.status, code=0, text=message.status_text or "nobody answers")
    answer: dict[str, Any] = json.loads(message.body)
    error = answer.get("error")
    if error:
        raise JetStreamError(
            subject,
            status=error.get("code", 500),
            code=error.get("err_code", 0),
            text=error.get("description", "failed"),
        )
    return answer


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ignore() -> None:
    """That it is answered is all."""
