"""The laws of virtual time."""

import asyncio

import pytest

from murmur.testing import VirtualClock

pytestmark = pytest.mark.anyio


async def test_alarms_ring_in_their_order_at_their_time() -> None:
    clock, rung = VirtualClock(now=0.0), list[tuple[str, float]]()
    clock.call_at(2.0, lambda: rung.append(("late", clock())))
    clock.call_at(1.0, lambda: rung.append(("early", clock())))
    clock.call_at(3.0, lambda: rung.append(("never", clock())))
    clock.advance(2.5)
    assert rung == [("early", 1.0), ("late", 2.0)]
    assert clock() == 2.5


async def test_a_cancelled_alarm_does_not_ring() -> None:
    clock, rung = VirtualClock(), list[str]()
    clock.call_at(clock() + 1.0, lambda: rung.append("called off")).cancel()
    clock.advance(2.0)
    assert rung == []


async def test_elapse_lets_what_one_alarm_wakes_set_the_next() -> None:
    clock = VirtualClock()

    async def tick() -> list[float]:
        start = clock()
        times = []
        for _ in range(3):
            await clock.sleep(1.0)
            times.append(clock() - start)
        return times

    ticking = asyncio.create_task(tick())
    await clock.elapse(3.0)
    assert await ticking == [1.0, 2.0, 3.0]


async def test_a_cancelled_sleep_leaves_no_alarm_that_fails() -> None:
    clock = VirtualClock()
    sleeping = asyncio.create_task(clock.sleep(1.0))
    await clock.elapse(0.0)
    sleeping.cancel()
    await clock.elapse(2.0)
    assert sleeping.cancelled()
