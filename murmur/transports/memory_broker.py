"""The broker behind `memory://`: topics, ownership, delays and inboxes of one process.

It is the oracle every other transport is measured against, so it does what a good broker
does and nothing cleverer: bytes go in and come out, a delivery belongs to one session, a
session that is gone keeps its deliveries for one lease. A live session needs no renewal,
so leases cost nothing per message. A topic has one group of competing consumers; the
group's name is not looked at. Nothing outlives the process.

Synchronous and safe from any thread; waiting is the transport's (`murmur.transports.memory`).
Tests call `kill`, `stall`, `resume` and `wipe`, and bring their own clock.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from murmur.bell import Bell
from murmur.errors import WrongForm
from murmur.limits import MEMORY_BELLS_KEPT, MEMORY_INBOXES_KEPT, MEMORY_ROWS_KEPT
from murmur.transport import Delivery, Outgoing, Receipt, Settled, TopicKind, TopicSpec, TopicStats
from murmur.transports.memory_topic import Message, Session, Topic

_NO_HEADERS: Final[Mapping[str, str]] = {}


class MemoryBroker:
    """Topics shared by the transports of one process. `clock` tells seconds; only differences mean anything."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._order = itertools.count(1)
        self._topics: dict[str, Topic] = {}
        self._sessions: dict[Session, None] = {}  # in the order they joined, so that a course of events repeats
        self._gone: dict[Session, None] = {}  # those of them that were killed or stalled
        self._orphans: dict[str, None] = {}  # inboxes without a reader, oldest first

    # -- what tests do to consumers and to the broker ---------------------------------------------

    def kill(self, consumer_id: str) -> None:
        """End a consumer as `kill -9` would: it gives nothing back, its leases lapse, its calls never return."""
        self._depart(consumer_id, dead=True)

    def stall(self, consumer_id: str) -> None:
        """Freeze a consumer as SIGSTOP would: it renews nothing, and its calls wait until `resume`."""
        self._depart(consumer_id, dead=False)

    def resume(self, consumer_id: str) -> None:
        """Let a stalled consumer go on, as SIGCONT would; it hears through `lost` what it lost meanwhile."""
        with self._lock:
            self._collect(self.clock())
            for session in self._named(consumer_id):
                if not session.is_dead:
                    session.gone_at = None
                    self._gone.pop(session, None)
                    self._wake(session)

    def wipe(self) -> None:
        """Forget every topic and message, as FLUSHALL would. What consumers hold is no longer theirs."""
        with self._lock:
            for session in self._sessions:
                for message, delivery in session.held.items():
                    message.owner = None
                    session.lost.give(delivery)
                session.held.clear()
            for topic in self._topics.values():
                topic.clear()

    # -- sessions ---------------------------------------------------------------------------------

    def join(self, session: Session, specs: Iterable[TopicSpec]) -> None:
        """Let a session use topics. A dead consumer of its name gives way at once."""
        with self._lock:
            for other in self._named(session.consumer_id):
                if other.is_dead:
                    self._requeue(other, list(other.held))
            self._sessions[session] = None
            for spec in specs:
                session.specs[spec.name] = spec
                topic = self._topic(spec.name)
                topic.kind = spec.kind
                if spec.kind is TopicKind.INBOX:
                    topic.known.clear()  # a bell may ring twice
                    self._orphans.pop(spec.name, None)

    def leave(self, session: Session) -> None:
        """End a session: what it holds goes back uncounted, those who wait in it are woken. Idempotent."""
        with self._lock:
            if session.is_closed:
                return
            session.is_closed = True
            if session.gone_at is not None:
                session.is_dead = True  # who does not run gives nothing back: its leases lapse
            else:
                for message in reversed(session.held):
                    self._return(message, due=None, counted=False)
                    message.owner = None
                session.held.clear()
                self._forget(session)
            session.lost.close()
            self._wake(session)

    def is_running(self, session: Session, bell: Bell) -> bool:
        """Whether a session may act now; if not, `bell` rings when that may have changed."""
        with self._lock:
            if session.is_closed:
                raise WrongForm(used="a call after close()", instead="a new MemoryTransport")
            if session.gone_at is not None:
                session.bells[bell] = None
            return session.gone_at is None

    # -- messages ---------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Outgoing]) -> list[Receipt]:
        """Take messages in; ids seen before on their topic add nothing."""
        with self._lock:
            return self._publish(messages)

    def take(self, session: Session, topics: Mapping[str, int], *, credit: int) -> list[Delivery]:
        """Hand out up to `credit` messages that are ready now, up to `topics[name]` of each."""
        taken: list[Delivery] = []
        with self._lock:
            now = self.clock()
            self._collect(now)
            names = list(topics)
            if len(names) > 1:
                session.turn = (session.turn + 1) % len(names)
                names = names[session.turn :] + names[: session.turn]
            for name in names:
                topic = self._opened(session, name)
                topic.promote(now)
                room = min(credit - len(taken), topics[name], MEMORY_ROWS_KEPT)
                if topic.kind is TopicKind.INBOX:
                    self._read(session, topic, room, taken)
                else:
                    self._grant(session, topic, room, taken)
                if topic.ready and topic.waiters:
                    topic.rouse()
        return taken

    def watch(self, session: Session, topics: Iterable[str], bell: Bell) -> float:
        """Have `bell` rung when something comes; return when to look again in any case, in the past if it is now."""
        with self._lock:
            session.bells[bell] = None
            look = -math.inf if session.is_closed or session.gone_at is not None else math.inf
            for name in topics:
                topic = self._opened(session, name)
                topic.waiters[bell] = None
                if topic.ready:
                    look = -math.inf
                elif topic.delayed:
                    look = min(look, topic.delayed[0][0])
                for gone in self._gone:
                    if name in gone.specs and gone.held:
                        look = min(look, gone.lapses_at(name))
            return look

    def unwatch(self, session: Session, topics: Iterable[str], bell: Bell, *, passes_on: bool) -> None:
        """Forget a bell; `passes_on`: it may have rung for nothing, so others are woken in its stead."""
        with self._lock:
            session.bells.pop(bell, None)
            for name in topics:
                topic = self._topic(name)
                topic.waiters.pop(bell, None)
                if passes_on:
                    topic.rouse()

    def settle(self, session: Session, deliveries: Sequence[Delivery], emit: Sequence[Outgoing]) -> list[Settled]:
        """Settle for good, and publish `emit` in the same step unless every delivery was settled or lost before."""
        answers: list[Settled] = []
        is_news = not deliveries
        with self._lock:
            self._collect(self.clock())
            for delivery in deliveries:
                message = self._held(session, delivery)
                if message is not None:
                    is_news = True
                    self._finish(session, message)
                answers.append(_answer(session, delivery))
            if emit and is_news:
                self._publish(emit)
        return answers

    def give_back(
        self, session: Session, deliveries: Sequence[Delivery], *, delay: float, counted: bool
    ) -> list[Settled]:
        """Make messages ready again, after `delay` seconds if any."""
        with self._lock:
            now = self.clock()
            self._collect(now)
            for delivery in reversed(deliveries):  # each is put before the others
                message = self._held(session, delivery)
                if message is not None:
                    del session.held[message]
                    self._return(message, due=now + delay if delay > 0 else None, counted=counted)
            return [_answer(session, delivery) for delivery in deliveries]

    def bury(self, session: Session, delivery: Delivery, letter: bytes) -> Settled:
        """Add a dead letter unless this message has one, and settle the message."""
        dead_topic = session.specs[delivery.topic].dead_topic
        if dead_topic is None:
            raise WrongForm(used=f"dead() on {delivery.topic!r}", instead="a TopicSpec with a dead_topic")
        with self._lock:
            self._collect(self.clock())
            message = self._held(session, delivery)
            if message is not None:
                self._publish([Outgoing(dead_topic, letter, delivery.id, delivery.headers)])
                letters = self._topic(dead_topic)
                if len(letters.ready) > MEMORY_ROWS_KEPT:
                    letters.known.pop(letters.ready.popleft().id, None)
                self._finish(session, message)
            return _answer(session, delivery)

    def stats(self, name: str, dead_topic: str | None) -> TopicStats:
        """Count what is ready now, handed out, and dead."""
        with self._lock:
            now = self.clock()
            self._collect(now)
            topic = self._topic(name)
            topic.promote(now)
            dead = self._topics.get(dead_topic) if dead_topic else None
            return TopicStats(len(topic.ready), topic.inflight, len(dead.ready) if dead else 0, exact=True)

    # -- inside, under the lock -------------------------------------------------------------------

    def _topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name)
        return topic

    def _opened(self, session: Session, name: str) -> Topic:
        if name not in session.specs:
            raise WrongForm(used=f"receive from {name!r}", instead="open() with its TopicSpec first")
        return self._topic(name)

    def _publish(self, messages: Sequence[Outgoing]) -> list[Receipt]:
        receipts: list[Receipt] = []
        touched: dict[str, Topic] = {}
        for message in messages:
            name, message_id, body, headers = message.topic, message.id, message.body, message.headers
            if type(body) is not bytes:
                raise TypeError(f"the body of {message_id!r} for {name!r} is {type(body).__name__}, not bytes")
            topic = touched.get(name)
            if topic is None:
                topic = touched[name] = self._topic(name)
            position = topic.known.get(message_id)
            if position is not None:
                receipts.append(Receipt(message_id, position, duplicate=True))
                continue
            position = str(next(self._order))
            if message_id and topic.kind is not TopicKind.INBOX:
                topic.known[message_id] = position
            copy = Message(topic, message_id, body, dict(headers) if headers else _NO_HEADERS)
            if message.not_before is None:
                topic.ready.append(copy)
            else:
                self._delay(copy, self.clock() + message.not_before)
            receipts.append(Receipt(message_id, position))
        for topic in touched.values():
            if topic.waiters:
                topic.rouse()
            if topic.name in self._orphans and len(topic.ready) > MEMORY_BELLS_KEPT:
                topic.ready.popleft()
        return receipts

    def _grant(self, session: Session, topic: Topic, room: int, taken: list[Delivery]) -> None:
        name, ready, held = topic.name, topic.ready, session.held
        for _ in range(min(room, len(ready))):
            message = ready.popleft()
            message.owner = session
            delivery = Delivery(name, message.body, message.headers, message.id, message.deliveries, message)
            held[message] = delivery
            taken.append(delivery)
            topic.inflight += 1

    def _read(self, session: Session, topic: Topic, room: int, taken: list[Delivery]) -> None:
        """Read an inbox on; what this session read before is settled thereby."""
        if topic.reader is session:
            topic.unsettled.clear()
        else:
            topic.rewind()
            topic.reader = session
        name, ready = topic.name, topic.ready
        for _ in range(min(room, len(ready))):
            message = ready.popleft()
            message.owner, message.is_settled = session, True
            topic.unsettled.append(message)
            taken.append(Delivery(name, message.body, message.headers, message.id, message.deliveries, message))

    def _held(self, session: Session, delivery: Delivery) -> Message | None:
        """Return the message a delivery stands for while it is held, else None."""
        message = delivery.token
        return message if isinstance(message, Message) and message in session.held else None

    def _finish(self, session: Session, message: Message) -> None:
        del session.held[message]
        message.is_settled = True
        message.topic.inflight -= 1
        message.topic.retire(message.id)

    def _return(self, message: Message, *, due: float | None, counted: bool, first: bool = False) -> None:
        """Put a copy of a held message back: at the time `due`, or at once where that is None, or before all others."""
        topic = message.topic
        topic.inflight -= 1
        message.is_settled = True
        copy = Message(topic, message.id, message.body, message.headers, message.deliveries + counted)
        if due is not None:
            self._delay(copy, due)
        elif counted and not first:
            topic.ready.append(copy)
        else:
            topic.ready.appendleft(copy)  # hardly touched: it has waited its turn already
        topic.rouse()

    def _delay(self, message: Message, due: float) -> None:
        message.topic.delay(message, due, next(self._order))

    def _named(self, consumer_id: str) -> list[Session]:
        return [session for session in self._sessions if session.consumer_id == consumer_id]

    def _depart(self, consumer_id: str, *, dead: bool) -> None:
        with self._lock:
            for session in self._named(consumer_id):
                if session.gone_at is None:
                    session.gone_at = self.clock()
                self._gone[session] = None
                session.is_dead |= dead
                self._wake(session)
            for topic in self._topics.values():
                topic.rouse_all()

    def _wake(self, session: Session) -> None:
        for bell in session.bells:
            bell.ring()
        session.bells.clear()

    def _collect(self, now: float) -> None:
        """Take from sessions that are gone what they held longer than its lease."""
        for session in tuple(self._gone):
            late = [message for message in session.held if session.lapses_at(message.topic.name) <= now]
            if late or (session.is_dead and not session.held):
                self._requeue(session, late)

    def _requeue(self, session: Session, messages: Sequence[Message]) -> None:
        for message in reversed(messages):  # each is put before the others
            delivery = session.held.pop(message)
            self._return(message, due=None, counted=True, first=True)
            message.owner = None
            if not session.is_dead:
                session.lost.give(delivery)
        if session.is_dead and not session.held:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        """Drop a session; its inboxes wait for a reader, and only so many of them."""
        self._sessions.pop(session, None)
        self._gone.pop(session, None)
        for spec in session.specs.values():
            if spec.kind is TopicKind.INBOX and not any(spec.name in other.specs for other in self._sessions):
                topic = self._topic(spec.name)
                topic.rewind()
                self._orphans[spec.name] = None
        while len(self._orphans) > MEMORY_INBOXES_KEPT:
            name = next(iter(self._orphans))
            del self._orphans[name]
            self._topics.pop(name, None)


def _answer(session: Session, delivery: Delivery) -> Settled:
    """Tell what settling came to, now that it is done."""
    message = delivery.token
    ours = isinstance(message, Message) and message.owner is session and message.is_settled
    return Settled(delivery.id, True, "done") if ours else Settled(delivery.id, False, "lost")
