"""Entries of streams as deliveries, and messages as arguments of scripts.

`lua/entries.lua` tells how a topic lies in Redis. A delivery's token is a `Hold`: where its
entry stands and, beside a fused store, the grant that came with it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, cast

import msgspec
from msgspec import Struct

from murmur.envelope import ErrorNote
from murmur.transport import Delivery, Outgoing
from murmur.transports.redis_wire import Argument, Reply

NO_HEADERS: Final[Mapping[str, str]] = {}

_headers: Final = msgspec.json.Decoder(dict[str, str])
_notes: Final = msgspec.json.Decoder(list[ErrorNote])
_encode: Final = msgspec.json.Encoder().encode


class Hold(Struct, eq=False):
    """What a delivery stands for: an entry that is pending for us, and the grant of its task."""

    ref: bytes  # names the entry within its topic
    consumer: str  # whose pending entry it is
    token: int = 0  # of the grant; 0: not granted yet
    task_id: str = ""  # of the grant, where the entry does not bear it
    failures: int = 0
    crashes: int = 0
    lapses: int = 0
    errors: Sequence[ErrorNote] = ()
    is_settling: bool = False  # a call that ends our ownership is under way
    is_done: bool = False  # settled by us


def delivered(
    topics: Sequence[str], consumer: str, item: list[Reply], values: Sequence[bytes] | None = None
) -> Delivery:
    """Return the delivery of one entry as `take.lua` answers it to a consumer.

    `values`: the fields of an entry that was read before, which the answer does not repeat.
    """
    index, ref, task_id, body, token = cast(tuple[int, bytes, bytes, bytes, int], item[:5])
    hold = Hold(ref, consumer, token)
    count, headers = 0, NO_HEADERS
    if values is not None:
        task_id, body, encoded, count = unpacked(values)
        headers = headers_of(encoded)
    elif len(item) > 5:
        count, headers = cast(int, item[5]), headers_of(cast(bytes, item[6]))
    if len(item) > 7:
        hold.failures, hold.crashes, hold.lapses = cast(list[int], item[7:10])
        hold.errors = error_notes(cast(bytes, item[10]))
    return Delivery(topics[index - 1], body, headers, text(task_id), count + 1, hold)


def text(name: bytes) -> str:
    """Return an id as text; what is not UTF-8 in a stranger's shows as such."""
    return name.decode("utf-8", "replace")


def unpacked(values: Sequence[bytes] | None) -> tuple[bytes, bytes, bytes, int]:
    """Return id, body, headers and the count of an entry's flat list of fields."""
    found = dict(zip(values[::2], values[1::2], strict=False)) if values else {}
    count = found.get(b"n", b"0")
    return found.get(b"i", b""), found.get(b"d", b""), found.get(b"h", b""), int(count) if count.isdigit() else 0


def headers_of(encoded: bytes) -> Mapping[str, str]:
    """Return headers from their JSON; none where a stranger wrote something else."""
    try:
        return _headers.decode(encoded) if encoded else NO_HEADERS
    except (msgspec.DecodeError, UnicodeDecodeError):
        return NO_HEADERS


def encoded_headers(headers: Mapping[str, str]) -> bytes:
    """Return headers as JSON, `b""` if there are none."""
    return _encode(dict(headers)) if headers else b""


def error_notes(encoded: bytes) -> Sequence[ErrorNote]:
    """Return the errors that a row remembers."""
    return _notes.decode(encoded) if encoded else ()


def encoded_notes(errors: Sequence[ErrorNote]) -> bytes:
    """Return errors as a row keeps them."""
    return _encode(list(errors)) if errors else b""


def published(message: Outgoing, *, is_inbox: bool) -> tuple[Argument, ...]:
    """Return the arguments of a message, as `publish` in `entries.lua` reads them."""
    delay = 0 if message.not_before is None else milliseconds(message.not_before)
    kind = "i" if is_inbox else "w"
    return (message.topic, kind, delay, message.id, message.body, encoded_headers(message.headers))


def milliseconds(seconds: float) -> int:
    """Return a duration as Redis takes it, rounded up: nothing comes before its time."""
    return max(0, -int(-seconds * 1000 // 1))
