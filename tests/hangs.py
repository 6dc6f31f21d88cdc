"""A test that hangs fails: it shows where its threads and coroutines stand, and the next test runs.

pytest-timeout alone does not get that far. It raises in the main thread, where an event loop may go on to wait
for a task that swallowed its cancellation; and it stands down as soon as a test failed, so that a teardown may
take for ever. Here the teardown has the limit of its test again, and who is not done a minute after the
limit is ended with its process (which pytest-xdist replaces, and tells as the failure of that test).
"""

import asyncio
import faulthandler
import os
import signal
import traceback
from collections.abc import Generator
from types import FrameType
from typing import Any, Final, TextIO

import pytest

GRACE: Final = 60.0  # s beyond a test's limit until its process ends

_terminal: Final = pytest.StashKey[TextIO]()  # standard error, whatever captures it meanwhile
_settings: Final = pytest.StashKey[Any]()  # pytest-timeout's, of one test


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_terminal] = os.fdopen(os.dup(2), "w", buffering=1)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, Any, Any]:
    item.stash[_settings] = settings
    terminal = item.config.stash[_terminal]
    faulthandler.dump_traceback_later(settings.timeout + GRACE, exit=True, file=terminal)
    result = yield
    fail = signal.getsignal(signal.SIGALRM)

    def tell_and_fail(number: int, frame: FrameType | None) -> None:
        print(f"\n{item.nodeid} is not done after {settings.timeout:g} s. It stands at:", file=terminal)
        print(coroutines(), file=terminal)
        if callable(fail):
            fail(number, frame)

    signal.signal(signal.SIGALRM, tell_and_fail)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    if (settings := item.stash.get(_settings, None)) is not None:
        item.ihook.pytest_timeout_set_timer(item=item, settings=settings)
    return (yield)


def pytest_runtest_logfinish() -> None:
    faulthandler.cancel_dump_traceback_later()


def coroutines() -> str:
    """Where each task of the running event loop stands, the outermost frame first."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop runs here: the stack of the thread says it all
        return ""
    return "\n".join(f"{task.get_name()}\n{_frames(task.get_coro())}" for task in tasks)


def _frames(coroutine: Any) -> str:
    lines = []
    while (frame := getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)) is not None:
        lines += traceback.format_list(traceback.StackSummary.extract([(frame, frame.f_lineno)]))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return "".join(lines)
