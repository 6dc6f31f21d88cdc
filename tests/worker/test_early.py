"""Worker processes that end with nothing in hand: told once, and the end of a worker of which none ever lived."""

from collections.abc import Iterator

import pytest
from loguru import logger

from murmur.errors import WorkerNotStarted
from murmur.worker.early import EarlyEnds
from supervisors.reasons import Crashed, Exited
from tests.worker.dying_agents import Doomed
from tests.worker.test_pools import node

BAD = Exited(7)


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message}")
    yield lines
    logger.remove(sink)


def end(early: EarlyEnds, times: int, *, age: float = 0.1, alive: tuple[int, ...] = ()) -> None:
    for pid in range(1, times + 1):
        early.ended(BAD, pid=pid, age=age, alive=alive)


def test_processes_of_which_none_ever_lived_are_given_up_and_told_once(told: list[str]) -> None:
    early = EarlyEnds(1)
    end(early, 4)
    assert early.hopeless is None
    end(early, 1)
    assert "5 so far: exited with code 7" in str(early.hopeless)
    assert told == ["worker process 1 exited with code 7; it had nothing in hand\n"]


def test_another_reason_is_told_again_with_its_traceback(told: list[str]) -> None:
    early = EarlyEnds(1)
    end(early, 2)
    error = MemoryError("all")
    error.add_note("In the other process: …")
    early.ended(Crashed(error), pid=0, age=0.1, alive=())
    assert told[1:] == ["worker process ? crashed: MemoryError: all; it had nothing in hand\nIn the other process: …\n"]


def test_who_did_something_or_lived_for_long_is_not_given_up() -> None:
    for proven in (EarlyEnds.worked, lambda early: end(early, 1, age=60.0)):
        early = EarlyEnds(1)
        end(early, 3)
        proven(early)
        end(early, 100)
        assert early.hopeless is None


def test_as_long_as_another_process_lives_on_none_is_given_up() -> None:
    early = EarlyEnds(2)
    end(early, 100, alive=(1_000,))
    assert early.hopeless is None
    end(early, 1, alive=(1_001,))
    assert early.hopeless is not None


@pytest.mark.anyio
async def test_a_worker_whose_processes_end_as_soon_as_they_are_ready_ends_with_their_reason() -> None:
    with pytest.raises(WorkerNotStarted, match="exited with code 7"):
        await node("memory://doomed", Doomed, processes=1).run()
