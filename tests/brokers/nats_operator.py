"""What an operator does to a NATS server: look, and delete."""

import contextlib
from collections.abc import AsyncIterator

from murmur.transports.nats_link import NatsLink


@contextlib.asynccontextmanager
async def operator(url: str) -> AsyncIterator[NatsLink]:
    """Connect beside the adapter under test."""
    link = NatsLink(url, name="operator")
    await link.open()
    try:
        yield link
    finally:
        await link.close()


async def wipe(url: str) -> None:
    """Delete every stream."""
    async with operator(url) as link:
        for name in (await link.api("STREAM.NAMES"))["streams"] or ():
            await link.api(f"STREAM.DELETE.{name}")
