"""Frames between two processes over one connected socket: control messages at once, bulk against credit.

A frame is a length of four bytes (network order), a lane of one byte, and so many bytes. Control frames are messages
of a declared type and are handled as they come. Bulk frames are opaque; the receiver grants credit for what
it has taken, so that one that does not read stops its sender and neither side's memory grows. Reader and writer are
tasks of their own: two sides that flood each other would else wait for each other for ever.

Input that breaks a rule ends this channel, with the reason in `failure`, and nothing else. Never pickle.
"""

import enum
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import anyio
import anyio.lowlevel
import msgspec
from attrs import define

from supervisors.errors import SupervisorError

M = TypeVar("M")

MAX_FRAME: Final = 16 << 20  # bytes
WINDOW: Final = 1 << 20  # bytes of bulk frames on their way that nobody has taken yet
MAX_BACKLOG: Final = 64 << 20  # bytes of control frames that wait for a peer which does not read
_READ: Final = 1 << 18
HEADER: Final = "!IB"
_HEADER: Final = struct.Struct(HEADER)
_GRANT: Final = struct.Struct("!Q")


class Lane(enum.IntEnum):
    """What a frame carries."""

    CONTROL = 0
    BULK = 1
    GRANT = 2  # credit for so many more bytes of bulk


@define
class ChannelBroken(SupervisorError):
    """The peer broke a rule of the channel. What it sent before was handled; nothing after it is."""

    problem: str

    def __str__(self) -> str:
        return f"control channel broken: {self.problem}; the process at its other end must be replaced"


class ChannelClosed(SupervisorError):
    """The channel is closed: nothing can be sent or received any more."""

    def __str__(self) -> str:
        return "the channel is closed; the process at its other end is ending or gone"


def frame(lane: Lane, payload: bytes) -> bytes:
    """Return one frame as it goes over the socket."""
    return _HEADER.pack(len(payload), lane) + payload


