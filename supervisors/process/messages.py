"""What a supervisor and its process child say to each other over the control channel, and what a child is started for.

Plain structures with a tag, decoded strictly: what does not fit breaks the channel and nothing else.
Reasons cross as records; an exception arrives as a `RemoteError`. Framing is left to `channel`.
"""

from typing import Any, Final, Literal

import msgspec
from attrs import frozen

from supervisors.limits import Limits
from supervisors.process.target import Target
from supervisors.reasons import Crashed, Escalated, Exited, ExitReason, Killed, Normal, NotLoaded, Stopped
from supervisors.remote_error import ErrorRecord, RemoteError, record_error


@frozen(kw_only=True)
class Order:
    """What a process is started for. The one thing that is pickled, by us for us, when it is started."""

    id: str
    path: str
    incarnation: int
    backend: str
    is_uvloop: bool
    every: float  # seconds between beats
    limits: Limits | None = None
    target: Target | None = None  # this and what follows is filled in when it is started
    parent: int = 0  # the pid it must have
    is_preloaded: bool = False  # whether a fork server should have done so


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exit reason as plain data."""

    kind: Literal["normal", "stopped", "killed", "exited", "crashed", "not_loaded", "escalated"]
    detail: str = ""
    number: int = 0
    period: float = 0.0
    error: ErrorRecord | None = None
    cause: "Said | None" = None

    @classmethod
    def of(cls, reason: ExitReason) -> "Said":  # noqa: PLR0911  one for each kind
        """Put a reason into words that every process understands."""
        match reason:
            case Normal():
                return cls("normal")
            case Stopped(detail):
                return cls("stopped", detail)
            case Killed(signal, detail):
                return cls("killed", detail, signal)
            case Exited(code):
                return cls("exited", number=code)
            case NotLoaded(error):
                return cls("not_loaded", error=record_error(error))
            case Crashed(error):
                return cls("crashed", error=record_error(error))
            case Escalated(child, cause, max_restarts, period):
                return cls("escalated", child, max_restarts, period, cause=cls.of(cause))
        return cls("crashed", error=ErrorRecord(type=type(reason).__name__, message=str(reason)))

    def reason(self) -> ExitReason:  # noqa: PLR0911  one for each kind
        """Return the reason."""
        match self:
            case Said(kind="stopped"):
                return Stopped(self.detail)
            case Said(kind="killed"):
                return Killed(self.number, self.detail)
            case Said(kind="exited"):
                return Exited(self.number)
            case Said(kind="crashed", error=ErrorRecord() as error):
                return Crashed(RemoteError(error))
            case Said(kind="not_loaded", error=ErrorRecord() as error):
                return NotLoaded(RemoteError(error))
            case Said(kind="escalated", cause=Said() as cause):
                return Escalated(self.detail, cause.reason(), self.number, self.period)
            case _:
                return Normal()


class Hello(msgspec.Struct, frozen=True, tag=True):
    """Child, first: I am guarded and wait to be told to go on. `failures`: modules that were not preloaded, and why."""

    failures: dict[str, str]


class Go(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: I watch you now, go on. Before this, a child could end unseen."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Child: it called `ctx.ready(info)`."""

    info: Any = None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Child: it called `ctx.ignore()`."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: end. Who does not is killed in time."""


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Child, last: it is over, and why. What follows is only the exit of the interpreter."""

    said: Said


FromChild = Hello | Ready | Refused | Ended
FromSupervisor = Go | Stop

encode: Final = msgspec.msgpack.Encoder().encode
from_child: Final = msgspec.msgpack.Decoder(FromChild)
from_supervisor: Final = msgspec.msgpack.Decoder(FromSupervisor)
