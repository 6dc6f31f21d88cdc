"""What a publisher hands in and gets back: `TaskSpec` and `AgentResult`."""

from typing import Generic, TypeVar

import msgspec
from attrs import field, frozen
from attrs.validators import ge, instance_of, optional

from murmur.errors import MurmurError
from murmur.ids import check_task_id, uuid7

In = TypeVar("In")
Out = TypeVar("Out")


def _id_or_none(_: object, __: object, value: str | None) -> None:
    if value is not None:
        check_task_id(value)


@frozen(kw_only=True)
class TaskSpec(Generic[In]):
    """One task: its input, and what deviates from the defaults.

    `id`: the task's name, a new UUID 7 unless given; the same id published again is the same task.
    `timeout`: seconds per attempt, over the actor's own. `headers` travel with the task to the actor.
    """

    input: In = field(kw_only=False)
    given_id: str | None = field(default=None, alias="id", validator=[optional(instance_of(str)), _id_or_none])
    idempotency_key: str | None = field(default=None, validator=optional(instance_of(str)))
    timeout: float | None = field(default=None, validator=optional(ge(0.001)))
    headers: dict[str, str] = field(factory=dict)
    priority: int = field(default=0, validator=instance_of(int))
    _made_id: str = field(factory=uuid7, init=False, repr=False, eq=False)

    @property
    def id(self) -> str:
        """The task's id: the given one, else one made for this spec."""
        return self.given_id or self._made_id


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """How a result came about. Durations in milliseconds; None where nothing was measured."""

    attempts: int = 0
    duration_ms: int = 0
    queued_ms: int = 0
    tokens_used: int | None = None
    model: str | None = None
    worker_id: str | None = None
    trace_id: str | None = None


class AgentResult(msgspec.Struct, Generic[Out], frozen=True, kw_only=True):
    """How one task ended: an output, or an error."""

    task_id: str
    agent_name: str
    output: Out | None = None
    error: MurmurError | None = None
    metadata: Metadata = Metadata()

    def is_ok(self) -> bool:
        """Whether there is an output."""
        return self.error is None

    def unwrap(self) -> Out:
        """Return the output, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.output  # type: ignore[return-value]  # a result without an error has its output, None included