class Splitter:
    """Cuts a stream of bytes into frames, however it arrives. No I/O."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[tuple[Lane, bytes]]:
        """Yield the frames that are whole now. Raises ChannelBroken at the first that cannot be right."""
        self._buffer += received
        start = 0
        try:
            while len(self._buffer) - start >= _HEADER.size:
                length, lane = _HEADER.unpack_from(self._buffer, start)
                if lane > Lane.GRANT or length > self._max_frame:
                    raise ChannelBroken(
                        f"a frame of {length} bytes on lane {lane}, {self._max_frame} bytes are the most"
                    )
                begin, end = start + _HEADER.size, start + _HEADER.size + length
                if len(self._buffer) < end:
                    return
                start = end
                yield Lane(lane), bytes(self._buffer[begin:end])
        finally:
            del self._buffer[:start]


class Channel(Generic[M]):
    """One end. `run` moves the frames until the end; `on_message` gets each control message as it comes.

    Args:
        sock: a connected stream socket; the channel owns it from now on.
        decoder: for the messages of the peer.
        on_message: must not wait. What it raises as ValueError breaks the channel like any bad input.
    """

    def __init__(
        self,
        sock: socket.socket,
        decoder: "msgspec.msgpack.Decoder[M]",
        on_message: Callable[[M], None],
        *,
        max_frame: int = MAX_FRAME,
        window: int = WINDOW,
    ) -> None:
        sock.setblocking(False)
        self.failure: ChannelBroken | None = None
        self._socket = sock
        self._decoder = decoder
        self._on_message = on_message
        self._splitter = Splitter(max_frame)
        self._max_frame = max_frame
        self._window = window
        self._control: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._backlog = 0  # bytes in _control and on their way out
        self._is_writing = False
        self._credit = window  # bytes of bulk the peer will still take
        self._received: deque[bytes] = deque()
        self._unclaimed = 0  # bytes in _received
        self._taken = 0  # bytes received and taken, not yet granted again
        self._is_closed = False
        self._changed = anyio.Event()  # anything that somebody may wait for

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, or the peer has."""
        return self._is_closed

    # -- sending and receiving ----------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Send an encoded control message, before all waiting bulk. Raises ChannelClosed."""
        if self._is_closed:
            raise ChannelClosed
        self._check_size(message)
        unsent = self._send_now(frame(Lane.CONTROL, message))
        if not unsent:
            return
        self._control.append(unsent)
        self._backlog += len(unsent)
        if self._backlog > MAX_BACKLOG:
            self._break("the peer does not read")
        self._notify()

    async def send_bulk(self, payload: bytes) -> None:
        """Send bytes when the peer has room for them. Raises ChannelClosed. Cancelled, it was not sent."""
        self._check_size(payload)
        await anyio.lowlevel.checkpoint()
        while self._credit <= 0 and not self._is_closed:
            await self._changed.wait()
        if self._is_closed:
            raise ChannelClosed
        self._credit -= max(len(payload), 1)  # one frame may overdraw: else a large one would never go
        self._bulk.append(frame(Lane.BULK, payload))
        self._notify()

    async def receive_bulk(self) -> bytes:
        """Wait for the peer's next bytes. Raises ChannelClosed when there are no more. Cancelled, none is lost."""
        await anyio.lowlevel.checkpoint()
        while not self._received:
            if self._is_closed:
                raise ChannelClosed
            await self._changed.wait()
        payload = self._received.popleft()
        size = max(len(payload), 1)
        self._unclaimed -= size
        self._taken += size
        if self._taken * 4 >= self._window:
            self._control.append(frame(Lane.GRANT, _GRANT.pack(self._taken)))
            self._taken = 0
            self._notify()
        return payload

    def take_bulk(self) -> list[bytes]:
        """Return what has arrived and nobody has taken, without waiting; also after the end."""
        taken, self._received = list(self._received), deque()
        self._unclaimed = 0
        return taken

    async def flush(self) -> None:
        """Wait until all that was sent has left this process, or the channel is closed."""
        while (self._control or self._bulk or self._is_writing) and not self._is_closed:
            await self._changed.wait()

    # -- the tasks ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Move frames until the peer is gone, a rule was broken, or `close` was called."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                await self._read()
                tasks.cancel_scope.cancel()
        finally:
            self.close()

    def drain(self) -> None:
        """Handle what has already arrived, without waiting: the peer is dead, its last words may lie here."""
        while not self._is_closed and self._take():
            pass

    def close(self) -> None:
        """End it. Whoever waits gets ChannelClosed."""
        if not self._is_closed or self._socket.fileno() >= 0:
            self._is_closed = True
            if self._socket.fileno() >= 0:
                anyio.notify_closing(self._socket)
                self._socket.close()
            self._notify()

    async def _read(self) -> None:
        while not self._is_closed:
            try:
                if not self._take():
                    await anyio.wait_readable(self._socket)
                else:
                    await anyio.lowlevel.checkpoint()  # a flood must not keep others from running
            except (OSError, anyio.ClosedResourceError):
                self._is_closed = True

    def _take(self) -> bool:
        """Handle what can be read without waiting. Returns whether there was anything."""
        try:
            received = self._socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            received = b""
        if not received:
            self._is_closed = True
            return True
        try:
            for lane, payload in self._splitter.feed(received):
                self._handle(lane, payload)
        except ChannelBroken as broken:
            self._break(broken.problem)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._break(f"not a message: {error}")
        return True

    def _handle(self, lane: Lane, payload: bytes) -> None:
        if lane is Lane.CONTROL:
            self._on_message(self._decoder.decode(payload))
        elif lane is Lane.BULK:
            self._unclaimed += max(len(payload), 1)
            if self._unclaimed > self._window + self._max_frame:
                raise ChannelBroken(f"{self._unclaimed} bytes sent without credit")
            self._received.append(payload)
            self._notify()
        else:
            if len(payload) != _GRANT.size:
                raise ChannelBroken(f"a grant of {len(payload)} bytes")
            self._credit = min(self._credit + _GRANT.unpack(payload)[0], self._window)
            self._notify()

    async def _write(self) -> None:
        while not self._is_closed:
            batch = b"".join((*self._control, *self._bulk))
            self._control.clear()
            self._bulk.clear()
            self._is_writing = True
            try:
                await self._write_all(batch)
            except (OSError, anyio.ClosedResourceError):
                return  # the reader sees the end, and what the peer said before it
            finally:
                self._is_writing = False
                self._backlog = sum(map(len, self._control))
                self._notify()
            while not (self._control or self._bulk or self._is_closed):
                await self._changed.wait()

    def _send_now(self, data: bytes) -> bytes:
        """Send what can go at once: what is said must be heard, even if the process ends the moment after."""
        if self._control or self._bulk or self._is_writing:
            return data
        try:
            return data[self._socket.send(data) :]
        except OSError:  # it would have to wait, or the reader will see why it cannot go
            return data

    async def _write_all(self, batch: bytes) -> None:
        view = memoryview(batch)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)

    # -- inside -------------------------------------------------------------------------------------------

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._max_frame:
            raise ValueError(
                f"a frame of {len(payload)} bytes; {self._max_frame} are the most: send a reference instead"
            )

    def _break(self, problem: str) -> None:
        if self.failure is None:
            self.failure = ChannelBroken(problem)
        self._is_closed = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
