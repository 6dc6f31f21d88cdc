"""One open task as its publisher sees it, and how a ResultMessage becomes an `AgentResult`."""

import time
from typing import Any, Protocol

from murmur.codec import Misfit
from murmur.envelope import VERSION, ResultMessage, encode
from murmur.errors import MurmurError, OutputError, TaskCancelled, TaskFailed
from murmur.errors.results import failure_class
from murmur.registry import AgentEntry
from murmur.store import NewTask
from murmur.task import AgentResult, Metadata


class Asker(Protocol):
    """Whoever waits for slots: told once of each."""

    def finished(self, slot: "Slot", result: AgentResult[Any]) -> None:
        """A slot has its result."""


class Slot:
    """A task between its publishing and its result. Forgotten the moment the result is there."""

    __slots__ = ("asker", "entry", "index", "is_open", "is_shared", "next", "opened_at", "orphaned_at", "task")

    def __init__(self, asker: Asker, entry: AgentEntry, index: int, task: NewTask, *, opened_at: float) -> None:
        self.asker = asker
        self.entry = entry
        self.index = index
        self.task = task
        self.opened_at = opened_at  # loop time, seconds
        self.orphaned_at: float | None = None  # loop time since when its row waits beside an empty mailbox
        self.is_open = True
        self.is_shared = False  # somebody published it before us: the bell rings elsewhere, so we ask
        self.next: Slot | None = None  # another slot of this publisher that waits for the same task

    def finish(self, result: AgentResult[Any]) -> None:
        """Hand the result over, the first time only."""
        if self.is_open:
            self.is_open = False
            self.asker.finished(self, result)

    def fail(self, error: MurmurError) -> None:
        """Answer with an error of ours."""
        self.finish(AgentResult(task_id=self.task.task_id, agent_name=self.entry.name, error=error))


def result_of(message: ResultMessage, entry: AgentEntry) -> AgentResult[Any]:
    """Return what a ResultMessage says, its output structured as the agent declares."""
    metadata = Metadata(
        attempts=message.attempts,
        duration_ms=message.duration_ms,
        queued_ms=message.queued_ms,
        tokens_used=message.tokens_used,
        model=message.model,
        worker_id=message.worker_id,
    )
    output: Any = None
    error: MurmurError | None = None
    if message.success:
        try:
            output = entry.output.decode(message.output)
        except Misfit as misfit:
            error = OutputError(
                agent=entry.name, task_id=message.task_id, expected=entry.output.type_name, problems=misfit.problems
            )
    else:
        error = _error_of(message)
    return AgentResult(task_id=message.task_id, agent_name=message.agent, output=output, error=error, metadata=metadata)


def cancelled_result(task_id: str, agent: str, batch_id: str | None, why: str) -> bytes:
    """Return the encoded result of a task its publisher no longer wants."""
    return encode(
        ResultMessage(
            v=VERSION,
            task_id=task_id,
            agent=agent,
            batch_id=batch_id,
            success=False,
            error_type=TaskCancelled.__name__,
            error_message=why,
            finished_at=time.time(),
        )
    )


def _error_of(message: ResultMessage) -> TaskFailed:
    return failure_class(message.error_type)(
        task_id=message.task_id,
        agent=message.agent,
        error_type=message.error_type or "unknown",
        message=message.error_message or "",
        retryable=message.retryable,
    )
