"""A look at the fleet over the control plane: which workers beat, how they stand, and telling one to leave.

Used by the command line and by servers. What was not heard is not known: a worker that does not beat, on a plane that
is away, or with other signing keys, is not seen here.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

from attrs import frozen
from loguru import logger

from murmur.beats import ANSWERS, BEATS, COMMANDS, EVERY, GONE, Answer, Beat, Command, M, packed, unpacked
from murmur.cancelling import cancelled
from murmur.control import ControlPlane
from murmur.envelope import VERSION
from murmur.errors import BadEnvelope
from murmur.ids import uuid7
from murmur.names import Topics
from murmur.signing import Seal

LOOK: Final = EVERY + 1.0  # seconds until every worker that beats as usual was heard
FIND: Final = 5 * EVERY  # seconds until one that is not heard is not there
SILENT: Final = "silent"  # alive, for all that was heard, but beats are missing
_MISSING: Final = 3.0  # beats
_FORGOTTEN: Final = 60.0  # seconds after which a worker that fell silent, or left, is shown no more
_REPEAT: Final = 1.0  # seconds until a command that nobody took up is sent again


@frozen
class Sighting:
    """One worker as it was heard last, `age` seconds ago."""

    beat: Beat
    age: float

    @property
    def state(self) -> str:
        """What it said, or "silent" if beats are missing."""
        is_silent = self.beat.state != GONE and self.age > _MISSING * self.beat.every
        return SILENT if is_silent else self.beat.state


class Watch:
    """Hears beats for as long as it is open. Made by `watching`."""

    def __init__(self, plane: ControlPlane, topics: Topics, seal: Seal | None) -> None:
        self._plane = plane
        self._topics = topics
        self._seal = seal
        self._heard: dict[tuple[str, str], tuple[Beat, float]] = {}  # by worker and incarnation; monotonic time
        self._answers: dict[str, Answer | None] = {}  # by command that was sent; None: none yet
        self._news = asyncio.Event()

    def seen(self) -> list[Sighting]:
        """Return all workers heard of late, by id; those that left are shown as gone for a minute."""
        now = time.monotonic()
        self._heard = {key: one for key, one in self._heard.items() if now - one[1] < _FORGOTTEN}
        return [Sighting(beat, now - at) for _, (beat, at) in sorted(self._heard.items(), key=lambda one: one[0])]

    async def find(self, worker_id: str, *, within: float = FIND) -> Beat | None:
        """Return the newest beat of a worker that has not left, waiting for it; None if none came.

        A worker that is replaced when its code changes beats as `{worker_id}.reload-{number}`: the newest is it, too.
        """
        ids = re.compile(re.escape(worker_id) + r"(\.reload-[0-9]+)?")

        def there() -> Beat | None:
            beats = [beat for beat, _ in self._heard.values() if beat.state != GONE and ids.fullmatch(beat.worker_id)]
            return max(beats, key=lambda beat: (beat.worker_id == worker_id, beat.started_at), default=None)

        await self._until(lambda: there() is not None, within)
        return there()

    async def tell(self, beat: Beat, verb: Literal["drain", "stop"], *, drain: float | None, within: float) -> bool:
        """Tell a worker to leave and wait until it has; whether it did within so many seconds.

        Raises: BadEnvelope, with the worker's own words, when it refuses.
        """
        command = Command(
            v=VERSION,
            command_id=uuid7(),
            worker_id=beat.worker_id,
            incarnation=beat.incarnation,
            verb=verb,
            within=drain,
        )
        body = packed(command, self._topics, self._seal)
        deadline = time.monotonic() + within
        self._answers[command.command_id] = None

        def state() -> str:
            heard, at = self._heard[beat.worker_id, beat.incarnation]
            return Sighting(heard, time.monotonic() - at).state

        while state() not in (GONE, SILENT) and (left := deadline - time.monotonic()) > 0:
            answer = self._answers[command.command_id]
            if answer is None:
                await self._plane.publish(COMMANDS, body)
            elif answer.error_type is not None:
                raise BadEnvelope(problem=f"{answer.error_type}: {answer.error_message}")
            was = answer
            await self._until(
                lambda: state() == GONE or self._answers[command.command_id] is not was,  # noqa: B023  awaited here
                min(left, _REPEAT),
            )
        return state() == GONE

    async def hear_beats(self) -> None:
        """Note beats until the plane is closed."""
        async for body in self._plane.subscribe(BEATS):
            if (beat := self._read(body, Beat)) is not None:
                self._heard[beat.worker_id, beat.incarnation] = beat, time.monotonic()
                self._ring()

    async def hear_answers(self) -> None:
        """Note answers until the plane is closed."""
        async for body in self._plane.subscribe(ANSWERS):
            answer = self._read(body, Answer)
            if answer is not None and answer.command_id in self._answers:
                self._answers[answer.command_id] = answer
                self._ring()

    async def _until(self, holds: Callable[[], bool], within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not holds():
                    await self._news.wait()

    def _read(self, body: bytes, of: type[M]) -> M | None:
        try:
            return unpacked(body, of, self._topics, self._seal)
        except BadEnvelope as error:
            logger.debug("a message on the control plane was left aside: {}", error)
            return None

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


@contextlib.asynccontextmanager
async def watching(plane: ControlPlane, topics: Topics, seal: Seal | None) -> AsyncIterator[Watch]:
    """Open a control plane and hear what comes. Raises `BrokerUnreachable`, `BrokerRefused`."""
    watch = Watch(plane, topics, seal)
    await plane.open()
    hearing = [asyncio.ensure_future(one) for one in (watch.hear_beats(), watch.hear_answers())]
    try:
        yield watch
    finally:
        await cancelled(hearing)
        await plane.close()
