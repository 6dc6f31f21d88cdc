"""Exit reasons: how a child or a supervisor ended, as plain values.

A supervisor decides by the reason alone, so a reason is data: equal reasons compare equal and
nothing in them keeps a dead child alive, except the exception of a crash. What follows from a
reason is decided in `core`; how a process's exit status becomes one is left to the process shell.
"""

from attrs import field, frozen


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
        return f"stopped ({self.detail})" if self.detail else "stopped"


@frozen
class Crashed:
    """The child raised. `error` is the exception, or its record when it comes from another process."""

    error: BaseException = field(eq=str)

    def __str__(self) -> str:
        return f"crashed: {type(self.error).__name__}: {self.error}"


@frozen
class Killed:
    """Ended without being asked: cancelled at once, or by a signal (`signal` > 0) when it is a process."""

    signal: int = 0
    detail: str = ""

    def __str__(self) -> str:
        text = f"killed by signal {self.signal}" if self.signal else "killed"
        return f"{text} ({self.detail})" if self.detail else text


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

    def __str__(self) -> str:
        return f"exited with code {self.code}"


@frozen
class OutOfMemory:
    """The kernel killed the process because its memory was used up."""

    def __str__(self) -> str:
        return "killed by the kernel: out of memory"


@frozen
class Hung:
    """A process gave no sign of life and was killed by the watchdog. Its stacks stand in `stacks`."""

    silent: str  # "loop": nothing was scheduled; "thread": not even the interpreter ran
    seconds: float
    note: str = ""  # what it said it was working on
    stacks: str = field(default="", eq=False, repr=False)

    def __str__(self) -> str:
        at = f" at {self.note!r}" if self.note else ""
        return f"hung{at}: its {self.silent} was silent for {self.seconds:.1f} s"


@frozen
class Fatal:
    """The child raised SystemExit or KeyboardInterrupt: the whole tree stops and the root raises it again."""

    error: BaseException = field(eq=str)

    def __str__(self) -> str:
        return f"fatal: {type(self.error).__name__}: {self.error}"


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


ExitReason = Normal | Stopped | Crashed | Killed | Exited | OutOfMemory | Hung | Stuck | Fatal | Escalated


def is_clean(reason: ExitReason, *, escalation_is_clean: bool = False) -> bool:
    """Whether a transient child that ended so is left alone. OTP counts a supervisor's giving up as clean."""
    return isinstance(reason, Normal | Stopped) or (escalation_is_clean and isinstance(reason, Escalated))


def is_doom(reason: ExitReason) -> bool:
    """Whether no restart can help: every supervisor above stops."""
    return isinstance(reason, Stuck | Fatal)
