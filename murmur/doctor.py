"""What a broker's settings and state mean for the guarantees: findings, each with the invariant and what mends it.

The examination itself is the adapter's. Source of the invariants: docs/explanation/guarantees.md.
"""

import enum

from attrs import frozen


class Severity(enum.Enum):
    """How much it matters. `REFUSED`: no right, so nothing works. `BROKEN` cannot hold its invariant."""

    REFUSED = "refused"
    BROKEN = "broken"
    RISK = "risk"
    NOTE = "note"


@frozen
class Finding:
    """One finding."""

    severity: Severity
    invariant: str  # "I1"
    what: str
    mend: str  # a command, or what to do

    def __str__(self) -> str:
        return f"{self.invariant} {self.severity.value}: {self.what}. {self.mend}"


def broken(findings: list[Finding]) -> list[Finding]:
    """Return those that cannot hold their invariant."""
    return [finding for finding in findings if finding.severity in (Severity.REFUSED, Severity.BROKEN)]


def refused(findings: list[Finding]) -> list[Finding]:
    """Return those for which the broker cannot be used at all."""
    return [finding for finding in findings if finding.severity is Severity.REFUSED]
