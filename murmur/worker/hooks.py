"""Users' hooks: called around every task, bounded in time, and never able to harm one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import define, field
from loguru import logger

_WITHIN: Final = 5.0  # seconds a hook may take

Hook = Callable[..., Awaitable[Any]]


@define
class Hooks:
    """The hooks of one worker, in the order they were added."""

    start: list[Hook] = field(factory=list)
    complete: list[Hook] = field(factory=list)
    error: list[Hook] = field(factory=list)


async def call(hooks: list[Hook], *arguments: object) -> None:
    """Call hooks one after another. One that raises or takes too long is logged and left behind."""
    for hook in tuple(hooks):
        try:
            async with asyncio.timeout(_WITHIN):
                await hook(*arguments)
        except Exception:  # noqa: BLE001  a hook's bug is its author's, not the task's
            logger.opt(exception=True).error("hook {} failed; the task goes on", getattr(hook, "__qualname__", hook))
