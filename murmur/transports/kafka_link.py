"""The link to a Kafka cluster: how clients are made, topics declared, and offsets asked for.

Client objects of aiokafka come back by themselves when a connection breaks, but say little about why
one cannot be made. So the first connection is tried here, and what went wrong is told in one
sentence. Questions (`committed`, `ends`, …) raise `BrokerUnreachable` when there is no answer in time.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import create_conn
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata
from loguru import logger

from murmur.broker_url import BrokerURL
from murmur.errors import BadURL, BrokerRefused, BrokerUnreachable

T = TypeVar("T")

DEADLINE: Final = 9.0  # seconds that a call may take; ten are promised
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 3.0  # seconds between two attempts to join; the library's own are more frequent
MAX_MESSAGE: Final = 2 * 1024 * 1024  # bytes of one record on the topics we make
_OFTEN: Final = 3_000  # ms: how old what a client knows of topics and partitions may be
_PAUSE: Final = 0.1  # seconds between two tries to get an answer
_BACKOFF: Final = 250  # ms between two tries to connect
_LEAST_SESSION, _MOST_SESSION = 6.0, 1_800.0  # seconds
_TOPIC_EXISTS, _NO_TOPIC, _NO_RIGHTS_TOPIC, _NO_RIGHTS_CLUSTER = 36, 3, 29, 31
_PARTITIONS: Final = "16"
NO_RIGHTS: Final = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
)
_WRONG_CREDENTIALS: Final = (
    kafka_errors.AuthenticationFailedError,
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
)
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

# Without any handler Python prints what a library logs; what is worth telling we tell ourselves.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


async def stopped(client: Any) -> None:
    """Stop a consumer or producer, within 10 s; what cannot be said to the cluster is left unsaid.

    aiokafka cancels its own tasks and lets that cancellation through, which is nobody's: it would end our caller.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE):
            problems: list[object] = await asyncio.gather(client.stop(), return_exceptions=True)
            if problems != [None]:
                logger.debug("a client of Kafka ended without a word: {!r}", problems[0])
                parts = (getattr(client, "_fetcher", None), getattr(client, "_client", None))  # it did not come to them
                await asyncio.gather(*(part.close() for part in parts if part is not None), return_exceptions=True)


def pause(away: float, chance: float) -> float:
    """Return how long to wait before the next attempt to connect, `away` seconds after it broke; `chance`: 0 to 1."""
    return SHORTEST_PAUSE + chance * min(LONGEST_PAUSE - SHORTEST_PAUSE, away / 2)


