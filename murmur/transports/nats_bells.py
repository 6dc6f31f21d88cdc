"""Bells: what stands in a row already, said to its publisher over plain NATS, which keeps nothing of it.

A publisher that is connected hears it at once, without a stream, a consumer, an ack. Where the
server says that nobody listens, or that we may not ring, the message is left to the caller, who
sends it by the stream. One round trip tells which: the server answers in order. Where somebody
listens to everything nobody seems to be away; who was asks for his row.
"""

from collections.abc import Sequence

from murmur.transport import Outgoing
from murmur.transports.nats_answers import NO_RESPONDERS
from murmur.transports.nats_link import Listening, NatsLink
from murmur.transports.nats_streams import Streams
from murmur.transports.nats_wire import Message


class Bells:
    """Rings at inboxes."""

    def __init__(self, link: NatsLink, streams: Streams) -> None:
        self._link, self._streams = link, streams
        self._listening: Listening | None = None
        self._number = 0
        self._unheard: set[int] = set()

    async def ring(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Say these, and return those that nobody heard. Raises `OutcomeUnknown`, `BrokerUnreachable`."""
        link = self._link
        if self._listening is None:
            self._listening = link.listen(f"{link.inbox}.b.*", self._answered)
        rung: dict[int, Outgoing] = {}
        places = {topic: self._streams.bell(topic) for topic in {one.topic for one in messages}}
        for one in messages:
            self._number += 1
            rung[self._number] = one
            link.say(places[one.topic], one.body, reply=f"{link.inbox}.b.{self._number}")
        try:
            await link.synced()
        finally:
            unheard = self._unheard & rung.keys()
            self._unheard -= unheard
        return [one for number, one in rung.items() if number in unheard or places[one.topic] in link.denied]

    def _answered(self, message: Message) -> None:
        if message.status == NO_RESPONDERS:
            self._unheard.add(int(message.subject.rpartition(b".")[2]))
