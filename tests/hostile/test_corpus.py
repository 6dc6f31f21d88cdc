"""Hostile bytes never reach user code, and the next good message is served: on memory and on a real Redis."""

import asyncio
from itertools import count
from typing import ClassVar

import pytest

from murmur import Actor, AgentRuntime, wiring
from murmur.envelope import decode_letter
from murmur.task_queue import TaskQueue
from murmur.transport import Outgoing
from murmur.worker import Worker
from tests.brokers.redis_server import RedisServer
from tests.hostile.corpus import AGENT, corpus

pytestmark = pytest.mark.anyio
CORPUS = list(corpus())
_numbers = count()


class Victim(Actor[int, int]):
    """Counts what reached it."""

    seen: ClassVar[list[int]] = []

    async def receive(self, number: int) -> int:
        self.seen.append(number)
        return number


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    Victim.seen.clear()
    if request.param == "memory":
        return f"memory://hostile-{next(_numbers)}"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


async def opened(broker: str) -> TaskQueue:
    queue = wiring.connect(broker, store=None, namespace="", consumer_id="foe", lease=None, retention=60.0)
    await queue.open(owner="foe", lease=None)
    await queue.open_tasks([AGENT])
    return queue


async def test_each_hostile_input_is_told_and_the_next_good_message_is_served(broker: str) -> None:
    assert len(CORPUS) >= 60
    assert len({name for name, _, _ in CORPUS}) == len(CORPUS)
    queue = await opened(broker)
    wrong = []
    async with AgentRuntime(broker=broker) as runtime, Worker(broker=broker, agents=[Victim], drain=1.0):
        for number, (name, body, word) in enumerate(CORPUS):
            await queue.transport.publish([Outgoing(f"{AGENT}.tasks", body, f"foe-{number}")])
            good = await runtime.run(Victim, number, timeout=20.0)
            assert good.output == number, (name, good.error)
            async with asyncio.timeout(10.0):
                while len(letters := await queue.dead_letters(AGENT, limit=500)) < number + 1:
                    await asyncio.sleep(0.01)
            letter = decode_letter(letters[0])
            if word not in letter.reason:
                wrong.append((name, letter.reason))
    assert wrong == [], "\n".join(map(str, wrong))
    assert Victim.seen == list(range(len(CORPUS)))
    assert max(len(letter) for letter in letters) < 13_000_000
    await queue.close()


async def test_all_of_it_at_once_is_survived_too(broker: str) -> None:
    queue = await opened(broker)
    await queue.transport.publish(
        [Outgoing(f"{AGENT}.tasks", body, f"foe-{number}") for number, (_, body, _) in enumerate(CORPUS)]
    )
    async with AgentRuntime(broker=broker) as runtime, Worker(broker=broker, agents=[Victim], drain=1.0):
        results = await runtime.gather(Victim, tasks=range(20), timeout=30.0)
        assert [result.output for result in results] == list(range(20))
        async with asyncio.timeout(20.0):
            while len(await queue.dead_letters(AGENT, limit=500)) < len(CORPUS):
                await asyncio.sleep(0.05)
    assert sorted(Victim.seen) == list(range(20))
    await queue.close()


async def test_hostile_results_in_an_inbox_change_nothing(broker: str) -> None:
    queue = await opened(broker)
    async with AgentRuntime(broker=broker) as runtime, Worker(broker=broker, agents=[Victim], drain=1.0):
        await runtime.run(Victim, 0)
        inbox = queue.topics.inbox(runtime.runtime_id)
        await queue.transport.publish(
            [Outgoing(inbox, body, f"foe-{number}") for number, (_, body, _) in enumerate(CORPUS)]
        )
        results = await runtime.gather(Victim, tasks=range(20), timeout=30.0)
        assert [result.output for result in results] == list(range(20))
    await queue.close()
