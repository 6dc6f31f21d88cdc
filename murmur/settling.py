"""Settling until the broker says what became of it: what stays in doubt would be held for as long as we live."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from murmur.transport import Delivery, Settled, Transport

_AGAIN: Final = 0.5  # seconds until a settle in doubt is repeated


async def known(settle: Callable[[], Awaitable[Sequence[Settled]]]) -> bool:
    """Settle until the broker says what became of it, and return whether all was ours.

    What stays in doubt would be held for as long as this process lives.
    """
    answers = await settle()
    while any(one.reason == "unknown" for one in answers):
        await asyncio.sleep(_AGAIN)
        answers = await settle()
    return all(one.ok for one in answers)


async def given_back(transport: Transport, deliveries: Sequence[Delivery], *, delay: float) -> Sequence[bool]:
    """Give messages back in one step, so that they keep their order where the broker keeps it; which were ours."""
    held: dict[int, bool] = {}
    while True:
        left = [at for at in range(len(deliveries)) if at not in held]
        settled = await transport.release([deliveries[at] for at in left], delay=delay, counted=False)
        held.update((at, one.ok) for at, one in zip(left, settled, strict=True) if one.reason != "unknown")
        if len(held) == len(deliveries):
            return [held[at] for at in range(len(deliveries))]
        await asyncio.sleep(_AGAIN)
