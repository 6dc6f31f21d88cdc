"""One connection to a Redis server: commands out, replies in, in order.

redis-py connects (TLS, sockets, credentials, database), then hands the connection over: from
there on every command of a loop turn leaves in one write, and replies are parsed by hiredis
as they come, without a lock, a pool or a task for each. What happens when a connection
breaks is its owner's to say; here every call that was under way is only handed back.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import hiredis
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from murmur.broker_url import BrokerURL
from murmur.errors import BadURL, BrokerRefused, BrokerUnreachable
from murmur.transports.redis_scripts import Script

CONNECT_WITHIN: Final = 10.0  # seconds
_HANDSHAKE_WITHIN: Final = 5.0  # seconds, for each step of it
_FILES: Final = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}  # our options in redis-py's words

Argument = str | bytes | int | float
Reply = None | int | bytes | list["Reply"] | hiredis.ReplyError
Finish = Callable[[Reply, Exception | None], None]

_NOT_ENOUGH: Final = object()
_REFUSALS: Final = ("NOAUTH", "WRONGPASS", "NOPERM", "WRONGTYPE")
_NO_RIGHT_IN_SCRIPT: Final = "The user executing the script can't"
_FULL: Final = ("OOM", "MISCONF", "NOREPLICAS")  # no memory, no disk, nobody to keep a copy
_AWAY: Final = ("LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "BUSY", "TRYAGAIN", *_FULL)
_MENDS: Final = {
    "READONLY": " (this is a replica: name its primary)",
    "WRONGTYPE": " (a key of ours is of another kind: use a namespace)",
}


class ServerError(Exception):
    """The server answered a command with an error. `code` is its first word, but for the `ERR ` of scripts."""

    def __init__(self, text: str) -> None:
        inner = text.removeprefix("ERR ")
        if inner.partition(" ")[0] not in (*_REFUSALS, *_AWAY):
            inner = text
        # A script whose user lacks a right to what it does is told so in a sentence without a code.
        self.code = "NOPERM" if _NO_RIGHT_IN_SCRIPT in text else inner.partition(" ")[0]
        super().__init__(inner + _MENDS.get(self.code, ""))

    @property
    def is_refusal(self) -> bool:
        """Whether credentials or rights are missing, or a key of ours is somebody else's."""
        return self.code in _REFUSALS

    @property
    def is_away(self) -> bool:
        """Whether the server cannot serve now but may later; the command was not run."""
        return self.code in _AWAY


class Call:
    """A command, when it must have ended, and whom to tell how: `finish` is called exactly once."""

    __slots__ = ("command", "deadline", "finish", "is_repeatable", "script", "was_sent")

    def __init__(
        self,
        command: tuple[Argument, ...],
        finish: Finish,
        *,
        deadline: float,  # of the loop's clock
        is_repeatable: bool = False,  # to do it twice is to do it once
        script: Script | None = None,
    ) -> None:
        self.command, self.finish, self.deadline = command, finish, deadline
        self.is_repeatable, self.script = is_repeatable, script
        self.was_sent = False

    @property
    def name(self) -> str:
        """What the call is, for people."""
        return self.script.name if self.script else str(self.command[0])


