"""The actor class: a private state, one message at a time, and what its failures mean.

Users derive from `Actor[In, Out]` and write `receive`. The class carries the name and the
policies; an instance is made, used and dropped by a worker, which also calls the life
cycle. `Remote` names an agent whose class is not here.
"""

import sys
import typing
from typing import Any, ClassVar, Generic, Literal, TypeVar

from attrs import field, frozen

from murmur.context import Context
from murmur.named import Named
from murmur.names import check_agent_name, snake_case
from murmur.policy import Directive, Intensity, Redelivery, default_directive

In = TypeVar("In")
Out = TypeVar("Out")


class Actor(Generic[In, Out]):
    """An agent: derive with its input and output types, write `receive`.

    Class attributes, all optional: `name` (default: the class name in snake_case), `timeout` (seconds per attempt),
    `redelivery`, `intensity`, `isolation`, `concurrency` (this agent's share of a worker's slots), `named` (instances
    are addressed by name; what `snapshot` returns is kept and given to `restore`).
    """

    name: ClassVar[str]
    timeout: ClassVar[float | None] = None
    redelivery: ClassVar[Redelivery] = Redelivery()
    intensity: ClassVar[Intensity] = Intensity(max_restarts=3, period=5.0)
    isolation: ClassVar[Literal["task", "process"]] = "task"
    concurrency: ClassVar[int | None] = None
    named: ClassVar[Named | None] = None

    context: Context  # of the task being received; set before `receive`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        given = cls.__dict__.get("name")
        cls.name = check_agent_name(snake_case(cls.__name__) if given is None else given, where=cls.__qualname__)
        if cls.named is not None and not isinstance(cls.named, Named):
            raise TypeError(f"{cls.__qualname__}.named must be Named(…) or None, got {cls.named!r}")
        if (cls.snapshot is Actor.snapshot) != (cls.restore is Actor.restore):
            raise TypeError(f"{cls.__qualname__} has one of snapshot and restore, it needs both")

    async def receive(self, message: In) -> Out:
        """Handle one message and return its result. Raise `Reject` for what can never succeed."""
        raise NotImplementedError(f"{type(self).__qualname__} has no receive()")

    async def started(self) -> None:
        """Called once on a new instance, before its first message."""

    async def stopped(self, reason: str) -> None:
        """Called once on an instance that is let go: `"drain"` or `"idle"`, of a named actor
        also `"moved"`: its name lives elsewhere now."""

    async def restarting(self, error: BaseException, message: In) -> None:
        """Called on the instance that failed, before it is dropped; its successor gets `started`.

        One that keeps a state is dropped after every failure: what its successor restores is the state before it.
        """

    def snapshot(self) -> Any:
        """Return the state to keep of a named actor, in the type that its annotation says; None: nothing.

        Called after every message, and kept together with the message's result: neither is ever seen without the other.
        """
        raise NotImplementedError(f"{type(self).__qualname__} keeps no state")

    def restore(self, state: Any) -> None:
        """Take the kept state of this name over. Called on a new instance before `started`, if there is any."""
        raise NotImplementedError(f"{type(self).__qualname__} keeps no state")

    def decide(self, error: BaseException) -> Directive:
        """Return what an error of `receive` does. Default: resume if it would repeat, else restart."""
        return default_directive(error)

    def idempotency_key(self, message: In) -> str | None:
        """Return what makes two messages the same work; None: each task is its own."""
        del message
        return None


@frozen
class Remote:
    """An agent served elsewhere, in any language. Input and output are plain JSON."""

    name: str = field()

    @name.validator
    def _check(self, _: object, value: object) -> None:
        check_agent_name(value, where="Remote")


@frozen
class Signature:
    """What an agent takes and returns, as declared."""

    input: Any = Any
    output: Any = Any


def signature_of(cls: type[Actor[Any, Any]]) -> Signature:
    """Return the type parameters a class gave to `Actor`, through any bases in between; `Any` where it gave none."""
    found = _parameters(cls, {})
    if found is None:
        return Signature()
    return Signature(*(_resolved(parameter, cls) for parameter in found))


def _parameters(cls: Any, bound: dict[Any, Any]) -> tuple[Any, Any] | None:
    for base in cls.__dict__.get("__orig_bases__", ()):
        origin = typing.get_origin(base)
        if not isinstance(origin, type) or not issubclass(origin, Actor):
            continue
        arguments = tuple(_substituted(argument, bound) for argument in typing.get_args(base))
        if origin is Actor:
            return (arguments[0], arguments[1])
        inner = _parameters(origin, dict(zip(origin.__parameters__, arguments, strict=False)))  # type: ignore[attr-defined]  # every generic class has them
        if inner is not None:
            return inner
    for base in cls.__bases__:
        if base is not Actor and issubclass(base, Actor):
            return _parameters(base, {})
    return None


def _substituted(argument: Any, bound: dict[Any, Any]) -> Any:
    if isinstance(argument, TypeVar):
        return bound.get(argument, Any)
    parameters = getattr(argument, "__parameters__", ())
    if parameters and typing.get_args(argument):
        return argument[tuple(bound.get(parameter, Any) for parameter in parameters)]
    return argument


def _resolved(parameter: Any, cls: type) -> Any:
    """Return a type for one that was written as text, looked up where the class was defined."""
    if isinstance(parameter, str | typing.ForwardRef):
        holder = type("holder", (), {"__annotations__": {"it": parameter}})
        return typing.get_type_hints(holder, vars(sys.modules[cls.__module__]))["it"]
    return parameter
