"""Partitions, registry, mailbox, and the drawing of trees."""

from collections import Counter

import anyio
import pytest

from supervisors import (
    AlreadyRegistered,
    ChildContext,
    ChildSpec,
    Intensity,
    Mailbox,
    MailboxClosed,
    MailboxFull,
    Overflow,
    PartitionSupervisor,
    Registry,
    SpecError,
    SupervisorSpec,
    open_supervisor,
)
from supervisors.render import rich_tree
from supervisors.testing import Puppet, VirtualClock, settle

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- partitions -----------------------------------------------------------------------------------------------


async def test_a_key_belongs_to_one_partition_and_keys_spread_evenly() -> None:
    started: list[int] = []

    def cache(number: int) -> ChildSpec:
        async def run(ctx: ChildContext) -> None:
            started.append(number)
            ctx.ready()
            await anyio.sleep_forever()

        return ChildSpec(id="cache", start=run)

    partitions = PartitionSupervisor(cache, count=4)
    spec = SupervisorSpec(children=[ChildSpec(id="caches", start=partitions.spec)])
    async with open_supervisor(spec) as sup:
        below = sup.supervisor("caches")
        assert [child.id for child in below.which_children()] == ["0", "1", "2", "3"]
        assert started == [0, 1, 2, 3]
    spread = Counter(partitions.route(f"user-{n}") for n in range(4_000))
    assert set(spread) == {"0", "1", "2", "3"}
    assert min(spread.values()) > 800
    assert partitions.route("user-17") == partitions.route(b"user-17") == "3"  # in every process the same
    assert [partitions.route(n) for n in (-5, 4, 6)] == ["1", "0", "2"]


def test_partitions_are_at_least_one() -> None:
    with pytest.raises(SpecError, match="count must be a whole number of at least 1; got 0"):
        PartitionSupervisor(lambda n: ChildSpec(id=str(n), start=anyio.sleep_forever), count=0)
    assert PartitionSupervisor(ChildSpec(id="x", start=anyio.sleep_forever)).count >= 1


# -- registry -------------------------------------------------------------------------------------------------


async def test_a_name_outlives_its_bearer_and_is_never_stale() -> None:
    carts: Registry[int] = Registry()
    crash = anyio.Event()

    async def cart(ctx: ChildContext) -> None:
        with carts.register("cart-17", ctx.incarnation):
            ctx.ready()
            await crash.wait()
            raise RuntimeError("crashes")

    async with open_supervisor(SupervisorSpec(children=[ChildSpec(id="cart", start=cart)])) as sup:
        assert carts.find("cart-17") == 1
        first, crash_first = crash, crash
        crash = anyio.Event()
        crash_first.set()
        await settle()
        with anyio.fail_after(5):
            assert await carts.wait("cart-17") == 2
        assert carts.names() == ("cart-17",)
        assert first.is_set()
        await sup.terminate_child("cart")
        assert carts.find("cart-17") is None
        assert carts.names() == ()


async def test_a_unique_name_has_one_bearer_and_others_have_many() -> None:
    unique: Registry[str] = Registry()
    with unique.register("a", "x"):
        with pytest.raises(AlreadyRegistered, match="'a' is registered already"), unique.register("a", "y"):
            raise AssertionError
        assert unique.find("a") == "x"
    many: Registry[str] = Registry(unique=False)
    with many.register("a", "x"), many.register("a", "y"):
        assert many.find_all("a") == ("x", "y")
    assert many.find_all("a") == ()


