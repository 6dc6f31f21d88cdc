"""Examines a NATS server: does it keep what it confirms, can we do what we need, does anything stand still?

What a client may ask is all that is looked at. How often the server syncs its files stands in
its configuration alone, so that is told, not found.
"""

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from murmur.doctor import Finding, Severity
from murmur.errors import BrokerRefused, OutcomeUnknown
from murmur.limits import MAX_ENVELOPE
from murmur.names import Topics
from murmur.transports.nats import check_options
from murmur.transports.nats_answers import JetStreamError
from murmur.transports.nats_link import NatsLink
from murmur.transports.nats_outlet import ROOM
from murmur.transports.nats_streams import CONSUMER, CONSUMER_MISSING, NANOSECONDS, STREAM_MISSING, Streams
from murmur.transports.nats_wire import encoded_headers

_LEAST_VERSION: Final = (2, 9)
_PINGS: Final = 20
_SLOW: Final = 0.05  # seconds a round trip may take
_FULL: Final = 0.9  # of what the account may store
_MANY: Final = 10_000  # messages that wait while nobody reads
_RIGHT_WITHIN: Final = 5.0  # seconds
_BROKEN, _RISK, _NOTE = Severity.BROKEN, Severity.RISK, Severity.NOTE


async def examine(url: str, *, namespace: str, settings_only: bool) -> list[Finding]:
    """Return the findings, worst first; `settings_only` leaves out rights, distance, and what lies in the mailboxes.

    Raises `BrokerUnreachable`, `BrokerRefused`, `BadURL`.
    """
    check_options(url)
    link = NatsLink(url, name="murmur:doctor")
    await link.open()
    try:
        doctor = _Doctor(link, namespace)
        looks: list[Callable[[], Awaitable[list[Finding]]]] = [doctor.server, doctor.account, doctor.streams]
        if not settings_only:
            looks += [doctor.rights, doctor.distance, doctor.mailboxes]
        found = [finding for look in looks for finding in await look()]
    finally:
        await link.close()
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


