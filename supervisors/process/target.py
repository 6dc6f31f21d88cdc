"""What a child is to run, as it crosses into another process: a name, or code of a notebook.

A function crosses as "module:qualified.name" and is imported there; arguments are pickled, which also names
classes and does not copy them. Functions and classes of `__main__` have no module to import: they are sent by value
with dill, once per start. Not every class survives that; the child that cannot load one says so, and its start
fails with the advice to move it to a module.
"""

import importlib
import importlib.util
import io
import pickle
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import dill
from attrs import define, frozen

from supervisors.errors import SupervisorError
from supervisors.spec import Init, SupervisorSpec

MAIN: Final = "__main__"
SUBTREE: Final = "supervisors.process.subtree:run"
Function = Callable[..., Awaitable[object]]


@define
class NotSendable(SupervisorError):
    """A child cannot be started in a process: what it runs, or an argument, does not get there."""

    what: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what} cannot be sent to a process: {self.problem}; {self.advice}"


@frozen
class Target:
    """A function and its arguments, ready to be sent: all of it by dill (`by_value`), or the arguments alone.

    `name`: the function's; `by_value` that of what is defined in `__main__`, to be told when it does not arrive.
    """

    name: str
    data: bytes
    by_value: bool = False


def pack(start: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Target:
    """Make a target. Blocking: may import. Raises NotSendable, when it is known already that it cannot arrive."""
    if isinstance(start, SupervisorSpec | Init):
        start, args = SUBTREE, (start,)
    name = start if isinstance(start, str) else _name_of(start)
    module = name.partition(":")[0]
    if module == MAIN:
        return _by_value(start, name, args, kwargs)
    if isinstance(start, str):
        _check_text(start)
    else:
        _check_importable(start, name)
    try:
        return Target(name, _pickled((args, dict(kwargs))))
    except _InMain as met:
        return _by_value(start, f"{MAIN}:{met.qualname}", args, kwargs)
    except Exception as error:  # a __reduce__ of an argument may raise anything
        advice = "pass plain data, and open connections, locks and files in the child"
        raise NotSendable(f"an argument of {name}", f"{type(error).__name__}: {error}", advice) from error


def unpack(target: Target) -> tuple[Function, tuple[Any, ...], dict[str, Any]]:
    """Return the function and its arguments, in the child. Raises whatever importing and loading raise."""
    if target.by_value:
        function, args, kwargs = dill.loads(target.data)  # noqa: S301  from our own supervisor, at the start
        if isinstance(function, str):
            function = find(function)
    else:
        function = find(target.name)
        args, kwargs = pickle.loads(target.data)  # noqa: S301  from our own supervisor, at the start
    if not callable(function):
        raise TypeError(f"{target.name} is {function!r}, not a function")
    return function, args, kwargs


def find(name: str) -> Any:
    """Import what "module:qualified.name" names."""
    module, _, qualname = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


@define
class _InMain(Exception):
    """Pickling met something of `__main__`."""

    qualname: str


class _Pickler(pickle.Pickler):
    """A pickler that stops at what a child could only look for in its own `__main__`, where it is not."""

    def reducer_override(self, value: Any) -> Any:
        is_named = isinstance(value, type) or callable(value)
        if is_named and getattr(value, "__module__", None) == MAIN and hasattr(value, "__qualname__"):
            raise _InMain(value.__qualname__)
        return NotImplemented


def _pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _name_of(start: object) -> str:
    module, qualname = getattr(start, "__module__", None), getattr(start, "__qualname__", None)
    if not module or not qualname:
        advice = "use an async function defined at the top of a module, or its name as 'module:name'"
        raise NotSendable(f"start={start!r}", "it has no name to import it by", advice)
    return f"{module}:{qualname}"


def _check_importable(start: object, name: str) -> None:
    """The name must lead to this very object, or the child would run another one, or none."""
    advice = "define it at the top of a module, and give what it closes over as args"
    if "<" in name:  # <locals>, <lambda>
        raise NotSendable(name, "it is defined inside a function", advice)
    try:
        found = find(name)
    except (ImportError, AttributeError) as error:
        raise NotSendable(name, f"importing it fails: {error}", advice) from error
    if found is not start:
        raise NotSendable(name, f"that name is {found!r} now, not what was given", advice)


def _check_text(name: str) -> None:
    """The module must be there; it is not run here, for it may be heavy and is not ours to run."""
    module = name.partition(":")[0]
    advice = "check the spelling 'module:name', and that the module is installed or on sys.path"
    if module in sys.modules:
        try:
            find(name)
        except AttributeError as error:
            raise NotSendable(f"start={name!r}", str(error), advice) from error
        return
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:  # a parent package is missing, or is none
        raise NotSendable(f"start={name!r}", str(error), advice) from error
    if spec is None:
        raise NotSendable(f"start={name!r}", f"no module named {module!r}", advice)


def _by_value(start: object, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Target:
    function = start
    if isinstance(start, str):
        function = find(start) if start.partition(":")[0] == MAIN else start
    try:
        return Target(name, dill.dumps((function, args, dict(kwargs)), recurse=True), by_value=True)
    except Exception as error:  # dill raises whatever the objects' own methods do
        raise unsent(name, f"{type(error).__name__}: {error}") from error


def unsent(name: str, problem: str) -> NotSendable:
    """The error for what is defined in `__main__` and does not arrive."""
    return NotSendable(f"{name} (defined in __main__)", problem, "move it to a module that can be imported")
