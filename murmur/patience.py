"""Calling a broker or store again while it is away: a lost connection is a state, not a failure.

All verbs of a store may be repeated under the same token, so a call whose outcome is unknown
is simply made again. How long, is the caller's to say.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from loguru import logger

from murmur.errors import BrokerUnreachable, OutcomeUnknown

T = TypeVar("T")

_AGAIN: Final = 0.5  # seconds between two tries


async def patiently(call: Callable[[], Awaitable[T]], *, within: float = math.inf) -> T:
    """Call until there is an answer, for `within` seconds. Raises what the last call raised then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within
    is_told = False
    while True:
        try:
            return await call()
        except (OutcomeUnknown, BrokerUnreachable) as error:
            if loop.time() >= until:
                raise
            if not is_told:
                is_told = True
                logger.warning("waiting for the broker: {}", error)
        await asyncio.sleep(_AGAIN)
