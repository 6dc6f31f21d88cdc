"""Storms on a real Redis: whatever dies, freezes or is cut off, nothing is lost, doubled, changed or written late."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from murmur.envelope import VERSION, ResultMessage, encode
from murmur.store import Row, State
from tests.chaos.checker import Found, violations
from tests.chaos.history import note
from tests.chaos.storm import Report, Storm

pytestmark = pytest.mark.anyio
SEED = int(os.environ.get("STORM_SEED", "1"))
TASKS = int(os.environ.get("STORM_TASKS", "20000"))


def assert_whole(report: Report, faults: int) -> None:
    print(report)
    assert report.broken == [], "\n".join([str(report), *report.broken[:50]])
    assert report.faults.total() >= faults, "hardly anything went wrong: this proves nothing"


@pytest.mark.timeout(480)
async def test_a_storm_breaks_nothing(storm: Callable[..., Storm]) -> None:
    report = await storm(tasks=2_000, seed=SEED).run(calm_after=25.0)
    assert_whole(report, faults=8)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_minute_of_storm_on_nats_breaks_nothing(nats_storm: Callable[..., Storm]) -> None:
    report = await nats_storm(tasks=3_000, seed=SEED).run(calm_after=60.0)
    assert_whole(report, faults=15)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_a_long_storm_breaks_nothing(storm: Callable[..., Storm]) -> None:
    report = await storm(tasks=TASKS, seed=SEED).run()
    assert_whole(report, faults=TASKS // 400)


@pytest.mark.timeout(480)
async def test_a_storm_over_nodes_with_worker_processes_breaks_nothing(storm: Callable[..., Storm]) -> None:
    report = await storm(tasks=2_500, seed=SEED, processes=2).run(calm_after=20.0)
    assert_whole(report, faults=5)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_a_long_storm_over_worker_processes_breaks_nothing(storm: Callable[..., Storm]) -> None:
    report = await storm(tasks=TASKS, seed=SEED, processes=2).run()
    assert_whole(report, faults=TASKS // 400)


class Made:
    """A flawless history of twenty tasks, to be spoilt in one way."""

    def __init__(self, folder: Path) -> None:
        self.history, self.receiver = folder / "history.jsonl", folder / "receiver.db"
        self.rows: list[Row | None] = []
        self.letters = [b'{"reason":"x","dead_at":1,"agent":"storm","task_id":"storm.7"}']
        self.effects: list[str] = []
        for number in range(20):
            task, is_poison = f"storm.{number}", number == 7
            note(str(self.history), "start", task=task, token=1, attempt=1)
            answer = {"output": None, "error": "ConnectionError"} if is_poison else {"output": number**2, "error": None}
            note(str(self.history), "answer", task=task, number=number, **answer)
            result = encode(ResultMessage(v=VERSION, task_id=task, agent="storm", success=True, token=1))
            self.rows.append(Row(task, "storm", State.DONE, 1, 1, 0, 0, 0, None, result))
            if not is_poison:
                self.effects.append(task)

    def found(self) -> list[str]:
        import sqlite3

        sql = sqlite3.connect(self.receiver)
        with sql:
            sql.execute("CREATE TABLE effects (key TEXT, token INTEGER)")
            sql.executemany("INSERT INTO effects VALUES (?, 1)", [(key,) for key in self.effects])
        sql.close()
        return violations(Found(20, "storm", self.history, self.receiver, self.rows, self.letters))

    def say(self, kind: str, **fields: Any) -> None:
        note(str(self.history), kind, **fields)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_a_flawless_history_has_no_violations(made: Made) -> None:
    assert made.found() == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda made: made.say("answer", task="storm.3", number=3, output=10, error=None), "changed: storm.3"),
        (lambda made: made.say("answer", task="storm.99", number=99, output=1, error=None), "phantom: an answer"),
        (lambda made: made.say("start", task="storm.99", token=1, attempt=1), "phantom: a start"),
        (lambda made: made.say("start", task="storm.3", token=1, attempt=1), "duplicate: storm.3 started 2 times"),
        (lambda made: made.say("start", task="storm.3", token=2, attempt=2), "stale: "),
        (lambda made: made.effects.append("storm.3"), "duplicate: 2 effects of storm.3"),
        (lambda made: made.effects.remove("storm.3"), "lost: no effect of storm.3"),
        (lambda made: made.rows.__setitem__(3, None), "lost: the row of storm.3"),
        (lambda made: made.letters.clear(), "storm.7 has 0, not 1"),
        (lambda made: made.letters.extend(made.letters), "storm.7 has 2, not 1"),
        (lambda made: made.history.write_text(without(made.history, "storm.3")), "lost: no answer of storm.3"),
    ],
)
def test_the_checker_finds_what_is_broken(made: Made, spoil: Callable[[Made], object], word: str) -> None:
    spoil(made)
    assert any(problem.startswith(word) or word in problem for problem in made.found())


def without(history: Path, task: str) -> str:
    events = [json.loads(line) for line in history.read_text().splitlines()]
    return "".join(json.dumps(event) + "\n" for event in events if event["kind"] != "answer" or event["task"] != task)
