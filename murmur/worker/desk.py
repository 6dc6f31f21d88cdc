"""What worker processes may ask of the node: rows, keys, replies, publishing, the idempotency hook.

The verbs of `wire.VERBS`, done with the node's own queue, store and hook. Arguments and results are values that
cross; nothing of the broker's own does. Tasks in hand, and whose turn it is, are left to `seat` and `pool`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import evolve, frozen
from loguru import logger

from murmur.errors import BadSignature
from murmur.idempotency import IdempotencyHook, Token
from murmur.store import Claim
from murmur.task_queue import TaskQueue
from murmur.transport import Refusal
from murmur.worker import wire

_REPLIES_WAIT: Final = 5.0  # seconds one look into an inbox waits


@frozen
class Desk:
    """Answers the processes of one node."""

    queue: TaskQueue
    hook: IdempotencyHook | None

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """See `Store.record`."""
        return await self.queue.store.record(claim, name, value)

    async def recorded(self, task_id: str, name: str) -> bytes | None:
        """See `Store.recorded`."""
        return await self.queue.store.recorded(task_id, name)

    async def read(self, task_ids: list[str]) -> Sequence[Any]:
        """See `Store.read`; results without their signatures."""
        rows = await self.queue.store.read(task_ids)
        return [
            row if row is None or row.result is None else evolve(row, result=self.opened(row.result)) for row in rows
        ]

    async def get(self, keys: list[str]) -> Sequence[bytes | None]:
        """See `Store.get`."""
        return list(await self.queue.store.get(keys))

    async def put(self, key: str, value: bytes, ttl: float | None) -> None:
        """See `Store.put`."""
        await self.queue.store.put(key, value, ttl=ttl)

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """See `Store.listed`."""
        return await self.queue.store.listed(prefix)

    async def swap(self, key: str, expected: bytes | None, value: bytes | None, ttl: float | None) -> bytes | None:
        """See `Store.swap`."""
        return await self.queue.store.swap(key, expected, value, ttl=ttl)

    async def cancel(self, results: dict[str, bytes]) -> Mapping[str, Any]:
        """See `TaskQueue.cancel`."""
        return await self.queue.cancel(results)

    async def submit(self, tasks: list[Any]) -> list[tuple[object, object]]:
        """See `TaskQueue.submit`."""
        answers = await self.queue.submit(tasks)
        return [(None, one) if isinstance(one, Refusal) else (one, None) for one in answers]

    async def open_tasks(self, agents: list[str]) -> None:
        """See `TaskQueue.open_tasks`."""
        await self.queue.open_tasks(agents)

    async def open_inbox(self, inbox: str) -> None:
        """See `TaskQueue.open_inbox`."""
        await self.queue.open_inbox(inbox)

    async def replies(self, inbox: str, wait: float) -> list[bytes]:
        """See `TaskQueue.replies`; results without their signatures."""
        found = await self.queue.replies(inbox, wait=min(wait, _REPLIES_WAIT))
        return [body for delivery in found if (body := self.opened(delivery.body))]

    def opened(self, body: bytes) -> bytes:
        """Return a result whose signature is ours; nothing, which is no result, where it is not."""
        try:
            return self.queue.opened(body)
        except BadSignature as error:
            logger.warning("{}: a result was left aside: {}", error.code, error)
            return b""

    async def is_empty(self, agent: str) -> bool:
        """See `TaskQueue.is_empty`."""
        return await self.queue.is_empty(agent)

    async def claim_key(self, key: str, task_id: str, number: int, digest: str, lease: float) -> object:
        """See `IdempotencyHook.claim`."""
        return wire.said(await self._hook.claim(key, Token(task_id, number), digest, lease))

    async def renew_key(self, key: str, task_id: str, number: int, lease: float) -> bool:
        """See `IdempotencyHook.renew`."""
        return await self._hook.renew(key, Token(task_id, number), lease)

    async def complete_key(self, key: str, task_id: str, number: int, output: bytes) -> object:
        """See `IdempotencyHook.complete`."""
        return wire.said(await self._hook.complete(key, Token(task_id, number), output))

    async def abandon_key(self, key: str, task_id: str, number: int) -> None:
        """See `IdempotencyHook.abandon`."""
        await self._hook.abandon(key, Token(task_id, number))

    @property
    def _hook(self) -> IdempotencyHook:
        assert self.hook is not None
        return self.hook
