"""Examines a Kafka cluster: does it keep what it confirms, can we do what we need, does anything stand still?"""

import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from murmur.broker_url import BrokerURL
from murmur.doctor import Finding, Severity
from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.limits import MAX_ENVELOPE
from murmur.names import Topics
from murmur.transport import Outgoing, Refusal, TopicSpec
from murmur.transports.kafka_link import KafkaLink
from murmur.transports.kafka_outlet import Outlet
from murmur.transports.kafka_survey import survey

_CREATE_TOPICS, _OLD_BELOW = 19, 4  # an API and the version of it that came with Kafka 2.4
_LEASE: Final = 30.0  # seconds, unless somebody says otherwise
_DAY: Final = 1_440  # minutes
_METADATA: Final = 4_096  # bytes of a ledger's text, at most
_PINGS: Final = 10
_SLOW: Final = 0.05  # seconds a round trip may take
_MAILBOXES: Final = 200  # topics looked at
_MANY: Final = 10_000  # messages that wait while nobody reads
_COPIES: Final = 3
_BROKEN, _RISK, _NOTE = Severity.BROKEN, Severity.RISK, Severity.NOTE


async def examine(url: str, *, namespace: str, settings_only: bool) -> list[Finding]:
    """Return the findings, worst first; `settings_only` leaves out rights, distance, and what lies in the mailboxes.

    Raises `BrokerUnreachable`, `BrokerRefused`, `BadURL`.
    """
    link = KafkaLink(BrokerURL.parse(url), client_id="murmur-doctor")
    await link.open()
    try:
        doctor = _Doctor(link, Topics(namespace))
        looks: list[Callable[[], Awaitable[list[Finding]]]] = [doctor.cluster, doctor.settings, doctor.topics]
        if not settings_only:
            looks += [doctor.rights, doctor.distance, doctor.mailboxes]
        found = [finding for look in looks for finding in await look()]
    finally:
        await link.close()
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


