"""Agents that the tests of publishers and workers run. What they did is counted per task id in `starts`."""

import asyncio
from collections import Counter
from typing import ClassVar

from attrs import frozen

from murmur import Actor, Backoff, Context, Directive, Redelivery, Reject

QUICK = Redelivery(max_deliveries=5, backoff=Backoff(initial=0.01, factor=1.0, cap=0.01, jitter=False))
starts: Counter[str] = Counter()


@frozen
class Stats:
    words: int
    longest: str


@frozen
class Question:
    text: str
    limit: int


class WordStats(Actor[str, Stats]):
    """Count the words of a text and find the longest."""

    async def receive(self, text: str) -> Stats:
        starts[self.context.task_id] += 1
        words = text.split()
        return Stats(len(words), max(words, key=len, default=""))


class Researcher(Actor[Question, str]):
    async def receive(self, question: Question) -> str:
        return question.text * question.limit


class Fails(Actor[str, str]):
    """Ends as its input says."""

    redelivery = QUICK

    async def receive(self, how: str) -> str:
        starts[self.context.task_id] += 1
        if how == "until 3" and self.context.attempt < 3:
            raise RuntimeError("not yet")
        if how == "always":
            raise RuntimeError("never works")
        if how == "reject":
            raise Reject("does not fit")
        if how == "exit":
            raise SystemExit("leaving")
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "stray":
            inner = asyncio.ensure_future(asyncio.sleep(60))
            inner.cancel()
            await inner
        if how == "unfit output":
            return 5  # type: ignore[return-value]
        if how == "object output":
            return object()  # type: ignore[return-value]
        return how


class Sleeper(Actor[float, float]):
    cancelled: ClassVar[Counter[str]] = Counter()

    async def receive(self, seconds: float) -> float:
        starts[self.context.task_id] += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled[self.context.task_id] += 1
            raise
        return seconds


class Nested(Actor[int, int]):
    """Spawns five of itself, as deep as its input says, and returns how many leaves there were."""

    async def receive(self, depth: int) -> int:
        if depth == 0:
            return 1
        results = await self.context.runtime.gather(Nested, [depth - 1] * 5)
        return sum(result.unwrap() for result in results)


class Stepwise(Actor[str, int]):
    """Journals a paid step, then fails once."""

    redelivery = QUICK
    paid: ClassVar[Counter[str]] = Counter()

    async def receive(self, name: str) -> int:
        async def pay() -> int:
            self.paid[name] += 1
            return 40 + self.paid[name]

        price = await self.context.once("pay", pay)
        if self.context.attempt == 1:
            raise RuntimeError("after paying")
        return price


class Moody(Actor[str, str]):
    """Decides by itself what its errors mean."""

    redelivery = QUICK

    def decide(self, error: BaseException) -> Directive:
        return {"stop": Directive.STOP, "escalate": Directive.ESCALATE}.get(str(error), Directive.RESUME)

    async def receive(self, mood: str) -> str:
        starts[self.context.task_id] += 1
        if mood == "escalate" and starts[self.context.task_id] > 1:
            return "calm"
        if mood != "fine":
            raise RuntimeError(mood)
        return mood


class Introvert(Actor[None, dict[str, str]]):
    async def receive(self, message: None) -> dict[str, str]:
        context: Context = self.context
        return {"task": context.task_id, "key": context.idempotency_key, **context.headers}
