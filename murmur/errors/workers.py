"""Errors of workers: actors, processes and nodes that cannot start, or cannot go on."""

from typing import ClassVar

from attrs import define

from murmur.errors.base import MurmurError


@define(slots=False)
class ActorBroken(MurmurError):
    """An actor class broke outside a message more often than its intensity allows."""

    code: ClassVar[str] = "E501"
    agent: str
    problem: str

    def __str__(self) -> str:
        return f"{self.agent} cannot be started: {self.problem}"


@define(slots=False)
class WorkerNotStarted(MurmurError):
    """A part of a worker could not start: what its processes are to run cannot be loaded there, or fails at once."""

    code: ClassVar[str] = "E502"
    problem: str

    def __str__(self) -> str:
        return f"the worker did not start: {self.problem.rstrip('.')}. Mend that, and start it again"


@define(slots=False)
class WorkerGaveUp(MurmurError):
    """A part of a worker failed again and again, more often than is allowed. Its tasks were given back."""

    code: ClassVar[str] = "E503"
    problem: str

    def __str__(self) -> str:
        return f"the worker gave up: {self.problem.rstrip('.')}. Its tasks were given back; the log tells what failed"


@define(slots=False)
class StateError(MurmurError):
    """A named actor's state could not be kept or restored. What was kept before stands."""

    code: ClassVar[str] = "E510"
    agent: str
    key: str
    problem: str

    def __str__(self) -> str:
        return f"the state of {self.agent} {self.key!r} {self.problem}; what was kept before stands"
