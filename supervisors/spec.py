"""Specifications: what a supervisor starts and how it treats failure. Names, meanings and defaults are OTP's.

Specs are frozen and valid once built: a wrong value is refused where it is written, by name.
Nothing here runs anything; what a spec means is decided in `core`.
"""

import enum
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import optional

from supervisors.backoff import Backoff
from supervisors.errors import BadCombination, DuplicateChild, SpecError
from supervisors.intensity import Intensity
from supervisors.limits import Limits
from supervisors.output import Output
from supervisors.recycle import Recycle
from supervisors.validation import instance, member, positive, truth, whole_number
from supervisors.watchdog import Watchdog


class Restart(enum.Enum):
    """When a child that ended is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # when it crashed
    TEMPORARY = "temporary"  # never, and its spec is forgotten


class Strategy(enum.Enum):
    """Who is restarted together with a child that failed."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"
    SIMPLE_ONE_FOR_ONE = "simple_one_for_one"  # one template, any number of children started on request


class Shutdown(enum.Enum):
    """How a child is stopped, where it is not a number of seconds: asked, waited for so long, then killed."""

    BRUTAL_KILL = "brutal_kill"
    INFINITY = "infinity"


class AutoShutdown(enum.Enum):
    """Whether the end of significant children ends their supervisor."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class ChildType(enum.Enum):
    """What a child is; it only matters for counting and for the default `shutdown`."""

    WORKER = "worker"
    SUPERVISOR = "supervisor"


class Isolation(enum.Enum):
    """Where a child runs."""

    TASK = "task"
    PROCESS = "process"


class Exceeded(enum.Enum):
    """What a supervisor does when there were more restarts than its intensity allows."""

    ESCALATE = "escalate"  # stop all children and end
    PAUSE = "pause"  # hold the failing child for `pause` seconds, then try again


def _check_id(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not isinstance(value, str) or not value or "/" in value:
        raise SpecError(field=attribute.name, value=value, allowed="a string that is not empty, without '/'")


def _check_start(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if callable(value) or isinstance(value, SupervisorSpec | Init):
        return
    if isinstance(value, str) and all(part.strip() for part in value.partition(":")):
        return
    allowed = "an async function, a SupervisorSpec, an Init, or the text 'module:name' of an async function"
    raise SpecError(field=attribute.name, value=value, allowed=allowed)


def _check_shutdown(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if isinstance(value, Shutdown):
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        allowed = "seconds, a finite number of at least 0, or Shutdown.BRUTAL_KILL, or Shutdown.INFINITY"
        raise SpecError(field=attribute.name, value=value, allowed=allowed)


def _check_peer(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if value is not None and not callable(value):
        raise SpecError(field=attribute.name, value=value, allowed="an async function of a context and a Link, or None")


def _arguments(args: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(args)


def takes_context(start: Callable[..., object]) -> bool:
    """Whether a start callable is given a ChildContext: it is, unless it accepts no parameter at all."""
    try:
        return bool(inspect.signature(start).parameters)
    except (TypeError, ValueError):  # some built-in callables do not tell
        return True


@frozen(kw_only=True)
class ChildSpec:
    """One child: how it starts, how it is stopped, and what its end means.

    `start` is an async function called as `start(ctx, *args, **kwargs)`, see `child.ChildContext`: the
    child is ready when it calls `ctx.ready()`. One that accepts no parameters is called without, and is
    ready the moment its task begins to run. A `SupervisorSpec` (or an `Init`) makes a supervisor below
    this one. Times are seconds; `shutdown` defaults to 5, for a supervisor to `Shutdown.INFINITY`, and
    `start_timeout` to 30, for a supervisor to None: its children have their own.

    Only with `Isolation.PROCESS`: `watchdog` (there by default) finds it when it hangs, `recycle` replaces it in time,
    `limits` bound what it uses, `output` hands on what it prints, and `peer(ctx, link)` talks with its `ctx.link` from
    this side, as long as the process lives.
    """

    id: str = field(validator=_check_id)
    start: "Callable[..., Awaitable[object]] | SupervisorSpec | Init | str" = field(validator=_check_start)
    args: tuple[Any, ...] = field(default=(), converter=_arguments)
    kwargs: Mapping[str, Any] = field(factory=dict)
    restart: Restart = field(default=Restart.PERMANENT, validator=member(Restart))
    type: ChildType = field(validator=member(ChildType))
    shutdown: float | Shutdown = field(validator=_check_shutdown)
    significant: bool = field(default=False, validator=truth)
    start_timeout: float | None = field(validator=optional(positive))
    isolation: Isolation = field(default=Isolation.TASK, validator=member(Isolation))
    backoff: Backoff | None = field(default=None, validator=optional(instance(Backoff)))
    watchdog: Watchdog | None = field(validator=optional(instance(Watchdog)))
    recycle: Recycle | None = field(default=None, validator=optional(instance(Recycle)))
    peer: Callable[..., Awaitable[object]] | None = field(default=None, validator=_check_peer)
    limits: Limits | None = field(default=None, validator=optional(instance(Limits)))
    output: Output | None = field(default=None, validator=optional(instance(Output)))

    @type.default  # noqa: A003 - OTP calls it so
    def _type_of_start(self) -> ChildType:
        return ChildType.SUPERVISOR if isinstance(self.start, SupervisorSpec | Init) else ChildType.WORKER

    @shutdown.default
    def _shutdown_of_type(self) -> float | Shutdown:
        return Shutdown.INFINITY if self.type is ChildType.SUPERVISOR else 5.0

    @start_timeout.default
    def _start_timeout_of_type(self) -> float | None:
        return None if self.type is ChildType.SUPERVISOR else 30.0

    @watchdog.default
    def _watchdog_of_isolation(self) -> Watchdog | None:
        return Watchdog() if self.isolation is Isolation.PROCESS else None

    def __attrs_post_init__(self) -> None:
        for name in ("watchdog", "recycle", "peer", "limits", "output") if self.isolation is Isolation.TASK else ():
            if getattr(self, name) is not None:
                allowed = (
                    "None with Isolation.TASK: it is for what a process does that a task cannot; use Isolation.PROCESS"
                )
                raise BadCombination(field=f"{name} of child {self.id!r}", value=getattr(self, name), allowed=allowed)
        if self.significant and self.restart is Restart.PERMANENT:
            raise BadCombination(
                field=f"significant of child {self.id!r}",
                value=True,
                allowed="False with Restart.PERMANENT: a permanent child never ends for good",
            )

    @property
    def grace(self) -> float | None:
        """Seconds between asking the child to stop and killing it: 0 kills at once, None waits for ever."""
        if isinstance(self.shutdown, Shutdown):
            return None if self.shutdown is Shutdown.INFINITY else 0.0
        return self.shutdown


def _listed(children: Iterable[ChildSpec]) -> tuple[ChildSpec, ...]:
    return tuple(children)


@frozen(kw_only=True)
class SupervisorSpec:
    """A supervisor: its children in start order, and its answer to their failures.

    The fields after `children` go beyond OTP. `revive`: a group restart also starts children that an
    operator terminated (OTP: it does). `escalation_is_clean`: a supervisor below that gave up counts as
    a clean end, so a transient one stays down (OTP: it does).
    """

    strategy: Strategy = field(default=Strategy.ONE_FOR_ONE, validator=member(Strategy))
    intensity: Intensity = field(factory=Intensity)
    auto_shutdown: AutoShutdown = field(default=AutoShutdown.NEVER, validator=member(AutoShutdown))
    children: tuple[ChildSpec, ...] = field(default=(), converter=_listed)
    exceeded: Exceeded = field(default=Exceeded.ESCALATE, validator=member(Exceeded))
    pause: float = field(default=15.0, validator=positive)
    max_children: int | None = field(default=None, validator=optional(whole_number(1)))
    revive: bool = field(default=False, validator=truth)
    escalation_is_clean: bool = field(default=False, validator=truth)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.intensity, Intensity):
            raise SpecError(field="intensity", value=self.intensity, allowed="an Intensity(max_restarts, period)")
        seen: set[str] = set()
        for child in self.children:
            if not isinstance(child, ChildSpec):
                raise SpecError(field="children", value=child, allowed="ChildSpec only")
            if child.id in seen:
                raise DuplicateChild(
                    field="children", value=child.id, allowed="ChildSpecs with an id of their own each"
                )
            seen.add(child.id)
            self.check_child(child)
        if self.is_simple and len(self.children) != 1:
            allowed = "exactly one ChildSpec, the template, with Strategy.SIMPLE_ONE_FOR_ONE"
            raise SpecError(field="children", value=tuple(seen), allowed=allowed)

    @property
    def is_simple(self) -> bool:
        """Whether all children come from one template."""
        return self.strategy is Strategy.SIMPLE_ONE_FOR_ONE

    def check_child(self, child: ChildSpec) -> None:
        """Refuse a child that does not go with this supervisor."""
        if child.significant and self.auto_shutdown is AutoShutdown.NEVER:
            raise BadCombination(
                field=f"significant of child {child.id!r}",
                value=True,
                allowed="False with AutoShutdown.NEVER: nothing would follow from it",
            )
        if child.backoff is not None and self.exceeded is Exceeded.ESCALATE:
            self._check_backoff(child.id, child.backoff)

    def _check_backoff(self, child: str, backoff: Backoff) -> None:
        """Refuse delays so long that a child that always fails would never use up the intensity."""
        span = math.fsum(backoff.longest(n) for n in range(min(self.intensity.max_restarts, 10_000)))
        if span > self.intensity.period:
            raise BadCombination(
                field=f"backoff of child {child!r}",
                value=backoff,
                allowed=f"quick enough for {self.intensity}: its first {self.intensity.max_restarts} delays add up to "
                f"{span:g} s, so a child that always fails would never reach {self.intensity.max_restarts} restarts "
                f"within {self.intensity.period:g} s; shorten the backoff, lengthen the period, or use Exceeded.PAUSE",
            )


@frozen
class Init:
    """A supervisor whose spec is made anew at each start, as OTP's init/1: `make` returns it, or None to decline."""

    make: Callable[[], SupervisorSpec | None]
