"""Examines a Redis server: does it keep what it confirms, can we do what we need, does anything stand still?"""

import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from murmur.doctor import Finding, Severity
from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.names import Topics
from murmur.transports.redis_link import RedisLink, granting
from murmur.transports.redis_wire import ServerError

_LEAST_VERSION: Final = (6, 2)
_OLD_VERSION: Final = (7, 0)
_PINGS: Final = 20
_SLOW: Final = 0.05  # seconds a round trip may take
_DRIFT: Final = 2.0  # seconds our clock and the server's may differ
_MAILBOXES: Final = 1_000  # streams looked at
_SILENT: Final = 600.0  # seconds a consumer may hold messages without a word
_MANY: Final = 10_000  # messages that wait while nobody reads
_FULL: Final = 0.9  # of the memory the server may use
_BROKEN, _RISK, _NOTE = Severity.BROKEN, Severity.RISK, Severity.NOTE


async def examine(url: str, *, namespace: str, settings_only: bool) -> list[Finding]:
    """Return the findings, worst first; `settings_only` leaves out rights, clocks, and what lies in the mailboxes.

    Raises `BrokerUnreachable`, `BrokerRefused`, `BadURL`.
    """
    link = RedisLink(url, name="murmur:doctor")
    await link.open()
    try:
        doctor = _Doctor(link, Topics(namespace))
        looks: list[Callable[[], Awaitable[list[Finding]]]] = [doctor.server, doctor.persistence, doctor.memory]
        if not settings_only:
            looks += [doctor.rights, doctor.distance, doctor.mailboxes]
        found = [finding for look in looks for finding in await look()]
    finally:
        await link.close()
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


