"""Instances of one agent: how one that cannot be started is told."""

from collections.abc import Iterator

import pytest
from loguru import logger

from murmur import Actor
from murmur.errors import ActorBroken
from murmur.policy import Redelivery
from murmur.registry import entry_of
from murmur.worker.host import Host

pytestmark = pytest.mark.anyio


class Weak(Actor[str, str]):
    """Starts unless told what to raise."""

    raises: Exception | None = None

    async def started(self) -> None:
        if self.raises is not None:
            raise self.raises

    async def receive(self, message: str) -> str:
        return message


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message}", backtrace=False)
    yield lines
    logger.remove(sink)


async def test_an_actor_that_cannot_start_is_told_whole_once_and_then_in_a_line(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(entry_of(Weak), Weak, Redelivery(), lambda _host, _why: None)

    async def fails(error: Exception) -> str:
        monkeypatch.setattr(Weak, "raises", error)
        told.clear()
        with pytest.raises(ActorBroken):
            await host.instance()
        return told[0]

    assert "Traceback" in await fails(ConnectionError("no\ndatabase"))
    assert await fails(ConnectionError("no\ndatabase")) == (
        "an actor of weak could not be started: ConnectionError: no\\ndatabase\n"
    )
    assert "Traceback" in await fails(KeyError("something else"))
    monkeypatch.setattr(Weak, "raises", None)
    await host.instance()
    assert "Traceback" in await fails(KeyError("again"))
