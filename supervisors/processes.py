"""How the process children of a tree are started: the method, and what is loaded before they are needed.

A value that anybody may build: multiprocess is loaded by `process.spawner`, when the first child asks for a process.
"""

import sys
from collections.abc import Iterable
from typing import Final

from attrs import Attribute, field, frozen

from supervisors.errors import SpecError

METHODS: Final = ("forkserver", "spawn")


def _check_method(_: object, attribute: "Attribute[str]", value: object) -> None:
    if value == "fork":
        allowed = (
            "'forkserver' or 'spawn': a fork of a process with an event loop or threads copies locks that nobody "
            "will release, takes the parent's readers off its own selector, and sends its signals to the wrong one"
        )
        raise SpecError(field=attribute.name, value=value, allowed=allowed)
    if value not in METHODS:
        raise SpecError(field=attribute.name, value=value, allowed="'forkserver' or 'spawn'")


def _check_modules(_: object, attribute: "Attribute[tuple[str, ...]]", value: tuple[object, ...]) -> None:
    for name in value:
        if not isinstance(name, str) or not name:
            raise SpecError(field=attribute.name, value=name, allowed="names of modules to import")


def _tupled(value: "str | Iterable[str]") -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@frozen(kw_only=True)
class Processes:
    """How a tree starts its process children.

    `method`: "forkserver" (the default on Linux) or "spawn" (elsewhere). `preload`: modules that the fork server
    imports once, so that children begin with them: in 15 ms instead of a second with a large client library, and
    their memory is shared. "spawn" has no such thing and ignores it.
    """

    method: str = field(validator=_check_method)
    preload: tuple[str, ...] = field(default=(), converter=_tupled, validator=_check_modules)

    @method.default
    def _method_here(self) -> str:
        return "forkserver" if sys.platform == "linux" else "spawn"
