"""One connection to a NATS server: its line protocol, spoken directly.

What is sent in one loop turn leaves in one write; what comes is handed to its subscriber as
it is parsed, without a task or a queue for each message. TLS is settled before a credential
is sent: a server that does not offer it is refused, never talked to in the clear. What a
broken connection means is its owner's to say. Source: docs.nats.io, "Client protocol".
"""

import asyncio
import json
import re
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from msgspec import Struct

from murmur.broker_url import BrokerURL
from murmur.errors import BrokerRefused, BrokerUnreachable

CONNECT_WITHIN: Final = 5.0  # seconds, for each of: connection, greeting, TLS, credentials
_LONGEST_LINE: Final = 64 * 1024
_IS_PLAIN: Final = re.compile(r"[!-$&-~]*").fullmatch  # printable ASCII without the percent sign
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_VERSION_LINE: Final = b"NATS/1.0"

NO_HEADERS: Final[Mapping[str, str]] = {}


class Message(Struct, frozen=True, gc=False):
    """What came. `status` is that of an answer without content: 404, 408, 409, 503; 0 for everything else."""

    subject: bytes
    reply: bytes
    body: bytes
    raw_headers: bytes = b""

    @property
    def status(self) -> int:
        """The number behind the version line of its headers."""
        if not self.raw_headers:
            return 0
        word = self.raw_headers[len(_VERSION_LINE) + 1 : len(_VERSION_LINE) + 4]
        return int(word) if word.isdigit() else 0

    @property
    def status_text(self) -> str:
        """What the server says to the status."""
        line = self.raw_headers.partition(b"\r\n")[0]
        return line[len(_VERSION_LINE) + 5 :].decode("utf-8", "replace")

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, decoded."""
        if not self.raw_headers:
            return NO_HEADERS
        found: dict[str, str] = {}
        for line in self.raw_headers.decode("utf-8", "replace").split("\r\n")[1:]:
            name, colon, value = line.partition(":")
            if colon:
                found[name] = unquote(value.strip()) if "%" in value else value.strip()
        return found


Subscriber = Callable[[Message], None]


def encoded_headers(headers: Mapping[str, str]) -> bytes:
    """Return headers as they are sent: whatever is not printable ASCII in a value is percent-encoded."""
    lines = [f"{_plain(name)}: {_plain(value)}\r\n" for name, value in headers.items()]
    return b"NATS/1.0\r\n%b\r\n" % "".join(lines).encode()


def _plain(text: str) -> str:
    return text if _IS_PLAIN(text) else quote(text, safe=_PLAIN)


def request_line(subject: str, reply: bytes, headers: bytes, body: bytes) -> bytes:
    """Return a message that is answered to `reply`, as it is sent. `headers`: as `encoded_headers` returns them."""
    to, size = subject.encode(), len(headers)
    if headers:
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (to, reply, size, size + len(body), headers, body)
    return b"PUB %b %b %d\r\n%b\r\n" % (to, reply, len(body), body)


class Wire(asyncio.Protocol):
    """A connection that is open. `on_lost` is called once, when it breaks or is ended."""

    def __init__(self, *, on_lost: Callable[[str], None], on_error: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost, self._on_error = on_lost, on_error
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._needed = 0  # bytes until the message that has begun is whole
        self._leaving: list[bytes] = []
        self._at_last: list[Callable[[], None]] = []
        self._pongs: deque[Callable[[], None]] = deque()
        self.info: dict[str, Any] = {}
        self.subscribers: dict[int, Subscriber] = {}
        self.greeted: asyncio.Future[bytes] = self._loop.create_future()
        self.heard_at = self._loop.time()
        self.is_closed = False

    # -- sending ----------------------------------------------------------------------------------------------------

    def publish(self, subject: str, body: bytes = b"", *, reply: str = "", headers: bytes = b"") -> None:
        """Send a message. `headers`: as `encoded_headers` returns them."""
        to = f"{subject} {reply} " if reply else f"{subject} "
        if headers:
            size = len(headers)
            self.send(b"HPUB %b%d %d\r\n%b%b\r\n" % (to.encode(), size, size + len(body), headers, body))
        else:
            self.send(b"PUB %b%d\r\n%b\r\n" % (to.encode(), len(body), body))

    def subscribe(self, sid: int, subject: str, subscriber: Subscriber) -> None:
        """Have messages handed over from now on."""
        self.subscribers[sid] = subscriber
        self.send(f"SUB {subject} {sid}\r\n".encode())

    def unsubscribe(self, sid: int, ended: Callable[[], None]) -> None:
        """Have none sent any more; `ended` is called once none is under way."""

        def end() -> None:
            self.subscribers.pop(sid, None)
            ended()

        self.send(f"UNSUB {sid}\r\n".encode())
        self.ping(end)

    def ping(self, heard: Callable[[], None]) -> None:
        """Have `heard` called once the server has read all that was sent before."""
        self._pongs.append(heard)
        self.send(b"PING\r\n")

    def send(self, line: bytes) -> None:
        """Send bytes of the protocol at the end of this loop turn."""
        if self.is_closed:
            return
        self._leaving.append(line)
        if len(self._leaving) == 1:
            self._loop.call_soon(self._flush)

    def at_last(self, send: Callable[[], None]) -> None:
        """Have `send` called when all else of this loop turn is ready to leave, to send behind it."""
        self._at_last.append(send)
        self._loop.call_soon(self._flush)

    def abort(self, problem: str) -> None:
        """End it now."""
        if not self.is_closed:
            self._flush()
            self.is_closed = True
            if self._transport is not None:
                self._transport.abort()
            self._on_lost(problem)

    async def finish(self) -> None:
        """End it once all that was sent has left."""
        if self._transport is not None and not self.is_closed:
            self._flush()
            self._transport.close()
            self.is_closed = True
            self._on_lost("closed")

    # -- what asyncio calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport to a Protocol

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        if not self.greeted.done():
            self.greeted.set_result(bytes(self._buffer))
        if not self.is_closed:
            self.is_closed = True
            self._on_lost(str(exc) if exc else "the server closed it")

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self.heard_at = self._loop.time()
        buffer = self._buffer
        buffer += data
        if not self.greeted.done():
            end = buffer.find(b"\r\n")
            if end < 0 and len(buffer) < _LONGEST_LINE:
                return
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            self.greeted.set_result(line)
            if not line.startswith(b"INFO "):
                return
        if len(buffer) >= self._needed:
            self._parse(bytes(buffer))

    def start_tls(self, transport: asyncio.Transport) -> None:
        """Go on over an encrypted transport."""
        self._transport = transport

    # -- parsing ----------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        at, self._needed = 0, 0
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > _LONGEST_LINE:
                    self.abort("the server sent something that is not NATS")
                break
            first = data[at : at + 1]
            if first in (b"M", b"H"):
                after = self._message(data, at, end)
                if after < 0:
                    break
                at = after
            else:
                self._control(data[at:end])
                at = end + 2
        del self._buffer[:at]
        self._needed = max(0, self._needed - at)

    def _message(self, data: bytes, at: int, end: int) -> int:
        """Hand a message over; return where the next line begins, -1 if this one is not whole."""
        words = data[at:end].split()
        start, size = end + 2, int(words[-1])
        after = start + size + 2
        if after > len(data):
            self._needed = after
            return -1
        subscriber = self.subscribers.get(int(words[2]))
        if subscriber is None:
            return after
        if words[0] == b"MSG":
            subscriber(Message(words[1], words[3] if len(words) == 5 else b"", data[start : start + size]))
        else:
            split = start + int(words[-2])
            reply = words[3] if len(words) == 6 else b""
            subscriber(Message(words[1], reply, data[split : start + size], data[start:split]))
        return after

    def _control(self, line: bytes) -> None:
        word = line[:4]
        if word == b"PING":
            self.send(b"PONG\r\n")
        elif word == b"PONG":
            if self._pongs:
                self._pongs.popleft()()
        elif word == b"-ERR":
            self._on_error(line[5:].decode("utf-8", "replace").strip("'"))
        elif word == b"INFO":
            self.info = json.loads(line[5:])

    def _flush(self) -> None:
        for send in self._at_last:
            send()
        self._at_last.clear()
        leaving, self._leaving = self._leaving, []
        if leaving and self._transport is not None and not self.is_closed:
            self._transport.write(b"".join(leaving))


async def connect(
    url: BrokerURL,
    host: str,
    port: int,
    *,
    name: str,
    tls: ssl.SSLContext | None,
    on_lost: Callable[[str], None],
    on_error: Callable[[str], None],
) -> Wire:
    """Return a connection whose credentials were accepted. Raises `BrokerUnreachable`, `BrokerRefused`."""
    shown = str(url)
    entrance = _Entrance(on_lost, on_error)
    wire = Wire(on_lost=entrance.lost, on_error=entrance.failed)
    try:
        await _enter(wire, entrance, url, host, port, name=name, tls=tls)
    except (ssl.SSLError, ssl.CertificateError) as error:
        problem = f"TLS with {host}:{port} failed: {getattr(error, 'verify_message', '') or error}"
        raise BrokerRefused(url=shown, problem=problem) from None
    except (OSError, TimeoutError) as error:
        if isinstance(error, BrokerRefused | BrokerUnreachable):
            raise
        problem = str(error) or f"{host}:{port} is silent, as NATS is not"
        raise BrokerUnreachable(url=shown, after=CONNECT_WITHIN, problem=problem) from None
    finally:
        if not entrance.is_live:
            wire.abort("not entered")
    return wire


class _Entrance:
    """What happens to a connection before it is its owner's."""

    def __init__(self, on_lost: Callable[[str], None], on_error: Callable[[str], None]) -> None:
        self._on_lost, self._on_error = on_lost, on_error
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.loss: str | None = None
        self.error: str | None = None
        self.is_live = False

    def answer(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def lost(self, problem: str) -> None:
        self.loss = problem
        self.answer()
        if self.is_live:
            self._on_lost(problem)

    def failed(self, problem: str) -> None:
        self.error = problem
        if self.is_live:
            self._on_error(problem)


async def _enter(
    wire: Wire, entrance: _Entrance, url: BrokerURL, host: str, port: int, *, name: str, tls: ssl.SSLContext | None
) -> None:
    """Connect, greet, encrypt, and show our credentials, in this order."""
    loop, shown = asyncio.get_running_loop(), str(url)
    async with asyncio.timeout(CONNECT_WITHIN):
        transport, _ = await loop.create_connection(lambda: wire, host, port)
    async with asyncio.timeout(CONNECT_WITHIN):
        _read_greeting(url, wire, await wire.greeted)
    if tls is not None:
        async with asyncio.timeout(CONNECT_WITHIN):
            secured = await loop.start_tls(transport, wire, tls, server_hostname=host)
        assert secured is not None
        wire.start_tls(secured)
    wire.send(b"CONNECT %b\r\n" % json.dumps(_credentials(url, name)).encode())
    wire.ping(entrance.answer)
    async with asyncio.timeout(CONNECT_WITHIN):
        await entrance.answered
    if entrance.error is not None:
        raise BrokerRefused(url=shown, problem=entrance.error)
    if entrance.loss is not None:
        raise BrokerUnreachable(url=shown, after=CONNECT_WITHIN, problem=entrance.loss)
    entrance.is_live = True


def _read_greeting(url: BrokerURL, wire: Wire, greeting: bytes) -> None:
    shown = str(url)
    if not greeting.startswith(b"INFO "):
        if not greeting:
            raise BrokerUnreachable(url=shown, after=CONNECT_WITHIN, problem="it closed the connection without a word")
        problem = f"it does not speak NATS, it began with {greeting[:40].decode('ascii', 'replace')!r}"
        raise BrokerRefused(url=shown, problem=problem)
    try:
        wire.info = json.loads(greeting[5:])
    except ValueError:
        raise BrokerRefused(url=shown, problem="it does not speak NATS, its greeting is no JSON") from None
    offers = wire.info.get("tls_required") or wire.info.get("tls_available")
    if url.is_tls and not offers:
        raise BrokerRefused(
            url=shown, problem="it offers no TLS, and no password is sent without; write nats:// for plain"
        )
    if not url.is_tls and wire.info.get("tls_required"):
        raise BrokerRefused(url=shown, problem="it wants TLS; write tls:// instead of nats://")
    if wire.info.get("tls_verify") and "cert" not in url.options:
        raise BrokerRefused(url=shown, problem="it wants a certificate of ours; name it: ?cert=FILE&key=FILE")


def _credentials(url: BrokerURL, name: str) -> dict[str, Any]:
    """Return the CONNECT object. A password without a user is a token: `nats://:token@host`."""
    words: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "tls_required": url.is_tls,
        "name": name,
        "lang": "python-murmur",
        "version": "1",
        "protocol": 1,
        "headers": True,
        "no_responders": True,
    }
    if url.username is not None:
        words |= {"user": url.username, "pass": url.password or ""}
    elif url.password is not None:
        words["auth_token"] = url.password
    return words
