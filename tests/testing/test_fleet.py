"""Simulated fleets: what holds for any course of kills, pauses and drains, found by seed."""

import asyncio
import random
from collections import Counter

import pytest

from murmur import Actor
from murmur.testing import SimulatedFleet

HOUR = 3_600.0


class Slow(Actor[int, int]):
    """Square a number, in an hour."""

    async def receive(self, number: int) -> int:
        await asyncio.sleep(HOUR)
        return number * number


def test_hours_of_work_pass_in_no_time_and_a_killed_worker_s_tasks_run_elsewhere() -> None:
    async def scenario(fleet: SimulatedFleet) -> float:
        for name in ("w0", "w1", "w2"):
            await fleet.start(name, agents=[Slow], concurrency=5)
        loop = asyncio.get_running_loop()
        began = loop.time()
        gathering = asyncio.create_task(fleet.runtime.gather(Slow, tasks=range(10)))
        await asyncio.sleep(HOUR / 2)
        fleet.kill("w0")
        results = await gathering
        assert [one.unwrap() for one in results] == [number * number for number in range(10)]
        assert Counter(one.metadata.attempts for one in results)[2] > 0
        return loop.time() - began

    assert HOUR <= SimulatedFleet.run(scenario) <= 2 * HOUR


@pytest.mark.parametrize("seed", range(25))
def test_every_task_is_answered_once_and_right_whatever_happens_to_workers(seed: int) -> None:
    dice = random.Random(seed)
    runs = Counter[int]()

    class Flaky(Actor[int, int]):
        """Square a number after a while; fail now and then."""

        async def receive(self, number: int) -> int:
            runs[number] += 1
            await asyncio.sleep(dice.uniform(0.0, 20.0))
            if dice.random() < 0.1:
                raise ConnectionError("the model did not answer")
            return number * number

    async def trouble(fleet: SimulatedFleet) -> None:
        while True:
            await asyncio.sleep(dice.uniform(1.0, 40.0))
            name = dice.choice(("w0", "w1", "w2"))
            match dice.choice(("kill", "stall", "drain")):
                case "kill":
                    fleet.kill(name)
                    await asyncio.sleep(dice.uniform(0.0, 40.0))
                    await fleet.start(name, agents=[Flaky], concurrency=4, lease=10.0)
                case "stall":
                    fleet.stall(name)
                    await asyncio.sleep(dice.uniform(0.0, 40.0))
                    fleet.resume(name)
                case "drain":
                    await fleet.stop(name)
                    await fleet.start(name, agents=[Flaky], concurrency=4, lease=10.0)

    async def scenario(fleet: SimulatedFleet) -> None:
        for name in ("w0", "w1", "w2"):
            await fleet.start(name, agents=[Flaky], concurrency=4, lease=10.0)
        troubling = asyncio.create_task(trouble(fleet))
        results = await fleet.runtime.gather(Flaky, tasks=range(60), max_concurrency=30)
        troubling.cancel()
        await asyncio.wait([troubling])
        assert [one.unwrap() for one in results] == [number * number for number in range(60)]
        # An attempt is stored before user code starts: none runs that was not counted.
        assert all(one.metadata.attempts >= runs[number] for number, one in enumerate(results))

    SimulatedFleet.run(scenario)
