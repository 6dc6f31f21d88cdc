"""Examines a RabbitMQ server: may we do what we need, does it take messages, how far away is it?

AMQP shows what a client may try, not the server's settings. What murmur depends on it says of each
queue by itself (kind, delivery limit, durability), so a setting cannot undo it.
"""

import asyncio
import contextlib
import secrets
import statistics
import time
from typing import Final

from pamqp import commands

from murmur.doctor import Finding, Severity
from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.names import Topics
from murmur.transports.rabbitmq_frames import Message
from murmur.transports.rabbitmq_outlet import Outlet
from murmur.transports.rabbitmq_wire import ServerError, Wire, WireLost

_MAINTAINED: Final = (4, 0)
_TRIPS: Final = 10
_SLOW: Final = 0.05  # seconds a round trip may take
_SLOW_DISK: Final = 0.5  # seconds until a message is confirmed
_ALARM_WITHIN: Final = 1.0  # seconds after a first message in which RabbitMQ says that it takes none
_HEARTBEAT: Final = 10  # seconds
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_BROKEN, _RISK, _NOTE = Severity.BROKEN, Severity.RISK, Severity.NOTE


async def examine(url: str, *, namespace: str, settings_only: bool) -> list[Finding]:
    """Return the findings, worst first; `settings_only` leaves out whatever publishes.

    Raises `BrokerUnreachable`, `BrokerRefused`, `BadURL`.
    """
    prefix = Topics(namespace).prefix
    outlet = Outlet(url, name="murmur:doctor", boot="doctor", heartbeat=_HEARTBEAT, prefix=prefix)
    await outlet.link.open()
    try:
        found = _server(outlet)
        if not settings_only:
            found += await _tried(outlet, f"{prefix}inbox.murmur-doctor-{secrets.token_hex(4)}")
    finally:
        await outlet.link.close()
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def _server(outlet: Outlet) -> list[Finding]:
    """What the greeting tells."""
    found = []
    link = outlet.link
    if link.version and link.version < _MAINTAINED:
        text = ".".join(map(str, link.version))
        found.append(Finding(_NOTE, "I22", f"RabbitMQ {text} is no longer maintained", "Upgrade to RabbitMQ 4"))
    away = [host for host, _ in link.url.hosts if host not in _LOCAL]
    if away and not link.url.is_tls:
        what = f"the password and all tasks travel to {away[0]} in the clear"
        found.append(Finding(_NOTE, "I21", what, "Give RabbitMQ a certificate and write amqps://"))
    return found


async def _tried(outlet: Outlet, queue: str) -> list[Finding]:
    """Make a queue, send to it, read it and delete it, as murmur does."""
    user = outlet.link.url.username or "guest"
    may = f"rabbitmqctl set_permissions -p VHOST {user} '.*' '.*' '.*'"
    try:
        await outlet.declare(queue)
    except BrokerRefused as error:
        if "access to queue" in error.problem:
            return [Finding(Severity.REFUSED, "I22", f"{user} may not make queues", may)]
        what = f"no quorum queue can be made: {error.problem}"
        return [Finding(_BROKEN, "I1", what, "rabbitmqctl enable_feature_flag quorum_queue, or upgrade to RabbitMQ 4")]
    except BrokerUnreachable as error:
        return [
            Finding(_BROKEN, "I1", f"no quorum queue can be made: {error.problem}", "rabbitmq-queues quorum_status")
        ]
    wire = await outlet.link.up(None)
    assert wire is not None
    found = []
    try:
        found += await _sent(outlet, wire, queue, user, may)
        if wire.blocked is None:
            found += [*await _read(wire, queue, user, may), *await _far(wire)]
    except (WireLost, ServerError) as error:
        found.append(Finding(_BROKEN, "I1", f"it ended the connection: {error}", "See the server's log"))
    with contextlib.suppress(WireLost, ServerError, TimeoutError):  # it vanishes by itself, too
        async with asyncio.timeout(_ALARM_WITHIN):
            wire = await outlet.link.up(None)
            if wire is not None:
                await (await wire.channel()).ask(commands.Queue.Delete(queue=queue))
    return found


async def _sent(outlet: Outlet, wire: Wire, queue: str, user: str, may: str) -> list[Finding]:
    began = time.perf_counter()
    sending = asyncio.ensure_future(outlet.publish([Message(queue, b"{}", "doctor")]))
    await asyncio.wait([sending], timeout=_ALARM_WITHIN)
    if wire.blocked is not None:
        sending.cancel()
        what = f"RabbitMQ takes no messages: {wire.blocked}; publishers wait"
        return [Finding(_BROKEN, "I1", what, "rabbitmq-diagnostics alarms, then free that resource")]
    (answer,) = await sending
    if "access" in answer.failure:
        return [Finding(Severity.REFUSED, "I22", f"{user} may not publish", may)]
    if answer.failure:
        return [Finding(_BROKEN, "I1", f"a message was not taken: {answer.failure}", "See the server's log")]
    took = time.perf_counter() - began
    if took > _SLOW_DISK:
        what = f"a message is confirmed after {took * 1000:.0f} ms: its disk is slow, or a node is gone"
        return [Finding(_RISK, "I10", what, f"rabbitmq-queues quorum_status {queue}")]
    return []


async def _read(wire: Wire, queue: str, user: str, may: str) -> list[Finding]:
    if wire.lost is not None:
        return []
    try:
        channel = await wire.channel()
        await channel.ask(commands.Basic.Consume(queue=queue, consumer_tag="doctor"))
    except ServerError:
        return [Finding(Severity.REFUSED, "I22", f"{user} may not read queues", may)]
    await channel.leave()
    return []


async def _far(wire: Wire) -> list[Finding]:
    if wire.lost is not None:
        return []
    channel = await wire.channel()
    trips = []
    for _ in range(_TRIPS):
        began = time.perf_counter()
        await channel.ask(commands.Basic.Qos(prefetch_count=1))
        trips.append(time.perf_counter() - began)
    await channel.leave()
    if (middle := statistics.median(trips)) > _SLOW:
        what = f"a round trip takes {middle * 1000:.0f} ms"
        return [Finding(_RISK, "I10", what, "Bring workers and server together; lengthen the lease")]
    return []
