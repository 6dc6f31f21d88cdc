"""A worker on the control plane: says how it stands, every few seconds and when that changes, and takes commands.

Work goes on whatever happens here. A plane that is away is tried again without end; so is whatever breaks.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from loguru import logger

from murmur.beats import ANSWERS, BEATS, COMMANDS, GONE, Answer, Beat, Command, packed, unpacked
from murmur.control import ControlPlane
from murmur.envelope import VERSION
from murmur.errors import BadEnvelope, BadSetting, BrokerRefused, BrokerUnreachable, MissingExtra
from murmur.names import Topics
from murmur.signing import Seal
from murmur.worker.memory import give_back
from supervisors import ChildContext

_FIRST: Final = 2.0  # seconds of work before the plane is opened: its clients take CPU to import
_AGAIN: Final = 5.0  # seconds until a plane that is away is tried again
_LEAST: Final = 0.2  # seconds between two beats
_GOODBYE: Final = 1.0  # seconds the last beat may take


@define(eq=False)
class Reporter:
    """One worker's place on the control plane. `look` makes a beat, `obey` does what a command says."""

    plane: ControlPlane
    topics: Topics
    seal: Seal | None
    worker_id: str
    every: float  # seconds
    obey: Callable[[Command], object]
    incarnation: str = field(factory=lambda: secrets.token_hex(4))
    look: Callable[[str], Beat] = field(init=False)  # set once there is something to see
    _changed: asyncio.Event = field(factory=asyncio.Event)
    _is_refused: bool = False  # and that was told

    def changed(self) -> None:
        """Say it soon."""
        self._changed.set()

    async def live(self, ctx: ChildContext) -> None:
        """Report until cancelled."""
        ctx.ready()
        await asyncio.sleep(_FIRST)
        while True:
            try:
                await self._report()
            except BrokerUnreachable as error:
                logger.debug("the control plane is away: {}", error)
            except BrokerRefused as error:
                told = logger.trace if self._is_refused else logger.warning
                told("{} {}; until then this worker can neither be watched nor commanded", error.code, error)
                self._is_refused = True
            except MissingExtra as error:
                logger.warning("{} {}; this worker can neither be watched nor commanded", error.code, error)
                await asyncio.Event().wait()
            except Exception:  # noqa: BLE001  a bug here must not cost a task
                logger.exception("reporting broke; it begins anew in {:g} s", _AGAIN)
            await asyncio.sleep(_AGAIN)

    async def leave(self) -> None:
        """Say that the worker is gone, and close the plane."""
        with contextlib.suppress(TimeoutError, BrokerUnreachable, BrokerRefused):
            async with asyncio.timeout(_GOODBYE):
                await self._say(BEATS, self.look(GONE))
        await self.plane.close()

    async def _report(self) -> None:
        await self.plane.open()
        give_back()  # what importing its client took, and left
        commands = asyncio.ensure_future(self._take_commands())
        try:
            while not commands.done():
                self._changed.clear()
                await self._say(BEATS, self.look(""))
                await asyncio.sleep(_LEAST)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.every - _LEAST):
                        await self._changed.wait()
            commands.result()
        finally:
            commands.cancel()

    async def _take_commands(self) -> None:
        async for body in self.plane.subscribe(COMMANDS):
            try:
                command = unpacked(body, Command, self.topics, self.seal)
            except BadEnvelope as error:
                logger.warning("{}: a command was refused: {}", error.code, error)
                if (meant := self._meant(body)) is not None:
                    await self._answer(meant.command_id, error)
                continue
            if (command.worker_id, command.incarnation) == (self.worker_id, self.incarnation):
                logger.warning("told to {} by command {}", command.verb, command.command_id)
                await self._answer(command.command_id)
                self.obey(command)

    def _meant(self, body: bytes) -> Command | None:
        """Return a command that was refused, if it says that it is for us: nothing but its id is used."""
        try:
            command = unpacked(body, Command, self.topics, None)
        except BadEnvelope:
            return None
        return command if command.worker_id == self.worker_id else None

    async def _answer(self, command_id: str, error: BadEnvelope | None = None) -> None:
        kind, text = (None, None) if error is None else (type(error).__name__, str(error))
        answer = Answer(v=VERSION, command_id=command_id, worker_id=self.worker_id, error_type=kind, error_message=text)
        with contextlib.suppress(BrokerUnreachable, BrokerRefused):  # who asked sees the beats, too
            await self._say(ANSWERS, answer)

    async def _say(self, topic: str, message: Any) -> None:
        await self.plane.publish(topic, packed(message, self.topics, self.seal))


def checked_heartbeat(seconds: float | None) -> float | None:
    """Return the time between two beats, None for none. Raises `BadSetting`."""
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is None or (is_number and (seconds == 0 or seconds >= 1)):
        return seconds or None
    raise BadSetting(name="heartbeat", value=repr(seconds), expected="seconds, 1 or more; 0 or None for none")
