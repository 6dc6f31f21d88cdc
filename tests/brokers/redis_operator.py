"""An operator at a Redis under test: any command, with its whole answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from redis.asyncio import Redis


@asynccontextmanager
async def operator(url: str) -> AsyncIterator[Redis]:
    """Return a client that does what it is told, with `execute_command`."""
    client = Redis.from_url(url, socket_timeout=10.0)
    try:
        yield client
    finally:
        await client.aclose()


async def pending(url: str, stream: str) -> dict[str, tuple[str, int]]:
    """Return who holds what of a stream's group, and since how many milliseconds."""
    async with operator(url) as client:
        found = cast(list[dict[str, Any]], await client.xpending_range(stream, "workers", "-", "+", 10_000))
    return {one["message_id"].decode(): (one["consumer"].decode(), one["time_since_delivered"]) for one in found}
