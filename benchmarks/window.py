"""What the yardsticks of all brokers share: their messages, the bodies of their agents, and the window of a publisher.

How a batch is sent and a reply read is each client's own: `benchmarks.raw` for Redis, `benchmarks.brokers` for others.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from benchmarks.bodies import ANSWER, SECOND, WAIT

BATCH = 200


class Task(msgspec.Struct):
    """One task on its way to a worker."""

    id: int
    reply_to: str
    input: str


class Reply(msgspec.Struct):
    """One result on its way back."""

    id: int
    output: str


encode = msgspec.json.Encoder().encode
decode_task = msgspec.json.Decoder(Task).decode
decode_reply = msgspec.json.Decoder(Reply).decode


async def echo(text: str) -> str:
    """Answer at once."""
    del text
    return ANSWER


async def wait(text: str) -> str:
    """Answer after a wait, as a call to a model would."""
    del text
    await asyncio.sleep(WAIT)
    return ANSWER


async def second(text: str) -> str:
    """Answer after a second."""
    del text
    await asyncio.sleep(SECOND)
    return ANSWER


BODIES: dict[str, Callable[[str], Awaitable[str]]] = {"echo": echo, "wait": wait, "second": second}


class Window(ABC):
    """A publisher that keeps so many tasks open, sends them in batches, and fills in the results as they come."""

    def __init__(self, inbox: str) -> None:
        self._inbox = inbox
        self._results: dict[int, str] = {}
        self._next_id = 0
        self._in_flight = 0
        self._room = asyncio.Event()

    async def gather(self, inputs: Iterable[str], max_concurrency: int) -> list[str]:
        """Run a task per input, at most `max_concurrency` at once; return the outputs in order."""
        first = self._next_id
        source = iter(inputs)
        exhausted = False
        while not exhausted or self._in_flight:
            self._room.clear()
            batch = []
            for _ in range(min(BATCH, max_concurrency - self._in_flight)):
                if (text := next(source, None)) is None:
                    exhausted = True
                    break
                batch.append(encode(Task(self._next_id, self._inbox, text)))
                self._next_id += 1
                self._in_flight += 1
            if batch:
                await self._send(batch)
            elif self._in_flight:
                await self._room.wait()
        return [self._results.pop(number) for number in range(first, self._next_id)]

    async def run(self, text: str) -> str:
        """Run one task."""
        return (await self.gather((text,), 1))[0]

    @abstractmethod
    async def _send(self, batch: Sequence[bytes]) -> None:
        """Publish encoded tasks, and wait until they are confirmed."""

    def _replied(self, bodies: Sequence[bytes]) -> None:
        """Take encoded replies in."""
        for body in bodies:
            reply = decode_reply(body)
            self._results[reply.id] = reply.output
        self._in_flight -= len(bodies)
        self._room.set()
