"""The actors of one agent in this worker: instances that wait for a message, made and dropped as failures demand.

An idle actor is a value in a list, not a task. One instance takes one message at a time;
state lives and dies with it. An actor that cannot be started, outside any message, counts
against the agent's intensity; beyond it the agent is held for a while and tried again.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from loguru import logger

from murmur.actor import Actor
from murmur.errors import ActorBroken
from murmur.policy import Redelivery
from murmur.registry import AgentEntry, AnyActor
from supervisors import IntensityExceeded
from supervisors.reasons import one_line

_HOLD: Final = 5.0  # seconds an agent that cannot start is held before it is tried again
_KEPT_IDLE: Final = 1_000  # instances that may wait for a message
_STOP_WITHIN: Final = 5.0  # seconds a `stopped` may take


@define(eq=False)
class Host:
    """One agent's instances. `on_held` is told when the agent is held, and by None when it is tried again."""

    entry: AgentEntry
    actor: AnyActor
    redelivery: Redelivery
    on_held: Callable[["Host", str | None], object]
    running: int = field(default=0, init=False)
    is_stopped: bool = field(default=False, init=False)  # by Directive.STOP: until an operator starts it again
    held: str | None = field(default=None, init=False)  # why it is held
    resident: Actor[Any, Any] | None = field(default=None, init=False)  # the one there is, where there is only one
    _idle: list[Actor[Any, Any]] = field(factory=list, init=False)
    _breaks: tuple[float, ...] = field(default=(), init=False)
    _told: type[Exception] | None = field(default=None, init=False)  # what was told whole since one could start

    @property
    def serves(self) -> bool:
        """Whether it takes messages now."""
        return not self.is_stopped and self.held is None

    @property
    def room(self) -> int | None:
        """How many more messages this agent may work on at once; None: as many as the worker."""
        return None if self.actor.concurrency is None else max(self.actor.concurrency - self.running, 0)

    async def instance(self) -> Actor[Any, Any]:
        """Return an instance for the next message: one that waits, or a new one. Raises `ActorBroken`."""
        if self._idle:
            return self._idle.pop()
        try:
            made = self.actor()
            if type(made).started is not Actor.started:
                await made.started()
        except Exception as error:
            self._broke(error)
            raise ActorBroken(self.entry.name, f"{type(error).__name__}: {error}") from error
        self._told = None
        return made

    def give_back(self, instance: Actor[Any, Any]) -> None:
        """The instance did its work and waits for the next message."""
        if len(self._idle) < _KEPT_IDLE:
            self._idle.append(instance)

    async def drop(self, instance: Actor[Any, Any], error: BaseException, message: object) -> None:
        """The instance failed: tell it, and forget it. Its successor is made when a message comes."""
        if type(instance).restarting is not Actor.restarting:
            try:
                async with asyncio.timeout(_STOP_WITHIN):
                    await instance.restarting(error, message)
            except Exception:  # noqa: BLE001  it is dropped whatever it says
                logger.exception("restarting() of {} failed", self.entry.name)

    async def stop(self, reason: str) -> None:
        """Let all waiting instances go."""
        idle, self._idle = self._idle, []
        if self.actor.stopped is Actor.stopped:
            return
        for instance in idle:
            try:
                async with asyncio.timeout(_STOP_WITHIN):
                    await instance.stopped(reason)
            except Exception:  # noqa: BLE001  the next one is let go all the same
                logger.exception("stopped() of {} failed", self.entry.name)

    def _broke(self, error: Exception) -> None:
        """Count a break outside a message; hold the agent when there were too many. Told whole once, then in a line."""
        loop = asyncio.get_running_loop()
        why = f"{type(error).__name__}: {error}"
        is_news, self._told = type(error) is not self._told, type(error)
        logger.opt(exception=error if is_news else None).error(
            "an actor of {} could not be started: {}", self.entry.name, one_line(why)
        )
        try:
            self._breaks = self.actor.intensity.admit(self._breaks, now=loop.time())
        except IntensityExceeded:
            if self.held is None:
                self.held = why
                self.on_held(self, why)
                loop.call_later(_HOLD, self._try_again)

    def _try_again(self) -> None:
        self.held, self._breaks = None, ()
        self.on_held(self, None)
