"""Calling a broker or store again while it is away: a lost connection is a state, not a failure.

All verbs of a store may be repeated under the same token, so a call whose outcome is unknown
is simply made again. How long, is the caller's to say. Rights that were withdrawn may be given
back, so whoever waits for ever waits for them, too: work that runs is not lost over an operator's slip.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from attrs import define
from loguru import logger

from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown

T = TypeVar("T")

_AGAIN: Final = 0.5  # seconds between two tries
_FORGIVEN: Final = 10.0  # seconds without a refusal, after which the next one is news


@define(eq=False)
class Rights:
    """What a worker hears of rights it lacks: told once, whichever of its loops was refused, and however often."""

    is_serving: bool = False  # until then a refusal ends the start
    _refused_at: float = -math.inf

    def missing(self, error: BrokerRefused) -> None:
        """Tell, once the worker serves. Raises the refusal before that."""
        if not self.is_serving:
            raise error
        self.tell(error)

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until there is an answer; a refusal is none, once the worker serves."""
        return await patiently(call, refused=self.missing)

    def tell(self, error: BrokerRefused) -> None:
        """Say it in one line, unless it was said already."""
        before, self._refused_at = self._refused_at, time.monotonic()
        told = logger.error if self._refused_at - before > _FORGIVEN else logger.trace
        told("{} {}; what runs goes on, and the rest once that is allowed again", error.code, error)


async def patiently(
    call: Callable[[], Awaitable[T]],
    *,
    within: float = math.inf,
    refused: Callable[[BrokerRefused], object] = lambda _: None,
) -> T:
    """Call until there is an answer, for `within` seconds. Raises what the last call raised then.

    A refusal is an answer to whoever has not got for ever. Others wait, and `refused` hears of it: it may raise.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within
    is_told = False
    while True:
        try:
            return await call()
        except BrokerRefused as error:
            if within < math.inf:
                raise
            refused(error)
        except (OutcomeUnknown, BrokerUnreachable) as error:
            if loop.time() >= until:
                raise
            if not is_told:
                is_told = True
                logger.warning("waiting for the broker: {}", error)
        await asyncio.sleep(_AGAIN)
