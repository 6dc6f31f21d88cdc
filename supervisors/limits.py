"""What a process child may use: a value for `ChildSpec.limits`, None everywhere unless said.

A child that eats the machine takes its supervisor and all its siblings along. Here it is the eater that is refused
what it wants, or dies. Pure; doing it is left to `process.confine`, in the child, and to `process.life`.
"""

from collections.abc import Iterable
from typing import Any

from attrs import Attribute, field, frozen

from supervisors.errors import SpecError
from supervisors.validation import or_none, whole_number


def _names(value: "str | Iterable[str] | None") -> tuple[str, ...] | None:
    return (value,) if isinstance(value, str) else value if value is None else tuple(value)


def _check_names(_: object, attribute: "Attribute[Any]", value: tuple[object, ...] | None) -> None:
    for name in value or ():
        if not isinstance(name, str) or not name or "=" in name:
            raise SpecError(field=attribute.name, value=name, allowed="names of variables, * and ? allowed, or None")


def _check_path(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if value is not None and not (isinstance(value, str) and value.startswith("/")):
        raise SpecError(field=attribute.name, value=value, allowed="the absolute path of a cgroup, or None")


@frozen(kw_only=True)
class Limits:
    """Limits of one process child; None means no such limit.

    `memory`: bytes it may allocate beyond what it has when it begins, by itself (then: MemoryError) and each of its
    tools; thread stacks count. `processes`: how many processes and threads it may be with all its tools; with more it
    is killed. `files`: how many each process may have open. `environment`: the variables it is given, names with
    `*` and `?`. `cgroup`: a cgroup (version 2) that we may write, with the controllers memory and pids for those
    below it: each child gets one of its own, and `memory` and `processes` hold for it with all its tools together.
    """

    memory: int | None = field(default=None, validator=or_none(whole_number(1)))
    processes: int | None = field(default=None, validator=or_none(whole_number(1)))
    files: int | None = field(default=None, validator=or_none(whole_number(1)))
    environment: tuple[str, ...] | None = field(default=None, converter=_names, validator=_check_names)
    cgroup: str | None = field(default=None, validator=_check_path)
