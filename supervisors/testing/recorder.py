"""Keeps what happens in a tree, for tests that ask afterwards."""

from collections.abc import Callable
from typing import TypeVar

import anyio

from supervisors.events import TreeEvent
from supervisors.supervisor import Supervisor

E = TypeVar("E", bound=TreeEvent)


class Recorder:
    """Everything that happens at and below a supervisor from now on."""

    def __init__(self, supervisor: Supervisor, *, capacity: int = 100_000) -> None:
        self._stream = supervisor.events(capacity=capacity)
        self._events: list[TreeEvent] = []

    @property
    def events(self) -> list[TreeEvent]:
        """All of it so far, oldest first."""
        self._events += self._stream.read()
        return self._events

    def of(self, kind: type[E], child: str | None = None) -> list[E]:
        """Those of one kind, and of one child."""
        return [e for e in self.events if isinstance(e, kind) and child in (None, getattr(e, "child", None))]

    async def until(self, happened: Callable[[TreeEvent], bool], *, within: float = 5.0) -> TreeEvent:
        """Return the first event for which this holds; wait `within` seconds of real time. Raises TimeoutError."""
        checked = 0
        with anyio.fail_after(within):
            while True:
                for event in self.events[checked:]:
                    if happened(event):
                        return event
                checked = len(self._events)
                await anyio.sleep(0.001)
