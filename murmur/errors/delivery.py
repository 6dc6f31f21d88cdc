"""Errors of delivery, E4xx, and of workers, E5xx."""

from typing import ClassVar

from attrs import define

from murmur.errors.base import MurmurError


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
class BadSignature(BadEnvelope):
    """A message is not signed, or not by a key of ours, or was altered since. It is dead-lettered, or left aside."""

    code: ClassVar[str] = "E403"


@define(slots=False)
class LeaseLost(MurmurError):
    """Another worker owns the task, or it ended, while this one was still at it."""

    code: ClassVar[str] = "E407"
    task_id: str
    token: int

    def __str__(self) -> str:
        return f"lease on task {self.task_id} lost: token {self.token} is not the valid one; this result is discarded"


@define(slots=False)
class PayloadLost(MurmurError):
    """A payload that was too large for its envelope cannot be had from the store."""

    code: ClassVar[str] = "E411"
    key: str
    problem: str

    def __str__(self) -> str:
        return (
            f"the payload {self.key!r} cannot be had: {self.problem}. "
            "Publishers and workers need the same store, and a retention that outlasts the task"
        )


@define(slots=False)
class OutcomeUnknown(MurmurError, ConnectionError):
    """A call to the broker or store broke off: it may or may not have happened. Repeat it under the same id."""

    code: ClassVar[str] = "E410"
    call: str
    problem: str

    def __str__(self) -> str:
        return f"{self.call}: outcome unknown: {self.problem}"
