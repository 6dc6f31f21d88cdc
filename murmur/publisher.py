"""The publisher port: what an actor reaches through `context.runtime`, and whom it speaks for.

The core does not know the runtime; a worker is given one by the wiring and hands it to
each task bound to that task, so that children carry their parent and a parent that waits
gives its slot back.
"""

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from attrs import define, field


class Parking(Protocol):
    """Gives a waiting parent's slot back for the time of the block; the attempt clock stands still meanwhile."""

    def parked(self) -> AbstractAsyncContextManager[None]:
        """Enter: the slot is free for others. Leave: wait for one again, before those who have not begun."""


@define
class Parent:
    """The task on whose behalf children are published."""

    task_id: str
    root_id: str
    depth: int
    headers: dict[str, str]
    parking: Parking
    gathers: int = field(default=0, init=False)  # how many gathers this attempt began

    def next_gather(self) -> int:
        """Return the number of the gather that begins now, 0-based; the same in every attempt of the same course."""
        number, self.gathers = self.gathers, self.gathers + 1
        return number


class Publisher(Protocol):
    """Whatever publishes for actors: an `AgentRuntime`, which this side of the wall does not know."""

    def speaking_for(self, parent: Parent) -> Any:
        """Return this publisher bound to a task: what it publishes are that task's children."""

    async def aclose(self) -> None:
        """Stop listening. Idempotent."""
