"""Values under keys on Redis: presence, manifests, and everything else that is no task.

Each is forgotten after its time, to the millisecond. An index of the keys is kept beside them,
so that listing a prefix never scans the server.
"""

from collections.abc import Mapping, Sequence
from typing import Final, cast

from murmur.transports.redis_entries import milliseconds
from murmur.transports.redis_link import RedisLink
from murmur.transports.redis_scripts import load
from murmur.transports.redis_wire import Argument

_PUT: Final = load("murmur.stores", "put")
_SWAP: Final = load("murmur.stores", "swap")
_LISTED: Final = load("murmur.stores", "listed")
_DELETE: Final = load("murmur.stores", "delete")


class Values:
    """The values whose keys begin with `prefix` on the server. All raise as the link does."""

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link, self._prefix = link, prefix

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        """Keep a value for `ttl` seconds."""
        await self._link.run(_PUT, (), (self._prefix, key, value, max(1, milliseconds(ttl))), is_repeatable=True)

    async def swap(self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None) -> bytes | None:
        """Keep a value in place of another; return what stands there."""
        kept = 0 if ttl is None else max(1, milliseconds(ttl))
        arguments: list[Argument] = [self._prefix, key, kept]
        for one in (expected, value):
            arguments += (int(one is not None), one or b"")
        return cast(bytes | None, await self._link.run(_SWAP, (), arguments, is_repeatable=True))

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return values; None where there is none."""
        if not keys:
            return []
        reply = await self._link.ask("MGET", *(self._prefix + key for key in keys), is_repeatable=True)
        return cast(list[bytes | None], reply)

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """Return all values under keys that begin with `prefix`."""
        reply = cast(list[bytes], await self._link.run(_LISTED, (), (self._prefix, prefix), is_repeatable=True))
        return {key.decode(): value for key, value in zip(reply[::2], reply[1::2], strict=True)}

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget keys."""
        await self._link.run(_DELETE, (), (self._prefix, *keys), is_repeatable=True)
