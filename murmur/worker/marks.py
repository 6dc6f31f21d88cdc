"""Says on a process's page whose code it is executing, so that the one that never returns can be told from the rest.

Every step of a task of an attempt, and of the tasks it makes, is wrapped: the id of the attempt stands on the page
while the step runs. What is blamed for a death is decided in `death`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from types import TracebackType
from typing import Any, Final

AT: Final[ContextVar[str]] = ContextVar("murmur_attempt", default="")  # the task id of the attempt that is running


class Marked(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are marked."""

    __slots__ = ("_coroutine", "_mark", "_text")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], text: str, mark: Callable[[str], object]) -> None:
        self._coroutine = coroutine
        self._text = text
        self._mark = mark

    def send(self, value: Any) -> Any:
        """Run one step."""
        self._mark(self._text)
        try:
            return self._coroutine.send(value)
        finally:
            self._mark("")

    def throw(
        self,
        kind: Any,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        """Run one step that begins with an error."""
        self._mark(self._text)
        try:
            return self._coroutine.throw(kind) if value is None else self._coroutine.throw(kind, value, traceback)
        finally:
            self._mark("")

    def close(self) -> None:
        """End it."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._coroutine.__await__()


def mark_steps(loop: asyncio.AbstractEventLoop, mark: Callable[[str], object]) -> None:
    """Have this loop mark the steps of all tasks made within an attempt (where `AT` is set)."""

    def make(
        loop: asyncio.AbstractEventLoop,
        coroutine: Any,
        *,
        context: Context | None = None,
        **settings: Any,
    ) -> asyncio.Task[Any]:
        at = AT.get() if context is None else context.get(AT, "")
        if at and not isinstance(coroutine, Marked):
            coroutine = Marked(coroutine, at, mark)
        return asyncio.Task(coroutine, loop=loop, context=context, **settings)

    loop.set_task_factory(make)
