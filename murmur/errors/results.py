"""How a task ended, E3xx."""

from typing import ClassVar

from attrs import define

from murmur.errors.base import MurmurError


@define(slots=False)
class TaskFailed(MurmurError):
    """A task ended in an error. `error_type` is the class name of what was raised where it ran."""

    code: ClassVar[str] = "E301"
    task_id: str
    agent: str
    error_type: str
    message: str
    retryable: bool = False

    def __str__(self) -> str:
        return f"{self.agent} failed on task {self.task_id} with {self.error_type}: {self.message}"


@define(slots=False)
class TaskTimeout(TaskFailed, TimeoutError):
    """An attempt took longer than its agent's `timeout`."""

    code: ClassVar[str] = "E304"


@define(slots=False)
class TaskExpired(TaskFailed):
    """The deadline of a task passed before it began."""

    code: ClassVar[str] = "E307"


@define(slots=False)
class TaskCancelled(TaskFailed):
    """A task was cancelled by its publisher or an operator."""

    code: ClassVar[str] = "E308"


@define(slots=False)
class TaskLost(TaskFailed):
    """A task's workers died or vanished so often that it was given up."""

    code: ClassVar[str] = "E309"


@define(slots=False)
class OutputError(MurmurError, ValueError):
    """A result does not fit what the publisher expects of this agent."""

    code: ClassVar[str] = "E302"
    agent: str
    task_id: str
    expected: str
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"result of {self.agent} (task {self.task_id}) does not fit {self.expected}: {'; '.join(self.problems)}"


def failure_class(error_type: str | None) -> type[TaskFailed]:
    """Return the class of the error with which a task ended, by the name that stands in its result."""
    known: tuple[type[TaskFailed], ...] = (TaskTimeout, TaskExpired, TaskCancelled, TaskLost)
    return {cls.__name__: cls for cls in known}.get(error_type or "", TaskFailed)


class Reject(MurmurError):
    """Raise it in `receive` to fail a task for good: it would fail the same way again."""

    code: ClassVar[str] = "E305"
