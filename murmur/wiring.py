"""The one place that knows which adapter serves which URL: the composition root.

Adapters are named here and imported when one is used, so that `import murmur` loads no
broker client, and no room imports another one outside its wall.
"""

import importlib
from pathlib import Path
from typing import Any, Final

from murmur.broker_queue import BrokerQueue
from murmur.broker_url import BrokerURL
from murmur.control import ControlPlane
from murmur.doctor import Finding, Severity, broken
from murmur.errors import BadSetting, BadURL, MissingExtra, Unsafe
from murmur.names import Topics
from murmur.signing import Seal, read_keys
from murmur.store import Store
from murmur.task_queue import TaskQueue
from murmur.transport import Transport

_TRANSPORTS: Final = {
    "memory": ("murmur.transports.memory", ""),
    "redis": ("murmur.transports.redis", "redis"),
    "rediss": ("murmur.transports.redis", "redis"),
    "unix": ("murmur.transports.redis", "redis"),
    "nats": ("murmur.transports.nats", "nats"),
    "tls": ("murmur.transports.nats", "nats"),
    "kafka": ("murmur.transports.kafka", "kafka"),
    "kafka+ssl": ("murmur.transports.kafka", "kafka"),
    "amqp": ("murmur.transports.rabbitmq", "rabbitmq"),
    "amqps": ("murmur.transports.rabbitmq", "rabbitmq"),
}
_STORES: Final = {
    "memory": ("murmur.stores.memory", ""),
    "redis": ("murmur.stores.redis", "redis"),
    "rediss": ("murmur.stores.redis", "redis"),
    "unix": ("murmur.stores.redis", "redis"),
    "nats": ("murmur.stores.nats", "nats"),
    "tls": ("murmur.stores.nats", "nats"),
    "sqlite": ("murmur.stores.sqlite", ""),
}
_DOCTORS: Final = {
    **dict.fromkeys(("redis", "rediss", "unix"), ("murmur.transports.redis_doctor", "redis")),
    **dict.fromkeys(("nats", "tls"), ("murmur.transports.nats_doctor", "nats")),
    **dict.fromkeys(("kafka", "kafka+ssl"), ("murmur.transports.kafka_doctor", "kafka")),
    **dict.fromkeys(("amqp", "amqps"), ("murmur.transports.rabbitmq_doctor", "rabbitmq")),
}
_FASTSTREAM: Final = ("redis", "rediss", "unix", "nats", "tls", "kafka", "kafka+ssl", "amqp", "amqps")
_CONTROLS: Final = {
    "memory": ("murmur.events.memory", ""),
    **dict.fromkeys(_FASTSTREAM, ("murmur.events.faststream", "")),
}
_NO_STORE: Final = "none"  # in place of a store's URL: the broker only
_BROKER_ONLY: Final = "murmur.stores.broker_only"
PUBLISHER: Final = "murmur.runtime.runtime"
"""The module of the publisher that actors speak through, imported late: worker processes share it."""


def connect(
    broker: str | Transport,
    *,
    store: str | Store | None,
    namespace: str,
    consumer_id: str,
    lease: float | None,
    retention: float,
    signing_keys: str | Path | None = None,
) -> TaskQueue:
    """Return the task queue of a broker, and a store beside it; nothing is connected yet.

    Args:
        broker: a URL, or a transport object.
        store: a URL or a store object; "none": the broker only; None: the broker's own place for rows, if it has one.
        namespace: put before every topic.
        consumer_id: this process's stable name on the broker.
        lease: seconds a task stays ours without renewal; None: for ever.
        retention: seconds results, rows and keys are kept.
        signing_keys: a key file, see `murmur.signing`; None: nothing is signed, and no signature looked at.
    Raises: BadURL, MissingExtra, BadSetting.
    """
    seal = None if signing_keys is None else read_keys(signing_keys)
    transport = (
        _transport(broker, consumer_id=consumer_id, namespace=namespace, lease=lease)
        if isinstance(broker, str)
        else broker
    )
    if store is None or isinstance(store, str):
        store = _store(
            _store_url(broker, store),
            broker=broker,
            namespace=namespace,
            retention=retention,
            mailbox=transport,
            seal=seal,
        )
    kind = TaskQueue if store.keeps_rows else BrokerQueue
    return kind(transport, store, Topics(namespace), seal)


