"""The brokers that publishers and workers are tested on: in this process, and a real Redis."""

from collections.abc import AsyncIterator
from itertools import count

import pytest

from murmur import AgentRuntime
from murmur.worker import Worker
from tests.runtime.agents import Fails, Introvert, Moody, Nested, Researcher, Sleeper, Stepwise, WordStats, starts

AGENTS = (WordStats, Researcher, Fails, Sleeper, Nested, Stepwise, Moody, Introvert)
_numbers = count()


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    """A broker nobody else uses, as a URL."""
    if request.param == "memory":
        return f"memory://runtime-{next(_numbers)}"
    return str(request.getfixturevalue("redis_server").url)


@pytest.fixture
async def runtime(broker: str) -> AsyncIterator[AgentRuntime]:
    """A publisher on the broker, with one worker that serves all test agents."""
    async with (
        AgentRuntime(broker=broker) as runtime,
        Worker(broker=broker, agents=AGENTS, concurrency=20, prefetch=20, drain=1.0),
    ):
        yield runtime


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    """Forget what earlier tests counted."""
    starts.clear()
    Sleeper.cancelled.clear()
    Stepwise.paid.clear()
