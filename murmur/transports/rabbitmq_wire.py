"""One connection to a RabbitMQ server: handshake, channels, heartbeats, frames.

All that is written in one turn of the loop leaves in one write, and what comes is handed on as it
is parsed, in order: no task and no queue per message. A call that nobody waits for any more does
no harm to its channel. Who connects again, and what a lost connection means, is told in `rabbitmq_link`.
"""

import asyncio
import contextlib
import itertools
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from pamqp import commands, frame
from pamqp.base import Frame

from murmur.transports.rabbitmq_frames import (
    BEAT,
    BODY,
    END,
    FRAME,
    HEADER,
    HEARTBEAT,
    METHOD,
    ROOM,
    Content,
    Message,
    method_of,
    properties_of,
    published,
)

_GREETING: Final = b"AMQP\x00\x00\x09\x01"
_FRAME_MAX: Final = 131_072  # bytes; the server may ask for less
_SILENT_HALVES: Final = 4  # half heartbeats without a byte, after which the other side counts as gone
_WITH_CONTENT: Final = (commands.Basic.Deliver, commands.Basic.Return)
_TLS_ALERT: Final = 0x15
_MOST_CHANNELS: Final = 2_000  # RabbitMQ takes 2,047 as it comes
_TYPES: Final = (METHOD, HEADER, BODY, HEARTBEAT)


class WireLost(Exception):
    """The connection broke, or never came about; the text says how."""


