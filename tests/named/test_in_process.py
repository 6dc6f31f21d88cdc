"""Named actors in one process: order, state, failures, and what lives how long."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from murmur import Actor, AgentRuntime
from murmur.errors import BadActorKey, GaveUp, InputError, NotNamed, TaskFailed, TaskTimeout
from murmur.named import SHARDS, Named, mailbox_of, shard_of
from tests.named.agents import Asker, Brief, Counter, Fragile, Ledger, Where

pytestmark = pytest.mark.anyio


async def until(holds: Callable[[], object], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.01)


async def test_messages_to_one_name_are_handled_in_order_and_one_at_a_time() -> None:
    async with AgentRuntime() as runtime:
        one, other = runtime.ref(Ledger, "one"), runtime.ref(Ledger, "other")
        words = [f"sleep 0.00{9 - number}" for number in range(9)]
        answers = await asyncio.gather(*(one.ask(word) for word in words), other.ask("x"))
        assert answers == [*(words[: number + 1] for number in range(9)), ["x"]]


async def test_different_names_are_at_work_at_the_same_time() -> None:
    async with AgentRuntime() as runtime:
        found = await asyncio.gather(*(runtime.ref(Where, f"n{number}").ask(0.3) for number in range(10)))
        assert [key for _, key, _, _ in found] == [f"n{number}" for number in range(10)]
        assert max(began for *_, began, _ in found) < min(ended for *_, ended in found)


async def test_what_is_told_comes_before_what_is_asked_later() -> None:
    async with AgentRuntime() as runtime:
        ref = runtime.ref(Ledger, "a")
        for number in range(5):
            await ref.tell(f"sleep 0.0{number}")
        await ref.tell("reject")
        assert await ref.ask("x") == ["sleep 0.00", "sleep 0.01", "sleep 0.02", "sleep 0.03", "sleep 0.04", "x"]


async def test_a_message_that_fails_changes_nothing() -> None:
    async with AgentRuntime() as runtime:
        ref = runtime.ref(Ledger, "a")
        await ref.ask("x")
        answers = await asyncio.gather(*map(ref.ask, ("y", "reject", "z")), return_exceptions=True)
        assert answers[0] == ["x", "y"]
        assert isinstance(answers[1], TaskFailed)
        assert (answers[1].error_type, answers[1].message) == ("Reject", "as it was told")
        assert answers[2] == ["x", "y", "z"]


async def test_a_failure_that_may_pass_is_tried_again_with_the_state_from_before() -> None:
    class Moody(Ledger):
        tries: ClassVar[list[int]] = []

        async def receive(self, message: str) -> list[str]:
            self.pages.entries.append("half")
            self.tries.append(self.context.attempt)
            if self.context.attempt < 3:
                raise OSError("later")
            return list(self.pages.entries)

    async with AgentRuntime() as runtime:
        assert await runtime.ref(Moody, "a").ask("x") == ["half"]
        assert Moody.tries == [1, 2, 3]


async def test_what_nobody_waits_for_any_more_is_not_done() -> None:
    async with AgentRuntime() as runtime:
        ref = runtime.ref(Ledger, "a")
        with pytest.raises(GaveUp):
            await ref.ask("sleep 30", timeout=0.05)
        given_up = asyncio.ensure_future(ref.ask("sleep 20"))
        behind = asyncio.ensure_future(ref.ask("behind"))
        await asyncio.sleep(0)
        behind.cancel()
        await asyncio.sleep(0.05)
        given_up.cancel()
        assert await ref.ask("look", timeout=20.0) == []


async def test_an_actor_that_takes_too_long_is_ended_and_its_state_stands() -> None:
    class Slow(Ledger):
        timeout = 0.05

    async with AgentRuntime() as runtime:
        ref = runtime.ref(Slow, "a")
        await ref.ask("x")
        with pytest.raises(TaskTimeout):
            await ref.ask("sleep 30")
        assert await ref.ask("look") == ["x"]


async def test_an_actor_asks_another_by_name() -> None:
    async with AgentRuntime() as runtime:
        assert await runtime.ref(Asker, "a").ask("x") == ["x"]
        assert await runtime.ref(Ledger, "a").ask("y") == ["x", "y"]


async def test_an_instance_that_waits_too_long_is_let_go_and_its_state_is_not() -> None:
    async with AgentRuntime() as runtime:
        ref = runtime.ref(Brief, "a")
        await ref.ask("x")
        assert Brief.log == ["started"]
        await until(lambda: Brief.log == ["started", "idle"])
        await until(lambda: names(runtime).live("brief") == 0)
        assert await ref.ask("y") == ["x", "y"]
        assert Brief.log == ["started", "idle", "started"]


async def test_no_more_instances_wait_than_the_class_says_and_none_is_forgotten() -> None:
    async with AgentRuntime() as runtime:
        for number in range(20):
            await runtime.ref(Brief, f"n{number}").ask("x")
            assert names(runtime).live("brief") <= Brief.named.max_live + 1
        found = [await runtime.ref(Brief, f"n{number}").ask("y") for number in range(20)]
        assert found == [["x", "y"]] * 20


def names(runtime: AgentRuntime) -> Any:
    assert runtime._embedded is not None
    return runtime._embedded.names


async def test_an_actor_that_keeps_no_state_has_it_while_it_lives() -> None:
    async with AgentRuntime() as runtime:
        ref = runtime.ref(Counter, "a")
        assert await asyncio.gather(*(ref.ask(1) for _ in range(500))) == list(range(1, 501))


@pytest.mark.parametrize("message", ["no JSON", "much"])
async def test_a_state_that_cannot_be_kept_fails_its_message_and_the_old_one_stands(message: str) -> None:
    async with AgentRuntime() as runtime:
        ref = runtime.ref(Fragile, "a")
        assert await ref.ask("old") == "old"
        with pytest.raises(TaskFailed, match="state of fragile 'a'") as failed:
            await ref.ask(message)
        assert failed.value.error_type == "StateError"
        assert await ref.ask("") == "old"


async def test_a_snapshot_that_raises_fails_its_message_and_the_old_state_stands() -> None:
    async with AgentRuntime() as runtime:
        ref = runtime.ref(Fragile, "a")
        assert await ref.ask("old") == "old"
        Fragile.broken.add("snapshot")
        with pytest.raises(TaskFailed, match="could not be kept: OSError: no snapshot today"):
            await ref.ask("new")
        Fragile.broken.clear()
        assert await ref.ask("") == "old"


async def test_a_restore_that_raises_fails_messages_until_it_does_no_more() -> None:
    class Tired(Fragile):
        named = Named(idle_after=0.1)

    async with AgentRuntime() as runtime:
        ref = runtime.ref(Tired, "a")
        await ref.ask("old")
        await until(lambda: names(runtime).live("tired") == 0)
        Fragile.broken.add("restore")
        for _ in range(3):
            with pytest.raises(TaskFailed, match="could not be brought back: OSError: cannot be read"):
                await ref.ask("new")
        Fragile.broken.clear()
        assert await ref.ask("") == "old"


async def test_two_processes_that_share_a_store_never_lose_what_the_other_did(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/state.db"
    async with AgentRuntime(store=store) as a, AgentRuntime(store=store) as b:
        refs = a.ref(Ledger, "shared"), b.ref(Ledger, "shared")
        asks = [refs[number % 2].ask(f"m{number}") for number in range(30)]
        answers = await asyncio.wait_for(asyncio.gather(*asks), 50.0)
        (longest,) = [answer for answer in answers if len(answer) == 30]
        assert sorted(longest) == sorted(f"m{number}" for number in range(30))
        assert all(answer == longest[: len(answer)] for answer in answers)
    async with AgentRuntime(store=store) as later:
        assert await later.ref(Ledger, "shared").ask("look") == longest


@pytest.mark.parametrize(
    "key",
    ["", "   ", "x" * 201, "two\nlines", "\ud800", 7, None],
    ids=["empty", "blank", "long", "two lines", "half a character", "a number", "nothing"],
)
async def test_what_is_no_name_is_refused(key: Any) -> None:
    with pytest.raises(BadActorKey, match="no actor can be named"):
        AgentRuntime().ref(Ledger, key)


async def test_a_class_without_names_a_bad_message_and_half_a_state_are_refused() -> None:
    class Nameless(Actor[str, str]):
        """It has no names."""

    with pytest.raises(NotNamed, match="named = Named"):
        AgentRuntime().ref(Nameless, "a")
    async with AgentRuntime() as runtime:
        with pytest.raises(InputError):
            await runtime.ref(Counter, "a").ask("one")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs both"):
        type("Half", (Counter,), {"snapshot": lambda self: None})
    with pytest.raises(TypeError, match="must be Named"):
        type("Wrong", (Counter,), {"named": True})
    with pytest.raises(ValueError, match="idle_after"):
        Named(idle_after=0)


def test_the_shard_of_a_name_never_changes() -> None:
    assert [shard_of(key) for key in ("cart-17", "ä", "x" * 200)] == [3, 3, 6]
    assert SHARDS == 16
    assert mailbox_of("cart", 3) == "cart.3"