class _Doctor:
    def __init__(self, link: RedisLink, topics: Topics) -> None:
        self._link = link
        self._topics = topics

    async def server(self) -> list[Finding]:
        """Version, role, cluster, idle connections."""
        info = await self._info("server") | await self._info("replication") | await self._info("cluster")
        found = []
        text = info.get("redis_version", "0")
        version = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
        if version < _LEAST_VERSION:
            found.append(
                Finding(_BROKEN, "I5", f"Redis {text} lacks commands that leases need", "Upgrade to 7 or later")
            )
        elif version < _OLD_VERSION:
            found.append(Finding(_NOTE, "I22", f"Redis {text} is no longer maintained", "Upgrade to 7 or later"))
        if info.get("role", "master") != "master":
            if info.get("slave_read_only") == "1":
                problem = "this is a read-only replica: name its primary in the URL"
                raise BrokerRefused(url=self._link.shown, problem=problem)
            found.append(Finding(_BROKEN, "I1", "this is a replica", "Name its primary in the URL"))
        if info.get("cluster_enabled") == "1":
            what = "this is a Redis Cluster, whose nodes refuse scripts over keys of several slots"
            found.append(Finding(_BROKEN, "I5", what, "Use a single primary, with replicas for failover"))
        if info.get("connected_slaves", "0") != "0" and (await self._setting("min-replicas-to-write")) == "0":
            what = "a failover may lose what only the primary had"
            found.append(Finding(_NOTE, "I1", what, "redis-cli CONFIG SET min-replicas-to-write 1"))
        if (await self._setting("timeout") or "0") != "0":
            what = "the server closes idle connections"
            found.append(Finding(_NOTE, "I10", what, "redis-cli CONFIG SET timeout 0"))
        return found

    async def persistence(self) -> list[Finding]:
        """What a restart and a power loss leave."""
        info = await self._info("persistence")
        append, sync, saves = [await self._setting(name) for name in ("appendonly", "appendfsync", "save")]
        is_appending = info.get("aof_enabled") == "1" if append is None else append == "yes"
        on = "redis-cli CONFIG SET appendonly yes, and the same in redis.conf"
        found = []
        if not is_appending and saves is None:
            what = "there is no append-only file, and whether snapshots are kept may not be seen by this user"
            found.append(Finding(_RISK, "I1", what, on))
        elif not is_appending and not saves:
            found.append(Finding(_BROKEN, "I1", "nothing is kept: a restart loses every task and result", on))
        elif not is_appending:
            found.append(
                Finding(_BROKEN, "I1", f"only snapshots are kept ({saves}): a restart loses what came since", on)
            )
        elif sync == "no":
            mend = "redis-cli CONFIG SET appendfsync everysec"
            found.append(Finding(_RISK, "I1", "a power loss loses what the system had not written by itself", mend))
        elif sync == "everysec":
            mend = "redis-cli CONFIG SET appendfsync always, if that is too much"
            found.append(Finding(_NOTE, "I1", "a power loss loses up to two seconds", mend))
        for field, what in (
            ("aof_last_write_status", "the append-only file could not be written"),
            ("aof_last_bgrewrite_status", "the append-only file could not be rewritten"),
            ("rdb_last_bgsave_status", "the last snapshot failed"),
        ):
            if info.get(field, "ok") != "ok":
                found.append(Finding(_BROKEN, "I1", f"{what}; is its disk full?", "See the server's log"))
        return found

    async def memory(self) -> list[Finding]:
        """What happens when memory runs out."""
        info = await self._info("memory")
        most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
        policy = info.get("maxmemory_policy", "noeviction")
        found = []
        if policy != "noeviction":
            severity = _BROKEN if most else _RISK
            what = f"maxmemory-policy is {policy}: rows and tasks are thrown away when memory is short"
            found.append(Finding(severity, "I2", what, "redis-cli CONFIG SET maxmemory-policy noeviction"))
        limit = most or int(info.get("total_system_memory", 0))
        if limit and used > _FULL * limit:
            what = f"{used / limit:.0%} of its memory is in use: writes are about to be refused"
            found.append(Finding(_RISK, "I1", what, "Add memory, shorten the retention, or purge dead letters"))
        return found

    async def rights(self) -> list[Finding]:
        """Whether this user may do all that we do, tried on keys of our own."""
        base = f"{self._topics.prefix}murmur:doctor:{secrets.token_hex(4)}"
        stream, row = f"{base}.tasks", f"{base}:row"
        tries: tuple[tuple[Any, ...], ...] = (
            ("TIME",),
            ("EVAL", "return redis.call('TIME')", 0),
            ("XGROUP", "CREATE", stream, "workers", "0", "MKSTREAM"),
            ("XADD", stream, "*", "d", "x"),
            ("XREADGROUP", "GROUP", "workers", "doctor", "COUNT", 1, "STREAMS", stream, ">"),
            ("XPENDING", stream, "workers"),
            ("XCLAIM", stream, "workers", "doctor", 0, "0-1"),
            ("XINFO", "GROUPS", stream),
            ("XRANGE", stream, "-", "+", "COUNT", 1),
            ("XREVRANGE", stream, "+", "-", "COUNT", 1),
            ("XACK", stream, "workers", "0-1"),
            ("XDEL", stream, "0-1"),
            ("HSET", row, "a", "b"),
            ("HMGET", row, "a"),
            ("PEXPIRE", row, 1_000),
            ("ZADD", f"{base}:due", 1, "a"),
            ("MGET", f"{base}:value"),
            ("PUBLISH", f"{base}:news", "x"),
            ("CLIENT", "LIST", "TYPE", "normal"),
            ("DEL", stream, row, f"{base}:due"),
        )
        refused: set[str] = set()
        for words in tries:
            try:
                await self._link.ask(*words)
            except BrokerRefused:
                refused.add(words[0])
            except (ServerError, BrokerUnreachable):
                continue  # not for want of rights
        if not refused:
            return []
        user = await self._asked("ACL", "WHOAMI")
        name = user.decode() if isinstance(user, bytes) else self._link.user
        if refused == {"PUBLISH"}:  # tasks are done without
            what = f"{name} may not use our channels: workers are neither watched nor commanded, and what runs cannot "
            return [Finding(_RISK, "I22", what + "be cancelled", granting(name, self._topics.prefix))]
        what = f"{name} may not use {', '.join(sorted(refused))} on our keys"
        return [Finding(Severity.REFUSED, "I22", what, granting(name, self._topics.prefix))]

    async def distance(self) -> list[Finding]:
        """How far away it is, and whether its clock goes with ours."""
        trips = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            reply = await self._asked("TIME")
            trips.append(time.perf_counter() - began)
        if not isinstance(reply, list):
            return []  # told by `rights`
        found = []
        if (middle := statistics.median(trips)) > _SLOW:
            what = f"a round trip takes {middle * 1000:.0f} ms"
            found.append(Finding(_RISK, "I10", what, "Bring workers and server together; lengthen the lease"))
        drift = time.time() - (int(cast(bytes, reply[0])) + int(cast(bytes, reply[1])) / 1e6)
        if abs(drift) > _DRIFT:
            side = "ahead of" if drift > 0 else "behind"
            what = f"our clock is {abs(drift):.0f} s {side} the server's: deadlines are off"
            found.append(Finding(_RISK, "I19", what, "Run an NTP client on both hosts"))
        return found

    async def mailboxes(self) -> list[Finding]:
        """Who holds messages in silence, and what grows while nobody reads."""
        found = []
        for topic in await self._streams():
            agent = self._topics.agent_of(topic)
            for group in await self._described("GROUPS", topic):
                consumers = await self._described("CONSUMERS", topic, group["name"].decode())
                readers = [one for one in consumers if one["idle"] < _SILENT * 1000]
                for one in consumers:
                    if one["pending"] and one not in readers:
                        who, silent = one["name"].decode(), one["idle"] // 1000
                        what = f"{who} holds {one['pending']} tasks of {agent}, silent for {silent} s"
                        mend = f"murmur worker start --agents {agent} takes them over when their lease is over"
                        found.append(Finding(_RISK, "I10", what, mend))
                waiting = await self._asked("XLEN", topic)
                if isinstance(waiting, int) and waiting >= _MANY and not readers:
                    what = f"{waiting:,} tasks of {agent} wait and nobody reads them"
                    found.append(Finding(_RISK, "I16", what, f"murmur worker start --agents {agent}"))
            dead = await self._asked("XLEN", self._topics.dead(agent))
            if isinstance(dead, int) and dead:
                what = f"{agent} has {dead:,} dead letters"
                found.append(Finding(_NOTE, "I9", what, f"murmur dead list {agent} --groups"))
        return found

    # -- asking -----------------------------------------------------------------------------------

    async def _info(self, section: str) -> dict[str, str]:
        reply = await self._asked("INFO", section)
        if not isinstance(reply, bytes):
            return {}
        lines = reply.decode("utf-8", "replace").splitlines()
        return {name: value for name, _, value in (line.partition(":") for line in lines) if value}

    async def _setting(self, name: str) -> str | None:
        """Return a setting of the server; None where we may not see it, as with most managed servers."""
        reply = await self._asked("CONFIG", "GET", name)
        values = list(reply.values()) if isinstance(reply, Mapping) else list(cast(list[bytes], reply or []))
        return cast(bytes, values[-1]).decode() if values else None

    async def _streams(self) -> list[str]:
        found: list[str] = []
        cursor: Any = b"0"
        while len(found) < _MAILBOXES:
            pattern = f"{self._topics.prefix}*.tasks"
            reply = await self._asked("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000, "TYPE", "stream")
            if not isinstance(reply, list):
                break
            cursor, keys = reply
            found += [key.decode() for key in keys]
            if cursor == b"0":
                break
        return found

    async def _described(self, *what: str) -> list[dict[str, Any]]:
        reply = await self._asked("XINFO", *what)
        rows = cast(list[Any], reply or [])
        return [
            {key.decode(): value for key, value in (row.items() if isinstance(row, Mapping) else _pairs(row))}
            for row in rows
        ]

    async def _asked(self, *words: Any) -> object:
        """Return the reply; None if the server refuses, which is no finding by itself."""
        try:
            return await self._link.ask(*words, is_repeatable=True)
        except (ServerError, BrokerRefused):
            return None


def _pairs(row: list[Any]) -> list[tuple[bytes, Any]]:
    return list(zip(row[::2], row[1::2], strict=True))
