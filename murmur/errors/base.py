"""The base of all errors, and its code."""

from typing import ClassVar


class MurmurError(Exception):
    """The base of all errors of this package."""

    code: ClassVar[str] = "E000"
