"""What stands where in NATS: a stream for each work topic with one consumer, one stream for all inboxes.

A topic is its own subject; its stream bears its name with `~` for the dots. Streams are made
by whoever comes first, publishers too; what stands already is used if it keeps what it must,
and refused with a sentence if not. Source: docs.nats.io, "JetStream wire API".
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.names import Topics
from murmur.transports.nats_answers import NO_RESPONDERS, JetStreamError
from murmur.transports.nats_link import DEADLINE, NatsLink

CONSUMER: Final = "workers"
NANOSECONDS: Final = 1_000_000_000
NEVER: Final = 365 * 86_400 * NANOSECONDS  # the lease of who wants none
DEDUP_WINDOW: Final = 120.0  # seconds in which an id published again adds nothing
INBOX_KEPT: Final = 86_400.0  # seconds a reply waits for its reader
STREAM_MISSING: Final = 10059  # JetStream's numbers of errors
CONSUMER_MISSING: Final = 10014
_STREAM_DIFFERS: Final = 10058
_OVERLAP: Final = 10065
_OFF: Final = (10039, 10076)  # not enabled for the account; not enabled
_MAY_PASS: Final = (500, 503)  # no leader, no room, nobody there
_HARMLESS: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "*>%")


class Streams:
    """Names, and the making of streams and consumers. `replicas`: copies of each that is made here."""

    def __init__(self, link: NatsLink, *, namespace: str) -> None:
        self._link = link
        self._topics = Topics(namespace)
        self._replicas = int(link.url.options.get("replicas", "1"))
        self._stood: set[str] = set()  # streams that we saw

    # -- names ------------------------------------------------------------------------------------------------------

    def is_inbox(self, topic: str) -> bool:
        """Whether a topic is one publisher's."""
        return self._topics.is_inbox(topic)

    def subject(self, topic: str) -> str:
        """Return where messages of a topic are published: itself, but for what a subject cannot hold."""
        return quote(topic, safe=_HARMLESS) if self.is_inbox(topic) else topic

    def bell(self, inbox: str) -> str:
        """Return where an inbox is told what need not be kept: a subject of no stream."""
        return f"{self._topics.prefix}murmur.bell.{self.subject(inbox)}"

    def stream(self, topic: str) -> str:
        """Return which stream keeps a topic."""
        name = f"{self._topics.prefix}inbox" if self.is_inbox(topic) else topic
        return name.replace(".", "~")

    def consumer(self, topic: str) -> str:
        """Return by which consumer a topic is read."""
        # No percent sign: the server (2.9) makes formats of names, and the replies it hands out then come from nowhere.
        return quote(topic, safe="").replace(".", "%2E").replace("%", "=") if self.is_inbox(topic) else CONSUMER

    # -- making -----------------------------------------------------------------------------------------------------

    async def declare(self, topics: Sequence[str]) -> None:
        """Make the streams of topics that have none. Raises `BrokerRefused`, and as the link does."""
        wanted: dict[str, dict[str, Any]] = {}
        for topic in topics:
            if self.is_inbox(topic):
                limits = {"max_age": int(INBOX_KEPT * NANOSECONDS)}
                wanted[self.stream(topic)] = self._config(self.stream(topic), f"{self._topics.prefix}inbox.>", limits)
            else:
                wanted[self.stream(topic)] = self._config(self.stream(topic), topic, {})
        for name, config in wanted.items():
            await self.make(name, config)

    async def make(self, name: str, config: Mapping[str, Any]) -> None:
        """Make a stream unless one stands that will do. Raises `BrokerRefused`."""
        try:
            stands = await self._link.api(f"STREAM.INFO.{name}")
        except JetStreamError as error:
            if error.code != STREAM_MISSING:
                raise self.refused(error) from None
        else:
            self._check(name, config, stands["config"])
            self._stood.add(name)
            return
        if name in self._stood:
            # The server (2.9) tells of a deletion first and removes files afterwards, those of a new stream as well.
            await asyncio.sleep(random.uniform(0.5, 1.0))  # noqa: S311  jitter, no secret
        self._stood.add(name)
        try:
            await self._link.api(f"STREAM.CREATE.{name}", config)
        except JetStreamError as error:
            if error.code != _STREAM_DIFFERS:
                raise self.refused(error, subjects=", ".join(config["subjects"])) from None
            stands = await self._link.api(f"STREAM.INFO.{name}")  # somebody was faster
            self._check(name, config, stands["config"])

    async def declare_consumer(self, topic: str, *, lease: float | None) -> float:
        """Make the consumer of a work topic, or lengthen its lease; return when it was made, see `made_at`.

        A longer lease stands: whoever shares a consumer with workers of another lease must not lose to it.
        """
        stream = self.stream(topic)
        wait = lease_of(lease)
        try:
            stands = await self._link.api(f"CONSUMER.INFO.{stream}.{CONSUMER}")
        except JetStreamError as error:
            if error.code == STREAM_MISSING:
                await self.declare([topic])
            elif error.code != CONSUMER_MISSING:
                raise self.refused(error) from None
            config = {
                "durable_name": CONSUMER,
                "ack_policy": "explicit",
                "ack_wait": wait,
                "max_deliver": -1,  # what the server gives up stays in its queue, stuck; giving up is ours
                "max_ack_pending": -1,  # else a bound for the whole fleet
                "max_waiting": 65_536,
                "filter_subject": topic,
            }
        else:
            config = stands["config"]
            if config.get("ack_policy") != "explicit" or config.get("deliver_subject"):
                problem = (
                    f"the consumer {CONSUMER!r} of stream {stream!r} is not ours: it must pull, and ack explicitly"
                )
                raise BrokerRefused(url=self._link.shown, problem=problem)
            if config["ack_wait"] >= wait and config.get("max_deliver", -1) == config.get("max_ack_pending", -1) == -1:
                return made_at(stands)
            config = {**config, "ack_wait": max(wait, config["ack_wait"]), "max_deliver": -1, "max_ack_pending": -1}
        try:
            request = {"stream_name": stream, "config": config}
            made = await self._link.api(f"CONSUMER.DURABLE.CREATE.{stream}.{CONSUMER}", request)
        except JetStreamError as error:
            raise self.refused(error) from None
        return made_at(made)

    async def declare_reader(self, inbox: str) -> None:
        """Make the consumer of an inbox anew, so that what an earlier reader did not settle comes at once."""
        stream, name = self.stream(inbox), self.consumer(inbox)
        await self.forget_reader(inbox)
        config = {
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": 60 * NANOSECONDS,
            "max_ack_pending": -1,
            "filter_subject": self.subject(inbox),
            "inactive_threshold": int(INBOX_KEPT * NANOSECONDS),
        }
        try:
            await self._link.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})
        except JetStreamError as error:
            if error.code != STREAM_MISSING:
                raise self.refused(error) from None
            await self.declare([inbox])
            await self._link.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})

    async def forget_reader(self, inbox: str) -> None:
        """Take the consumer of an inbox away; what is unread stays until it is too old."""
        try:
            await self._link.api(f"CONSUMER.DELETE.{self.stream(inbox)}.{self.consumer(inbox)}")
        except JetStreamError as error:
            if error.code not in (CONSUMER_MISSING, STREAM_MISSING):
                raise self.refused(error) from None

    def refused(self, error: JetStreamError, *, subjects: str = "") -> BrokerRefused | BrokerUnreachable:
        """Return what JetStream said as those who use the port know it: what may pass is no refusal."""
        problem = str(error)
        is_off = error.code in _OFF or (error.status == NO_RESPONDERS and not self._link.info.get("jetstream"))
        if error.status in _MAY_PASS and not is_off:
            return BrokerUnreachable(url=self._link.shown, after=DEADLINE, problem=f"JetStream: {problem}")
        if is_off:
            problem = (
                "JetStream is off; start the server with --jetstream and a --store_dir, or enable it for the account"
            )
        elif error.code == _OVERLAP:
            problem = f"the subject {subjects} belongs to another stream already; use a namespace of your own"
        return BrokerRefused(url=self._link.shown, problem=problem)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _config(self, name: str, subject: str, limits: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "subjects": [subject],
            "retention": "workqueue",
            "storage": "file",
            "discard": "new",
            "num_replicas": self._replicas,
            "duplicate_window": int(DEDUP_WINDOW * NANOSECONDS),
            "allow_direct": True,
            **limits,
        }

    def _check(self, name: str, config: Mapping[str, Any], stands: Mapping[str, Any]) -> None:
        """Refuse a stream that would lose what we promise to keep; what only bounds or copies it is its owner's."""
        subject = config["subjects"][0]
        wrong = [
            f"{key} is {stands.get(key)!r} and must be {config[key]!r}"
            for key in ("retention", "discard")
            if stands.get(key) != config[key]
        ]
        if subject not in (stands.get("subjects") or ()):
            wrong.append(f"it does not keep {subject!r}")
        if wrong:
            problem = f"the stream {name!r} has other settings: {'; '.join(wrong)}. Delete it, or use another namespace"
            raise BrokerRefused(url=self._link.shown, problem=problem)


def made_at(consumer: Mapping[str, Any]) -> float:
    """Return when a consumer was made, Unix time; until the server is killed, and a little later from then on.

    It writes that down a moment after it answered, and goes by what it wrote once it was started again.
    """
    return datetime.fromisoformat(consumer["created"]).timestamp()


def lease_of(lease: float | None) -> int:
    """Return a lease as a consumer has it, nanoseconds."""
    return NEVER if lease is None else max(1, int(lease * NANOSECONDS))
