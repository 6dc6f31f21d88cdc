"""A shop with named carts: each has its own state, one message at a time, and outlives the process it lives in.

Run it: `python examples/cart.py`. The state is kept in a file; the second half begins with new instances.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from attrs import define, field, frozen
from loguru import logger

from murmur import Actor, AgentRuntime, Named, Reject
from murmur.errors import TaskFailed

PRICES = {"tea": 4, "cup": 7, "pot": 31}


@frozen
class Put:
    """Put so many of an item into the cart."""

    item: str
    count: int = 1


@define
class Basket:
    """What is kept of a cart."""

    items: dict[str, int] = field(factory=dict)


class Cart(Actor[Put, int]):
    """Adds up what is put into it, and answers with the sum."""

    named = Named(idle_after=60.0)

    def __init__(self) -> None:
        self.basket = Basket()

    def snapshot(self) -> Basket:
        return self.basket

    def restore(self, state: Basket) -> None:
        self.basket = state

    async def receive(self, message: Put) -> int:
        self.basket.items[message.item] = self.basket.items.get(message.item, 0) + message.count
        if message.item not in PRICES:
            raise Reject(f"there is no {message.item}")
        return sum(PRICES[item] * count for item, count in self.basket.items.items())


async def shop(store: str) -> None:
    async with AgentRuntime(store=store) as runtime:
        ann, bob = runtime.ref(Cart, "ann"), runtime.ref(Cart, "bob")
        sums = await asyncio.gather(ann.ask(Put("tea")), bob.ask(Put("pot")), ann.ask(Put("cup", 2)))
        print(f"ann: {sums[0]}, then {sums[2]}; bob: {sums[1]}")
        try:
            await ann.ask(Put("yacht"))
        except TaskFailed as error:
            print(f"refused: {error.message}")

    async with AgentRuntime(store=store) as later:
        print(f"later, ann: {await later.ref(Cart, 'ann').ask(Put('tea'))}")


if __name__ == "__main__":
    logger.remove()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(shop(f"sqlite:///{Path(folder) / 'carts.db'}"))
    sys.exit(0)
