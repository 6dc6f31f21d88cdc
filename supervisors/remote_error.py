"""Errors that cross a process boundary: as a record of plain data, never as a pickled exception.

A pickled exception loses its traceback and its cause, and one with keyword-only arguments raises in the
receiver. So what crosses is what a reader needs: type, message, notes, traceback, cause chain, and whether
a retry may help. Everything is bounded: an error with a huge message must not fill the channel.
How a record is carried is left to `channel`.
"""

import traceback
from typing import Final

from attrs import define, field, frozen

from supervisors.errors import SupervisorError

MOST_TEXT: Final = 8_192  # characters of a message or note
MOST_TRACEBACK: Final = 32_768  # characters; the end is kept, it names the fault
MOST_DEEP: Final = 8  # causes behind one another
MOST_WIDE: Final = 16  # notes of an error, members of a group


@frozen(kw_only=True)
class ErrorRecord:
    """One exception as data. `is_retryable` is what the exception's own `retryable` said, None if it said nothing."""

    type: str  # "module.QualifiedName"
    message: str
    notes: tuple[str, ...] = ()
    traceback: str = field(default="", repr=False)
    cause: "ErrorRecord | None" = None
    members: "tuple[ErrorRecord, ...]" = ()  # of an exception group
    is_retryable: bool | None = None

    def __str__(self) -> str:
        name = self.type.removeprefix("builtins.")
        return f"{name}: {self.message}" if self.message else name


@define(eq=False)
class RemoteError(SupervisorError):
    """An error that was raised in another process. `record` holds everything that is known of it."""

    record: ErrorRecord = field()

    def __attrs_post_init__(self) -> None:
        if self.record.traceback:
            self.add_note(f"In the other process:\n{self.record.traceback}")

    def __str__(self) -> str:
        return str(self.record)


def record_error(error: BaseException, *, depth: int = MOST_DEEP) -> ErrorRecord:
    """Return `error` as data. Never raises, whatever the exception's own methods do."""
    if isinstance(error, RemoteError):
        return error.record  # it came from further away: keep where it began
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    retryable = getattr(error, "retryable", None)
    return ErrorRecord(
        type=f"{type(error).__module__}.{type(error).__qualname__}",
        message=_text(error),
        notes=tuple(_text(note) for note in _notes(error)[:MOST_WIDE]),
        traceback=_traceback(error),
        cause=record_error(cause, depth=depth - 1) if cause is not None and depth > 0 else None,
        members=tuple(record_error(member, depth=depth - 1) for member in members[:MOST_WIDE]) if depth > 0 else (),
        is_retryable=retryable if isinstance(retryable, bool) else None,
    )


def _notes(error: BaseException) -> list[object]:
    notes = getattr(error, "__notes__", None)
    return list(notes) if isinstance(notes, list) else []


def _text(value: object) -> str:
    try:
        text = str(value)
    except Exception as problem:  # noqa: BLE001  an exception's own __str__ may do anything
        text = f"<its text cannot be told: {type(problem).__name__}>"
    # Lone surrogates cannot be encoded as UTF-8.
    return text[:MOST_TEXT].encode("utf-8", "replace").decode()


def _traceback(error: BaseException) -> str:
    """This error's own frames; those of its causes stand in their own records."""
    lines = traceback.format_tb(error.__traceback__)
    return "".join(lines)[-MOST_TRACEBACK:].encode("utf-8", "replace").decode()
