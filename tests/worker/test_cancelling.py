"""Tasks of ours end when they are to, also where a library loses their cancellation."""

import asyncio

import pytest

from murmur.cancelling import cancelled

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def _again_and_again(losses: int) -> None:
    """Go on after as many cancellations, as a loop around a call does that loses them."""
    while True:
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            losses -= 1
            if losses < 0:
                raise


async def test_a_task_that_lost_its_cancellation_ends_all_the_same() -> None:
    tasks = [asyncio.ensure_future(_again_and_again(losses)) for losses in range(3)]
    await asyncio.sleep(0)
    await cancelled([*tasks, None])
    assert all(task.done() for task in tasks)


async def test_what_a_task_ends_in_is_dropped() -> None:
    async def breaks() -> None:
        raise ValueError("broken")

    task = asyncio.ensure_future(breaks())
    await asyncio.sleep(0)
    await cancelled([task])
    assert task.done()
