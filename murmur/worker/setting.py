"""What worker processes are started with: values that cross once, and how the node keeps the processes."""

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import evolve, field, frozen
from attrs.validators import instance_of

from murmur.errors import BadSetting
from murmur.limits import MAX_INLINE
from murmur.redaction import LOGS_JSON
from murmur.registry import AnyActor
from supervisors import Limits, Watchdog

_BEATS: Final = 10  # beats of a process within the time after which it is taken for hung
_LEAST_SECONDS: Final = 0.01
_MOST_SECONDS: Final = 10_000_000  # a third of a year
_LATE: Final = 4  # parts of that time after which it gets no new work
_OURS: Final = ("MURMUR_BROKER", "MURMUR_STORE", "MURMUR_SIGNING_KEYS")
# What Python, its packages and their certificates need to work at all.
_ALWAYS: Final = (
    *("PATH", "HOME", "USER", "LANG", "LC_*", "TZ", "TMPDIR", "PYTHON*", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("SSL_CERT_*", LOGS_JSON),
)


@frozen
class Setting:
    """What a worker process has to know of its worker."""

    agents: Mapping[str, AnyActor]
    namespace: str
    worker_id: str
    max_deliveries: int | None
    broker: str  # as it may be shown
    is_idempotent: bool
    lease: float | None  # seconds
    keeps_rows: bool = True  # whether the node has a coordination store
    inline: int = MAX_INLINE  # bytes, see `TaskQueue.inline`
    recycle: int | None = None  # tasks after which a process is replaced


def _check_seconds(_: object, __: object, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _LEAST_SECONDS <= value <= _MOST_SECONDS:
        expected = f"seconds, {_LEAST_SECONDS:g} to {_MOST_SECONDS:,}"
        raise BadSetting(name="hang_after", value=repr(value), expected=expected)


def _check_count(_: object, __: object, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise BadSetting(name="recycle", value=repr(value), expected="a whole number of tasks of at least 1, or None")


def check_sendable(actor: AnyActor) -> None:
    """Refuse a class that no other process can find. Those of a script or a notebook are sent by value."""
    if "<locals>" in actor.__qualname__ and actor.__module__ != "__main__":
        expected = "classes that worker processes can import; it is defined inside a function: move it to a module"
        raise BadSetting(name="agents", value=f"{actor.__module__}:{actor.__qualname__}", expected=expected)


def _listed(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@frozen(kw_only=True)
class Keeping:
    """How a node keeps its processes. Times in seconds; checked, so that a bad one is told before anything starts."""

    hang_after: float = field(default=30.0, validator=_check_seconds)
    preload: tuple[str, ...] = field(default=(), converter=_listed)  # modules that the fork server imports once for all
    recycle: int | None = field(default=None, validator=_check_count)  # tasks after which a process is replaced
    limits: Limits = field(default=Limits(), validator=instance_of(Limits))  # on what each process may use

    def confined(self, environ: Iterable[str]) -> Limits:
        """Return the limits with the names of all variables that a process is given, of those of `environ`.

        Without a list of its own it is given all but those that hold the node's credentials: no actor needs them.
        """
        named = self.limits.environment
        names = (*_ALWAYS, *named) if named is not None else tuple(name for name in environ if name not in _OURS)
        return evolve(self.limits, environment=names)

    @property
    def watchdog(self) -> Watchdog:
        """How long a process may be silent."""
        silent = float(self.hang_after)
        return Watchdog(
            every=min(1.0, silent / _BEATS), late=silent / _LATE, loop_silent=silent, thread_silent=silent * 2
        )
