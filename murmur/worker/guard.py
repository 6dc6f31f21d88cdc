"""The worker's side of an idempotency hook: claim before user code, keep the output after it, let go otherwise.

A hook is user code that talks to a server of its own: each call is bounded, and none of its errors ends a task.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from attrs import frozen
from loguru import logger

from murmur.idempotency import Claimed, Duplicate, IdempotencyHook, Kept, Stale, Token

T = TypeVar("T")

_WITHIN: Final = 10.0  # seconds a call of the hook may take
_AGAIN: Final = 1.0  # seconds until an output that could not be kept is brought again
_ENDLESS: Final = 3_600.0  # seconds a key is held for a worker without a lease


@frozen
class Idempotency:
    """A worker's hook, and what makes keys and leases of it."""

    hook: IdempotencyHook
    namespace: str
    lease: float | None  # seconds

    def guard(self, agent: str, key: str, token: Token) -> "Guard":
        """Return the guard of one attempt."""
        return Guard(self.hook, f"{self.namespace}/{agent}/{key}", token, self.lease)


class Guard:
    """Holds one key for one attempt."""

    def __init__(self, hook: IdempotencyHook, key: str, token: Token, lease: float | None) -> None:
        self._hook = hook
        self._key = key
        self._token = token
        self._lease = lease or _ENDLESS
        self._renewing: asyncio.Task[None] | None = None

    async def claim(self, digest: str) -> Claimed | None:
        """Return what the hook says; None if it could not be asked."""
        try:
            return await self._bounded(lambda: self._hook.claim(self._key, self._token, digest, self._lease))
        except Exception as error:  # noqa: BLE001  user code, and a server of its own
            logger.warning("the idempotency hook could not be asked for {}: {!r}", self._key, error)
            return None

    def hold(self) -> None:
        """Renew the claim from now on."""
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def kept(self, output: bytes) -> bytes | None:
        """Keep the output, however long that takes; return the one that counts, None if the key is no longer ours."""
        while True:
            try:
                kept: Kept = await self._bounded(lambda: self._hook.complete(self._key, self._token, output))
                break
            except Exception as error:  # noqa: BLE001  what was paid for must not be lost for it
                logger.warning("the output of {} could not be kept yet: {!r}", self._key, error)
            await asyncio.sleep(_AGAIN)
        self._let_go()
        if isinstance(kept, Duplicate):
            return kept.output
        return None if isinstance(kept, Stale) else output

    async def abandon(self) -> None:
        """Let the key go, if that can be said now; else its lease lapses."""
        self._let_go()
        try:
            await self._bounded(lambda: self._hook.abandon(self._key, self._token))
        except Exception as error:  # noqa: BLE001  as above
            logger.info("{} could not be abandoned; its lease lapses: {!r}", self._key, error)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                if not await self._bounded(lambda: self._hook.renew(self._key, self._token, self._lease)):
                    return  # the output will be refused; whoever has the key now brings his own
            except Exception as error:  # noqa: BLE001  as above
                logger.info("{} could not be renewed: {!r}", self._key, error)

    async def _bounded(self, call: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(_WITHIN):
            return await call()

    def _let_go(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
