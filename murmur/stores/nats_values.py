"""Values under keys of the caller's choosing, kept in a bucket until their time is over.

A key is cut behind each `/` and `:`, so that a prefix of it is a pattern of NATS, and few
keys are looked at to list what begins alike.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from murmur.stores.nats_bucket import Bucket, Write, text_of, token

_CUTS: Final = re.compile(r"(?<=[/:])")


class Values:
    """The keys of one namespace."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        """Keep a value for `ttl` seconds."""
        await self._bucket.put([Write(_key(key), value, until=self._bucket.now() + ttl)])

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return values."""
        found = await self._bucket.get([_key(key) for key in keys])
        return [None if entry is None or entry.is_over else entry.value for entry in found]

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """Return all values under a prefix."""
        whole = [part for part in _CUTS.split(prefix) if part[-1:] in ("/", ":")]
        entries = await self._bucket.scan(".".join(["key", *map(token, whole), ">"]))
        found = {"".join(map(text_of, entry.key.split(".")[1:])): entry.value for entry in entries if not entry.is_over}
        return {key: value for key, value in found.items() if key.startswith(prefix)}

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget values."""
        await self._bucket.drop([one for one in await self._bucket.get([_key(key) for key in keys]) if one is not None])

    async def swap(self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None) -> bytes | None:
        """Keep a value in place of another; return what stands there."""
        while True:
            (entry,) = await self._bucket.get([_key(key)])
            stands = None if entry is None or entry.is_over else entry.value
            if stands != expected:
                return stands
            if value is None:
                if entry is None or await self._bucket.drop([entry]):
                    return None
                continue
            until = None if ttl is None else self._bucket.now() + ttl
            revision = entry.revision if entry is not None else 0
            (done,) = await self._bucket.put([Write(_key(key), value, revision, until)])
            if done is not None:
                if entry is not None and entry.parts:
                    await self._bucket.drop([entry])  # its parts
                return value


def _key(key: str) -> str:
    return ".".join(["key", *(token(part) for part in _CUTS.split(key) if part)])
