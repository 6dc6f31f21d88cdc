"""Errors of publishing, E2xx."""

from typing import ClassVar

from attrs import define

from murmur.errors.base import MurmurError
from murmur.nearest import nearest


@define(slots=False)
class UnknownAgent(MurmurError, LookupError):
    """No agent of this name is known here."""

    code: ClassVar[str] = "E201"
    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        if not self.known:
            return (
                f"no agent {self.name!r}: none is registered. "
                f'Register its class, or name one served elsewhere: Remote("{self.name}")'
            )
        return f"no agent {self.name!r}; known, nearest first: {', '.join(nearest(self.name, self.known))}"


@define(slots=False)
class BadAgentName(MurmurError, TypeError):
    """An agent's name cannot become part of a topic."""

    code: ClassVar[str] = "E202"
    name: str
    where: str

    def __str__(self) -> str:
        return (
            f"{self.where}: agent name {self.name} must match [a-z][a-z0-9_-]{{0,62}}: "
            "a lower-case letter, then up to 62 lower-case letters, digits, '_' or '-'"
        )


@define(slots=False)
class InputError(MurmurError, ValueError):
    """An input does not fit what its agent takes."""

    code: ClassVar[str] = "E203"
    agent: str
    expected: str
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"input of {self.agent} does not fit {self.expected}: {'; '.join(self.problems)}"


@define(slots=False)
class PayloadTooLarge(MurmurError, ValueError):
    """An encoded envelope is larger than the broker or we allow."""

    code: ClassVar[str] = "E204"
    what: str
    size: int  # bytes
    limit: int  # bytes

    def __str__(self) -> str:
        return (
            f"{self.what} takes {self.size:,} bytes, at most {self.limit:,} are allowed; "
            "pass a reference (a path, a key) instead of the content"
        )


@define(slots=False)
class BadTaskId(MurmurError, ValueError):
    """A task or batch id cannot become part of a key."""

    code: ClassVar[str] = "E205"
    task_id: str

    def __str__(self) -> str:
        return (
            f"id {self.task_id!r} must be 1 to 200 characters of A-Z a-z 0-9 . _ : / - and begin with a letter or digit"
        )


@define(slots=False)
class DuplicateTaskId(MurmurError, ValueError):
    """Two tasks of one gather bear the same id."""

    code: ClassVar[str] = "E206"
    task_id: str
    first: int
    second: int

    def __str__(self) -> str:
        return (
            f"tasks {self.first} and {self.second} of one gather have the same id {self.task_id!r}; give each its own"
        )


@define(slots=False)
class SpawnError(MurmurError):
    """A task could not be published."""

    code: ClassVar[str] = "E207"
    task_id: str
    agent: str
    problem: str
    definite: bool = True  # False: whether the broker took it is unknown

    def __str__(self) -> str:
        doubt = (
            ""
            if self.definite
            else " (whether the broker took it is unknown; the same id can be submitted again safely)"
        )
        return f"task {self.task_id} for {self.agent} was not published: {self.problem}{doubt}"


@define(slots=False)
class BatchConflict(MurmurError, ValueError):
    """A named batch was begun with other tasks."""

    code: ClassVar[str] = "E208"
    batch_id: str
    index: int
    problem: str

    def __str__(self) -> str:
        return (
            f"batch {self.batch_id!r} was begun with other tasks: {self.problem} at index {self.index}. "
            "Resume it with the same list, or choose another batch_id"
        )


@define(slots=False)
class BatchExpired(MurmurError):
    """A named batch was begun so long ago that results of it may be forgotten: resumed, it would pay for them again."""

    code: ClassVar[str] = "E216"
    batch_id: str
    age: float  # seconds since it was begun
    retention: float  # seconds results are kept

    def __str__(self) -> str:
        return (
            f"batch {self.batch_id!r} was begun {self.age / 3600:.1f} h ago, and results are kept for "
            f"{self.retention / 3600:g} h: some may be gone, and would be paid for again. Choose another batch_id, "
            "and a longer retention for batches that take so long"
        )


@define(slots=False)
class IdempotencyConflict(MurmurError, ValueError):
    """The idempotency key of a task belongs to another input."""

    code: ClassVar[str] = "E209"
    agent: str
    key: str

    def __str__(self) -> str:
        return (
            f"the idempotency key {self.key!r} of {self.agent} was used for another input. "
            "Send the same input under it, or choose another key"
        )


@define(slots=False)
class SpawnLimit(MurmurError):
    """A task spawned deeper or wider than allowed."""

    code: ClassVar[str] = "E210"
    what: str
    limit: int

    def __str__(self) -> str:
        return f"{self.what} would exceed the limit of {self.limit:,}; is an agent spawning itself without end?"


@define(slots=False)
class BadActorKey(MurmurError, ValueError):
    """An actor cannot be named so."""

    code: ClassVar[str] = "E211"
    key: str  # as Python writes it
    problem: str

    def __str__(self) -> str:
        return f"no actor can be named {self.key}: {self.problem}. A name is 1 to 200 printable characters"


@define(slots=False)
class NotNamed(MurmurError, TypeError):
    """Instances of this actor class have no names."""

    code: ClassVar[str] = "E212"
    agent: str

    def __str__(self) -> str:
        return f"{self.agent} has no named instances; write in its class: named = Named(). Or publish with run, gather"


@define(slots=False)
class NoWorkers(MurmurError):
    """Nobody serves this agent, and the time to wait for somebody is over."""

    code: ClassVar[str] = "E214"
    agent: str
    broker: str
    waited: float  # seconds
    seen: tuple[str, ...]  # "worker (serving: a, b)"

    def __str__(self) -> str:
        seen = f"{len(self.seen)}: {'; '.join(self.seen)}" if self.seen else "none"
        return (
            f"nobody serves {self.agent!r} on {self.broker} (waited {self.waited:.0f} s). Workers seen: {seen}. "
            f"Start one: murmur worker start --app MODULE --agents {self.agent} --broker {self.broker}"
        )


@define(slots=False)
class GaveUp(MurmurError, TimeoutError):
    """The publisher's own time for a slot or its batch ran out before the result came."""

    code: ClassVar[str] = "E215"
    task_id: str
    agent: str
    which: str  # "timeout" or "deadline"
    after: float  # seconds

    def __str__(self) -> str:
        return f"no result of task {self.task_id} for {self.agent} within the {self.which} of {self.after:g} s"


@define(slots=False)
class WrongForm(MurmurError, RuntimeError):
    """A blocking call was made inside a running event loop, or an async object used in a way it can't be."""

    code: ClassVar[str] = "E220"
    used: str
    instead: str

    def __str__(self) -> str:
        return f"{self.used} cannot be used here; use {self.instead}"
