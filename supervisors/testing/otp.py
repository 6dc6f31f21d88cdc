"""The format of scenarios recorded from Erlang/OTP's supervisor: read into specs, and answers written back.

A scenario is a tree of supervisors and scripted children, and steps with what was seen after each.
Names, defaults and tags are OTP's; times there are milliseconds. What plays a scenario is left to `play`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeVar

from attrs import evolve

from supervisors.child import ChildContext
from supervisors.clock import LoopClock
from supervisors.errors import (
    AlreadyPresent,
    AlreadyStarted,
    BadCombination,
    DuplicateChild,
    NotAlive,
    NotFound,
    Restarting,
    Running,
    SimpleOneForOne,
    SpecError,
    StartFailed,
)
from supervisors.intensity import Intensity
from supervisors.reasons import Crashed, Escalated, ExitReason, Killed, Normal, Stopped
from supervisors.slot import State
from supervisors.spec import AutoShutdown, ChildSpec, ChildType, Init, Restart, Shutdown, Strategy, SupervisorSpec
from supervisors.testing.puppet import Boom, Puppet
from supervisors.views import ChildCounts, ChildInfo

Json = Any  # what json.loads gives; checked by being read
E = TypeVar("E", bound=Enum)

TAGS: Final[Mapping[type[Exception], str]] = {
    AlreadyStarted: "already_started",
    AlreadyPresent: "already_present",
    NotFound: "not_found",
    Running: "running",
    Restarting: "restarting",
    SimpleOneForOne: "simple_one_for_one",
    DuplicateChild: "duplicate_child_name",
    BadCombination: "bad_combination",
}
SUPERVISOR_FIELDS: Final = {
    "strategy": "invalid_strategy",
    "max_restarts": "invalid_intensity",
    "period": "invalid_period",
    "auto_shutdown": "invalid_auto_shutdown",
}
CHILD_FIELDS: Final = {
    "id": "missing_id",
    "start": "missing_start",
    "restart": "invalid_restart_type",
    "significant": "invalid_significant",
    "shutdown": "invalid_shutdown",
    "type": "invalid_child_type",
}


class InitRaised(Exception):
    """A supervisor's own init function raised, on purpose."""


class Reader:
    """Reads the specs of one scenario. A scripted child's only argument is the puppet that plays it."""

    def supervisor(self, flags: Json, children: Sequence[Json]) -> Init:
        """A supervisor whose spec is checked when it starts, as OTP's init does. Plans go on across restarts."""
        parts = [self.part(child) for child in children]

        def make() -> SupervisorSpec | None:
            match flags.get("init"):
                case "ignore":
                    return None
                case "raise":
                    raise InitRaised
                case "error":
                    return "nonsense"  # type: ignore[return-value]  # on purpose
            checked = _flags(flags)
            specs = [self.child(child, part) for child, part in zip(children, parts, strict=True)]
            if checked["strategy"] is Strategy.SIMPLE_ONE_FOR_ONE:
                specs = [evolve(spec, args=()) for spec in specs]  # each start brings its own puppet
            return SupervisorSpec(**checked, children=specs, revive=True, escalation_is_clean=True)

        return Init(make)

    def part(self, child: Json) -> "Puppet | Init":
        """What plays a child, whatever is wrong with its spec."""
        if "supervisor" in child:
            return self.supervisor(child["supervisor"], child["children"])
        return Puppet(child.get("id", ""), plan=child.get("plan", ()), on_stop=child.get("on_shutdown", "stop"))

    def child(self, child: Json, part: "Puppet | Init") -> ChildSpec:
        """The spec of a child. Raises SpecError."""
        if "id" not in child:
            raise SpecError(field="id", value=None, allowed="given")
        if child.get("start") == "missing":
            raise SpecError(field="start", value=None, allowed="given")
        options: dict[str, Any] = {}
        for name, kind in (("restart", Restart), ("type", ChildType)):
            if name in child:
                options[name] = _member(kind, child[name])
        if "significant" in child:
            options["significant"] = child["significant"]
        if "shutdown" in child:
            options["shutdown"] = _shutdown(child["shutdown"])
        if isinstance(part, Init):
            return ChildSpec(id=child["id"], start=part, **options)
        return ChildSpec(id=child["id"], start=run_puppet, args=(part,), **options)


async def run_puppet(ctx: ChildContext, puppet: Puppet) -> None:
    """What scripted children run; players that have their own idea of that put it in its place."""
    await puppet.run(ctx, LoopClock())


def _member(kind: type[E], value: Json) -> E | Json:
    """A member by its value; anything else goes on to where it is refused."""
    return next((one for one in kind if one.value == value), value)


def _shutdown(value: Json) -> float | Shutdown | Json:
    if isinstance(value, int) and not isinstance(value, bool):
        return value / 1_000
    return _member(Shutdown, value)


