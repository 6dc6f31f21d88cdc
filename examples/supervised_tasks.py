"""A little shop kept alive by a tree of supervised tasks: what a restart mends, and how far each failure reaches.

    python supervised_tasks.py

    shop (one_for_one)
    ├─ stock        counts; its number survives nobody's crash but its own
    ├─ till (rest_for_one)
    │  ├─ bank      a connection, on which the sales stand
    │  └─ sales     sells; crashes whenever the bank has hung up
    └─ radio        temporary: plays one song, and nobody minds its end

Three things go wrong on purpose: a sale that fails by itself, a bank that hangs up under the sales, and a radio
that crashes. Watch who is started again with whom.
"""

import anyio
from attrs import define, field

from supervisors import (
    Backoff,
    ChildContext,
    ChildSpec,
    Intensity,
    Restart,
    Strategy,
    SupervisorSpec,
    open_supervisor,
)
from supervisors.events import ChildExited, ChildStarted, ChildStopped, EventStream

TROUBLE = {3: "a customer faints", 6: "the bank hangs up"}  # by number of the sale


@define
class Bank:
    """A connection that may break."""

    closed: anyio.Event = field(factory=anyio.Event)

    def book(self, sale: int) -> None:
        """Book one sale. Raises ConnectionError once the bank has hung up."""
        if TROUBLE.get(sale) == "the bank hangs up":
            self.closed.set()
        if self.closed.is_set():
            raise ConnectionError("the bank has hung up")


class Shop:
    """What the children share: who is there now, not what they know."""

    def __init__(self) -> None:
        self.bank: Bank | None = None
        self.sold = 0
        self.is_over = anyio.Event()

    async def stock(self, ctx: ChildContext) -> None:
        """Do nothing, and be there."""
        ctx.ready()
        await anyio.sleep_forever()

    async def connect(self, ctx: ChildContext) -> None:
        """Hold the connection open; end when it breaks, so that all that stands on it is begun anew."""
        self.bank = bank = Bank()
        ctx.ready(f"connection {ctx.incarnation}")
        await bank.closed.wait()
        raise ConnectionError("the bank has hung up")

    async def sell(self, ctx: ChildContext) -> None:
        """Sell one thing after another."""
        ctx.ready()
        while True:
            await anyio.sleep(0.1)
            self.sold += 1
            assert self.bank is not None
            if TROUBLE.get(self.sold) == "a customer faints":
                raise RuntimeError("a customer fainted")
            self.bank.book(self.sold)
            if self.sold == 10:
                self.is_over.set()

    async def play(self, ctx: ChildContext) -> None:
        """Play one song, badly."""
        ctx.ready()
        await anyio.sleep(0.25)
        raise RuntimeError("the radio fell off the shelf")


def tree_of(shop: Shop) -> SupervisorSpec:
    """Return the tree drawn at the top."""
    patient = Backoff(initial=0.05, cap=0.1, jitter=False)
    till = SupervisorSpec(
        strategy=Strategy.REST_FOR_ONE,
        intensity=Intensity(max_restarts=5, period=5.0),
        children=[
            ChildSpec(id="bank", start=shop.connect),
            ChildSpec(id="sales", start=shop.sell, backoff=patient),
        ],
    )
    return SupervisorSpec(
        children=[
            ChildSpec(id="stock", start=shop.stock),
            ChildSpec(id="till", start=till),
            ChildSpec(id="radio", start=shop.play, restart=Restart.TEMPORARY),
        ]
    )


async def tell(events: EventStream) -> None:
    """Print what happens, as it happens."""
    async for event in events:
        where = event.supervisor
        match event:
            case ChildExited(child=child, reason=reason):
                print(f"  {where}/{child} {reason}")
            case ChildStopped(child=child):
                print(f"  {where}/{child} is stopped with it")
            case ChildStarted(child=child, info=info):
                print(f"  {where}/{child} starts again{f': {info}' if info else ''}")


async def main() -> None:
    """Open the shop, sell ten things, close it."""
    shop = Shop()
    async with open_supervisor(tree_of(shop), name="shop") as sup, anyio.create_task_group() as tasks:
        print(sup.render_tree())
        tasks.start_soon(tell, sup.events())
        with anyio.fail_after(10):
            await shop.is_over.wait()
        tasks.cancel_scope.cancel()
        print(sup.render_tree())
    print(f"{shop.sold} sold, though three things went wrong")


if __name__ == "__main__":
    anyio.run(main)
