"""Errors of set-up and connections, E1xx."""

from typing import ClassVar

from attrs import define

from murmur.errors.base import MurmurError


@define(slots=False)
class BadURL(MurmurError, ValueError):
    """A broker or store URL cannot be used. The text shown is redacted."""

    code: ClassVar[str] = "E110"
    url: str
    problem: str

    def __str__(self) -> str:
        return f"cannot use {self.url!r}: {self.problem}"


@define(slots=False)
class BrokerUnreachable(MurmurError, ConnectionError):
    """Nobody answered at the broker's or store's address within the deadline."""

    code: ClassVar[str] = "E111"
    url: str
    after: float  # seconds
    problem: str

    def __str__(self) -> str:
        return (
            f"no answer from {self.url} within {self.after:.0f} s: {self.problem.rstrip('.')}. "
            "Is the server running, and are host and port right?"
        )


@define(slots=False)
class BrokerRefused(MurmurError, ConnectionError):
    """The server answered and said no: wrong password, user, database or missing rights."""

    code: ClassVar[str] = "E112"
    url: str
    problem: str
    mend: str = "Check user, password and rights"

    def __str__(self) -> str:
        return f"{self.url} refused us: {self.problem.rstrip('.')}. {self.mend}"


@define(slots=False)
class Unsafe(MurmurError):
    """Settings of the broker cannot hold what murmur promises, and `strict` was asked for."""

    code: ClassVar[str] = "E114"
    url: str
    findings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.url} cannot hold what is promised, and strict is on: {' '.join(self.findings)}"


@define(slots=False)
class MissingExtra(MurmurError, ImportError):
    """A client library is not installed."""

    code: ClassVar[str] = "E113"
    package: str
    extra: str

    def __str__(self) -> str:
        return f'{self.package} is not installed. Install it: pip install "murmur-runtime[{self.extra}]"'


@define(slots=False)
class BadSetting(MurmurError, ValueError):
    """A setting has a value that cannot work."""

    code: ClassVar[str] = "E120"
    name: str
    value: str
    expected: str

    def __str__(self) -> str:
        return f"{self.name} must be {self.expected}, got {self.value}"


@define(slots=False)
class NeedsStore(MurmurError):
    """What was asked for is kept in a coordination store, and there is none beside the broker."""

    code: ClassVar[str] = "E130"
    what: str

    def __str__(self) -> str:
        return (
            f"{self.what} needs a coordination store, and there is none beside this broker. "
            'Name one, for publishers and workers alike: store="redis://…", or "sqlite:///path" on one host'
        )
