"""Validators for specs: each refusal names the field, the value it got and what is allowed."""

import enum
from collections.abc import Callable
from typing import Any

from attrs import Attribute

from supervisors.errors import SpecError

Validator = Callable[[object, "Attribute[Any]", object], None]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124 NaN


def positive(_: object, attribute: "Attribute[Any]", value: object) -> None:
    """A finite number of seconds above zero."""
    if not (isinstance(value, int | float) and _is_number(value) and 0 < value < float("inf")):
        raise SpecError(field=attribute.name, value=value, allowed="a finite number above 0")


def number(least: float) -> Validator:
    """A finite number of at least `least`."""

    def check(_: object, attribute: "Attribute[Any]", value: object) -> None:
        if not (isinstance(value, int | float) and _is_number(value) and least <= value < float("inf")):
            raise SpecError(field=attribute.name, value=value, allowed=f"a finite number of at least {least:g}")

    return check


def truth(_: object, attribute: "Attribute[Any]", value: object) -> None:
    """True or False, nothing that merely resembles them."""
    if not isinstance(value, bool):
        raise SpecError(field=attribute.name, value=value, allowed="True or False")


def whole_number(least: int) -> Validator:
    """A whole number of at least `least`."""

    def check(_: object, attribute: "Attribute[Any]", value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SpecError(field=attribute.name, value=value, allowed=f"a whole number of at least {least}")

    return check


def member(kind: type[enum.Enum]) -> Validator:
    """A member of `kind`."""
    names = ", ".join(f"{kind.__name__}.{name}" for name in kind.__members__)

    def check(_: object, attribute: "Attribute[Any]", value: object) -> None:
        if not isinstance(value, kind):
            raise SpecError(field=attribute.name, value=value, allowed=names)

    return check


def instance(kind: type) -> Validator:
    """An instance of `kind`."""

    def check(_: object, attribute: "Attribute[Any]", value: object) -> None:
        if not isinstance(value, kind):
            raise SpecError(field=attribute.name, value=value, allowed=f"a {kind.__name__} or None")

    return check


def or_none(check: Validator) -> Validator:
    """None, or what `check` lets pass."""

    def checked(owner: object, attribute: "Attribute[Any]", value: object) -> None:
        if value is not None:
            check(owner, attribute, value)

    return checked
