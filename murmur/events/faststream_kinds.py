"""What a broadcast is on each broker, in FastStream's words.

Redis: a channel. NATS: a core subject. RabbitMQ: a queue of the listener's own on one topic exchange. Kafka: a
topic read from its end, without a group. Bodies travel as they are, so other programs can read and send them.
"""

import secrets
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, Protocol

from murmur.broker_url import BrokerURL
from murmur.limits import MAX_ENVELOPE

_EXCHANGE: Final = "murmur.control"
Make = Callable[[BrokerURL], Any]


class Kind(Protocol):
    """One broker's way: `load` imports its client, blocking, and returns what makes a FastStream broker of a URL."""

    extra: str
    refusals: frozenset[str]  # names of its client's exceptions that mean: no right, or wrong credentials
    mend: str

    def load(self) -> Make:
        """Import. Raises ModuleNotFoundError."""

    def subscriber(self, broker: Any, topic: str) -> Any:
        """Return a FastStream subscriber that is not started."""

    async def publish(self, broker: Any, topic: str, body: bytes) -> None:
        """Send."""


class _Redis:
    extra = "redis"
    refusals = frozenset({"NoPermissionError", "AuthenticationError", "AuthorizationError"})
    mend = "Give this user all channels: redis-cli ACL SETUSER USER &* +@pubsub"

    def load(self) -> Make:
        module = import_module("faststream.redis")
        plain = _plain(import_module("faststream.redis.parser").MessageFormat)

        def make(url: BrokerURL) -> Any:
            where = f"unix://{url.path}" if url.scheme == "unix" else f"redis://{url.addresses[0]}{url.path}"
            return module.RedisBroker(where, message_format=plain, security=_security(url), **_QUIET)

        return make

    def subscriber(self, broker: Any, topic: str) -> Any:
        return broker.subscriber(topic, no_reply=True, persistent=False)

    async def publish(self, broker: Any, topic: str, body: bytes) -> None:
        await broker.publish(body, topic)


class _Nats:
    extra = "nats"
    refusals = frozenset({"AuthorizationError"})
    mend = "Let this user publish and subscribe to murmur.> in nats-server.conf, below the namespace if there is one"

    def load(self) -> Make:
        module = import_module("faststream.nats")
        token = import_module("faststream.nats.security").NatsToken

        def make(url: BrokerURL) -> Any:
            servers = [f"{'tls' if url.is_tls else 'nats'}://{address}" for address in url.addresses]
            if url.username is None and url.password is not None:
                security = token(url.password, ssl_context=url.tls(), use_ssl=url.is_tls)
            else:
                security = _security(url)
            return module.NatsBroker(servers, security=security, max_reconnect_attempts=-1, ping_interval=10, **_QUIET)

        return make

    def subscriber(self, broker: Any, topic: str) -> Any:
        return broker.subscriber(topic, no_reply=True, persistent=False)

    async def publish(self, broker: Any, topic: str, body: bytes) -> None:
        await broker.publish(body, topic)


class _Kafka:
    extra = "kafka"
    refusals = frozenset(
        f"{what}Error"
        for what in ("TopicAuthorizationFailed", "ClusterAuthorizationFailed", "SaslAuthenticationFailed")
    )
    mend = "Give this user the topics of the control plane, too: see murmur doctor"

    def load(self) -> Make:
        module = import_module("faststream.kafka")

        def make(url: BrokerURL) -> Any:
            return module.KafkaBroker(
                list(url.addresses), security=_security(url), max_request_size=2 * MAX_ENVELOPE, **_QUIET
            )

        return make

    def subscriber(self, broker: Any, topic: str) -> Any:
        return broker.subscriber(topic, auto_offset_reset="latest", no_reply=True, persistent=False)

    async def publish(self, broker: Any, topic: str, body: bytes) -> None:
        await broker.publish(body, topic)


class _Rabbit:
    extra = "rabbitmq"
    refusals = frozenset({"ChannelAccessRefused", "ProbableAuthenticationError", "AuthenticationError"})
    mend = f"Give this user the exchange {_EXCHANGE}, too: rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"

    def load(self) -> Make:
        module = import_module("faststream.rabbit")

        def make(url: BrokerURL) -> Any:
            where = f"{url.scheme}://{url.addresses[0]}{url.path or '/'}"
            broker = module.RabbitBroker(where, security=_security(url), reconnect_interval=1.0, **_QUIET)
            broker.murmur_exchange = module.RabbitExchange(_EXCHANGE, type=module.ExchangeType.TOPIC, durable=True)
            broker.murmur_queue = module.RabbitQueue
            return broker

        return make

    def subscriber(self, broker: Any, topic: str) -> Any:
        queue = broker.murmur_queue(
            f"{topic}.{secrets.token_hex(8)}", routing_key=topic, durable=False, exclusive=True, auto_delete=True
        )
        return broker.subscriber(queue, broker.murmur_exchange, no_reply=True, persistent=False)

    async def publish(self, broker: Any, topic: str, body: bytes) -> None:
        # Publishing looks for the exchange without making it, and one that is not there costs the channel.
        await broker.declare_exchange(broker.murmur_exchange)
        # Not mandatory: that nobody listens is no failure of a broadcast.
        await broker.publish(body, exchange=broker.murmur_exchange, routing_key=topic, mandatory=False)


_QUIET: Final[dict[str, Any]] = {
    "logger": None,
    "apply_types": False,  # handlers take bytes
    "decoder": lambda message: message.body,
    "graceful_timeout": 1.0,
}

KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("redis", "rediss", "unix"), _Redis()),
    **dict.fromkeys(("nats", "tls"), _Nats()),
    **dict.fromkeys(("kafka", "kafka+ssl"), _Kafka()),
    **dict.fromkeys(("amqp", "amqps"), _Rabbit()),
}
"""Scheme → its kind."""


def _security(url: BrokerURL) -> Any:
    """Return FastStream's security of a URL, None where there is neither TLS nor a user."""
    module = import_module("faststream.security")
    context = url.tls()
    if url.password is None and url.username is None:
        return None if context is None else module.BaseSecurity(ssl_context=context, use_ssl=True)
    kinds = {"SCRAM-SHA-256": module.SASLScram256, "SCRAM-SHA-512": module.SASLScram512}
    kind = kinds.get(url.options.get("mechanism", "").upper(), module.SASLPlaintext)
    return kind(url.username, url.password, ssl_context=context, use_ssl=context is not None)


def _plain(base: Any) -> Any:
    """Return a message format for Redis that adds nothing to the bytes."""

    class Plain(base):  # type: ignore[misc]  # FastStream is not there when types are checked
        @classmethod
        async def encode(cls, *, message: Any, **_: Any) -> Any:
            return message

        @classmethod
        def parse(cls, data: Any) -> Any:
            return data, {}

    return Plain
