"""murmur as a benchmark uses it: the public API only, with the settings of the raw loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from attrs import frozen

from benchmarks.bodies import ANSWER, SECOND, WAIT
from murmur import Actor, AgentRuntime, TaskSpec
from murmur.worker import Worker

LEASE_MS = 2_000  # of the lease benchmark; its tasks take five times as long


class Echo(Actor[str, str]):
    """Answers at once."""

    async def receive(self, text: str) -> str:
        del text
        return ANSWER


class Wait(Actor[str, str]):
    """Answers after a wait, as a call to a model would."""

    async def receive(self, text: str) -> str:
        del text
        await asyncio.sleep(WAIT)
        return ANSWER


class Second(Actor[str, str]):
    """Answers after a second."""

    async def receive(self, text: str) -> str:
        del text
        await asyncio.sleep(SECOND)
        return ANSWER


class Slow(Actor[str, str]):
    """Takes five leases of the lease benchmark."""

    async def receive(self, text: str) -> str:
        del text
        await asyncio.sleep(5 * LEASE_MS / 1_000)
        return ANSWER


AGENTS = {cls.name: cls for cls in (Echo, Wait, Second, Slow)}


@frozen
class FleetPublisher:
    """Publishes to one agent."""

    runtime: AgentRuntime
    agent: type[Actor[str, str]]

    async def gather(self, inputs: Iterable[str], max_concurrency: int) -> list[str]:
        results = await self.runtime.gather(self.agent, tasks=inputs, max_concurrency=max_concurrency)
        return [result.unwrap() for result in results]

    async def run(self, text: str) -> str:
        return (await self.runtime.run(self.agent, TaskSpec(input=text))).unwrap()

    async def attempts(self, inputs: Sequence[str]) -> int:
        """Run a task per input, all at once, and return how often one was started."""
        results = await self.runtime.gather(self.agent, tasks=inputs, max_concurrency=len(inputs))
        return sum(result.metadata.attempts for result in results if result.unwrap())


@asynccontextmanager
async def publishing(url: str, agent: str, store: str | None = None) -> AsyncIterator[FleetPublisher]:
    """Give a publisher."""
    async with AgentRuntime(broker=url, store=store) as runtime:
        yield FleetPublisher(runtime, AGENTS[agent])


@asynccontextmanager
async def working(url: str, agents: tuple[str, ...], concurrency: int, store: str | None = None) -> AsyncIterator[None]:
    """Consume the tasks of agents until the block is left. An agent that is not above idles."""
    served = {name: AGENTS.get(name, Echo) for name in agents}
    lease_ms = LEASE_MS if Slow.name in agents else 30_000
    async with Worker(
        broker=url,
        store=store,
        agents=served,
        concurrency=concurrency,
        prefetch=concurrency,
        reclaim_min_idle_ms=lease_ms,
        heartbeat=0,  # the clients of the control plane would be imported while we measure
    ):
        yield
