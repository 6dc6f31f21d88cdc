"""Everything `supervisors` raises, each a sentence: what happened, with which values, what to do."""

from attrs import define

from supervisors.reasons import ExitReason


class SupervisorError(Exception):
    """Base of all errors of this package."""


@define
class SpecError(SupervisorError, ValueError):
    """A specification is not valid. `field` names what is wrong, `allowed` says what would be right."""

    field: str
    value: object
    allowed: str

    def __str__(self) -> str:
        return f"{self.field} must be {self.allowed}; got {self.value!r}"


class DuplicateChild(SpecError):
    """Two children of one supervisor have the same id."""


class BadCombination(SpecError):
    """Two fields that are valid alone exclude each other."""


@define
class IntensityExceeded(SupervisorError):
    """One restart too many. The supervisor answers it by giving up, or by a pause."""

    restarts: int
    max_restarts: int
    period: float  # seconds

    def __str__(self) -> str:
        return (
            f"{self.restarts} restarts within {self.period:g} s, allowed are {self.max_restarts}; see the causes above"
        )


@define
class SupervisorFailed(SupervisorError):
    """A supervisor ended while it was still needed."""

    path: str
    reason: ExitReason

    def __str__(self) -> str:
        return f"supervisor {self.path!r} ended: {self.reason}"


@define
class NotAlive(SupervisorError):
    """The supervisor has ended and answers no more requests (OTP: noproc)."""

    path: str

    def __str__(self) -> str:
        return f"supervisor {self.path!r} has ended; open it again"


@define
class RequestError(SupervisorError):
    """Base of what a supervisor answers when it cannot do what it was asked to do about one child."""

    child: str


class AlreadyStarted(RequestError):
    """A child with this id is running."""

    def __str__(self) -> str:
        return f"child {self.child!r} is already running; choose another id or terminate_child() it first"


class AlreadyPresent(RequestError):
    """A child with this id is known but not running."""

    def __str__(self) -> str:
        return f"child {self.child!r} exists but does not run; restart_child() or delete_child() it"


class NotFound(RequestError):
    """No child of this supervisor has this id."""

    def __str__(self) -> str:
        return f"no child {self.child!r} here; which_children() lists them"


class Running(RequestError):
    """Refused, because the child runs."""

    def __str__(self) -> str:
        return f"child {self.child!r} is running; terminate_child() it first"


class Restarting(RequestError):
    """Refused, because the child is between two attempts to restart it."""

    def __str__(self) -> str:
        return f"child {self.child!r} is being restarted; wait, or terminate_child() it first"


class SimpleOneForOne(RequestError):
    """Refused for a simple_one_for_one supervisor: its children have no spec of their own and no given id."""

    def __str__(self) -> str:
        return f"{self.child!r}: a simple_one_for_one supervisor starts children and terminates those, nothing else"


@define
class MaxChildren(SupervisorError):
    """The supervisor has as many children as it may have."""

    max_children: int

    def __str__(self) -> str:
        return f"this supervisor already has its max_children={self.max_children}"


@define
class StartFailed(RequestError):
    """The child did not become ready. Nothing of it is left running."""

    reason: ExitReason

    def __str__(self) -> str:
        return f"child {self.child!r} failed to start: {self.reason}"


@define
class StartTimeout(SupervisorError):
    """The child did not call `ctx.ready()` in time."""

    path: str
    timeout: float  # seconds

    def __str__(self) -> str:
        return f"{self.path} was not ready after {self.timeout:g} s; call ctx.ready(), or raise start_timeout"


@define
class EndedBeforeReady(SupervisorError):
    """The child returned without `ctx.ready()` or `ctx.ignore()`."""

    path: str

    def __str__(self) -> str:
        return f"{self.path} returned before it called ctx.ready(); call it once the child can do its work"


@define
class StrayCancellation(SupervisorError):
    """The child ended with a cancellation nobody asked its supervisor for."""

    path: str

    def __str__(self) -> str:
        return (
            f"{self.path} ended with a cancellation that its supervisor did not ask for; it awaited something cancelled"
        )


@define
class ProcessesUnavailable(SupervisorError):
    """A child asks for Isolation.PROCESS, and the process shell cannot be loaded."""

    cause: str

    def __str__(self) -> str:
        return f"Isolation.PROCESS needs the package supervisors.process: {self.cause}; use Isolation.TASK here"


@define
class AlreadyRegistered(SupervisorError):
    """A name is taken by another one that runs."""

    name: str

    def __str__(self) -> str:
        return f"{self.name!r} is registered already; wait until its bearer has ended, or use Registry(unique=False)"


@define
class MailboxFull(SupervisorError):
    """A mailbox has no room for one message more."""

    capacity: int

    def __str__(self) -> str:
        return f"the mailbox holds {self.capacity} messages already; try again later, or choose another `overflow`"


class MailboxClosed(SupervisorError):
    """A mailbox takes nothing more, and nothing is left in it."""

    def __str__(self) -> str:
        return "the mailbox is closed"
