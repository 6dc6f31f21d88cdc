"""Agents whose inputs and outputs are too large for an envelope; also run in worker processes."""

import hashlib

from murmur import Actor, Backoff, Redelivery


class Weigher(Actor[str, tuple[int, str]]):
    """Says how long its input is, and its digest."""

    async def receive(self, text: str) -> tuple[int, str]:
        return len(text), hashlib.sha256(text.encode()).hexdigest()


class Writer(Actor[int, str]):
    """Writes a text of so many characters."""

    async def receive(self, count: int) -> str:
        return "ä" * count


class Courier(Actor[int, int]):
    """Has a text written and weighed by others."""

    async def receive(self, count: int) -> int:
        runtime = self.context.runtime
        (text,) = await runtime.gather(Writer, [count])
        (weight,) = await runtime.gather(Weigher, [text.unwrap()])
        return int(weight.unwrap()[0])


class Dropper(Actor[str, str]):
    """Fails at what it is given."""

    redelivery = Redelivery(max_deliveries=2, backoff=Backoff(initial=0.01, cap=0.01))

    async def receive(self, text: str) -> str:
        raise RuntimeError(f"dropped {len(text)}")
