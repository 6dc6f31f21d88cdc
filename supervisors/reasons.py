"""Exit reasons: how a child or a supervisor ended, as plain values.

A supervisor decides by the reason alone, so a reason is data: equal reasons compare equal and
nothing in them keeps a dead child alive, except the exception of a crash. What follows from a
reason is decided in `core`; how a process's exit status becomes one is left to the process shell.
"""

from typing import Final

from attrs import field, frozen

MOST_LINE: Final = 1_000  # characters of what a reason says of itself
_BREAKS: Final = {ord(mark): repr(mark)[1:-1] for mark in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"}


def one_line(text: str) -> str:
    """Return `text` as a line of a log can hold it: no line breaks, not endless."""
    return text[: MOST_LINE + 1].translate(_BREAKS)[:MOST_LINE]


def _at(note: str) -> str:
    return f" at {note!r}" if note else ""


@frozen
class Normal:
    """The child finished by itself. Clean: a transient child is not started again."""

    def __str__(self) -> str:
        return "normal"


@frozen
class Stopped:
    """The child ended because it was asked to, or says it ended on purpose. Clean."""

    detail: str = ""

    def __str__(self) -> str:
        return f"stopped ({one_line(self.detail)})" if self.detail else "stopped"


@frozen
class Crashed:
    """The child raised. `error` is the exception, or its record when it comes from another process.

    `note`, here and below: what a process last said it was at, `ctx.mark()`.
    """

    error: BaseException = field(eq=str)
    note: str = field(default="", eq=False, repr=False)

    def __str__(self) -> str:
        return one_line(f"crashed{_at(self.note)}: {type(self.error).__name__}: {self.error}")


@frozen
class NotLoaded(Crashed):
    """A process child never came to run: what it is to run cannot be sent, imported, unpacked or held to its limits.

    A crash that only a change mends: starting it again fails alike. `error` is a RemoteError where it was raised in the
    process, with the traceback in its `record`.
    """

    def __str__(self) -> str:
        return one_line(f"not loaded: {type(self.error).__name__}: {self.error}")


@frozen
class Killed:
    """Ended without being asked: cancelled at once, or by a signal (`signal` > 0) when it is a process.

    `stacks`: what its threads were at, if it died of a fault of its own (SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL).
    """

    signal: int = 0
    detail: str = ""
    note: str = field(default="", eq=False, repr=False)
    stacks: str = field(default="", eq=False, repr=False)

    def __str__(self) -> str:
        text = f"killed by signal {self.signal}" if self.signal else "killed"
        text += _at(self.note)
        return f"{text} ({one_line(self.detail)})" if self.detail else text


@frozen
class Stuck:
    """A task swallowed its cancellation and outlived its shutdown time.

    A task cannot be killed. So a second one must not be started beside it: every supervisor above
    stops, and what owns the interpreter has to replace the process.
    """

    path: str
    waited: float  # seconds

    def __str__(self) -> str:
        return f"{self.path} did not end {self.waited:g} s after it was cancelled; only its process can be killed"


@frozen
class Exited:
    """A process ended with this exit code and did not say why: `sys.exit(3)`, `os._exit`, a lost interpreter."""

    code: int
    note: str = field(default="", eq=False, repr=False)

    def __str__(self) -> str:
        return f"exited with code {self.code}{_at(self.note)}"


@frozen
class OutOfMemory:
    """The kernel killed the process because its memory was used up."""

    note: str = field(default="", eq=False, repr=False)

    def __str__(self) -> str:
        return f"killed by the kernel{_at(self.note)}: out of memory"


@frozen
class OverLimit:
    """A process used more than its `Limits` allow, and was killed with all it had started."""

    what: str  # "processes"
    used: int
    allowed: int
    note: str = field(default="", eq=False, repr=False)

    def __str__(self) -> str:
        return f"killed{_at(self.note)}: {self.used} {self.what}, {self.allowed} allowed"


@frozen
class Hung:
    """A process gave no sign of life and was killed by the watchdog. Its stacks stand in `stacks`."""

    silent: str  # "loop": nothing was scheduled; "thread": not even the interpreter ran
    seconds: float
    note: str = ""  # what it said it was working on
    stacks: str = field(default="", eq=False, repr=False)

    def __str__(self) -> str:
        return f"hung{_at(self.note)}: its {self.silent} was silent for {self.seconds:.1f} s"


@frozen
class Fatal:
    """The child raised SystemExit or KeyboardInterrupt: the whole tree stops and the root raises it again."""

    error: BaseException = field(eq=str)

    def __str__(self) -> str:
        return one_line(f"fatal: {type(self.error).__name__}: {self.error}")


@frozen
class Escalated:
    """A supervisor gave up: its children needed more restarts than its intensity allows."""

    child: str
    cause: "ExitReason"
    max_restarts: int
    period: float  # seconds

    def __str__(self) -> str:
        allowed = f"{self.max_restarts} restarts within {self.period:g} s"
        return f"gave up on {self.child!r} after more than {allowed}; at last it {self.cause}"


ExitReason = (
    Normal
    | Stopped
    | Crashed
    | NotLoaded
    | Killed
    | Exited
    | OutOfMemory
    | OverLimit
    | Hung
    | Stuck
    | Fatal
    | Escalated
)


def is_clean(reason: ExitReason, *, escalation_is_clean: bool = False) -> bool:
    """Whether a transient child that ended so is left alone. OTP counts a supervisor's giving up as clean."""
    return isinstance(reason, Normal | Stopped) or (escalation_is_clean and isinstance(reason, Escalated))


def is_doom(reason: ExitReason) -> bool:
    """Whether no restart can help: every supervisor above stops."""
    return isinstance(reason, Stuck | Fatal)
