"""Figures and their goals, as a table for people and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Sample

Unit = Literal["x", "ms", "MB", "kB", "tokens", "trips", "/s"]
COMPARABLE: tuple[Unit, ...] = ("x", "trips", "tokens")
"""What holds on any machine, and can be compared from one commit to another."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured on *database* ("" for what needs none); *at_most* is its goal, for the median.

    *within* is a goal for a change, which may be a fall as well. *detail* are lines that tell what it consists of.
    """

    database: str
    what: str
    sample: Sample
    unit: Unit
    at_most: float | None = None
    within: float | None = None
    detail: tuple[str, ...] = ()

    @property
    def goal(self) -> str:
        if self.within is not None:
            return f"± {self.within:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    @property
    def is_missed(self) -> bool:
        median = self.sample.median
        too_much = self.at_most is not None and median > self.at_most
        return too_much or (self.within is not None and abs(median) > self.within)

    def as_dict(self) -> dict[str, Any]:
        low, high = self.sample.middle
        return {
            "database": self.database,
            "what": self.what,
            "unit": self.unit,
            "median": round(self.sample.median, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "min": round(self.sample.least, 4),
            "max": round(self.sample.most, 4),
            "times": len(self.sample.each),
            "goal": self.goal or None,
            "missed": self.is_missed,
            **({"detail": self.detail} if self.detail else {}),
        }


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print *figures*: goals and ratios, which hold on any machine, before the rest; then what they consist of."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name, justify in _COLUMNS.items():
        table.add_column(name, justify=justify, no_wrap=True)
    for figure in sorted(figures, key=_rank):
        table.add_row(*_cells(figure))
    # Its own width: cut off at the edge of a narrow terminal, figures would be missing.
    Console(width=140, highlight=False).print(table)
    for figure in figures:
        if figure.detail:
            print("\n  ".join([f"{figure.database}, {figure.what}:", *figure.detail]))


_COLUMNS: dict[str, Literal["left", "right"]] = {
    "database": "left",
    "what": "left",
    "median": "right",
    "min": "right",
    "max": "right",
    "": "left",
    "goal": "right",
    " ": "left",
}


def _rank(figure: Figure) -> int:
    if figure.unit in ("x", "trips"):
        return 0
    return 1 if figure.goal else 2


def _cells(figure: Figure) -> list[str]:
    sample = figure.sample
    is_once = len(sample.each) == 1
    verdict = "" if not figure.goal else "MISSED" if figure.is_missed else "met"
    spread = ["", ""] if is_once else [_number(sample.least), _number(sample.most)]
    return [figure.database, figure.what, _number(sample.median), *spread, figure.unit, figure.goal, verdict]


def _number(value: float) -> str:
    """Three digits that count."""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"