class _Doctor:
    def __init__(self, link: KafkaLink, topics: Topics) -> None:
        self._link, self._topics = link, topics

    async def cluster(self) -> list[Finding]:
        """Version, and how many brokers there are."""
        found = []
        if self._link.api_versions.get(_CREATE_TOPICS, (0, _OLD_BELOW))[1] < _OLD_BELOW:
            what = "this Kafka is older than 2.4, and not maintained any more"
            found.append(Finding(_RISK, "I22", what, "Upgrade to 3.9 or later"))
        brokers = len(await self._link.brokers())
        if brokers < _COPIES:
            there = "is one broker" if brokers == 1 else f"are {brokers} brokers"
            what = f"there {there}: a disk that breaks takes tasks with it"
            found.append(Finding(_NOTE, "I1", what, "Run three, with default.replication.factor=3"))
        return found

    async def settings(self) -> list[Finding]:
        """What the brokers are told."""
        settings = await self._link.broker_settings()
        if not settings:
            what = f"{self._link.user} may not see the brokers' settings, which are not examined"
            who = f"--allow-principal User:{self._link.user}"
            mend = f"kafka-acls.sh {self._link.at} --add {who} --operation DescribeConfigs --cluster"
            return [Finding(_NOTE, "I22", what, mend)]
        brokers = len(await self._link.brokers())

        def number(name: str, default: float) -> float:
            return float(settings.get(name, default))

        checks = (
            (
                _BROKEN, "I1", "unclean.leader.election.enable", "false",
                settings.get("unclean.leader.election.enable") == "true",
                "a broker that missed messages may lead: what it missed is lost",
            ),
            (
                _RISK, "I1", "default.replication.factor", str(min(_COPIES, brokers)),
                brokers > 1 and number("default.replication.factor", 1) < min(_COPIES, brokers),
                "new mailboxes are kept in one place only",
            ),
            (
                _RISK, "I1", "min.insync.replicas", "2",
                number("default.replication.factor", 1) >= _COPIES and number("min.insync.replicas", 1) < 2,
                "what one broker alone has is confirmed already",
            ),
            (
                _RISK, "I6", "offsets.retention.minutes", "10080",
                number("offsets.retention.minutes", 7 * _DAY) < _DAY,
                "a fleet that is away for long finds forgotten what it did, and does it again",
            ),
            (
                _BROKEN, "I6", "offset.metadata.max.bytes", str(_METADATA),
                number("offset.metadata.max.bytes", _METADATA) < _METADATA,
                "what was done out of order cannot be written down",
            ),
            (
                _RISK, "I10", "group.min.session.timeout.ms", "6000",
                number("group.min.session.timeout.ms", 6_000) > _LEASE * 1_000,
                "a worker that died is missed late: a lease is longer here than it is told to be",
            ),
            (
                _NOTE, "I22", "auto.create.topics.enable", "false",
                settings.get("auto.create.topics.enable") == "true",
                "whoever misspells a topic makes one, and a mailbox may come to be with too few partitions",
            ),
        )  # fmt: skip
        return [
            Finding(severity, invariant, f"{name}={settings.get(name)}: {what}", f"Set {name}={value} on the brokers")
            for severity, invariant, name, value, is_wrong, what in checks
            if is_wrong
        ]

    async def topics(self) -> list[Finding]:
        """What is set for the mailboxes that are there."""
        found = []
        for topic, settings in (await self._link.topic_settings(await self._mailboxes())).items():
            alter = f"kafka-configs.sh {self._link.at} --alter --entity-type topics --entity-name {topic} --add-config"
            if settings.get("retention.ms", "-1") != "-1":
                hours = int(settings["retention.ms"]) / 3_600_000
                what = f"{topic} deletes what is older than {hours:.0f} h, done or not"
                found.append(Finding(_BROKEN, "I1", what, f"{alter} retention.ms=-1"))
            if settings.get("retention.bytes", "-1") != "-1":
                what = f"{topic} deletes what is beyond {settings['retention.bytes']} bytes, done or not"
                found.append(Finding(_BROKEN, "I1", what, f"{alter} retention.bytes=-1"))
            if "compact" in settings.get("cleanup.policy", "delete"):
                found.append(Finding(_BROKEN, "I1", f"{topic} is compacted", f"{alter} cleanup.policy=delete"))
            if int(settings.get("max.message.bytes", 2 * MAX_ENVELOPE)) < MAX_ENVELOPE + 65_536:
                what = f"{topic} refuses tasks of more than {int(settings['max.message.bytes']):,} bytes"
                found.append(Finding(_RISK, "I16", what, f"{alter} max.message.bytes={2 * MAX_ENVELOPE}"))
        return found

    async def rights(self) -> list[Finding]:
        """Whether this user may do all that we do, tried on a topic of our own."""
        name = f"{self._topics.prefix}murmur-doctor-{secrets.token_hex(4)}"
        refused: list[str] = []
        outlet = Outlet(self._link, lambda topic: (topic, None))
        try:
            await self._link.declare([name], retention=60.0)
        except BrokerRefused:
            refused.append("create topics")
        else:
            answer = (await outlet.publish([Outgoing(name, b"", "x")]))[0]
            if isinstance(answer, Refusal):
                refused.append("write to them")
            try:
                await self._link.ends(name)
                await self._link.committed(name, name)
            except (BrokerRefused, BrokerUnreachable):
                refused.append("read topics and groups")
            await outlet.close()
            if not await self._link.delete(name):
                refused.append("delete what is done")
        if not refused:
            return []
        what = f"{self._link.user} may not {', '.join(refused)}"
        return [Finding(Severity.REFUSED, "I22", what, self._link.granting(self._topics.prefix))]

    async def distance(self) -> list[Finding]:
        """How far away it is."""
        trips = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            await self._link.brokers()
            trips.append(time.perf_counter() - began)
        if (middle := statistics.median(trips)) <= _SLOW:
            return []
        what = f"a round trip takes {middle * 1000:.0f} ms"
        return [Finding(_RISK, "I10", what, "Bring workers and cluster together; lengthen the lease")]

    async def mailboxes(self) -> list[Finding]:
        """What waits while nobody reads, and who has nothing to read."""
        found = []
        for topic in await self._mailboxes():
            agent = self._topics.agent_of(topic)
            count = await self._link.know(topic)
            dead_topic = self._topics.dead(agent)
            is_dead = await self._link.know(dead_topic) > 0
            try:
                stats = await survey(self._link, TopicSpec(topic, dead_topic=dead_topic if is_dead else None))
                members = await self._link.members(topic)
            except BrokerRefused:
                continue  # told by `rights`
            if (stats.ready or 0) >= _MANY and not members:
                what = f"{stats.ready:,} tasks of {agent} wait and nobody reads them"
                found.append(Finding(_RISK, "I16", what, f"murmur worker start --agents {agent}"))
            if members > count:
                what = f"{topic} has {count} partitions for {members} workers: {members - count} of them stand idle"
                mend = f"kafka-topics.sh {self._link.at} --alter --topic {topic} --partitions {4 * members}"
                found.append(Finding(_RISK, "I10", what, mend))
            if stats.dead:
                what = f"{agent} has {stats.dead:,} dead letters"
                found.append(Finding(_NOTE, "I9", what, f"murmur dead list {agent} --groups"))
        return found

    async def _mailboxes(self) -> list[str]:
        every: list[Any] = await self._link.topics()
        mine = [topic for topic in every if topic.startswith(self._topics.prefix) and topic.endswith(".tasks")]
        return sorted(topic for topic in mine if topic.removeprefix(self._topics.prefix).count(".") == 1)[:_MAILBOXES]
