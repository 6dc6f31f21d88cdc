"""Every error murmur raises or answers with, each with a stable code and what to do about it.

Errors are plain data, so they survive a process boundary, and sentences: what happened,
with which values, what to do. Codes: E1xx set-up and connections, E2xx publishing,
E3xx how a task ended, E4xx delivery, E5xx workers.
"""

from typing import ClassVar

from attrs import define

from murmur.nearest import nearest


class MurmurError(Exception):
    """The base of all errors of this package."""

    code: ClassVar[str] = "E000"


# -- E1xx: set-up and connections ----------------------------------------------------------------


@define(slots=False)
class BadURL(MurmurError, ValueError):
    """A broker or store URL cannot be used. The text shown is redacted."""

    code: ClassVar[str] = "E110"
    url: str
    problem: str

    def __str__(self) -> str:
        return f"cannot use {self.url!r}: {self.problem}"


@define(slots=False)
class BrokerUnreachable(MurmurError, ConnectionError):
    """Nobody answered at the broker's or store's address within the deadline."""

    code: ClassVar[str] = "E111"
    url: str
    after: float  # seconds
    problem: str

    def __str__(self) -> str:
        return (
            f"no answer from {self.url} within {self.after:.0f} s: {self.problem.rstrip('.')}. "
            "Is the server running, and are host and port right?"
        )


@define(slots=False)
class BrokerRefused(MurmurError, ConnectionError):
    """The server answered and said no: wrong password, user, database or missing rights."""

    code: ClassVar[str] = "E112"
    url: str
    problem: str

    def __str__(self) -> str:
        return f"{self.url} refused the connection: {self.problem.rstrip('.')}. Check user, password and rights"


@define(slots=False)
class MissingExtra(MurmurError, ImportError):
    """A client library is not installed."""

    code: ClassVar[str] = "E113"
    package: str
    extra: str

    def __str__(self) -> str:
        return f'{self.package} is not installed. Install it: pip install "murmur-runtime[{self.extra}]"'


@define(slots=False)
class BadSetting(MurmurError, ValueError):
    """A setting has a value that cannot work."""

    code: ClassVar[str] = "E120"
    name: str
    value: str
    expected: str

    def __str__(self) -> str:
        return f"{self.name} must be {self.expected}, got {self.value}"


# -- E2xx: publishing ----------------------------------------------------------------------------


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
class SpawnLimit(MurmurError):
    """A task spawned deeper or wider than allowed."""

    code: ClassVar[str] = "E210"
    what: str
    limit: int

    def __str__(self) -> str:
        return f"{self.what} would exceed the limit of {self.limit:,}; is an agent spawning itself without end?"


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


# -- E3xx: how a task ended ----------------------------------------------------------------------


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


class Reject(MurmurError):
    """Raise it in `receive` to fail a task for good: it would fail the same way again."""

    code: ClassVar[str] = "E305"


# -- E4xx: delivery ------------------------------------------------------------------------------


@define(slots=False)
class BadEnvelope(MurmurError, ValueError):
    """Bytes on a topic are not an envelope of ours."""

    code: ClassVar[str] = "E401"
    problem: str

    def __str__(self) -> str:
        return f"not an envelope of murmur: {self.problem}"


@define(slots=False)
class UnsupportedVersion(BadEnvelope):
    """An envelope is of a version this murmur does not read."""

    code: ClassVar[str] = "E402"
    problem: str

    def __str__(self) -> str:
        return f"cannot read this envelope: {self.problem}; upgrade this worker or the sender"


@define(slots=False)
class LeaseLost(MurmurError):
    """Another worker owns the task, or it ended, while this one was still at it."""

    code: ClassVar[str] = "E407"
    task_id: str
    token: int

    def __str__(self) -> str:
        return f"lease on task {self.task_id} lost: token {self.token} is not the valid one; this result is discarded"


@define(slots=False)
class OutcomeUnknown(MurmurError, ConnectionError):
    """A call to the broker or store broke off: it may or may not have happened. Repeat it under the same id."""

    code: ClassVar[str] = "E410"
    call: str
    problem: str

    def __str__(self) -> str:
        return f"{self.call}: outcome unknown: {self.problem}"


# -- E5xx: workers -------------------------------------------------------------------------------


@define(slots=False)
class ActorBroken(MurmurError):
    """An actor class broke outside a message more often than its intensity allows."""

    code: ClassVar[str] = "E501"
    agent: str
    problem: str

    def __str__(self) -> str:
        return f"{self.agent} cannot be started: {self.problem}"