def control(broker: str, *, namespace: str) -> ControlPlane:
    """Return the control plane of a broker's URL; nothing is connected yet. Raises `BadURL`."""
    made: ControlPlane = _adapter(broker, _CONTROLS).connect(broker, prefix=Topics(namespace).prefix)
    return made


async def examine(
    broker: str | Transport, *, store: str | Store | None = None, namespace: str, settings_only: bool = False
) -> list[Finding]:
    """Return what an adapter's doctor finds, and what lacks without a store. Raises as connecting does; `BadURL` where
    there is no doctor."""
    lacking: list[Finding] = [] if tier(broker, store) == "A" else importlib.import_module(_BROKER_ONLY).findings()
    if not isinstance(broker, str):
        return lacking
    scheme = BrokerURL.parse(broker).scheme
    if scheme == "memory":
        what = "memory:// serves nobody outside this process, and forgets everything when it ends"
        return [Finding(Severity.BROKEN, "I1", what, "Name a broker for what must not be lost"), *lacking]
    if scheme not in _DOCTORS:
        raise BadURL(url=shown(broker), problem=f"there is nothing to examine on {scheme}://")
    examine = _adapter(broker, _DOCTORS).examine
    found: list[Finding] = await examine(broker, namespace=namespace, settings_only=settings_only)
    return found + lacking


async def examined(
    broker: str | Transport, *, store: str | Store | None = None, namespace: str, strict: bool
) -> list[Finding]:
    """Return what the broker's settings mean, for whoever is about to start. Raises `Unsafe` if `strict` forbids it."""
    found = await examine(broker, store=store, namespace=namespace, settings_only=True)
    if strict and (wrong := broken(found)):
        raise Unsafe(url=shown(broker), findings=tuple(map(str, wrong)))
    return found


def publisher_over(queue: TaskQueue, **settings: Any) -> Any:
    """Return an AgentRuntime that publishes over a worker's own queue."""
    return importlib.import_module(PUBLISHER).AgentRuntime.over(queue, **settings)


def shown(broker: str | Transport) -> str:
    """Return a broker as it may be shown to people: a URL without its password, or a class name."""
    return str(BrokerURL.parse(broker)) if isinstance(broker, str) else type(broker).__name__


def tier(broker: str | Transport, store: str | Store | None) -> str:
    """Return "A" where a coordination store stands beside the broker, "B" where there is none."""
    if store is None or isinstance(store, str):
        return "B" if _store_url(broker, store) == _NO_STORE else "A"
    return "A" if store.keeps_rows else "B"


def shown_store(broker: str | Transport, store: str | Store | None) -> str:
    """Return where rows are kept, as it may be shown to people, and the tier that this makes."""
    if tier(broker, store) == "B":
        return "none (tier B: the broker only)"
    if store is None or isinstance(store, str):
        return f"{shown(_store_url(broker, store))} (tier A)"
    return f"{type(store).__name__} (tier A)"


def _store_url(broker: str | Transport, store: str | None) -> str:
    """Return where rows are kept: a URL, or "none"."""
    if store is not None:
        return store
    if not isinstance(broker, str):
        return "memory://"
    return broker if BrokerURL.parse(broker).scheme in _STORES else _NO_STORE


def _transport(url: str, *, consumer_id: str, namespace: str, lease: float | None) -> Transport:
    made: Transport = _adapter(url, _TRANSPORTS).connect(url, consumer_id=consumer_id, namespace=namespace, lease=lease)
    return made


def _store(
    url: str, *, broker: str | Transport, namespace: str, retention: float, mailbox: Transport, seal: Seal | None
) -> Store:
    made: Store
    if url == _NO_STORE:
        if not isinstance(broker, str):
            raise BadSetting(name="broker", value=shown(broker), expected='a URL, with store="none"')
        plane = control(broker, namespace=namespace)
        made = importlib.import_module(_BROKER_ONLY).BrokerOnlyStore(plane, retention=retention, seal=seal)
    else:
        made = _adapter(url, _STORES).connect(url, namespace=namespace, retention=retention, mailbox=mailbox)
    return made


def _adapter(url: str, table: dict[str, tuple[str, str]]) -> Any:
    parsed = BrokerURL.parse(url)
    if parsed.scheme not in table:
        raise BadURL(url=str(parsed), problem=f"{parsed.scheme}:// is not served yet; there are {', '.join(table)}")
    module, extra = table[parsed.scheme]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("murmur"):
            raise
        raise MissingExtra(package=error.name, extra=extra) from error
