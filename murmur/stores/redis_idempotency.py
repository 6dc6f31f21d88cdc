"""Idempotency records on a Redis server: a hash per key, every verb one script, leases on the server's clock."""

from typing import Any, Final, cast

from redis.asyncio import Redis

from murmur.idempotency import Busy, Claimed, Conflict, Duplicate, Kept, Run, Stale, Stored, Token

_NOW: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local found = redis.call('HMGET', KEYS[1], 'digest', 'task', 'number', 'until', 'output')
local digest, task, number, till, output = unpack(found)
local is_mine = task == ARGV[1] and number == ARGV[2]
"""
# ARGV: task id, number, lease in ms, retention in ms, then what the verb needs.
_CLAIM: Final = (
    _NOW
    + """
if digest then
  if digest ~= ARGV[5] then return {'conflict'} end
  if output then return {'duplicate', output} end
  local overtakes = task == ARGV[1] and tonumber(number) <= tonumber(ARGV[2])
  if tonumber(till) > now and not overtakes then return {'busy', tonumber(till) - now} end
end
redis.call('HSET', KEYS[1], 'digest', ARGV[5], 'task', ARGV[1], 'number', ARGV[2], 'until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3] + ARGV[4])
return {'run'}
"""
)
_RENEW: Final = (
    _NOW
    + """
if not is_mine or output then return {'stale'} end
redis.call('HSET', KEYS[1], 'until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3] + ARGV[4])
return {'stored'}
"""
)
_COMPLETE: Final = (
    _NOW
    + """
if output then return {'duplicate', output} end
if not is_mine then return {'stale'} end
redis.call('HSET', KEYS[1], 'output', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'stored'}
"""
)
_ABANDON: Final = _NOW + "if is_mine and not output then redis.call('DEL', KEYS[1]) end return {'stored'}"


class RedisIdempotency:
    """The hook on the server of a `redis://` URL; it may be the broker's. As durable as that server is."""

    def __init__(self, url: str, *, retention: float = 86_400.0, prefix: str = "murmur:idempotency:") -> None:
        """Keep records under `prefix` for `retention` seconds after they were last touched."""
        self._redis: Any = Redis.from_url(url, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._retention = round(retention * 1000)
        self._prefix = prefix
        self._claim, self._renew, self._complete, self._abandon = (
            self._redis.register_script(source) for source in (_CLAIM, _RENEW, _COMPLETE, _ABANDON)
        )

    async def claim(self, key: str, token: Token, digest: str, lease: float) -> Claimed:
        """See `IdempotencyHook`."""
        kind, *rest = await self._run(self._claim, key, token, lease, digest)
        if kind == b"duplicate":
            return Duplicate(rest[0])
        if kind == b"busy":
            return Busy(rest[0] / 1000)
        return Conflict() if kind == b"conflict" else Run()

    async def renew(self, key: str, token: Token, lease: float) -> bool:
        """See `IdempotencyHook`."""
        return cast(bool, (await self._run(self._renew, key, token, lease))[0] == b"stored")

    async def complete(self, key: str, token: Token, output: bytes) -> Kept:
        """See `IdempotencyHook`."""
        kind, *rest = await self._run(self._complete, key, token, 0.0, output)
        if kind == b"duplicate":
            return Duplicate(rest[0])
        return Stored() if kind == b"stored" else Stale()

    async def abandon(self, key: str, token: Token) -> None:
        """See `IdempotencyHook`."""
        await self._run(self._abandon, key, token, 0.0)

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def _run(self, script: Any, key: str, token: Token, lease: float, *more: object) -> Any:
        arguments = (token.task_id, token.number, round(lease * 1000), self._retention, *more)
        return await script(keys=[self._prefix + key], args=arguments)
