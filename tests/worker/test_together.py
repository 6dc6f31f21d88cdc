"""Loops that belong together end together."""

import asyncio

import pytest

from murmur.worker.together import together

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def _raises() -> None:
    raise ValueError("broken")


async def test_where_one_breaks_the_others_have_ended_when_it_is_told() -> None:
    ended: list[str] = []
    with pytest.raises(ValueError, match="broken"):
        await together(_until_cancelled(ended, "a"), _raises(), _until_cancelled(ended, "b"))
    assert ended == ["a", "b"]


async def test_cancelled_it_ends_them_all() -> None:
    ended: list[str] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await together(_until_cancelled(ended, "a"), _until_cancelled(ended, "b"))
    assert ended == ["a", "b"]


async def _until_cancelled(ended: list[str], name: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(name)
