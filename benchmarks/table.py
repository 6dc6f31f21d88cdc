"""Figures of several rounds, their ratio to the raw loop, the target, and how that is printed and stored."""

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from attrs import field, frozen


@frozen
class Target:
    """A bound on a figure of murmur's, or on its ratio to the raw loop."""

    bound: float
    kind: Literal["at most", "at least"]
    of: Literal["ratio", "murmur"] = "ratio"
    stretch: float | None = None

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.kind == "at most" else value >= self.bound

    def __str__(self) -> str:
        sign = "≤" if self.kind == "at most" else "≥"
        stretch = "" if self.stretch is None else f" ({number(self.stretch)})"
        return f"{sign} {number(self.bound)}{' x' if self.of == 'ratio' else ''}{stretch}"


@frozen
class Row:
    """One figure, a value per round. `raw` is empty where the raw loop has no such figure, else as long as `murmur`."""

    measure: str
    unit: str
    murmur: Sequence[float]
    raw: Sequence[float] = ()
    target: Target | None = None
    higher_is_better: bool = field(default=False, kw_only=True)

    @property
    def ratio(self) -> float | None:
        """The median over the rounds of murmur by raw, both of the same round."""
        return statistics.median(m / r for m, r in zip(self.murmur, self.raw, strict=True)) if self.raw else None

    @property
    def is_met(self) -> bool | None:
        if self.target is None:
            return None
        value = self.ratio if self.target.of == "ratio" else statistics.median(self.murmur)
        return None if value is None else self.target.is_met(value)

    def best(self, values: Sequence[float]) -> float:
        return max(values) if self.higher_is_better else min(values)

    def cells(self) -> tuple[str, ...]:
        met = {None: "", True: "met", False: "MISSED"}[self.is_met]
        raw = (number(statistics.median(self.raw)), number(self.best(self.raw))) if self.raw else ("", "")
        murmur = (number(statistics.median(self.murmur)), number(self.best(self.murmur)))
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (self.measure, self.unit, *raw, *murmur, ratio, str(self.target or ""), met)

    def as_json(self) -> dict[str, Any]:
        return {
            "measure": self.measure,
            "unit": self.unit,
            "murmur": list(self.murmur),
            "raw": list(self.raw),
            "ratio": self.ratio,
            "target": str(self.target or ""),
            "met": self.is_met,
        }


HEAD = ("measure", "unit", "raw", "best", "murmur", "best", "ratio", "target (stretch)", "")


def rendered(rows: Sequence[Row]) -> str:
    """Return the rows as a table: medians and bests, ratios, targets."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 1, 7, 8) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float) -> str:
    """Return a number with as many digits as it is worth."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def part(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies; they are sorted."""
    return values[min(int(len(values) * share), len(values) - 1)]
