"""A key-value bucket of NATS: values with revisions, written only where the revision is the expected one.

Plain JetStream underneath, so that many keys are read and written in one round trip, and a
write that is sent twice is done once. What is past its time is not there for who reads, and
is taken away by `collect`. Times are the server's: no host's clock is trusted.
"""

import asyncio
import contextlib
import itertools
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from msgspec import Struct

from murmur.errors import BrokerUnreachable, MurmurError, OutcomeUnknown
from murmur.transports.nats_answers import NO_RESPONDERS, JetStreamError, kept
from murmur.transports.nats_link import DEADLINE, Answers, NatsLink, Request
from murmur.transports.nats_streams import NANOSECONDS, STREAM_MISSING, Streams
from murmur.transports.nats_wire import Message

PART: Final = 400 * 1024  # bytes of a value that go into one message
_PARTS: Final = "Murmur-Parts"
_UNTIL: Final = "Murmur-Until"  # server's time, seconds, from which on a value is not there
_ID: Final = "Nats-Msg-Id"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_WRONG_REVISION: Final = 10071
_IS_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_IS_DOTTED: Final = re.compile(r"[A-Za-z0-9_.-]+").fullmatch
_SEQUENCE: Final = b"Nats-Sequence: "
_EMPTY: Final = "=00"
_NOT_FOUND: Final = 404
_AT_ONCE: Final = 256  # calls under way at once
_SCAN: Final = 1_000  # entries of one request
_SILENCE: Final = 2.0  # seconds after which an answer that should have come is missing
_SCAN_WITHIN: Final = 5.0  # seconds until more of a scan must have come


class Entry(Struct, frozen=True, gc=False):
    """What stands under a key. `is_over`: its time is past; only its revision still means something."""

    key: str
    value: bytes
    revision: int
    stored_at: float = 0.0  # the server's time, seconds; of what was scanned
    is_over: bool = False
    parts: str = ""  # where a value too large for one message lies: its place and how many there are


class Write(Struct, frozen=True, gc=False):
    """A value to put under a key, if `expected` is its revision: 0 for none, None for any."""

    key: str
    value: bytes
    expected: int | None = None
    until: float | None = None
    parts: str = ""  # see `Entry`


