"""The durable memory of a named batch: which task stood at which index, and how many there were.

A digest per index, in chunks, written before the tasks are published. A rerun under the
same id is compared with it: another list is refused at the first index that differs,
before anything of it runs. Sealed with the count when the inputs came to their end.
"""

import hashlib
import time
from typing import Final

from murmur.errors import BatchConflict, BatchExpired
from murmur.patience import patiently
from murmur.store import Store

_CHUNK: Final = 512  # digests per stored value
_DIGEST: Final = 8  # bytes per digest
_REMEMBERED: Final = 30  # retentions for which it is known that a batch was begun
_WITHIN: Final = 10.0  # seconds for which a call that broke off is repeated


class Manifest:
    """The manifest of one batch; `check` takes digests in index order.

    Calls that break off are repeated for ten seconds; then their `OutcomeUnknown` or `BrokerUnreachable` is raised,
    and this manifest is of no more use: a rerun of the batch makes a new one.
    """

    def __init__(self, store: Store, batch_id: str, *, retention: float = 0.0) -> None:
        """Take the store, the batch, and for how many seconds results are kept; 0: nobody knows."""
        self._store = store
        self._batch_id = batch_id
        self._retention = retention
        self._count = 0  # digests checked so far
        self._sealed: int | None = None
        self._known = b""  # the current chunk as stored
        self._current = bytearray()  # the current chunk as checked

    async def open(self) -> None:
        """Read whether it was begun and sealed before. Raises `BatchExpired` where results may be gone by now."""
        keys = [self._key("count"), self._key("begun")]
        sealed, begun = await patiently(lambda: self._store.get(keys), within=_WITHIN)
        self._sealed = None if sealed is None else int(sealed)
        if not self._retention:
            return
        now = time.time()
        if begun is None:
            mark, ttl = str(now).encode(), self._retention * _REMEMBERED
            await patiently(lambda: self._store.put(keys[1], mark, ttl=ttl), within=_WITHIN)
        elif now - float(begun) > self._retention:
            raise BatchExpired(batch_id=self._batch_id, age=now - float(begun), retention=self._retention)

    async def check(self, digests: list[bytes]) -> None:
        """Compare the next digests with what was begun, and remember those that are new. Raises `BatchConflict`."""
        if self._sealed is not None and self._count + len(digests) > self._sealed:
            raise self._conflict(self._sealed, f"it had {self._sealed} tasks, this list is longer")
        for digest in digests:
            if not self._current:
                self._known = await self._get(self._count // _CHUNK) or b""
            known = self._known[len(self._current) : len(self._current) + _DIGEST]
            if known and known != digest:
                raise self._conflict(self._count, "another input or agent")
            self._current += digest
            self._count += 1
            if len(self._current) == _CHUNK * _DIGEST:
                await self._write()
                self._current.clear()
        if self._current:
            await self._write()

    async def seal(self) -> None:
        """The inputs came to their end. Raises `BatchConflict` if there were more before."""
        if self._sealed is None:
            await self._put("count", str(self._count).encode())
        elif self._sealed != self._count:
            raise self._conflict(self._count, f"it had {self._sealed} tasks, this list ends")

    async def _write(self) -> None:
        if len(self._current) > len(self._known):
            self._known = bytes(self._current)
            await self._put((self._count - 1) // _CHUNK, self._known)

    async def _get(self, part: object) -> bytes | None:
        (value,) = await patiently(lambda: self._store.get([self._key(part)]), within=_WITHIN)
        return value

    async def _put(self, part: object, value: bytes) -> None:
        await patiently(lambda: self._store.put(self._key(part), value), within=_WITHIN)

    def _key(self, part: object) -> str:
        return f"manifest:{self._batch_id}:{part}"

    def _conflict(self, index: int, problem: str) -> BatchConflict:
        return BatchConflict(batch_id=self._batch_id, index=index, problem=problem)


def digest_of(agent: str, task_id: str, body: bytes) -> bytes:
    """Return what a manifest keeps of one task: 8 bytes over its agent, id and input as encoded."""
    return hashlib.blake2b(b"\0".join((agent.encode(), task_id.encode(), body)), digest_size=_DIGEST).digest()
