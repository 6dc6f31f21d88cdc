"""Writes how attempts ended: joined per loop turn, repeated until the store has said what became of each.

An actor's slot is free the moment it ends; its ending waits here for the store. While the
broker is away endings pile up, bounded by `is_full`, which stops the intake.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from loguru import logger

from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.patience import Rights
from murmur.store import Failure, Written
from murmur.task_queue import Ending, Release, TaskQueue
from murmur.worker.tally import Tally

_PILE: Final = 1_000  # endings that may wait for the store before the intake stops
_FIRST_PAUSE: Final = 0.1  # seconds before a write that broke off is repeated; doubles up to
_LONGEST_PAUSE: Final = 5.0


class Settler:
    """Takes endings from all actors of a worker.

    `on_stale` hears of those that came too late, `on_delayed` that a task was put off and somebody must bring it back.
    """

    def __init__(
        self, queue: TaskQueue, *, on_stale: Callable[[Ending], None], on_delayed: Callable[[], object]
    ) -> None:
        self.tally = Tally()
        self.rights = Rights()
        self._queue = queue
        self._on_stale = on_stale
        self._on_delayed = on_delayed
        self._endings: list[Ending] = []
        self._writes: set[asyncio.Task[None]] = set()
        self._pending = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def is_full(self) -> bool:
        """Whether so many endings wait that no new task should begin."""
        return self._pending >= _PILE

    def settle(self, ending: Ending) -> None:
        """Write this ending with all others of the loop turn."""
        if not self._endings:
            asyncio.get_running_loop().call_soon(self._flush)
        self._endings.append(ending)
        self.tally.note(ending)
        self._pending += 1
        if self.is_full:
            self._room.clear()

    async def has_room(self) -> None:
        """Wait until endings are few enough again."""
        await self._room.wait()

    async def drained(self) -> None:
        """Wait until everything is written."""
        if self._endings:
            self._flush()
        while self._writes:
            await asyncio.wait(self._writes)

    def abandon(self) -> None:
        """Write no more: what was not written is found again when its lease lapses."""
        for write in self._writes:
            write.cancel()

    def _flush(self) -> None:
        if not self._endings:
            return
        endings, self._endings = self._endings, []
        write = asyncio.ensure_future(self._write(endings))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _write(self, endings: list[Ending]) -> None:
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    answers = await self._queue.settle(endings)
                    break
                except (OutcomeUnknown, BrokerUnreachable) as error:
                    logger.info("{} results wait for the broker: {}", len(endings), error)
                except BrokerRefused as error:
                    self.rights.tell(error)
                except Exception:  # noqa: BLE001  paid work must not be thrown away for a broken reply
                    logger.exception("writing {} results broke; they are written again", len(endings))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            self._pending -= len(endings)
            if not self.is_full:
                self._room.set()
        if any(isinstance(ending, Failure | Release) and ending.delay > 0 for ending in endings):
            self._on_delayed()
        for ending, answer in zip(endings, answers, strict=True):
            if answer is Written.STALE:
                self._on_stale(ending)
