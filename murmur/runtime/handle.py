"""A handle to one submitted task: wait for its result, or cancel it."""

import asyncio
from typing import Any, Generic, TypeVar

from murmur.errors import SpawnError
from murmur.publisher import Parent
from murmur.runtime.engine import Engine
from murmur.runtime.slots import Slot
from murmur.task import AgentResult

Out = TypeVar("Out")


class Handle(Generic[Out]):
    """One task on its way. Losing the handle cancels nothing."""

    def __init__(self, engine: Engine, parent: Parent | None) -> None:
        self._engine = engine
        self._parent = parent
        self._result: asyncio.Future[AgentResult[Any]] = asyncio.get_running_loop().create_future()
        self._slot: Slot | None = None

    @property
    def task_id(self) -> str:
        """The task's id."""
        assert self._slot is not None
        return self._slot.task.task_id

    async def result(self, timeout: float | None = None) -> AgentResult[Out]:
        """Wait for the result, at most `timeout` seconds, then `TimeoutError`; the task goes on regardless."""
        async with asyncio.timeout(timeout):
            if self._parent is not None and not self._result.done():
                async with self._parent.parking.parked():
                    return await asyncio.shield(self._result)
            return await asyncio.shield(self._result)

    async def cancel(self) -> None:
        """End the task wherever it is; its result says `TaskCancelled`, unless it ended before."""
        if self._slot is not None and not self._result.done():
            await self._engine.cancel([self._slot], "its publisher cancelled it")

    def finished(self, slot: Slot, result: AgentResult[Any]) -> None:
        """The slot has its result."""
        del slot
        if not self._result.done():
            self._result.set_result(result)

    async def published(self, slot: Slot) -> None:
        """Publish the task and return once the broker has it. Raises `SpawnError`."""
        self._slot = slot
        await self._engine.submit_now(slot)
        if self._result.done():
            error = self._result.result().error
            if isinstance(error, SpawnError):
                raise error
