"""Which known names somebody who mistyped one most likely meant. For the text of errors only."""

from collections.abc import Sequence
from typing import Final

_MOST_SHOWN: Final = 20


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Return the known names, the likeliest meant first, at most 20."""
    from difflib import SequenceMatcher  # noqa: PLC0415  only an error message needs it

    return sorted(known, key=lambda other: (-SequenceMatcher(None, name, other).ratio(), other))[:_MOST_SHOWN]