class ServerError(Exception):
    """The server closed a channel or the connection and said why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Channel:
    """A channel that may close at any time; then everybody who waits for it is told."""

    def __init__(self, wire: "Wire", number: int) -> None:
        self.wire, self.number = wire, number
        self.closed: Exception | None = None
        self.on_content: Callable[[Content], None] = _ignore
        self.on_confirm: Callable[[commands.Basic.Ack | commands.Basic.Nack], None] = _ignore
        self.on_cancel: Callable[[str], None] = _ignore
        self.on_closed: Callable[[Exception], None] = _ignore
        self._replies: deque[asyncio.Future[Any]] = deque()
        self._method: Any = None  # of the message that is coming
        self._properties: commands.Basic.Properties | None = None
        self._missing = 0  # bytes of its body
        self._parts: list[bytes] = []

    def ask(self, method: Frame) -> asyncio.Future[Any]:
        """Send a method that is answered; the future ends in the answer, `ServerError` or `WireLost`."""
        future: asyncio.Future[Any] = self.wire.loop.create_future()
        if self.closed is not None:
            _fail(future, self.closed)
            return future
        self._replies.append(future)
        self.wire.write(frame.marshal(method, self.number))
        return future

    def publish(self, message: Message) -> None:
        """Send a message."""
        self.wire.write(published(message, channel=self.number, frame_max=self.wire.frame_max))

    def leave(self) -> asyncio.Future[Any]:
        """Close it; the future ends when the server has. Nothing that comes meanwhile is handed on."""
        self.on_content = self.on_cancel = self.on_closed = _ignore
        closing = self.ask(commands.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0))
        closing.add_done_callback(lambda _: self.end(WireLost("closed")))
        return closing

    def end(self, error: Exception) -> None:
        """Take note that it is closed."""
        if self.closed is not None:
            return
        self.closed = error
        self.wire.channels.pop(self.number, None)
        while self._replies:
            _fail(self._replies.popleft(), error)
        self.on_closed(error)

    def got(self, kind: int, payload: bytes) -> None:
        """Take one frame in."""
        if kind == METHOD:
            method = method_of(payload)
            if isinstance(method, _WITH_CONTENT):
                self._method = method
            else:
                self._heard(method)
            return
        if kind == HEADER:
            self._missing, self._properties = properties_of(payload)
            self._parts = []
        else:
            self._missing -= len(payload)
            self._parts.append(payload)
        if self._missing <= 0 and self._properties is not None:
            content = Content(self._method, self._properties, b"".join(self._parts))
            self._properties, self._parts = None, []
            self.on_content(content)

    def _heard(self, method: Any) -> None:
        if isinstance(method, commands.Basic.Ack | commands.Basic.Nack):
            self.on_confirm(method)
        elif isinstance(method, commands.Basic.Cancel):
            self.on_cancel(method.consumer_tag or "")
        elif isinstance(method, commands.Channel.Close):
            self.wire.write(frame.marshal(commands.Channel.CloseOk(), self.number))
            self.end(ServerError(method.reply_code or 0, method.reply_text))
        elif self._replies:
            future = self._replies.popleft()
            if not future.done():
                future.set_result(method)


class Wire(asyncio.Protocol):
    """The connection. `on_lost` is called once, with the reason, when it is gone."""

    def __init__(self, *, on_lost: Callable[[Exception], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.channels: dict[int, Channel] = {}
        self.properties: dict[str, Any] = {}  # of the server
        self.frame_max = _FRAME_MAX
        self.blocked: str | None = None  # why the server takes no more messages at present
        self.lost: Exception | None = None
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._base = Channel(self, 0)
        self._numbers = itertools.cycle(range(1, _MOST_CHANNELS + 1))
        self._greeted: asyncio.Future[commands.Connection.Start] = self.loop.create_future()
        self._greeted.add_done_callback(_seen)
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        self._outgoing: list[bytes] = []
        self._incoming = bytearray()
        self._has_heard = True
        self._silence = 0
        self._beating: asyncio.TimerHandle | None = None

    # -- opening ----------------------------------------------------------------------------------

    async def open(self, *, user: str, password: str, vhost: str, heartbeat: int, name: str) -> None:
        """Shake hands. Raises `ServerError`, `WireLost`."""
        start = await self._greeted
        self.properties = dict(start.server_properties or {})
        capabilities = {
            "publisher_confirms": True,
            "basic.nack": True,
            "consumer_cancel_notify": True,
            "connection.blocked": True,
            "authentication_failure_close": True,
        }
        client: dict[str, Any] = {"product": "murmur", "connection_name": name, "capabilities": capabilities}
        tune = await self._base.ask(
            commands.Connection.StartOk(client, mechanism="PLAIN", response=f"\0{user}\0{password}", locale="en_US")
        )
        self.frame_max = min(tune.frame_max or _FRAME_MAX, _FRAME_MAX)
        self.write(frame.marshal(commands.Connection.TuneOk(tune.channel_max, self.frame_max, heartbeat), 0))
        await self._base.ask(commands.Connection.Open(virtual_host=vhost))
        self._beat(heartbeat / 2)

    async def channel(self) -> Channel:
        """Open a channel."""
        while (number := next(self._numbers)) in self.channels:
            pass
        channel = self.channels[number] = Channel(self, number)
        if self.lost is not None:
            channel.end(self.lost)
        await channel.ask(commands.Channel.Open())
        return channel

    async def unblocked(self) -> None:
        """Wait until the server takes messages, or the connection is gone."""
        await self._unblocked.wait()

    async def close(self) -> None:
        """Say goodbye, and disconnect."""
        if self.lost is None:
            goodbye = commands.Connection.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
            with contextlib.suppress(TimeoutError, WireLost, ServerError):
                async with asyncio.timeout(1.0):
                    await self._base.ask(goodbye)
        self.abort(WireLost("closed"))

    def abort(self, error: Exception) -> None:
        """End it at once; what was written and not sent is dropped."""
        if self._transport is not None:
            self._transport.abort()
        self._end(error)

    # -- sending ----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send with all others of this turn of the loop."""
        if not self._outgoing:
            self.loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None and self.lost is None:
            self._transport.write(b"".join(outgoing))

    def _beat(self, half: float) -> None:
        """Show that we live, and look whether the other side does."""
        # Counted in looks, not by the clock: after a loop that stood still, what came meanwhile is read first.
        self._silence = 0 if self._has_heard else self._silence + 1
        self._has_heard = False
        if self._silence >= _SILENT_HALVES:
            self.abort(WireLost(f"no sign of life for {self._silence * half:.0f} s"))
            return
        self.write(BEAT)
        self._beating = self.loop.call_later(half, self._beat, half)

    # -- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.write(_GREETING)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody."""
        if not self._greeted.done():
            reason = "it hung up before a greeting; TLS may be wanted here (amqps://)"
            self._end(WireLost(reason if exc is None else _said(exc)))
        self._end(WireLost("the server closed the connection" if exc is None else _said(exc)))

    def data_received(self, data: bytes) -> None:
        """Parse frames, and hand them on."""
        self._has_heard = True
        if not self._greeted.done() and not self._incoming and data[0] not in _TYPES:
            self.abort(WireLost(_stranger(data)))
            return
        incoming = self._incoming
        incoming += data
        at, size = 0, len(incoming)
        try:
            while size - at >= FRAME.size:
                kind, number, length = FRAME.unpack_from(incoming, at)
                if size - at < length + ROOM:
                    break
                first = at + FRAME.size
                at = first + length + 1
                self._got(kind, number, bytes(incoming[first:at]))
        except Exception as error:  # noqa: BLE001  a stream that cannot be read any further is a lost connection
            self.abort(WireLost(f"the server sent what cannot be read: {error}"))
            return
        if self.lost is None:
            del incoming[:at]

    def _got(self, kind: int, number: int, ended: bytes) -> None:
        payload = ended[:-1]
        if ended[-1:] != END or kind not in _TYPES:
            raise ValueError("bytes that are no frame")
        if kind == HEARTBEAT:
            return
        if number:
            channel = self.channels.get(number)
            if channel is not None:
                channel.got(kind, payload)
            return
        method = method_of(payload)
        if isinstance(method, commands.Connection.Start):
            if not self._greeted.done():
                self._greeted.set_result(method)
        elif isinstance(method, commands.Connection.Close):
            self.write(frame.marshal(commands.Connection.CloseOk(), 0))
            self._flush()
            self._end(ServerError(method.reply_code or 0, method.reply_text))
            if self._transport is not None:
                self._transport.close()
        elif isinstance(method, commands.Connection.Blocked):
            self.blocked = method.reason or "an alarm"
            self._unblocked.clear()
        elif isinstance(method, commands.Connection.Unblocked):
            self.blocked = None
            self._unblocked.set()
        else:
            self._base.got(METHOD, payload)

    def _end(self, error: Exception) -> None:
        if self.lost is not None:
            return
        self.lost = error
        if self._beating is not None:
            self._beating.cancel()
        if not self._greeted.done():
            self._greeted.set_exception(error)
        self._unblocked.set()
        for channel in (self._base, *list(self.channels.values())):
            channel.end(error)
        self._on_lost(error)


