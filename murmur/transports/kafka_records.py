"""Messages as Kafka's records: the body as the value, what else there is as headers.

`murmur-id` is the id its publisher gave a message, `murmur-not-before` the Unix time until which it waits.
All other headers are the message's own. Work has no key, so that it spreads over the partitions; a result's
key is the publisher it is for.
"""

from collections.abc import Mapping
from typing import Any, Final

from aiokafka.partitioner import DefaultPartitioner
from msgspec import Struct

from murmur.names import Topics
from murmur.transport import Outgoing

ID: Final = "murmur-id"
NOT_BEFORE: Final = "murmur-not-before"
_partition = DefaultPartitioner()


class Item(Struct, frozen=True, eq=False):
    """One record, decoded."""

    offset: int
    body: bytes
    headers: Mapping[str, str]
    id: str
    due: float  # Unix time before which it is not handed out; 0: at once


def item_of(record: Any) -> Item:
    """Return what a record of aiokafka carries. Bytes that are no text become text all the same."""
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    message_id, due = headers.pop(ID, ""), headers.pop(NOT_BEFORE, "0")
    try:
        when = float(due)
    except ValueError:
        when = 0.0
    return Item(record.offset, record.value or b"", headers, message_id, when)


def headers_of(message: Outgoing, *, now: float) -> list[tuple[str, bytes]]:
    """Return the headers a message is sent with; `now`: Unix time."""
    found = [(name, value.encode()) for name, value in message.headers.items()]
    if message.id:
        found.append((ID, message.id.encode()))
    if message.not_before:
        found.append((NOT_BEFORE, b"%.3f" % (now + message.not_before)))
    return found


def place_of(topic: str, topics: Topics) -> tuple[str, bytes | None]:
    """Return the Kafka topic and the key of a topic of ours: all inboxes of a namespace share one."""
    if not topics.is_inbox(topic):
        return topic, None
    name = topics.inbox("").rstrip(".")
    return name, topic.removeprefix(f"{name}.").encode()


def partition_of(key: bytes, count: int) -> int:
    """Return where records of a key are, as Kafka's own producers decide it."""
    every = list(range(count))
    found: int = _partition(key, every, every)
    return found