class Wire(asyncio.Protocol):
    """A connection that lives until it breaks or is closed, and is never made again.

    `on_lost` is called once when it breaks, with the calls that got no answer; not after `close`.
    What the server sends unasked, published messages, goes to `on_push`.
    """

    def __init__(
        self,
        stream: asyncio.StreamWriter,
        *,
        on_lost: Callable[[list[Call], str], None],
        on_push: Callable[[list[Reply]], None] | None = None,
    ) -> None:
        self._stream = stream  # kept: it would close the connection when it is collected
        self._transport = stream.transport
        self._on_lost, self._on_push = on_lost, on_push
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOT_ENOUGH)
        self._calls: deque[Call] = deque()
        self._out: list[bytes] = []
        self._is_paused = self._is_flushing = self.is_closed = False
        self.heard_at = self._loop.time()
        self.client_id: int | None = None  # None where the server tells nobody

    def send(self, *calls: Call) -> None:
        """Send commands; each one's reply, or the loss of the connection, finishes it."""
        if self.is_closed:
            self._on_lost(list(calls), "closed")
            return
        is_idle = not self._calls
        for call in calls:
            self._calls.append(call)
            call.was_sent = True
            self._out.append(hiredis.pack_command(call.command))  # type: ignore[arg-type]  # its stub allows one argument only
        if is_idle:
            self._flush()  # nothing is under way that they could be joined with
        elif not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    @property
    def oldest_deadline(self) -> float | None:
        """When the call that waits longest must have ended; None if none waits."""
        return self._calls[0].deadline if self._calls else None

    def abort(self, problem: str) -> None:
        """Break the connection now."""
        self._lose(problem)

    def close(self) -> None:
        """Close it; calls that wait are told it broke."""
        self._on_lost = _tell_closed
        self._lose("closed")

    # -- called by the event loop -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Finish the calls whose replies came."""
        reader = self._reader
        self.heard_at = self._loop.time()
        try:
            reader.feed(data)
            while not self.is_closed and (reply := reader.gets()) is not _NOT_ENOUGH:
                self._answer(reply)
        except hiredis.ProtocolError as error:
            self._lose(f"what came is no reply of a Redis server: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand back what is under way."""
        self._lose(str(exc) if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        """The server reads slowly: hold back."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Send what was held back."""
        self._is_paused = False
        self._flush()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._is_flushing = False
        if self._out and not self._is_paused and not self.is_closed:
            out, self._out = self._out, []
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _answer(self, reply: Reply) -> None:
        if self._on_push is not None and isinstance(reply, list) and reply and reply[0] == b"message":
            self._on_push(reply)
            return
        if not self._calls:
            raise hiredis.ProtocolError("nobody asked")
        call = self._calls.popleft()
        if not isinstance(reply, hiredis.ReplyError):
            call.finish(reply, None)
            return
        error = ServerError(str(reply))
        if error.code == "NOSCRIPT" and call.script is not None and call.command[0] == "EVALSHA":
            call.command = ("EVAL", call.script.source, *call.command[2:])
            self.send(call)
            return
        call.finish(None, error)
        if error.code == "READONLY":
            self._lose("the server became a replica")  # its name may lead to the new master

    def _lose(self, problem: str) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._transport.abort()
        calls, self._calls = list(self._calls), deque()
        self._on_lost(calls, problem)


async def connect(
    url: str,
    *,
    shown: str,
    name: str,
    on_lost: Callable[[list[Call], str], None],
    on_push: Callable[[list[Reply]], None] | None = None,
) -> Wire:
    """Return a new connection, named for `CLIENT LIST`. Raises `BadURL`, `BrokerUnreachable`, `BrokerRefused`.

    Args:
        url: as redis-py reads it, password included; `shown`: the same without.
    """
    try:
        connection = _connection(url, shown)  # reads files, of which there may be none left to open
        async with asyncio.timeout(CONNECT_WITHIN):
            await _greeted(connection)
    except exceptions.BusyLoadingError as error:
        raise BrokerUnreachable(url=shown, after=CONNECT_WITHIN, problem=str(error)) from None
    except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.ResponseError) as error:
        raise BrokerRefused(url=shown, problem=str(error)) from None
    except (exceptions.RedisError, OSError, RuntimeError) as error:  # RuntimeError: uvloop's, of what closed meanwhile
        raise BrokerUnreachable(url=shown, after=CONNECT_WITHIN, problem=_problem(error, url)) from None
    # From here on the connection is ours alone.
    stream, connection._writer, connection._reader = connection._writer, None, None
    if stream is None or stream.transport.is_closing():  # nobody would tell us any more that it is lost
        raise BrokerUnreachable(url=shown, after=CONNECT_WITHIN, problem="the connection closed at once")
    wire = Wire(stream, on_lost=on_lost, on_push=on_push)
    stream.transport.set_protocol(wire)
    try:
        await _introduce(wire, name, shown)
    except BaseException:
        wire.close()
        raise
    return wire


async def _greeted(connection: AbstractConnection) -> None:
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py left it so
    except BaseException:
        if connection._writer is not None:  # redis-py leaves it open where its caller gives up
            connection._writer.transport.abort()
        raise


def connection_options(url: str) -> dict[str, object]:
    """Return how redis-py, blocking or not, is to connect: never retrying, never waiting for ever, in RESP 2."""
    options: dict[str, object] = {_FILES.get(name, name): value for name, value in parse_url(url).items()}
    options.pop("connection_class", None)
    options |= {
        "socket_timeout": _HANDSHAKE_WITHIN,
        "socket_connect_timeout": _HANDSHAKE_WITHIN,
        "socket_keepalive": True,
        "protocol": 2,
        "decode_responses": False,
        "health_check_interval": 0,
    }
    return options


def _connection(url: str, shown: str) -> AbstractConnection:
    try:
        kind: Callable[..., AbstractConnection] = parse_url(url).get("connection_class", Connection)
        options = connection_options(url)
        if "path" in options:
            del options["socket_keepalive"]
        made = kind(**options, retry=Retry(NoBackoff(), 0))
    except TypeError as error:
        unknown = str(error).rpartition("unexpected keyword argument ")[2]
        raise BadURL(url=shown, problem=f"unknown option {unknown}; there are ca, cert, key, db") from None
    except ValueError as error:
        raise BadURL(url=shown, problem=str(error)) from None
    if options.keys() & _FILES.values():
        BrokerURL.parse(url).tls()
    return made


def _problem(error: Exception, url: str) -> str:
    """Return what a failed connection means."""
    text = str(error) or "no answer"
    if isinstance(error, exceptions.InvalidResponse):
        return f"what listens there is no Redis ({text})"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"its certificate is not trusted ({text}); name its authority: ?ca=FILE"
    is_cut = any(sign in text.lower() for sign in ("reset", "closed", "eof", "broken pipe"))
    if not url.startswith("rediss:"):
        return f"{text}; if it wants TLS, the scheme is rediss://" if is_cut else text
    if is_cut or "CERTIFICATE_REQUIRED" in text:
        text += "; if it wants a certificate of ours, name it: ?cert=FILE&key=FILE"
    # Whether a Redis without TLS answers to a greeting of TLS depends on the chance bytes in it.
    if is_cut or "WRONG_VERSION" in text or isinstance(error, exceptions.TimeoutError | TimeoutError):
        text += "; if it speaks no TLS, the scheme is redis://"
    return text


async def _introduce(wire: Wire, name: str, shown: str) -> None:
    """Name the connection, learn its id, and see that the server serves."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _HANDSHAKE_WITHIN
    answers: list[asyncio.Future[Reply]] = []
    for command in (("CLIENT", "SETNAME", name), ("CLIENT", "ID"), ("PING",)):
        answers.append(loop.create_future())
        wire.send(Call(command, settler(answers[-1]), deadline=deadline))
    try:
        async with asyncio.timeout(_HANDSHAKE_WITHIN):
            _named, identified, served = await asyncio.gather(*answers, return_exceptions=True)
    except TimeoutError:
        raise BrokerUnreachable(url=shown, after=_HANDSHAKE_WITHIN, problem="connected, but no reply") from None
    if isinstance(identified, int):
        wire.client_id = identified
    if isinstance(served, BaseException):
        if isinstance(served, ServerError) and served.is_refusal:
            raise BrokerRefused(url=shown, problem=str(served))
        raise BrokerUnreachable(url=shown, after=_HANDSHAKE_WITHIN, problem=str(served))


def settler(future: asyncio.Future[Reply]) -> Finish:
    """Return a `finish` that settles a future, unless its owner was cancelled."""

    def finish(reply: Reply, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(reply)
        else:
            future.set_exception(error)

    return finish


def _tell_closed(calls: list[Call], problem: str) -> None:
    for call in calls:
        call.finish(None, ConnectionResetError(problem))