class KafkaLink:
    """One cluster. Belongs to the loop that opened it."""

    def __init__(self, url: BrokerURL, *, client_id: str) -> None:
        self.shown = str(url)
        self._url = url
        self.user = url.username or "ANONYMOUS"
        self.at = f"--bootstrap-server {','.join(url.addresses)}"  # for Kafka's own tools
        self.client_id = client_id
        self.partitions = _number(url, "partitions", _PARTITIONS)
        self._replicas = _number(url, "replication", "-1")
        self._mechanism = url.options.get("mechanism", "PLAIN").upper()
        if self._mechanism not in _MECHANISMS:
            raise BadURL(url=self.shown, problem=f"mechanism must be one of {', '.join(_MECHANISMS)}")
        self._options: dict[str, Any] = {}
        self._declared: dict[str, int] = {}  # topic: partitions
        self.api_versions: dict[int, tuple[int, int]] = {}  # of the broker that answered first: (least, most) by API
        self._opening = asyncio.Lock()
        self.admin: Any = None  # AIOKafkaAdminClient, which is not typed
        self._surveyor: Any = None  # a consumer without a group: it asks for offsets

    # -- connecting -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Raises `BadURL`, `BrokerUnreachable`, `BrokerRefused` within 10 s. Idempotent."""
        async with self._opening:
            if self._surveyor is not None:
                return
            self._options = await asyncio.to_thread(self._made_options)
            try:
                async with asyncio.timeout(DEADLINE):
                    await self._probe()
                    self.admin = AIOKafkaAdminClient(**self._options, request_timeout_ms=int(DEADLINE * 1000))
                    await self.admin.start()
                    surveyor = AIOKafkaConsumer(**self._options, request_timeout_ms=int(DEADLINE * 1000))
                    await surveyor.start()
                    self._surveyor = surveyor
            except (kafka_errors.KafkaError, OSError) as error:  # TimeoutError and ssl.SSLError are OSErrors
                await self.close()
                raise self.told(error) from None

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        admin, surveyor, self.admin, self._surveyor = self.admin, self._surveyor, None, None
        if surveyor is not None:
            await stopped(surveyor)
        if admin is not None:
            await admin.close()

    def consumer(self, **settings: Any) -> Any:
        """Return a consumer, not yet started."""
        defaults = {"enable_auto_commit": False, "auto_offset_reset": "none", "metadata_max_age_ms": _OFTEN}
        return AIOKafkaConsumer(
            **self._options, **defaults, request_timeout_ms=30_000, max_partition_fetch_bytes=262_144, **settings
        )

    def producer(self) -> Any:
        """Return a producer, not yet started."""
        return AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=True,
            max_request_size=MAX_MESSAGE,
            max_batch_size=131_072,
            request_timeout_ms=int(DEADLINE * 1000),
            metadata_max_age_ms=_OFTEN,
        )

    async def start(self, client: Any) -> None:
        """Start a consumer or producer, or leave nothing of it. Raises `BrokerUnreachable`, `BrokerRefused`."""
        try:
            await client.start()
        except BaseException as error:
            await stopped(client)
            if isinstance(error, kafka_errors.KafkaError | OSError):
                raise self.told(error) from None
            raise

    def told(self, error: BaseException) -> BrokerRefused | BrokerUnreachable:
        """Return an error as those who use the port know it."""
        if isinstance(error, _WRONG_CREDENTIALS):
            return BrokerRefused(url=self.shown, problem=str(error).partition("] ")[2] or str(error))
        if isinstance(error, NO_RIGHTS):
            return BrokerRefused(url=self.shown, problem=f"no right to use it ({error})", mend=self.granting())
        if isinstance(error, ssl.SSLCertVerificationError):
            problem = f"its certificate is not trusted ({error.verify_message}); name its authority: ?ca=FILE"
        elif isinstance(error, kafka_errors.IllegalSaslStateError):
            return BrokerRefused(url=self.shown, problem="it takes no user and password; leave them out of the URL")
        elif isinstance(error, ssl.SSLError | ConnectionResetError) and self._url.is_tls:
            problem = "it does not speak TLS, or another one; without TLS the scheme is kafka://"
        elif isinstance(error, TimeoutError):
            problem = "it accepts connections and says nothing a Kafka broker would say"
        elif isinstance(error, kafka_errors.KafkaConnectionError) and not self._url.is_tls:
            problem = f"{error}; does it speak Kafka, or want TLS (kafka+ssl://) or a user and password?"
        else:
            problem = str(error) or type(error).__name__
        return BrokerUnreachable(url=self.shown, after=DEADLINE, problem=problem)

    def granting(self, prefix: str = "") -> str:
        """Return the command that gives our user all rights we need, on what is under a namespace's prefix."""
        ours = f"--resource-pattern-type prefixed --topic '{prefix}' --group '{prefix}'"
        names = ours if prefix else "--topic '*' --group '*'"
        return f"kafka-acls.sh {self.at} --add --allow-principal User:{self.user} --operation All {names}"

    # -- topics -----------------------------------------------------------------------------------------------------

    async def declare(self, topics: Iterable[str], *, retention: float | None, is_anew: bool = False) -> None:
        """Make topics that do not exist, kept for `retention` seconds, None: for ever. Raises as `open` does."""
        # Once each, or the cluster refuses it: a named agent's mailboxes share their dead topic.
        wanted = [topic for topic in dict.fromkeys(topics) if is_anew or topic not in self._declared]
        if not wanted:
            return
        there = {topic: count for topic, count in (await self._counts(wanted)).items() if count}
        self._declared |= there
        if len(there) < len(wanted):
            await self._make([topic for topic in wanted if topic not in there], retention)

    async def _make(self, topics: Sequence[str], retention: float | None) -> None:
        kept = "-1" if retention is None else str(int(retention * 1000))
        configs = {"retention.ms": kept, "max.message.bytes": str(MAX_MESSAGE)}
        new = [NewTopic(topic, self.partitions, await self._replication(), topic_configs=configs) for topic in topics]
        answer = await self._asked(self.admin.create_topics, new, timeout_ms=int(DEADLINE * 1000))
        for topic, code, *more in answer.topic_errors:
            if code == 0:
                self._declared[topic] = self.partitions
            elif code in (_TOPIC_EXISTS, _NO_RIGHTS_TOPIC, _NO_RIGHTS_CLUSTER):
                count = await self._count_soon(topic) if code == _TOPIC_EXISTS else await self.count(topic)
                if not count:
                    problem = f"topic {topic} is not there, and this user may not make it"
                    raise BrokerRefused(url=self.shown, problem=problem, mend=self.granting())
                self._declared[topic] = count
            else:
                problem = f"topic {topic} could not be made: {(more and more[0]) or kafka_errors.for_code(code)}"
                raise BrokerRefused(url=self.shown, problem=problem)

    async def count(self, topic: str) -> int:
        """Return how many partitions a topic has; 0 if it is not there."""
        return (await self._counts([topic])).get(topic, 0)

    async def _counts(self, topics: Sequence[str]) -> dict[str, int]:
        # The library's own question has the cluster make what is not there, where that is set up to: not as we would.
        question = MetadataRequest(list(topics), allow_auto_topic_creation=False)
        answer = (await self._asked(self.admin._send_request, question)).to_object()  # aiokafka offers no public way
        return {one["topic"]: 0 if one["error_code"] else len(one["partitions"]) for one in answer["topics"]}

    async def _count_soon(self, topic: str) -> int:
        """Count the partitions of a topic that is there: who was asked may not have heard of it yet."""
        deadline = asyncio.get_running_loop().time() + DEADLINE / 2
        while asyncio.get_running_loop().time() < deadline:
            if count := await self.count(topic):
                return count
            await asyncio.sleep(_PAUSE)
        return 0

    async def know(self, topic: str) -> int:
        """Return how many partitions a topic has now, and remember it."""
        self._declared[topic] = await self.count(topic)
        return self._declared[topic]

    async def topics(self) -> list[str]:
        """Return the names of all topics this user may see."""
        found: list[str] = await self._asked(self.admin.list_topics)
        return found

    async def delete(self, topic: str) -> bool:
        """Delete a topic; whether we may."""
        answer = await self._asked(self.admin.delete_topics, [topic], timeout_ms=int(DEADLINE * 1000))
        return all(code == 0 for _, code, *_ in answer.topic_error_codes)

    def known(self, topic: str) -> int:
        """Return how many partitions a declared topic had when it was declared."""
        return self._declared[topic]

    # -- offsets ----------------------------------------------------------------------------------------------------

    async def committed(self, group: str, topic: str) -> dict[int, OffsetAndMetadata]:
        """Return what a group committed, by partition; without those where it committed nothing."""
        return await self._asked(self._committed, group, topic)

    async def _committed(self, group: str, topic: str) -> dict[int, OffsetAndMetadata]:
        # The library's own question takes "this broker is still loading the group" for "nothing was committed".
        node = await self.admin.find_coordinator(group)
        question = OffsetFetchRequest(group, [(topic, list(range(self._declared[topic])))])
        answer = await self.admin._send_request(question, node)  # aiokafka offers no public way
        partitions = [one for _, theirs in answer.topics for one in theirs]
        for code in (answer.error_code, *(code for *_, code in partitions)):
            if code:
                raise kafka_errors.for_code(code)(f"what {group} committed")
        return {number: OffsetAndMetadata(offset, text) for number, offset, text, _ in partitions if offset >= 0}

    async def ends(self, topic: str) -> dict[int, int]:
        """Return the offsets that come next, by partition."""
        return await self._offsets(topic, self._surveyor.end_offsets)

    async def begins(self, topic: str) -> dict[int, int]:
        """Return the first offsets that are kept, by partition."""
        return await self._offsets(topic, self._surveyor.beginning_offsets)

    async def forget(self, topic: str, before: Mapping[int, int]) -> None:
        """Delete the records before these offsets, where we may."""
        what = {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in before.items()}
        with contextlib.suppress(BrokerUnreachable, BrokerRefused):
            await self._asked(self.admin.delete_records, what, timeout_ms=int(DEADLINE * 1000))

    async def _offsets(self, topic: str, ask: Any) -> dict[int, int]:
        places = [TopicPartition(topic, number) for number in range(self._declared[topic])]
        # Where the library does not know who leads a topic, it waits for a moment before it looks.
        await self._asked(self._surveyor._client.add_topic, topic)  # aiokafka offers no public way
        found: Mapping[TopicPartition, int] = await self._asked(ask, places)
        return {place.partition: offset for place, offset in found.items()}

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _asked(self, ask: Callable[..., Awaitable[T]], *arguments: Any, **settings: Any) -> T:
        """Ask until there is an answer or the deadline: a cluster may just be electing somebody to answer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await ask(*arguments, **settings)
            except (kafka_errors.KafkaError, OSError, RuntimeError) as error:
                is_broken = isinstance(error, RuntimeError)  # uvloop's, where it writes to what has just closed
                if not (is_broken or getattr(error, "retriable", False)) or loop.time() > deadline - _PAUSE:
                    raise self.told(error) from None
            except AttributeError:  # the library looks for a node where it knows none
                if loop.time() > deadline - _PAUSE:
                    raise self.told(kafka_errors.KafkaConnectionError("no broker of the cluster answers")) from None
            await asyncio.sleep(_PAUSE)

    async def _replication(self) -> int:
        """Return how many copies a new topic gets: what the URL says, or the cluster's own default."""
        if self._replicas < 0:
            self._replicas = 1
            with contextlib.suppress(BrokerRefused, BrokerUnreachable):
                settings = await self.broker_settings()
                self._replicas = int(settings.get("default.replication.factor", "1"))
        return self._replicas

    async def broker_settings(self) -> dict[str, str]:
        """Return the settings of one broker; empty where we may not see them."""
        node = str((await self.brokers())[0])
        return (await self._settings([ConfigResource(ConfigResourceType.BROKER, node)])).get(node, {})

    async def topic_settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the settings of topics, of those where we may see them."""
        if not topics:
            return {}
        return await self._settings([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])

    async def session_bounds(self) -> tuple[float, float]:
        """Return between which seconds the brokers let a member be silent; Kafka's defaults where we may not see it."""
        with contextlib.suppress(BrokerRefused):
            settings = await self.broker_settings()
            names = ("group.min.session.timeout.ms", "group.max.session.timeout.ms")
            least, most = (int(settings[name]) / 1000 if name in settings else None for name in names)
            return least or _LEAST_SESSION, most or _MOST_SESSION
        return _LEAST_SESSION, _MOST_SESSION

    async def brokers(self) -> list[int]:
        """Return the brokers of the cluster."""
        cluster = await self._asked(self.admin.describe_cluster)
        return [one["node_id"] for one in cluster["brokers"]]

    async def members(self, group: str) -> int:
        """Return how many members a group has."""
        (answer,) = await self._asked(self.admin.describe_consumer_groups, [group])
        return sum(len(one[5]) for one in answer.groups)

    async def _settings(self, resources: Sequence[Any]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for answer in await self._asked(self.admin.describe_configs, list(resources)):
            for code, _, _, name, entries in answer.resources:
                if code == 0:
                    found[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
        return found

    async def _probe(self) -> None:
        """Connect once, to the first that answers. Raises what the last one said."""
        errors: list[BaseException] = []
        for host, port in self._url.hosts:
            options = {name: value for name, value in self._options.items() if name != "bootstrap_servers"}
            options.pop("retry_backoff_ms")
            try:
                async with asyncio.timeout(DEADLINE / len(self._url.hosts)):
                    connection = await create_conn(host, port, **options, request_timeout_ms=int(DEADLINE * 1000))
            except (kafka_errors.KafkaError, OSError) as error:
                errors.append(error)
            else:
                self.api_versions = connection._versions  # aiokafka offers no public way
                connection.close()
                return
        raise errors[-1]

    def _made_options(self) -> dict[str, Any]:
        user = self._url.username
        options: dict[str, Any] = {
            "bootstrap_servers": list(self._url.addresses),
            "client_id": self.client_id,
            "retry_backoff_ms": _BACKOFF,
            "security_protocol": ("SASL_" if user else "") + ("SSL" if self._url.is_tls else "PLAINTEXT"),
        }
        if self._url.is_tls:
            options["ssl_context"] = self._url.tls()
        if user:
            options |= {"sasl_mechanism": self._mechanism, "sasl_plain_username": user}
            options["sasl_plain_password"] = self._url.password or ""
        return options


def _number(url: BrokerURL, name: str, default: str) -> int:
    text = url.options.get(name, default)
    try:
        return int(text)
    except ValueError:
        raise BadURL(url=str(url), problem=f"{name} must be a number, got {text!r}") from None