async def test_who_waits_for_a_name_gets_the_first_that_bears_it() -> None:
    registry: Registry[str] = Registry()
    found: list[str] = []

    async def wait() -> None:
        found.append(await registry.wait("late"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait)
        await settle()
        assert found == []
        with registry.register("late", "here"):
            await settle()
    assert found == ["here", "here"]


# -- mailbox --------------------------------------------------------------------------------------------------


async def test_the_system_is_heard_first_and_always_has_room() -> None:
    box: Mailbox[str] = Mailbox(2)
    await box.put("a")
    await box.put("b")
    box.put_system("stop")
    assert len(box) == 3
    assert [await box.get() for _ in range(3)] == ["stop", "a", "b"]


@pytest.mark.parametrize("overflow", Overflow)
async def test_a_full_mailbox_does_what_it_was_told(overflow: Overflow) -> None:
    box: Mailbox[int] = Mailbox(2, overflow=overflow)
    await box.put(1)
    await box.put(2)
    if overflow is Overflow.REJECT:
        with pytest.raises(MailboxFull, match="holds 2 messages"):
            await box.put(3)
        assert [await box.get(), await box.get()] == [1, 2]
    elif overflow is Overflow.DROP_OLDEST:
        await box.put(3)
        assert box.dropped == 1
        assert [await box.get(), await box.get()] == [2, 3]
    else:
        async with anyio.create_task_group() as tasks:
            for number in (3, 4):
                tasks.start_soon(box.put, number)
            await settle()
            assert len(box) == 2
            got = [await box.get() for _ in range(4)]
        assert got[:2] == [1, 2]
        assert sorted(got[2:]) == [3, 4]
        with pytest.raises(MailboxFull):
            for number in range(3):
                box.put_nowait(number)


async def test_many_senders_lose_and_repeat_nothing() -> None:
    box: Mailbox[tuple[int, int]] = Mailbox(3)
    got: list[tuple[int, int]] = []

    async def send(sender: int) -> None:
        for number in range(200):
            await box.put((sender, number))

    async with anyio.create_task_group() as tasks:
        for sender in range(5):
            tasks.start_soon(send, sender)
        for _ in range(1_000):
            got.append(await box.get())
            assert len(box) <= 3
    assert sorted(got) == [(sender, number) for sender in range(5) for number in range(200)]
    for sender in range(5):
        assert [number for who, number in got if who == sender] == list(range(200))


async def test_a_closed_mailbox_gives_what_it_has_and_takes_nothing() -> None:
    box: Mailbox[str] = Mailbox(1)
    await box.put("last")
    refused: list[str] = []

    async def refuse() -> None:
        try:
            await box.put("late")
        except MailboxClosed:
            refused.append("late")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refuse)
        await settle()
        box.close()
    assert refused == ["late"]
    assert await box.get() == "last"
    for take in (box.get, lambda: box.put("x")):
        with pytest.raises(MailboxClosed):
            await take()


async def test_a_busy_sender_lets_others_have_a_turn() -> None:
    box: Mailbox[int] = Mailbox(1_000)
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for number in range(640):
            await box.put(number)
        assert others >= 9
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("field", "value"), [("capacity", 0), ("capacity", True), ("overflow", "wait")])
def test_a_mailbox_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"{field} must be"):
        Mailbox(**{field: value})  # type: ignore[arg-type]


# -- drawing --------------------------------------------------------------------------------------------------


async def test_a_tree_is_drawn_with_what_became_of_it() -> None:
    clock = VirtualClock()
    cart, prices = Puppet("cart"), Puppet("prices")
    below = SupervisorSpec(children=[cart.spec(clock), Puppet("other").spec(clock)], intensity=Intensity(5))
    spec = SupervisorSpec(children=[ChildSpec(id="carts", start=below), prices.spec(clock)])
    async with open_supervisor(spec, name="shop", clock=clock) as sup:
        for _ in range(2):
            cart.end()
            await settle()
        await sup.terminate_child("prices")
        assert sup.render_tree().splitlines() == [
            "shop",
            "├─ carts  up",
            "│  ├─ cart  up  restarted 2 times, last: crashed: Boom: cart",
            "│  └─ other  up",
            "└─ prices  undefined",
        ]
        drawn = rich_tree("shop", sup.which_children())
        assert [str(node.label) for node in drawn.children] == ["carts  up", "prices  undefined"]
        assert "restarted 2 times" in str(drawn.children[0].children[0].label)