def _flags(flags: Json) -> dict[str, Any]:
    """The fields of a SupervisorSpec, in OTP's order of checking."""
    checked: dict[str, Any] = {"strategy": _member(Strategy, flags.get("strategy", "one_for_one"))}
    if not isinstance(checked["strategy"], Strategy):
        SupervisorSpec(**checked)
    checked["intensity"] = Intensity(flags.get("intensity", 1), period=flags.get("period", 5))
    checked["auto_shutdown"] = _member(AutoShutdown, flags.get("auto_shutdown", "never"))
    if not isinstance(checked["auto_shutdown"], AutoShutdown):
        SupervisorSpec(auto_shutdown=checked["auto_shutdown"])
    return checked


# ---- answers, in OTP's words


def refusal(error: Exception, *, is_start: bool = False) -> str:
    """The result of a request, or of the start of the top supervisor (`is_start`), that was refused."""
    if isinstance(error, NotAlive):
        return "noproc"
    if isinstance(error, StartFailed):
        return _start_failure(error, is_start=is_start)
    if isinstance(error, SpecError):
        return f"error:{_spec_fault(error, is_start=is_start)}"
    if isinstance(error, InitRaised):
        return "error:init_error"
    if isinstance(error, TypeError):
        return "error:bad_return"
    return f"error:{TAGS[type(error)]}"


def _start_failure(error: StartFailed, *, is_start: bool) -> str:
    if is_start:
        return f"error:failed_to_start_child:{error.child}"
    cause = error.reason.error if isinstance(error.reason, Crashed) else None
    if isinstance(cause, StartFailed):  # it was a supervisor, and one of its children failed
        return f"error:failed_to_start_child:{cause.child}"
    if isinstance(cause, SpecError | InitRaised):
        return refusal(cause, is_start=True)
    return "error:start_error"


def _spec_fault(error: SpecError, *, is_start: bool) -> str:
    if error.field in SUPERVISOR_FIELDS:
        return f"supervisor_data:{SUPERVISOR_FIELDS[error.field]}"
    tag = TAGS.get(type(error)) or CHILD_FIELDS.get(error.field)
    if tag is None:  # the number of templates is wrong
        return "bad_start_spec"
    return f"start_spec:{tag}" if is_start else tag


def reason_name(reason: ExitReason) -> str:
    """How OTP would call a way to end."""
    match reason:
        case Normal():
            return "normal"
        case Stopped("x"):
            return "{shutdown,x}"
        case Stopped() | Escalated():
            return "shutdown"
        case Killed():
            return "killed"
        case Crashed(Boom()):
            return "boom"
        case _:
            return str(reason)


REASONS: Final[Mapping[str, Callable[[], ExitReason]]] = {
    "normal": Normal,
    "shutdown": Stopped,
    "{shutdown,x}": lambda: Stopped("x"),
    "boom": lambda: Crashed(Boom()),
    "killed": Killed,
}


def spec_json(spec: ChildSpec) -> Json:
    """A child's spec as get_childspec shows it."""
    shutdown = spec.shutdown.value if isinstance(spec.shutdown, Shutdown) else round(spec.shutdown * 1_000)
    return {
        "id": spec.id,
        "restart": spec.restart.value,
        "significant": spec.significant,
        "shutdown": shutdown,
        "type": spec.type.value,
    }


def children_json(children: Iterable[ChildInfo], labels: Mapping[str, str], path: str) -> Json:
    """Children as [id, state], with those of supervisors that are up; dynamic ones by label, restarting ones last."""
    listed = []
    dynamic = []
    for child in children:
        below = f"{path}/{child.id}"
        state = child.state.value if child.state in (State.UP, State.RESTARTING) else "undefined"
        if below in labels:
            dynamic.append([labels[below] if child.state is State.UP else None, state])
        elif child.children is None or child.state is not State.UP:
            listed.append([child.id, state])
        else:
            listed.append([child.id, state, children_json(child.children, labels, below)])
    return listed + sorted(dynamic, key=lambda shown: (shown[0] is None, by_label(shown[0] or "")))


def counts_json(counts: ChildCounts) -> Json:
    """What count_children answers."""
    return {
        "active": counts.active,
        "specs": counts.specs,
        "supervisors": counts.supervisors,
        "workers": counts.workers,
    }


def by_label(label: str) -> tuple[int, str]:
    """The order of dynamic children: c2 before c10."""
    return (len(label), label)


def sorted_stops(log: Sequence[list[str]], dynamic: Iterable[str]) -> list[list[str]]:
    """The events, with each run of stops of dynamic children sorted: they stop all at once."""
    labels = set(dynamic)
    done: list[list[str]] = []
    run: list[list[str]] = []
    for event in [*log, ["", "", ""]]:
        if event[0] == "stop" and event[1] in labels:
            run.append(event)
            continue
        done += sorted(run, key=lambda stop: by_label(stop[1]))
        run = []
        done.append(event)
    return done[:-1]
