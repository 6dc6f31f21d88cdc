"""What a history broke: lost, duplicate, changed, phantom and stale, by the invariants of the guarantees."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from murmur.envelope import decode_letter, decode_result
from murmur.ids import task_id_in_batch
from murmur.store import Row
from tests.chaos.agents import is_poison
from tests.chaos.history import events


@frozen
class Found:
    """A history, and what the store and the receiver hold at its end."""

    tasks: int
    batch: str
    history: Path
    receiver: Path
    rows: Sequence[Row | None]
    letters: Sequence[bytes]
    garbage: int = 0  # messages that were no task


def violations(found: Found) -> list[str]:
    """Return what was broken; nothing is what it should return."""
    submitted = {task_id_in_batch(found.batch, number): number for number in range(found.tasks)}
    return [
        *_answers(found, submitted),
        *_starts(found, submitted),
        *_rows(found, submitted),
        *_effects(found, submitted),
        *_letters(found, submitted),
    ]


def _answers(found: Found, submitted: Mapping[str, int]) -> list[str]:
    """I1, I2: each task has an answer, the right one, and the same whoever asks."""
    heard: dict[str, set[Any]] = defaultdict(set)
    for event in events(found.history, "answer"):
        heard[event["task"]].add((event["output"], event["error"]))
    problems = [f"phantom: an answer of {task}" for task in heard.keys() - submitted.keys()]
    for task, number in submitted.items():
        right = (None, "ConnectionError") if is_poison(number) else (number * number, None)
        answers = heard.get(task, set())
        if not answers:
            problems.append(f"lost: no answer of {task}")
        elif len(answers) > 1:
            problems.append(f"changed: {task} was answered {answers}")
        elif answers != {right}:
            problems.append(f"wrong: {task} was answered {answers}, not {right}")
    return problems


def _starts(found: Found, submitted: Mapping[str, int]) -> list[str]:
    """I3, I4, I5: what starts was submitted, each start has a token of its own, and none is later than the row's."""
    tokens: Counter[tuple[str, int]] = Counter()
    rows = dict(zip(submitted, found.rows, strict=True))
    problems = []
    for event in events(found.history, "start"):
        tokens[event["task"], event["token"]] += 1
        row = rows.get(event["task"])
        if event["task"] not in submitted:
            problems.append(f"phantom: a start of {event['task']}")
        elif row is not None and (event["token"] > row.token or event["attempt"] > row.attempts):
            problems.append(f"stale: {event} is later than its row, {row.token} and {row.attempts}")
    return problems + [
        f"duplicate: {task} started {n} times under {token}" for (task, token), n in tokens.items() if n > 1
    ]


def _rows(found: Found, submitted: Mapping[str, int]) -> list[str]:
    """I5: the result that stands was written under the last token."""
    problems = []
    for task, row in zip(submitted, found.rows, strict=True):
        if row is None or row.result is None:
            problems.append(f"lost: the row of {task} is {row and row.state}")
        elif (token := decode_result(row.result).token) != row.token:
            problems.append(f"stale: the result of {task} is of token {token}, its row of {row.token}")
    return problems


def _effects(found: Found, submitted: Mapping[str, int]) -> list[str]:
    """I7: with the key in the effect's own transaction, one effect for each task that succeeded."""
    sql = sqlite3.connect(found.receiver)
    booked = Counter(key for (key,) in sql.execute("SELECT key FROM effects"))
    sql.close()
    problems = [f"duplicate: {count} effects of {task}" for task, count in booked.items() if count > 1]
    problems += [f"phantom: an effect of {task}" for task in booked.keys() - submitted.keys()]
    good = {task for task, number in submitted.items() if not is_poison(number)}
    return problems + [f"lost: no effect of {task}" for task in good - booked.keys()]


def _letters(found: Found, submitted: Mapping[str, int]) -> list[str]:
    """I9: one dead letter for each poisonous task and each message that was none, and no other."""
    dead = Counter(decode_letter(letter).task_id for letter in found.letters)
    garbage = dead.pop(None, 0)
    problems = [] if garbage == found.garbage else [f"dead letters: {garbage} of garbage, not {found.garbage}"]
    poison = Counter(task for task, number in submitted.items() if is_poison(number))
    return problems + [
        f"dead letters: {task} has {dead[task]}, not {poison[task]}"
        for task in dead.keys() | poison.keys()
        if dead[task] != poison[task]
    ]
