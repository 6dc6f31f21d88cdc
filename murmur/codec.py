"""Users' types to JSON bytes and back: cattrs, strict, with a path to every misfit.

Anything cattrs can structure may be an input or output: attrs classes, dataclasses,
builtins, unions, enums, datetimes. Nothing is coerced: "5" is no int. Unions of classes
carry the class name under `_type`, chosen from the declared members only; no other type
name ever comes from the wire.
"""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import attrs
import cattrs
import msgspec
from cattrs.preconf.json import make_converter

_TAG: Final = "_type"
_PLAIN: Final = (Any, object)
_SCALARS: Final = (str, int, bool)
_SHOWN: Final = 80


class Misfit(ValueError):
    """A value does not fit a type. `problems` are sentences that begin with the path, `$` being the whole."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class PayloadCodec:
    """One declared type, both ways. Built once a type by `codec_for`."""

    def __init__(self, declared: object) -> None:
        self.declared = declared
        self.type_name = type_name(declared)
        self._is_plain = declared in _PLAIN
        self._scalar = declared if declared in _SCALARS else None  # whose JSON cannot be another type's
        try:
            self._structure: Callable[[Any, Any], Any] = _converter.get_structure_hook(declared)
            self._unstructure: Callable[[Any], Any] = _converter.get_unstructure_hook(declared)
        except Exception as error:
            raise TypeError(f"{self.type_name} cannot be sent: {error}") from error

    def encode(self, value: object) -> bytes:
        """Return `value` as JSON. Raises `Misfit` for what is not of the declared type."""
        try:
            if type(value) is self._scalar:
                return _encode(value)
            plain = value if self._is_plain else self._unstructure(value)
            _refuse_unfinite(plain)
            return _encode(plain)
        except (TypeError, ValueError, AttributeError, OverflowError, RecursionError, LookupError) as error:
            raise Misfit(
                [f"$ expected {self.type_name}, got {_shown(value)} ({type(error).__name__}: {error})"]
            ) from error

    def encode_checked(self, value: object) -> bytes:
        """Like `encode`, and the bytes are proven to be readable as the declared type.

        A plain dict is taken for a class if it reads as one: what came from JSON need not be built first.
        """
        if type(value) is self._scalar:  # its JSON reads as nothing else
            return self.encode(value)
        if type(value) is dict and isinstance(self.declared, type) and _is_record(self.declared):
            body = _plain(value)
        else:
            body = self.encode(value)
        self.decode(body)
        return body

    def decode(self, body: bytes | msgspec.Raw) -> Any:
        """Return the value in a JSON document. Raises `Misfit`."""
        try:
            plain = _decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Misfit([f"$ is no JSON: {error}"]) from error
        if self._is_plain or type(plain) is self._scalar:
            return plain
        return self.structure(plain)

    def structure(self, plain: object) -> Any:
        """Return the value that plain JSON data stands for. Raises `Misfit`."""
        try:
            return self._structure(plain, self.declared)
        except Exception as error:
            raise Misfit(_problems(error)) from error


@functools.lru_cache(maxsize=1024)
def codec_for(declared: object) -> PayloadCodec:
    """Return the codec of a type; made on first use. Raises `TypeError` for what cattrs cannot handle."""
    return PayloadCodec(declared)


def returned_type(fn: Callable[..., object]) -> object:
    """Return the type that a function is annotated to return; Any if it does not say."""
    try:
        return typing.get_type_hints(fn).get("return", Any)
    except (NameError, TypeError):
        return Any


def type_name(declared: object) -> str:
    """Return a type as its author would write it: `list[Page]`, not where `Page` stands."""
    if isinstance(declared, type) and not typing.get_args(declared):
        return declared.__name__
    return _MODULES.sub("", str(declared))


_MODULES: Final = re.compile(r"\b(?:\w+\.)+(?=[A-Za-z_])")  # before the name of a class
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def _plain(value: object) -> bytes:
    try:
        _refuse_unfinite(value)
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise Misfit([f"$ has no JSON form: {error}"]) from error


def _refuse_unfinite(plain: object) -> None:
    """Raise for NaN and infinities, which JSON does not have and an encoder would silently turn into null."""
    if type(plain) is float:
        if not math.isfinite(plain):
            raise ValueError(f"{plain} has no JSON form")
    elif type(plain) is dict:
        for value in plain.values():
            _refuse_unfinite(value)
    elif type(plain) is list or type(plain) is tuple:
        for value in plain:
            _refuse_unfinite(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _problems(error: Exception) -> list[str]:
    """Return cattrs' error tree as sentences, each beginning with its path."""
    sentences = []
    for line in cattrs.transform_error(error, path="$", format_exception=_sentence):
        problem, _, path = line.rpartition(" @ ")
        sentences.append(f"{path} {problem}")
    return sentences


def _sentence(error: BaseException, expected: type | None) -> str:
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(error, Misfit | _Unfit):
        return str(error)
    wanted = f"expected {type_name(expected)}, " if expected is not None else ""
    return f"{wanted}{type(error).__name__}: {error}"


class _Unfit(ValueError):
    """One value that is not of its type."""


def _strict(*accepted: type, name: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) in accepted:
            return value
        raise _Unfit(f"expected {name}, got {_shown(value)}")

    return structure


def _float(value: Any, _: Any) -> float:
    if type(value) in (float, int):
        return float(value)
    raise _Unfit(f"expected float, got {_shown(value)}")


def _is_class_union(declared: Any) -> bool:
    if typing.get_origin(declared) not in (typing.Union, types.UnionType):
        return False
    return sum(_is_record(member) for member in typing.get_args(declared)) > 1


def _is_record(member: Any) -> bool:
    return isinstance(member, type) and (attrs.has(member) or dataclasses.is_dataclass(member))


def _tagged_structure(declared: Any) -> Callable[[Any, Any], Any]:
    members = {m.__name__: m for m in typing.get_args(declared) if _is_record(m)}
    others = tuple(m for m in typing.get_args(declared) if not _is_record(m))
    rest: Any = typing.Union[others] if others else None  # noqa: UP007  built at run time

    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, dict) and value.get(_TAG) in members:
            member = members[value[_TAG]]
            return _converter.structure({k: v for k, v in value.items() if k != _TAG}, member)
        if rest is not None and not isinstance(value, dict):
            return _converter.structure(value, rest)
        raise _Unfit(f"expected an object with {_TAG!r} of {', '.join(members)}, got {_shown(value)}")

    return structure


def _tagged_unstructure(declared: Any) -> Callable[[Any], Any]:
    members = {m for m in typing.get_args(declared) if _is_record(m)}

    def unstructure(value: Any) -> Any:
        if type(value) in members:
            return {_TAG: type(value).__name__, **_converter.unstructure(value)}
        return _converter.unstructure(value)

    return unstructure


def _make_converter() -> cattrs.Converter:
    converter = make_converter()
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _strict(kind, name=kind.__name__))
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook_func(lambda t: t is type(None), _strict(type(None), name="null"))
    converter.register_structure_hook_factory(_is_class_union, _tagged_structure)
    converter.register_unstructure_hook_factory(_is_class_union, _tagged_unstructure)
    return converter


_converter: Final = _make_converter()
