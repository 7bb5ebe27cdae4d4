"""Two runs, of one commit and another: which ratio moved further than it wavers by itself.

A baseline is what `python -m benchmarks --save` wrote: only figures that hold on any machine, each with its median and
with what the middle half of its rounds lay between. A figure has moved where the middle halves have nothing in common,
where it is more than LEAST, and where it is so once more when measured again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import Sample
from benchmarks.reporting import COMPARABLE, Figure

LEAST = {"x": 0.25, "tokens": 0.02, "trips": 0.0}
"""What part of the median is no move: on a machine with other things to do, times of one and the same code differ."""

Key = tuple[str, str, str]
"""The benchmark's name, the database, what was measured."""
Found = Mapping[str, Sequence[Figure]]


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a run: its *median*, and the middle half of its rounds from *low* to *high*."""

    unit: str
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figure: Figure) -> "Measure":
        low, high = figure.sample.middle
        return cls(figure.unit, round(figure.sample.median, 4), round(low, 4), round(high, 4))


@dataclass(frozen=True, slots=True)
class Move:
    """A figure that is not what it was. All of these are costs: risen is worse."""

    key: Key
    before: Measure
    now: Measure

    @property
    def is_rise(self) -> bool:
        return self.now.median > self.before.median

    def __str__(self) -> str:
        name, database, what = self.key
        word = "risen" if self.is_rise else "fallen"
        return f"{word}: {name}, {database}: {what}: {_told(self.before)} before, {_told(self.now)} now"


def _told(measure: Measure) -> str:
    unit = measure.unit if measure.unit == "x" else f" {measure.unit}"
    if measure.low == measure.high:
        return f"{measure.median:g}{unit}"
    return f"{measure.median:.3g}{unit} ({measure.low:.3g} to {measure.high:.3g})"


def pooled(runs: Sequence[Found]) -> dict[str, list[Figure]]:
    """The figures of several runs as if of one: every round of each."""
    first, *others = runs
    return {name: [_joined(figure, name, others) for figure in figures] for name, figures in first.items()}


def _joined(figure: Figure, name: str, others: Sequence[Found]) -> Figure:
    each = list(figure.sample.each)
    for run in others:
        same = (other for other in run[name] if (other.database, other.what) == (figure.database, figure.what))
        each += next(same).sample.each
    return replace(figure, sample=Sample(tuple(each)))


def measures(found: Found) -> dict[Key, Measure]:
    """What of *found* can be compared."""
    return {
        (name, figure.database, figure.what): Measure.of(figure)
        for name, figures in found.items()
        for figure in figures
        if figure.unit in COMPARABLE
    }


def save(file: Path, machine: str, found: Found) -> None:
    """Write what of *found* can be compared as a baseline; lines that change one by one, for diffs to be read."""
    grouped: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, database, what), measure in measures(found).items():
        grouped.setdefault(name, {}).setdefault(database, {})[what] = asdict(measure)
    lines = json.dumps({"machine": machine, "measures": grouped}, indent=1)
    file.write_text(lines + "\n")


def load(file: Path) -> tuple[str, dict[Key, Measure]]:
    """A baseline's machine and measures."""
    read = json.loads(file.read_text())
    return read["machine"], {
        (name, database, what): Measure(**measure)
        for name, databases in read["measures"].items()
        for database, whats in databases.items()
        for what, measure in whats.items()
    }


def moves(before: Mapping[Key, Measure], now: Mapping[Key, Measure]) -> Iterator[Move]:
    """What is in both and has moved; what has risen first, the furthest first."""
    moved = [Move(key, before[key], now[key]) for key in before if key in now and _has_moved(before[key], now[key])]
    yield from sorted(moved, key=lambda move: move.before.median / move.now.median if move.now.median else 0.0)


def confirmed(first: Sequence[Move], second: Sequence[Move]) -> list[Move]:
    """Of the *second* moves those that were among the *first* too, and in the same direction."""
    before = {(move.key, move.is_rise) for move in first}
    return [move for move in second if (move.key, move.is_rise) in before]


def _has_moved(before: Measure, now: Measure) -> bool:
    if abs(now.median - before.median) <= LEAST[before.unit] * before.median:
        return False
    return now.low > before.high or now.high < before.low
