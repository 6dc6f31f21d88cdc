"""Why a child ended: values, so that nothing a child raised can reach its siblings."""

from attrs import frozen


@frozen
class Normal:
    """It returned."""


@frozen
class Stopped:
    """Its supervisor asked it to."""


@frozen(eq=False)
class Crashed:
    """It raised `error`."""

    error: BaseException

    def __str__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


@frozen
class Stuck:
    """It was cancelled and did not end in time. A task cannot be killed: only its process can."""

    waited: float  # seconds


Reason = Normal | Stopped | Crashed | Stuck


class StrayCancellation(RuntimeError):
    """A child was cancelled, and neither its supervisor nor anybody around it had asked for that."""

    def __init__(self) -> None:
        super().__init__("the child was cancelled from inside: something it awaited was cancelled")


class StartFailed(Exception):
    """A child did not come up."""

    def __init__(self, child_id: str, problem: str) -> None:
        super().__init__(f"child {child_id!r} did not start: {problem}")
        self.child_id = child_id


class SupervisorGaveUp(Exception):
    """A supervisor restarted too often, and ended with all its children."""

    def __init__(self, child_id: str, problem: str, limit: str) -> None:
        super().__init__(f"child {child_id!r} kept ending, {limit}; last: {problem}")
        self.child_id = child_id
