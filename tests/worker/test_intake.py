"""The intake: reads for what there is room for now, and notices what nobody tells it."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence

import pytest
from msgspec import Raw

from murmur import wiring
from murmur.envelope import TaskMessage, encode
from murmur.store import Claim, NewTask
from murmur.task_queue import TaskQueue, Work
from murmur.worker.intake import Intake
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots
from tests.worker.test_processes import until

pytestmark = pytest.mark.anyio
_numbers = itertools.count(1)


class Place:
    """Has the room it is told to have, and keeps what it is given."""

    def __init__(self, **room: int) -> None:
        self.has = room
        self.begun: list[str] = []
        self.broken: dict[str, str] = {}

    @property
    def free(self) -> int:
        return sum(self.has.values())

    def room(self) -> Mapping[str, int]:
        return {name: count for name, count in self.has.items() if count}

    def begin(self, work: Work) -> None:
        self.begun.append(work.message.agent)
        self.has[work.message.agent] -= 1

    def lose(self, claim_of: object) -> None: ...

    def claims(self) -> list[Claim]:
        return []

    async def drain(self, seconds: float) -> None: ...


async def queue_with(*agents: str) -> TaskQueue:
    broker = f"memory://intake-{next(_numbers)}"
    queue = wiring.connect(broker, store=None, namespace="", consumer_id="w", lease=30.0, retention=60.0)
    await queue.open(owner="w", lease=30.0)
    await queue.open_tasks(["a", "b", "c"])
    await submit(queue, *agents)
    return queue


async def submit(queue: TaskQueue, *agents: str) -> None:
    tasks: list[NewTask] = []
    for number, agent in enumerate(agents):
        message = TaskMessage(v=1, task_id=f"{agent}-{number}", agent=agent, input=Raw(b"0"))
        tasks.append(NewTask(message.task_id, agent, queue.topics.tasks(agent), encode(message)))
    await queue.submit(tasks)


def intake(queue: TaskQueue, places: Sequence[Place]) -> Intake:
    settler = Settler(queue, on_stale=lambda _: None, on_delayed=lambda: None)
    return Intake(
        queue,
        settler,
        Slots(100),
        10,
        lambda: places,
        lambda work: next(p for p in places if work.message.agent in p.has),
    )


async def test_no_place_gets_more_than_it_has_room_for_whichever_agents_the_messages_are_for() -> None:
    queue = await queue_with(*["a"] * 10, *["b"] * 10)
    places = [Place(a=2, c=0), Place(b=3)]
    running = asyncio.ensure_future(intake(queue, places).run())
    await until(lambda: sum(len(place.begun) for place in places) == 5)
    await asyncio.sleep(0.1)
    running.cancel()
    assert [place.begun for place in places] == [["a"] * 2, ["b"] * 3]
    await queue.close()


async def test_room_that_comes_for_another_agent_ends_a_read_that_does_not_ask_for_it() -> None:
    queue = await queue_with("b")
    place = Place(a=1, b=0)
    taking = intake(queue, [place])
    running = asyncio.ensure_future(taking.run())
    await until(lambda: taking._receiving is not None)
    place.has["b"] = 1
    taking.roomier()
    await until(lambda: place.begun == ["b"], within=3.0)  # a read waits 5 s
    running.cancel()
    await queue.close()


async def test_room_that_nobody_tells_of_is_found() -> None:
    queue = await queue_with("a")
    place = Place(a=0)
    running = asyncio.ensure_future(intake(queue, [place]).run())
    await asyncio.sleep(0.05)
    place.has["a"] = 1
    await until(lambda: place.begun == ["a"])
    running.cancel()
    await queue.close()