class Bucket:
    """One bucket. Keys are tokens joined by dots, see `token`."""

    def __init__(self, link: NatsLink, streams: Streams, name: str) -> None:
        self._link, self._streams, self._name = link, streams, name
        self._stream, self._prefix = f"KV_{name}", f"$KV.{name}."
        self._ids = (f"{boot}.{number}" for boot in (secrets.token_hex(6),) for number in itertools.count())
        self._offset = time.time() - time.monotonic()
        self._replicas = int(link.url.options.get("replicas", "1"))

    async def make(self) -> None:
        """Make the bucket unless it stands. Raises `BrokerRefused`, and as the link does."""
        config = {
            "name": self._stream,
            "subjects": [f"{self._prefix}>"],
            "max_msgs_per_subject": 1,
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "num_replicas": self._replicas,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "duplicate_window": 60 * NANOSECONDS,
        }
        await self._streams.make(self._stream, config)

    # -- time -------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the server's time, seconds since the epoch, as far as we know it."""
        return time.monotonic() + self._offset

    async def set_clock(self) -> None:
        """Learn the server's time, from when it stored something we just sent."""
        before = time.monotonic()
        await self.put([Write("clock", b"")])
        middle = (before + time.monotonic()) / 2
        stored_at = await self.stored_at("clock")
        if stored_at is not None:
            self._offset = stored_at - middle

    async def stored_at(self, key: str) -> float | None:
        """Return when what stands under a key was written, by the server's time; None if nothing does."""
        (answer,) = await self._asked([f"$JS.API.DIRECT.GET.{self._stream}.{self._prefix}{key}"])
        return None if answer.status else _seconds(answer.headers["Nats-Time-Stamp"])

    # -- values -----------------------------------------------------------------------------------------------------

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return what stands under keys."""
        found: list[Entry | None] = []
        for part in _parts(keys):
            answers = await self._asked([f"$JS.API.DIRECT.GET.{self._stream}.{self._prefix}{key}" for key in part])
            found += [self._entry(key, answer) for key, answer in zip(part, answers, strict=True)]
        return [entry and await self._whole(entry) for entry in found]

    async def put(self, writes: Sequence[Write], *, is_telling: bool = False) -> list[int | None]:
        """Write; return the revisions, None for each whose revision was not the expected one.

        A write that is sent twice, as after a reconnect, is known by an id that the server remembers, at a price. Where
        values tell who wrote them (`is_telling`) it is known by its value that stands there.
        """
        revisions: list[int | None] = []
        writes = [one if len(one.value) <= PART else await self._in_parts(one) for one in writes]
        for part in _parts(writes):
            connection = self._link.generation
            requests = [self._request(one, has_id=not is_telling) for one in part]
            answers = _all(await self._link.ask_all(requests))
            if any(answer.raw_headers and answer.status == NO_RESPONDERS for answer in answers):
                await self.make()  # somebody deleted the bucket
                answers = _all(await self._link.ask_all(requests))
            found = [self._revision(answer) for answer in answers]
            if is_telling and self._link.generation != connection and None in found:
                found = await self._in_doubt(part, found)
            revisions += found
        return revisions

    async def delete(self, patterns: Iterable[str]) -> None:
        """Take away what stands under keys that match patterns of NATS."""
        for pattern in patterns:
            with contextlib.suppress(JetStreamError):  # the whole bucket is gone
                await self._api(f"STREAM.PURGE.{self._stream}", {"filter": f"{self._prefix}{pattern}"})

    async def drop(self, entries: Iterable[Entry]) -> int:
        """Take away what stands, unless it was written anew meanwhile; return how many there were."""
        gone = 0
        for part in _parts(list(entries)):
            place = f"$JS.API.STREAM.MSG.DELETE.{self._stream}"
            asked = [Request(place, b'{"seq":%d,"no_erase":true}' % entry.revision) for entry in part]
            answers = _all(await self._link.ask_all(asked))
            gone += sum(json.loads(answer.body or b"{}").get("success", False) for answer in answers)
            await self.delete([f"part.{entry.parts.split()[0]}.*" for entry in part if entry.parts])
        return gone

    async def keys(self, under: str) -> list[str]:
        """Return the keys that match a pattern of NATS; for few."""
        try:
            request = {"subjects_filter": f"{self._prefix}{under}"}
            info = await self._api(f"STREAM.INFO.{self._stream}", request)
        except JetStreamError as error:
            if error.code != STREAM_MISSING:
                raise
            return []
        subjects: Mapping[str, int] = info["state"].get("subjects") or {}
        return [subject.removeprefix(self._prefix) for subject in subjects]

    async def scan(self, under: str, *, headers_only: bool = False, before: float | None = None) -> list[Entry]:
        """Return what stands under keys that match a pattern of NATS, oldest first; with `before`, only what was
        stored earlier. What is over is among it."""
        config: dict[str, Any] = {
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 30 * NANOSECONDS,
            "filter_subject": f"{self._prefix}{under}",
            "headers_only": headers_only,
        }
        try:
            made = await self._api(f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config})
        except JetStreamError as error:
            if error.code != STREAM_MISSING:
                raise
            return []
        scan = _Scan(self._link, f"{self._stream}.{made['name']}")
        found: list[Entry] = []
        left = int(made["num_pending"])
        try:
            while left > 0:
                messages = await scan.next(min(left, _SCAN))
                entries = [self._scanned(message) for message in messages]
                found += [one for one in entries if before is None or one.stored_at < before]
                left -= len(messages)
                if not messages or (before is not None and entries[-1].stored_at >= before):
                    break
            if not headers_only:
                found = [await self._whole(entry) for entry in found]
        finally:
            self._link.forget(scan.listening)
            self._link.say(f"$JS.API.CONSUMER.DELETE.{self._stream}.{made['name']}")
        return found

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _api(self, subject: str, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._link.api(subject, request)
        except JetStreamError as error:
            if error.code != STREAM_MISSING:
                raise self._away(error) from None
            raise

    async def _asked(self, subjects: Sequence[str]) -> list[Message]:
        """Return answers; a bucket that was deleted is made anew. Nobody answers then: old servers do not say so."""
        requests = [Request(subject) for subject in subjects]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE):
                answers = _all(await self._link.ask_all(requests))
            if all(answer.status != NO_RESPONDERS for answer in answers):
                return answers
        await self.make()
        return _all(await self._link.ask_all(requests))

    def _away(self, error: JetStreamError) -> BrokerUnreachable:
        """No space, no leader, no stream: it may be there again later."""
        return BrokerUnreachable(url=self._link.shown, after=DEADLINE, problem=str(error))

    async def _in_parts(self, write: Write) -> Write:
        """Write the parts of a value, and return what stands for it."""
        place, cuts = next(self._ids), range(0, len(write.value), PART)
        key = f"part.{token(place)}"
        await self.put([Write(f"{key}.{at}", write.value[at : at + PART], until=write.until) for at in cuts])
        return Write(write.key, b"", write.expected, write.until, f"{token(place)} {len(write.value)}")

    async def _whole(self, entry: Entry) -> Entry:
        """Return an entry with its value, wherever that lies."""
        if not entry.parts or entry.is_over:
            return entry
        place, size = entry.parts.split()
        parts = await self.get([f"part.{place}.{at}" for at in range(0, int(size), PART)])
        value = b"".join(part.value for part in parts if part is not None)
        return Entry(entry.key, value, entry.revision, entry.stored_at, entry.is_over, entry.parts)

    async def _in_doubt(self, writes: Sequence[Write], found: Sequence[int | None]) -> list[int | None]:
        """Return the revisions, also of those that were refused because they had been written a moment before."""
        refused = [write for write, revision in zip(writes, found, strict=True) if revision is None]
        answers = await self._asked([f"$JS.API.DIRECT.GET.{self._stream}.{self._prefix}{one.key}" for one in refused])
        stands = {one.key: self._entry(one.key, answer) for one, answer in zip(refused, answers, strict=True)}
        return [
            entry.revision
            if revision is None
            and (entry := stands[write.key]) is not None
            and (entry.value, entry.parts) == (write.value, write.parts)
            else revision
            for write, revision in zip(writes, found, strict=True)
        ]

    def _request(self, write: Write, *, has_id: bool) -> Request:
        headers = f"NATS/1.0\r\n{_ID}: {next(self._ids)}\r\n" if has_id else "NATS/1.0\r\n"
        if write.expected is not None:
            headers += f"{_EXPECTED}: {write.expected}\r\n"
        if write.parts:
            headers += f"{_PARTS}: {write.parts}\r\n"
        if write.until is not None:
            headers += f"{_UNTIL}: {write.until:.3f}\r\n"
        return Request(f"{self._prefix}{write.key}", write.value, f"{headers}\r\n".encode())

    def _revision(self, answer: Message) -> int | None:
        try:
            return kept(answer).seq
        except JetStreamError as error:
            if error.code == _WRONG_REVISION:
                return None
            raise self._away(error) from None

    def _entry(self, key: str, answer: Message) -> Entry | None:
        if answer.status == _NOT_FOUND:
            return None
        if answer.status:
            raise self._away(JetStreamError(key, status=answer.status, code=0, text=answer.status_text))
        raw = answer.raw_headers
        at = raw.index(_SEQUENCE) + len(_SEQUENCE)
        revision = int(raw[at : raw.index(b"\r", at)])
        if b"Murmur-" not in raw:
            return Entry(key, answer.body, revision)
        headers = answer.headers
        return Entry(key, answer.body, revision, 0.0, self._is_over(headers), headers.get(_PARTS, ""))

    def _scanned(self, message: Message) -> Entry:
        words = message.reply.split(b".")
        first = 5 if len(words) == 9 else 7
        key = message.subject.decode().removeprefix(self._prefix)
        revision, stored_at = int(words[first]), int(words[first + 2]) / NANOSECONDS
        headers = message.headers
        return Entry(key, message.body, revision, stored_at, self._is_over(headers), headers.get(_PARTS, ""))

    def _is_over(self, headers: Mapping[str, str]) -> bool:
        until = headers.get(_UNTIL)
        return until is not None and float(until) <= self.now()


class _Scan:
    """Reads on through a consumer."""

    def __init__(self, link: NatsLink, place: str) -> None:
        self._link, self._place = link, place
        self._messages: list[Message] = []
        self._wanted = 0
        self._done: asyncio.Future[None] | None = None
        self._subject = f"{link.inbox}.s.{secrets.token_hex(6)}"
        self.listening = link.listen(self._subject, self._came)

    async def next(self, count: int) -> list[Message]:
        """Return up to `count` more. Raises `OutcomeUnknown` when they do not come."""
        self._messages, self._wanted = [], count
        self._done = asyncio.get_running_loop().create_future()
        request = json.dumps({"batch": count, "no_wait": True}).encode()
        self._link.say(f"$JS.API.CONSUMER.MSG.NEXT.{self._place}", request, reply=self._subject)
        try:
            async with asyncio.timeout(_SCAN_WITHIN):
                await self._done
        except TimeoutError:
            raise OutcomeUnknown(call="scan", problem="not all came in time") from None
        return self._messages

    def _came(self, message: Message) -> None:
        if message.reply:
            self._messages.append(message)
        if (
            self._done is not None
            and not self._done.done()
            and (not message.reply or len(self._messages) >= self._wanted)
        ):
            self._done.set_result(None)


def token(text: str) -> str:
    """Return any text as one part of a key."""
    if _IS_TOKEN(text):
        return text
    if _IS_DOTTED(text):  # as nearly all ids are
        return text.replace(".", "=2E")
    return quote(text, safe="").replace(".", "%2E").replace("%", "=") or _EMPTY


def text_of(part: str) -> str:
    """Return what `token` made this part of a key of."""
    return "" if part == _EMPTY else unquote(part.replace("=", "%"))


def _all(answers: Answers) -> list[Message]:
    """Return the answers, or raise the first failure among them."""
    found: list[Message] = []
    for one in answers:
        if isinstance(one, MurmurError):
            raise one
        found.append(one)
    return found


def _parts(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[first : first + _AT_ONCE] for first in range(0, len(items), _AT_ONCE))


def _seconds(stamp: str) -> float:
    """Return an RFC 3339 time with nanoseconds as seconds since the epoch."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
