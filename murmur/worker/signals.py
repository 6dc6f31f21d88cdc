"""Signals to a worker: SIGTERM and SIGINT end it, SIGQUIT has it write its stacks.

A thread stands by for the case that the event loop itself does not get to it: a handler that blocks the loop, or
ignores its cancellation, must not keep a host from shutting down. What ending means is the worker's.
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from loguru import logger

_END: Final = (signal.SIGTERM, signal.SIGINT)
_BEYOND: Final = 4.5  # seconds after the drain at which the process ends, whatever it is at
_AT_ONCE: Final = 70  # exit code of a worker that had to be ended so


@contextmanager
def heard(*, on_end: Callable[[], object], drain: Callable[[], float], on_quit: Callable[[], object]) -> Iterator[None]:
    """Hear signals for the length of the block, inside the running loop.

    Args:
        on_end: called at each SIGTERM or SIGINT, in the loop.
        drain: seconds that running tasks have from the latest of them.
        on_quit: called at SIGQUIT, in the loop; this process's own stacks are written already, whatever it is at.
    """
    loop = asyncio.get_running_loop()
    timers: list[threading.Timer] = []

    def ended() -> None:
        on_end()
        timer = threading.Timer(drain() + _BEYOND, _end_at_once)
        timer.daemon = True
        timer.start()
        timers.append(timer)

    for number in _END:
        loop.add_signal_handler(number, ended)
    loop.add_signal_handler(signal.SIGQUIT, on_quit)
    faulthandler.register(signal.SIGQUIT, file=sys.__stderr__ or 2, all_threads=True, chain=True)
    try:
        yield
    finally:
        for number in _END:
            loop.remove_signal_handler(number)
        faulthandler.unregister(signal.SIGQUIT)
        loop.remove_signal_handler(signal.SIGQUIT)
        for timer in timers:
            timer.cancel()


def _end_at_once() -> None:
    logger.error("still not ended {:g} s after the drain; ended at once: leases give the tasks to others", _BEYOND)
    os._exit(_AT_ONCE)
