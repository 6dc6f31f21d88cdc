"""What a simulated course showed, and whether the invariants of docs/explanation/guarantees.md hold for it."""

import enum
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field, frozen

from murmur.envelope import decode_result
from murmur.policy import Redelivery
from murmur.store import Row
from murmur.task import AgentResult
from tests.simulation.plan import Kind, Plan

LIMIT: Final = Redelivery().max_deliveries


class Fate(enum.Enum):
    """What an actor does with a task, by its number."""

    GOOD = "good"  # returns its square
    FLAKY = "flaky"  # the same, after two attempts that raise
    REJECTED = "rejected"  # raises what would repeat
    POISON = "poison"  # raises what may pass, each time


def fate_of(number: int) -> Fate:
    """Return the fate of a task."""
    return (Fate.GOOD, Fate.GOOD, Fate.FLAKY, Fate.GOOD, Fate.REJECTED, Fate.GOOD, Fate.POISON)[number % 7]


def is_stubborn(number: int) -> bool:
    """Whether an actor ignores that it is cancelled while it works at a task."""
    return number % 3 == 1


@frozen
class Start:
    """User code began: which attempt at which task, when on the virtual clock."""

    task_id: str
    number: int
    token: int
    attempt: int
    at: float


@define
class Ledger:
    """Written while the course runs."""

    starts: list[Start] = field(factory=list)
    steps: list[tuple[str, int]] = field(factory=list)  # what `once` handed to an attempt, by task
    lists: list[Sequence[AgentResult[Any]]] = field(factory=list)  # of each gather that returned
    rows: dict[str, Row | None] = field(factory=dict)  # at the end
    letters: int = 0
    broken: list[str] = field(factory=list)  # what was found while it ran


def violations(plan: Plan, ledger: Ledger) -> list[str]:
    """Return what the course broke, each with its invariant; nothing is what it should return."""
    found = list(ledger.broken)
    if not ledger.lists:
        found.append("I1: no gather returned")
    for results in ledger.lists:
        found += _answers(plan, results)
    found += _submitted(ledger)
    if not plan.has_store:
        found += _bounded(plan, ledger)
    elif not plan.forgets:
        found += _one_result(ledger) + _fencing(ledger) + _letters(plan, ledger)
        found += [f"I5: once() of {task} was two values" for task in _of_two_minds(ledger)]
    if plan.is_calm:
        found += _no_theft(ledger)
    return found


def _answers(plan: Plan, results: Sequence[AgentResult[Any]]) -> list[str]:
    """I1, I17: one answer per task, in order, and the right one."""
    if len(results) != plan.tasks:
        return [f"I1: {plan.tasks} tasks, {len(results)} answers"]
    found = []
    for number, result in enumerate(results):
        fate = fate_of(number)
        expected = {Fate.REJECTED: "Reject", Fate.POISON: "ConnectionError"}.get(fate)
        if expected is None and (result.error is not None or result.output != number * number):
            found.append(f"I1: task {number} ({fate.value}) answered {result.output} {result.error!r}")
        if expected is not None and getattr(result.error, "error_type", None) != expected:
            found.append(f"I1: task {number} ({fate.value}) answered {result.output} {result.error!r}")
    return found


def _submitted(ledger: Ledger) -> list[str]:
    """I3: nothing runs that was not submitted."""
    asked = {result.task_id for results in ledger.lists for result in results}
    return [f"I3: {start} was never submitted" for start in ledger.starts if start.task_id not in asked]


def _one_result(ledger: Ledger) -> list[str]:
    """I2: all who ask hear the same, and the row says so too."""
    found = []
    for task_id, row in ledger.rows.items():
        if row is None or not row.state.is_terminal or row.result is None:
            found.append(f"I1: {task_id} ended in {row}")
            continue
        truth = decode_result(row.result)
        found += [
            f"I2: {task_id} was heard with attempts {heard.metadata.attempts}, stored {truth.attempts}"
            for results in ledger.lists
            for heard in results
            if heard.task_id == task_id and heard.metadata.attempts != truth.attempts
        ]
        if truth.token != row.token:
            found.append(f"I5: {task_id} has a result of token {truth.token}, the last grant was {row.token}")
        if truth.attempts != row.attempts:
            found.append(f"I4: {task_id} says {truth.attempts} attempts, its row {row.attempts}")
    return found


def _fencing(ledger: Ledger) -> list[str]:
    """I4, I5: each start has its own token, stored before it, and no later one than the row knows."""
    times = Counter((start.task_id, start.token) for start in ledger.starts)
    found = [
        f"I5: {task_id} started {count} times under token {token}"
        for (task_id, token), count in times.items()
        if count > 1
    ]
    for start in ledger.starts:
        row = ledger.rows.get(start.task_id)
        if row is not None and (start.token > row.token or start.attempt > row.attempts):
            found.append(f"I4: {start} is not counted in {row.token}, {row.attempts}")
        if row is not None and row.failures >= LIMIT:
            found.append(f"I9: {start.task_id} failed {row.failures} times and went on")
    return found


def _letters(plan: Plan, ledger: Ledger) -> list[str]:
    """I9: one dead letter for each poison, none for any other."""
    poison = sum(fate_of(number) is Fate.POISON for number in range(plan.tasks))
    return [] if ledger.letters == poison else [f"I9: {poison} poisonous tasks, {ledger.letters} dead letters"]


def _bounded(plan: Plan, ledger: Ledger) -> list[str]:
    """I9, of a broker alone: each copy of a poisonous task fails so often at most, and is buried.

    A worker that dies, stalls or is drained may have each task started once more; a stranger brings another copy.
    """
    poison = [number for number in range(plan.tasks) if fate_of(number) is Fate.POISON]
    copies = Counter(trouble.which % plan.tasks for trouble in plan.troubles if trouble.kind is Kind.STRANGER)
    starts = Counter(start.number for start in ledger.starts)
    most = {number: LIMIT * (1 + copies[number]) + len(plan.troubles) for number in poison}
    found = [
        f"I9: task {one} started {starts[one]} times, at most {most[one]}" for one in poison if starts[one] > most[one]
    ]
    letters = sum(1 + copies[number] for number in poison)
    if not len(poison) <= ledger.letters <= letters:
        found.append(f"I9: {len(poison)} poisonous tasks, {ledger.letters} dead letters")
    return found


def _of_two_minds(ledger: Ledger) -> set[str]:
    values: dict[str, set[int]] = {}
    for task_id, value in ledger.steps:
        values.setdefault(task_id, set()).add(value)
    return {task_id for task_id, seen in values.items() if len(seen) > 1}


def _no_theft(ledger: Ledger) -> list[str]:
    """I11: where nothing goes wrong, nothing starts twice but what failed."""
    starts = Counter(start.number for start in ledger.starts)
    expected = {Fate.GOOD: 1, Fate.REJECTED: 1, Fate.FLAKY: 3, Fate.POISON: LIMIT}
    return [
        f"I11: task {number} started {count} times, not {expected[fate_of(number)]}"
        for number, count in starts.items()
        if count != expected[fate_of(number)]
    ]
