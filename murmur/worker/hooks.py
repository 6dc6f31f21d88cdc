"""Users' hooks: called around every task, bounded in time, and never able to harm one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import define, field
from loguru import logger

from murmur.envelope import ErrorNote, decode_result
from murmur.errors import TaskFailed

_WITHIN: Final = 5.0  # seconds a hook may take

Hook = Callable[..., Awaitable[Any]]


@define
class Hooks:
    """The hooks of one worker, in the order they were added."""

    start: list[Hook] = field(factory=list)
    complete: list[Hook] = field(factory=list)
    error: list[Hook] = field(factory=list)


async def call_ended(hooks: Hooks, task_id: str, agent: str, *, result: bytes, error: ErrorNote | None) -> None:
    """Call the hooks for an attempt that ended elsewhere: with its encoded result, or with the note of its error."""
    if error is None and result:
        told = decode_result(result)
        if told.success:
            await call(hooks.complete, task_id, agent, told.duration_ms)
            return
        error = ErrorNote(attempt=0, error_type=told.error_type or "", message=told.error_message or "", at=0.0)
    if error is not None:
        await call(hooks.error, task_id, agent, TaskFailed(task_id, agent, error.error_type, error.message))


async def call(hooks: list[Hook], *arguments: object) -> None:
    """Call hooks one after another. One that raises or takes too long is logged and left behind."""
    for hook in tuple(hooks):
        try:
            async with asyncio.timeout(_WITHIN):
                await hook(*arguments)
        except Exception:  # noqa: BLE001  a hook's bug is its author's, not the task's
            logger.opt(exception=True).error("hook {} failed; the task goes on", getattr(hook, "__qualname__", hook))
