"""What a message looks like on the wire to RabbitMQ: the frames of publishing, and of what comes back.

pamqp encodes and decodes whatever is rare. What every message needs is packed here, because it is
most of what a message costs. Names of headers that RabbitMQ, or this adapter, adds never reach the port.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from pamqp import commands, header

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END: Final = b"\xce"
BEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
FRAME: Final = struct.Struct(">BHI")  # type, channel, size
ROOM: Final = FRAME.size + len(END)  # bytes of a frame that are not its payload
COUNT: Final = "murmur-deliveries"  # deliveries that came to nothing before this copy was made
SERIAL: Final = "murmur-hold"  # which delivery a copy stands for, while it is held for longer than RabbitMQ allows
URGENT: Final = 9  # RabbitMQ 4 hands these over first; earlier ones take no notice

_NAMES_LIMIT: Final = 255  # bytes of a short string
_HEADER_LIMIT: Final = 128  # bytes of a header's name
_PUBLISH: Final = b"\x00\x3c\x00\x28\x00\x00\x00"  # class, method, ticket, the exchange without a name
_MANDATORY: Final = b"\x01"
_CONTENT: Final = struct.Struct(">HHQH")  # class, weight, body size, which properties follow
_TYPE, _HEADERS, _MODE, _PRIORITY, _ID = 0x8000, 0x2000, 0x1000, 0x0800, 0x0080
_JSON: Final = b"\x10application/json"
_PERSISTENT: Final = 2
_ADDRESSES: Final = frozenset({"CC", "BCC"})  # RabbitMQ takes these headers as more addressees
_BROKERS: Final = ("x-delivery-count", "x-acquired-count", "x-death", "x-first-death-", "x-last-death-")
_ACK: Final = struct.Struct(">BHIHHQBB")
_DELIVER: Final = 3932220


class Message(Struct, frozen=True):
    """A message to one queue."""

    queue: str
    body: bytes
    id: str
    headers: Mapping[str, str] = {}
    count: int = 0  # see COUNT
    serial: int = 0  # see SERIAL
    is_urgent: bool = False


class Content(Struct, frozen=True):
    """A message that came: the method that announced it, its properties and its body."""

    method: Any
    properties: commands.Basic.Properties
    body: bytes


def problem(message: Message) -> str | None:
    """Say why RabbitMQ cannot take a message like this; None if it can."""
    try:
        "".join((message.queue, message.id, *message.headers, *message.headers.values())).encode()
    except UnicodeEncodeError:
        return "a name or header of it is no text that UTF-8 can carry"
    if len(message.queue.encode()) > _NAMES_LIMIT:
        return f"its address is longer than {_NAMES_LIMIT} bytes"
    if len(message.id.encode()) > _NAMES_LIMIT:
        return f"its id is longer than {_NAMES_LIMIT} bytes"
    for name in message.headers:
        if name in _ADDRESSES:
            return f"a header named {name!r} would be taken as an address by RabbitMQ"
        if len(name.encode()) > _HEADER_LIMIT:
            return f"the name of header {name[:20]!r}… is longer than {_HEADER_LIMIT} bytes"
    return None


def published(message: Message, *, channel: int, frame_max: int) -> bytes:
    """Return the frames that publish a persistent message which must reach a queue."""
    flags = _TYPE | _MODE
    properties = [_JSON]
    headers: dict[str, str | int] = dict(message.headers)
    if message.count:
        headers[COUNT] = message.count
    if message.serial:
        headers[SERIAL] = message.serial
    if headers:
        flags |= _HEADERS
        properties.append(_table(headers))
    properties.append(bytes((_PERSISTENT,)))
    if message.is_urgent:
        flags |= _PRIORITY
        properties.append(bytes((URGENT,)))
    if message.id:
        flags |= _ID
        properties.append(_short(message.id))
    body = message.body
    method = _PUBLISH + _short(message.queue) + _MANDATORY
    content = _CONTENT.pack(60, 0, len(body), flags) + b"".join(properties)
    parts = [FRAME.pack(METHOD, channel, len(method)), method, END]
    parts += (FRAME.pack(HEADER, channel, len(content)), content, END)
    most = frame_max - ROOM
    for first in range(0, len(body), most):
        part = body[first : first + most]
        parts += (FRAME.pack(BODY, channel, len(part)), part, END)
    return b"".join(parts)


def acked(tag: int, *, channel: int, multiple: bool = False) -> bytes:
    """Return the frame that settles one delivery, or all up to it."""
    return _ACK.pack(METHOD, channel, 13, 60, 80, tag, multiple, END[0])


def method_of(payload: bytes) -> commands.Basic.Deliver | Any:
    """Return the method of a method frame. Raises `ValueError`, `struct.error`, `KeyError` for bytes that are none."""
    index = int.from_bytes(payload[:4], "big")
    if index == _DELIVER:
        found = commands.Basic.Deliver()
        at = 5 + payload[4]
        found.consumer_tag = payload[5:at].decode()
        found.delivery_tag = int.from_bytes(payload[at : at + 8], "big")
        return found
    method = commands.INDEX_MAPPING[index]()
    method.unmarshal(payload[4:])
    return method


def properties_of(payload: bytes) -> tuple[int, commands.Basic.Properties]:
    """Return the size of the body that follows a content header, and its properties."""
    content = header.ContentHeader()
    content.unmarshal(payload)
    return content.body_size, content.properties


def headers_of(properties: commands.Basic.Properties) -> dict[str, str]:
    """Return the headers that a publisher gave."""
    given = properties.headers or {}
    return {
        name: value if isinstance(value, str) else str(value)
        for name, value in given.items()
        if name not in (COUNT, SERIAL) and not name.startswith(_BROKERS)
    }


def number(properties: commands.Basic.Properties, name: str) -> int:
    """Return a header that is a number, 0 if it is none."""
    value = (properties.headers or {}).get(name)
    return value if isinstance(value, int) else 0


def deliveries_of(properties: commands.Basic.Properties) -> int:
    """Return how often a message was delivered, this time included: what copies carry, and what RabbitMQ counted."""
    return 1 + max(0, number(properties, COUNT)) + number(properties, "x-delivery-count")


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


def _table(headers: Mapping[str, str | int]) -> bytes:
    parts = []
    for name, value in headers.items():
        parts.append(_short(name))
        if isinstance(value, int):
            parts.append(b"l" + value.to_bytes(8, "big", signed=True))
        else:
            encoded = value.encode()
            parts.append(b"S" + len(encoded).to_bytes(4, "big") + encoded)
    table = b"".join(parts)
    return len(table).to_bytes(4, "big") + table
