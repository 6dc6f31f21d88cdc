"""The child protocol: what a supervisor needs of a running child, and what a child needs of its supervisor.

A shell (tasks, processes) makes one `Child` per incarnation. The supervisor starts it, may stop it, and
hears once, through `on_exit`, when it ended. Which children to start and stop, and when, is left to `core`.
"""

from collections.abc import Callable
from typing import NoReturn, Protocol, runtime_checkable

from anyio import Event
from attrs import field, frozen

from supervisors.clock import Clock
from supervisors.reasons import ExitReason
from supervisors.spec import ChildSpec


@frozen
class Started:
    """The child is ready. `info` is what it passed to `ctx.ready()`."""

    info: object = None


@frozen
class Ignored:
    """The child declined to start (`ctx.ignore()`). Nothing of it is left running."""


@frozen
class Failed:
    """The child did not become ready. Nothing of it is left running, unless `reason` is Stuck."""

    reason: ExitReason


StartOutcome = Started | Ignored | Failed
OnExit = Callable[[ExitReason], None]


class Child(Protocol):
    """One incarnation of a child, from its start to its end. Never started twice."""

    async def start(self) -> StartOutcome:
        """Start it and wait until it is ready, declines, fails, or has used up `spec.start_timeout`.

        After `Started`, `on_exit` is called exactly once, in the supervisor's thread, when the child has
        really ended, whoever ended it. After `Ignored` and `Failed` it is not called.
        """

    async def stop(self, grace: float | None) -> ExitReason:
        """Ask it to end, wait `grace` seconds (None: for ever), kill it. Returns how it really ended.

        `grace` 0 kills at once. Returns at once if it has ended already. May be called while `start` is
        in progress, which then returns `Failed`. What cannot be killed ends in `Stuck`, within `grace` + 1 s.
        """


@runtime_checkable
class HasStacks(Protocol):
    """A child whose threads can be looked at from here, also when they hang: a process."""

    async def stacks(self, patience: float) -> str:
        """Return what they are at, as text. Empty if it does not run, or does not say so within `patience` seconds."""


@frozen(kw_only=True)
class Launch:
    """What a shell is given to make a child with."""

    spec: ChildSpec
    path: str  # ids from the root down, joined by "/"
    incarnation: int  # rises with every start under the same supervisor
    on_exit: OnExit
    clock: Clock
    on_info: Callable[[object], None] = lambda _info: None  # what it said when it was ready has changed


class Exit(Exception):
    """Raised by a child, ends it with `reason`: `raise Exit(Stopped("no more work"))`."""

    def __init__(self, reason: ExitReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Declined(BaseException):
    """Raised by `ctx.ignore()`; not an Exception, so that a child's own handlers let it pass."""


@frozen(kw_only=True)
class ChildContext:
    """What a child's start function is given: who it is, and how to talk to its supervisor."""

    id: str
    path: str
    incarnation: int
    _ready: Callable[[object], None] = field(alias="on_ready", repr=False)
    _beat: Callable[[str], None] = field(alias="on_beat", repr=False)
    _stopping: Callable[[], Event] = field(alias="trap", repr=False)

    def ready(self, info: object = None) -> None:
        """Say that the child can do its work; its supervisor goes on to the next one. Only the first call counts."""
        self._ready(info)

    def ignore(self) -> NoReturn:
        """Decline to start: the spec is kept, nothing runs. Only before `ready`; ends the child by raising."""
        raise Declined

    @property
    def stopping(self) -> Event:
        """Set when the child is asked to stop.

        A child that has not looked at this is cancelled when it is to stop. One that has is only asked:
        it has its `shutdown` seconds to finish and return, and is cancelled when they are over.
        """
        return self._stopping()

    def beat(self, note: str = "") -> None:
        """Say that work goes on, and on what. A watchdog may wait for it."""
        self._beat(note)
