"""The laws of the virtual event loop."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from murmur.testing import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]:
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_an_hour_passes_in_no_time_and_exactly() -> None:
    loop, began = asyncio.get_running_loop(), time.monotonic()
    start = loop.time()
    await asyncio.sleep(3_600.0)
    assert loop.time() - start == pytest.approx(3_600.0)
    assert time.monotonic() - began < 10.0


async def test_sleepers_wake_in_the_order_of_their_time() -> None:
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(seconds)

    await asyncio.gather(*(sleep(seconds) for seconds in (3.0, 1.0, 2.0)))
    assert woken == [1.0, 2.0, 3.0]


async def test_time_all_but_stands_while_anything_can_run() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    sleeping = asyncio.create_task(asyncio.sleep(1.0))
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert loop.time() - start < 1e-6  # a hair for each turn
    await sleeping


async def test_a_timeout_is_virtual_too() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60.0):
            await asyncio.Event().wait()


async def test_another_thread_may_wake_a_loop_without_timers() -> None:
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(woken.set))
    waiting = asyncio.create_task(woken.wait())
    thread.start()
    await waiting
    thread.join()


def test_a_loop_that_waits_for_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("murmur.testing.loop._PATIENCE", 0.01)
    loop = VirtualLoop()
    waiting = loop.create_task(asyncio.Event().wait())
    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        loop.run_until_complete(waiting)
    waiting.cancel()
    loop.run_until_complete(asyncio.wait([waiting]))
    loop.close()
