"""What a process child prints, cut into lines: whole ones, not too long, not too many.

A child that floods must not fill its supervisor's memory, nor its time. So lines beyond the rate are dropped and
counted, and of a line that never ends only the beginning is kept. Pure: no pipe, no clock. Reading is left to
`process.pipes`.
"""

from collections.abc import Callable
from typing import Any

from attrs import Attribute, field, frozen

from supervisors.errors import SpecError
from supervisors.validation import positive, whole_number


def _check_to(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if value is not None and not callable(value):
        raise SpecError(field=attribute.name, value=value, allowed="a function of one OutputLine, or None")


@frozen(kw_only=True)
class Output:
    """How the stdout and stderr of a process child, and of all it starts, are handed on.

    `to`: is given each `events.OutputLine`, in the supervisor's thread, and must not block; None: they are events of
    the tree. `rate`: lines a second that are handed on of each stream, after `burst` at once; a line of many
    bytes counts for several. `longest`: bytes of a line; the rest is cut off.
    """

    to: Callable[[Any], object] | None = field(default=None, validator=_check_to)
    rate: float = field(default=200.0, validator=positive)
    burst: int = field(default=400, validator=whole_number(1))
    longest: int = field(default=8_192, validator=whole_number(16))


@frozen
class Line:
    """One line, and how many were dropped before it."""

    text: str
    dropped: int = 0


class Cutter:
    """Cuts one stream of bytes into lines. `now`: seconds of any clock that does not jump."""

    def __init__(self, output: Output, *, now: float) -> None:
        self._output = output
        self._credit = float(output.burst)  # lines that may be handed on
        self._at = now
        self._part = bytearray()  # of the line that is not whole yet
        self._is_cut = False
        self._dropped = 0

    @property
    def is_flooded(self) -> bool:
        """Whether nothing more is handed on for now."""
        return self._credit < 1

    def feed(self, received: bytes, *, now: float) -> list[Line]:
        """Return the lines that are whole now, in order."""
        self._credit = min(self._credit + (now - self._at) * self._output.rate, self._output.burst)
        self._at = now
        lines, start = [], 0
        while (end := received.find(b"\n", start)) >= 0 and not self.is_flooded:
            self._grow(received[start:end])
            lines.append(self._cut())
            start = end + 1
        if end >= 0:
            self._dropped += received.count(b"\n", start)
            self._part.clear()
            self._is_cut = False
            start = received.rfind(b"\n") + 1
        self._grow(received[start:])
        return lines

    def rest(self) -> list[Line]:
        """Return what is left at the end: a line without its end, the number of those that were dropped."""
        return [self._cut()] if self._part or self._dropped else []

    def _grow(self, piece: bytes) -> None:
        room = self._output.longest - len(self._part)
        self._part += piece[:room]
        self._is_cut = self._is_cut or len(piece) > room
        self._credit = max(self._credit - len(piece) / self._output.longest, 0.0)

    def _cut(self) -> Line:
        text = self._part.decode("utf-8", "replace").removesuffix("\r") + ("…" if self._is_cut else "")
        line = Line(text, self._dropped)
        self._part.clear()
        self._is_cut = False
        self._dropped = 0
        self._credit -= 1
        return line
