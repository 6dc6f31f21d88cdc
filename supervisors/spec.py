"""What is to be supervised: children, strategies, limits. Frozen values, checked when built.

Names and meanings are those of Erlang/OTP; seconds are floats. Defaults that differ from
OTP say so. How a specification is carried out is decided in `supervisors.core`.
"""

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from attrs import field, frozen


class Strategy(enum.Enum):
    """Who is restarted with a child that ended."""

    ONE_FOR_ONE = "one_for_one"  # only itself
    ONE_FOR_ALL = "one_for_all"  # everybody
    REST_FOR_ONE = "rest_for_one"  # itself and those started after it


class Restart(enum.Enum):
    """When a child that ended is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # unless it ended normally
    TEMPORARY = "temporary"  # never; its specification is forgotten


class Shutdown(enum.Enum):
    """How a child is stopped, where it is not a number of seconds to wait after asking."""

    BRUTAL_KILL = "brutal_kill"  # at once
    INFINITY = "infinity"  # wait for as long as it takes


class AutoShutdown(enum.Enum):
    """Whether the end of significant children ends their supervisor."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class IntensityExceeded(Exception):
    """One restart too many within the period."""

    def __init__(self, restarts: int, period: float) -> None:
        super().__init__(f"{restarts} restarts within {period:g} s")
        self.restarts = restarts
        self.period = period


class InvalidSpec(ValueError):
    """A specification that cannot work: names the field, the value, and what is allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} must be {allowed}, got {value!r}")
        self.name = name
        self.value = value


def _number(allowed: str, holds: Callable[[float], bool]) -> Callable[[Any, Any, Any], None]:
    def check(owner: object, attribute: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
            raise InvalidSpec(f"{type(owner).__name__}.{attribute.name}", value, allowed)

    return check


def _member(kind: type) -> Callable[[Any, Any, Any], None]:
    def check(owner: object, attribute: Any, value: Any) -> None:
        if not isinstance(value, kind):
            allowed = ", ".join(str(member) for member in kind) if issubclass(kind, enum.Enum) else kind.__name__
            raise InvalidSpec(f"{type(owner).__name__}.{attribute.name}", value, f"one of {allowed}")

    return check


@frozen
class Intensity:
    """At most `max_restarts` restarts within any `period` seconds."""

    max_restarts: int = field(default=3, validator=_number("a number, 0 or more", lambda n: n >= 0))
    period: float = field(default=5.0, validator=_number("seconds, more than 0", lambda n: n > 0))

    def admit(self, past: tuple[float, ...], *, now: float) -> tuple[float, ...]:
        """Return the restarts that count from `now` on, this one included.

        Args:
            past: clock times of earlier restarts, seconds, oldest first; may be empty.
            now: clock time of this restart, seconds; not before the last of `past`.
        Returns: the times at most `period` old, oldest first; 1 to `max_restarts`.
        Raises: IntensityExceeded, when there would be more than `max_restarts`.
        Source: OTP Design Principles, "Maximum Restart Intensity".
        """
        recent = (*(t for t in past if now - t <= self.period), now)
        if len(recent) > self.max_restarts:
            raise IntensityExceeded(len(recent), self.period)
        return recent


@frozen
class Backoff:
    """How long to wait before a retry: `initial`·`factor`ⁿ seconds, at most `cap`, full jitter below that."""

    initial: float = field(default=0.5, validator=_number("seconds, 0 or more", lambda n: n >= 0))
    factor: float = field(default=2.0, validator=_number("at least 1", lambda n: n >= 1))
    cap: float = field(default=30.0, validator=_number("seconds, 0 or more", lambda n: n >= 0))
    jitter: bool = field(default=True, validator=_member(bool))

    def delay(self, n: int, *, random: float) -> float:
        """Return the seconds to wait before retry `n` (0-based). `random` in [0, 1) is the jitter."""
        try:
            longest = min(self.initial * self.factor**n, self.cap)
        except OverflowError:
            longest = self.cap
        return longest * random if self.jitter else longest


Start = Callable[..., Awaitable[None]]


def _shutdown(_: object, __: object, value: Any) -> None:
    is_seconds = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if not is_seconds and not isinstance(value, Shutdown):
        raise InvalidSpec("ChildSpec.shutdown", value, "seconds, 0 or more, Shutdown.BRUTAL_KILL or Shutdown.INFINITY")


def _callable(_: object, __: object, value: Any) -> None:
    if not callable(value):
        raise InvalidSpec("ChildSpec.start", value, "an async function that takes a ChildContext")


def _id(_: object, __: object, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidSpec("ChildSpec.id", value, "a text that is not empty")


@frozen(kw_only=True)
class ChildSpec:
    """One child: an async function that is called with a `ChildContext`, and `args` and `kwargs` after it.

    It is up once it called `ctx.ready()`; the next child starts then. `start_timeout`: seconds it may take for that.
    `shutdown`: seconds it may take to end after it was cancelled. `significant`: see `AutoShutdown`.
    """

    id: str = field(validator=_id)
    start: Start = field(validator=_callable)
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(factory=dict)
    restart: Restart = field(default=Restart.PERMANENT, validator=_member(Restart))
    shutdown: float | Shutdown = field(default=5.0, validator=_shutdown)
    significant: bool = field(default=False, validator=_member(bool))
    start_timeout: float = field(default=30.0, validator=_number("seconds, more than 0", lambda n: n > 0))


def _tupled(children: Iterable[ChildSpec]) -> tuple[ChildSpec, ...]:
    return tuple(children)


@frozen(kw_only=True)
class SupervisorSpec:
    """A supervisor and its children, in start order.

    `revive`: whether a group restart also starts children that an operator terminated or that ended normally, as OTP
    does; not by default.
    """

    strategy: Strategy = field(default=Strategy.ONE_FOR_ONE, validator=_member(Strategy))
    intensity: Intensity = field(factory=Intensity, validator=_member(Intensity))
    auto_shutdown: AutoShutdown = field(default=AutoShutdown.NEVER, validator=_member(AutoShutdown))
    children: tuple[ChildSpec, ...] = field(default=(), converter=_tupled)
    revive: bool = field(default=False, validator=_member(bool))

    def __attrs_post_init__(self) -> None:
        seen: set[str] = set()
        for child in self.children:
            if not isinstance(child, ChildSpec):
                raise InvalidSpec("SupervisorSpec.children", child, "ChildSpecs")
            if child.id in seen:
                raise InvalidSpec("SupervisorSpec.children", child.id, "ChildSpecs with an id each of its own")
            seen.add(child.id)
            self.check(child)

    def check(self, child: ChildSpec) -> None:
        """Raise `InvalidSpec` for a child that cannot stand under this supervisor."""
        if not child.significant:
            return
        if self.auto_shutdown is AutoShutdown.NEVER:
            raise InvalidSpec(f"significant of {child.id!r}", True, "False under AutoShutdown.NEVER")
        if child.restart is Restart.PERMANENT:
            raise InvalidSpec(f"significant of {child.id!r}", True, "False for a permanent child")