class _Doctor:
    def __init__(self, link: NatsLink, namespace: str) -> None:
        self._link = link
        self._topics = Topics(namespace)
        self._streams = Streams(link, namespace=namespace)
        self._bucket = f"{namespace}-murmur" if namespace else "murmur"  # of the store

    async def server(self) -> list[Finding]:
        """Version, encryption, and how much goes into a message."""
        info, found = self._link.info, []
        text = str(info.get("version", "0"))
        version = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
        if version < _LEAST_VERSION:
            found.append(Finding(_BROKEN, "I1", f"NATS {text} lacks what the store needs", "Upgrade to 2.9 or later"))
        most = int(info.get("max_payload", MAX_ENVELOPE))
        if most < MAX_ENVELOPE + ROOM:
            what = f"max_payload is {most:,} bytes: bodies beyond {most - ROOM:,} are refused"
            found.append(Finding(_NOTE, "I3", what, 'Set "max_payload: 8MB" in nats-server.conf'))
        if not info.get("auth_required") and not self._is_local():
            what = "anybody who reaches the server may read and write every task"
            found.append(Finding(_RISK, "I20", what, "Set authorization in nats-server.conf, and use tls://"))
        return found

    async def account(self) -> list[Finding]:
        """Whether JetStream is there, and has room."""
        try:
            info = await self._link.api("INFO")
        except JetStreamError as error:
            raise self._streams.refused(error) from None
        limits, found = info.get("limits", {}), []
        most, used = int(limits.get("max_storage", -1)), int(info.get("storage", 0))
        if most == 0:
            what = "this account may store nothing on files"
            found.append(Finding(_BROKEN, "I1", what, "Give the account max_file in nats-server.conf"))
        elif most > 0 and used > _FULL * most:
            what = f"{used / most:.0%} of what this account may store is in use: writes are about to be refused"
            found.append(Finding(_RISK, "I1", what, "Raise its max_file, shorten the retention, or purge dead letters"))
        for key, have in (("max_streams", "streams"), ("max_consumers", "consumers")):
            room = int(limits.get(key, -1))
            if 0 <= room <= int(info.get(have, 0)):
                what = f"this account has all the {room} {have} it may have: a new agent or publisher is refused"
                found.append(Finding(_RISK, "I1", what, f"Raise {key} of the account"))
        return found

    async def streams(self) -> list[Finding]:
        """What a restart and a power loss leave of what is kept."""
        found, copies = [], []
        for name, stands in (await self._ours()).items():
            config = stands["config"]
            copies.append(int(config.get("num_replicas", 1)))
            if config.get("storage") != "file":
                what = f"the stream {name} is kept in memory: a restart loses it"
                found.append(Finding(_BROKEN, "I1", what, f"nats stream rm {name} while it is empty; it is made anew"))
            if config.get("max_age") and not name.endswith("inbox"):
                days = config["max_age"] / NANOSECONDS / 86_400
                what = f"the stream {name} forgets what is older than {days:.2g} days, waiting tasks included"
                found.append(Finding(_BROKEN, "I1", what, f"nats stream edit {name} --max-age=0"))
        if min(copies, default=self._wanted()) < 3:
            what = "one server keeps each message, and syncs its file every two minutes unless told otherwise: "
            what += "a power loss loses what came since"
            mend = 'Set "jetstream { sync_interval: always }" (NATS 2.10 or later), '
            found.append(Finding(_RISK, "I1", what, mend + "or run three servers and add ?replicas=3 to the URL"))
        return found

    async def rights(self) -> list[Finding]:
        """Try what a worker does, on a stream that is taken away again."""
        topic = self._topics.tasks(f"doctor-{secrets.token_hex(4)}")
        stream = self._streams.stream(topic)
        tries: list[tuple[str, str, Callable[[], Awaitable[object]]]] = [
            (f"make the stream {stream}", "$JS.API.>", lambda: self._streams.declare([topic])),
            (f"make a consumer of {stream}", "$JS.API.>", lambda: self._streams.declare_consumer(topic, lease=30.0)),
            (f"publish to {topic}", f"{self._topics.prefix}>", lambda: self._link.ask(topic, b"doctor")),
            ("make the store's bucket", "$JS.API.>", self._streams_of_store),
            ("write to the store", "$KV.>", lambda: self._write_to(self._bucket)),
            ("write rows to the store", "$KV.>", lambda: self._write_to(f"{self._bucket}-rows")),
            ("settle tasks", "$JS.ACK.>", lambda: self._link.ask(f"$JS.ACK.{stream}.doctor")),
            ("take the stream away", "$JS.API.>", lambda: self._link.api(f"STREAM.DELETE.{stream}")),
        ]
        found: list[Finding] = []
        for what, subject, attempt in tries:
            try:
                async with asyncio.timeout(_RIGHT_WITHIN):
                    await attempt()
            except (BrokerRefused, JetStreamError, OutcomeUnknown, TimeoutError) as error:
                problem = getattr(error, "problem", "") or str(error) or "no answer"
                is_denied = isinstance(error, BrokerRefused)
                every = ", ".join(dict.fromkeys((subject, "$JS.API.>", "$KV.>", "$JS.ACK.>")))
                mend = f"Let this user publish to {every} in nats-server.conf"
                severity = Severity.REFUSED if is_denied else _BROKEN
                found.append(Finding(severity, "I1", f"this user may not {what}: {problem}", mend))
                break
        return found

    async def distance(self) -> list[Finding]:
        """How long a word takes to the server and back."""
        trips = []
        for _ in range(_PINGS):
            began = time.monotonic()
            await self._link.synced()
            trips.append(time.monotonic() - began)
        middle = statistics.median(trips)
        if middle <= _SLOW:
            return []
        return [Finding(_NOTE, "I10", f"a round trip takes {middle * 1000:.0f} ms", "Run workers near the server")]

    async def mailboxes(self) -> list[Finding]:
        """What waits and nobody reads."""
        found = []
        for name, stands in (await self._ours()).items():
            if not name.endswith("~tasks"):
                continue
            waiting = int(stands["state"]["messages"])
            try:
                reader = await self._link.api(f"CONSUMER.INFO.{name}.{CONSUMER}")
            except JetStreamError as error:
                if error.code not in (CONSUMER_MISSING, STREAM_MISSING):
                    raise self._streams.refused(error) from None
                reader = {}
            if not reader.get("num_waiting") and waiting >= _MANY and not reader.get("num_ack_pending"):
                what = f"{waiting:,} messages wait in {name}, and nobody reads them"
                found.append(Finding(_RISK, "I10", what, "Start workers for this agent"))
        return found

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _ours(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the streams of this namespace."""
        names, offset = list[str](), 0
        while True:
            try:
                answer = await self._link.api("STREAM.NAMES", {"offset": offset})
            except JetStreamError as error:
                raise self._streams.refused(error) from None
            page = answer.get("streams") or []
            names += page
            offset += len(page)
            if not page or offset >= int(answer.get("total", 0)):
                break
        prefix = self._topics.prefix.replace(".", "~")
        depth = prefix.count("~")
        kept = f"KV_{self._bucket}"
        mine = [
            name
            for name in names
            if name in (kept, f"{kept}-rows", f"{prefix}inbox")
            or (name.startswith(prefix) and name.count("~") == depth + 1 and name.endswith(("~tasks", "~dead")))
        ]
        return {name: await self._link.api(f"STREAM.INFO.{name}") for name in mine}

    async def _streams_of_store(self) -> None:
        try:
            await self._link.api(f"STREAM.INFO.KV_{self._bucket}")
        except JetStreamError as error:
            if error.code != STREAM_MISSING:
                raise

    async def _write_to(self, bucket: str) -> None:
        """Try a write that the bucket turns down: it holds no such revision."""
        headers = encoded_headers({"Nats-Expected-Last-Subject-Sequence": str(1 << 60)})
        await self._link.ask(f"$KV.{bucket}.doctor", headers=headers)

    def _wanted(self) -> int:
        return int(self._link.url.options.get("replicas", "1"))

    def _is_local(self) -> bool:
        return all(host in ("localhost", "127.0.0.1", "::1") for host, _ in self._link.url.hosts)
