"""Choosing dead letters, and sending their tasks again.

A replayed task is a new one: it has an id of its own, made from the old one and the letter, so that a
replay which broke off and is repeated finds what it sent before. It keeps its idempotency key: work that
was done after all is answered with its output instead of being done twice.
"""

import asyncio
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from attrs import frozen

from murmur.envelope import DeadLetter, TaskMessage, decode_letter, decode_task, encode
from murmur.errors import BadEnvelope, OutcomeUnknown
from murmur.ids import check_task_id
from murmur.patience import patiently
from murmur.store import NewTask
from murmur.task_queue import TaskQueue
from murmur.transport import Refusal

_AGAIN: Final = re.compile(r"\.again-[0-9a-f]{12}\Z")
_WITHIN: Final = 10.0  # seconds one task may take to be sent


@frozen
class Letter:
    """A dead letter, as stored and as decoded."""

    raw: bytes
    content: DeadLetter

    @property
    def group(self) -> tuple[str, str]:
        """Why it died: the reason, numbers left out, and the type of the last error."""
        errors = self.content.errors
        return re.sub(r"\d+", "N", self.content.reason), errors[-1].error_type if errors else ""


@frozen
class Choice:
    """Which letters are meant; what is None does not matter."""

    task_ids: frozenset[str] | None = None
    error: str | None = None  # the type of the last error
    reason: str | None = None  # part of the reason
    older_than: float | None = None  # seconds

    def takes(self, letter: Letter, *, now: float) -> bool:
        """Whether a letter is meant; `now` in UTC seconds."""
        content = letter.content
        return (
            (self.task_ids is None or content.task_id in self.task_ids)
            and (self.error is None or letter.group[1] == self.error)
            and (self.reason is None or self.reason in content.reason)
            and (self.older_than is None or now - content.dead_at >= self.older_than)
        )


@frozen
class Replayed:
    """What became of one letter: the new task's id, or why there is none."""

    letter: Letter
    task_id: str | None
    problem: str = ""


async def read(queue: TaskQueue, agent: str, *, limit: int) -> list[Letter]:
    """Return the newest letters of an agent, newest first."""
    return [Letter(bytes(raw), decode_letter(raw)) for raw in await queue.dead_letters(agent, limit=limit)]


def grouped(letters: Iterable[Letter]) -> list[tuple[tuple[str, str], int]]:
    """Return the groups of letters with how many there are of each, most first."""
    return Counter(letter.group for letter in letters).most_common()


async def replay(
    queue: TaskQueue,
    agent: str,
    letters: Sequence[Letter],
    *,
    rate: float | None = None,
    told: Callable[[Replayed], None] = lambda _: None,
) -> list[Replayed]:
    """Send the tasks of letters again, oldest first, and forget each letter whose task was accepted.

    Args:
        queue: an open queue.
        agent: whose letters they are.
        letters: as `read` returned them.
        rate: tasks a second at most; None: as fast as they are accepted.
        told: called with each as it is done.
    """
    await queue.open_tasks([agent])
    done = []
    for number, letter in enumerate(reversed(letters)):
        if number and rate:
            await asyncio.sleep(1 / rate)
        one = await _sent(queue, agent, letter)
        if one.task_id is not None:
            await patiently(lambda raw=letter.raw: queue.forget_letters(agent, [raw]), within=_WITHIN)  # type: ignore[misc]
        done.append(one)
        told(one)
    return done


async def _sent(queue: TaskQueue, agent: str, letter: Letter) -> Replayed:
    try:
        task = _again(letter)
    except BadEnvelope as error:
        return Replayed(letter, None, f"it holds no task: {error}")
    body = encode(task)
    new = NewTask(task.task_id, agent, queue.topics.tasks(agent), body, None, task.headers)
    try:
        (answer,) = await patiently(lambda: queue.submit([new]), within=_WITHIN)
    except OutcomeUnknown as error:
        return Replayed(letter, None, str(error))
    if isinstance(answer, Refusal):
        return Replayed(letter, None, answer.problem)
    return Replayed(letter, task.task_id)


def _again(letter: Letter) -> TaskMessage:
    """Return the task of a letter as a new one. Raises `BadEnvelope` where there is none."""
    if letter.content.task_id is None:
        raise BadEnvelope(problem="its bytes were no envelope")
    task = decode_task(bytes(letter.content.task))
    name = hashlib.blake2b(letter.raw, digest_size=6).hexdigest()
    task.idempotency_key = task.idempotency_key or _AGAIN.sub("", task.task_id)
    task.task_id = check_task_id(f"{_AGAIN.sub('', task.task_id)}.again-{name}")
    task.reply_to = task.deadline = task.batch_id = None  # nobody waits for it any more
    task.sent_at = time.time()
    return task
