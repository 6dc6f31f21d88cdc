"""Bells: what stands in a row already, said to its publisher over plain NATS, which keeps nothing of it.

A publisher that is connected hears it at once, without a stream, a consumer, an ack. What is
said to one publisher together goes in one message. Where the server says that nobody listens,
or that we may not ring, the message is left to the caller, who sends it by the stream. One
round trip tells which: the server answers in order. Where somebody listens to everything
nobody seems to be away; who was asks for his row.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from murmur.transport import Outgoing
from murmur.transports.nats_answers import NO_RESPONDERS
from murmur.transports.nats_link import Listening, NatsLink
from murmur.transports.nats_streams import Streams
from murmur.transports.nats_wire import Message, encoded_headers

_SIZES: Final = "Murmur-Sizes"  # of the results in one message, where it bears several
_MOST: Final = 256  # results of one message
_MOST_BYTES: Final = 256 * 1024


class Bells:
    """Rings at inboxes."""

    def __init__(self, link: NatsLink, streams: Streams) -> None:
        self._link, self._streams = link, streams
        self._listening: Listening | None = None
        self._number = 0
        self._unheard: set[int] = set()

    async def ring(self, messages: Sequence[Outgoing], *, most: int) -> list[Outgoing]:
        """Say these, each of `most` bytes at the most, and return those that nobody heard. Raises `OutcomeUnknown`,
        `BrokerUnreachable`."""
        link = self._link
        if self._listening is None:
            self._listening = link.listen(f"{link.inbox}.b.*", self._answered)
        rung: dict[int, Sequence[Outgoing]] = {}
        places = {topic: self._streams.bell(topic) for topic in {one.topic for one in messages}}
        for together in _together(messages, min(most, _MOST_BYTES)):
            self._number += 1
            rung[self._number] = together
            bodies = [one.body for one in together]
            headers = encoded_headers({_SIZES: " ".join(str(len(one)) for one in bodies)}) if len(bodies) > 1 else b""
            reply = f"{link.inbox}.b.{self._number}"
            link.say(places[together[0].topic], b"".join(bodies), headers=headers, reply=reply)
        try:
            await link.synced()
        finally:
            unheard = self._unheard & rung.keys()
            self._unheard -= unheard
        return [
            one
            for number, together in rung.items()
            if number in unheard or places[together[0].topic] in link.denied
            for one in together
        ]

    def _answered(self, message: Message) -> None:
        if message.status == NO_RESPONDERS:
            self._unheard.add(int(message.subject.rpartition(b".")[2]))


def bodies_of(message: Message) -> list[bytes]:
    """Return the results that a bell says."""
    body = message.body
    if not message.raw_headers:
        return [body]
    sizes = [int(word) for word in message.headers.get(_SIZES, "").split() if word.isdecimal() and len(word) < 10]
    if sum(sizes) != len(body):
        return [body]  # a stranger's
    found, at = [], 0
    for size in sizes:
        found.append(body[at : at + size])
        at += size
    return found


def _together(messages: Sequence[Outgoing], most: int) -> Iterator[Sequence[Outgoing]]:
    """Yield messages as they are sent: those of one inbox in one, up to a size."""
    by_topic: dict[str, list[Outgoing]] = {}
    for one in messages:
        by_topic.setdefault(one.topic, []).append(one)
    for mine in by_topic.values():
        first, size = 0, 0
        for at, one in enumerate(mine):
            size += len(one.body)
            if at > first and (size > most or at - first >= _MOST):
                yield mine[first:at]
                first, size = at, len(one.body)
        yield mine[first:]