async def connect(
    address: tuple[str, int],
    *,
    tls: ssl.SSLContext | None,
    on_lost: Callable[[Exception], None],
    **opening: Any,
) -> Wire:
    """Return an open connection. Raises `WireLost`, `ServerError`. `opening`: see `Wire.open`."""
    host, port = address
    loop = asyncio.get_running_loop()
    lost: list[Exception] = []
    is_open = False

    def gone(error: Exception) -> None:
        lost.append(error)
        if is_open:
            on_lost(error)

    try:
        _, wire = await loop.create_connection(
            lambda: Wire(on_lost=gone), host, port, ssl=tls, server_hostname=host if tls is not None else None
        )
    except ssl.SSLCertVerificationError as error:
        raise WireLost(f"its certificate is not trusted: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise WireLost(f"no TLS is spoken here ({error.reason}); amqp:// may be right") from None
    except OSError as error:
        raise WireLost(_said(error)) from None
    try:
        await wire.open(**opening)
    except BaseException:
        wire.abort(WireLost("given up"))
        raise
    is_open = True
    if lost:
        raise lost[0]
    return wire


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def _stranger(data: bytes) -> str:
    if data[0] == _TLS_ALERT:
        return "TLS is wanted here; write amqps://"
    if data.startswith(b"AMQP"):
        return f"it speaks AMQP {data[5]}.{data[6]}.{data[7]} only, not 0.9.1" if len(data) > 7 else "another AMQP"
    return f"what answers there is no RabbitMQ; it said {data[:24]!r}"


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        _seen(future)


def _seen(future: asyncio.Future[Any]) -> None:
    """Somebody may have stopped waiting: an error nobody asks for is no accident."""
    if future.done() and not future.cancelled():
        future.exception()


def _ignore(_: object) -> None:
    """Nobody listens."""
