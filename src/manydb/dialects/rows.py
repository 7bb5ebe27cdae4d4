"""The rows of a statement, as every database's execution returns them; and how many of them a read takes in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manydb import values
from manydb.slices import Turns

MAX_BYTES = 16 * 1024 * 1024
"""What one read keeps of a result, about: a few long cells must not fill the gateway's memory."""
_FIRST_SLICE = 16
"""Rows asked for before anything is known of their size; later slices are up to eight times what was read."""
_ROW_BYTES, _CELL_BYTES = 64, 32
_SHORT = {type(None), bool, int, float}
_PART_CELLS = 4_000
"""Cells that are converted at a time: a fraction of a millisecond."""
_NARROW = 100
"""Characters; numbers, moments and the like have no more."""
_TOGETHER = 1_000
"""Characters; where all of some cells have no more, the longest is not looked for."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a statement returned, already in the JSON form that docs/values.md describes.

    *types* are the database's own names, one a column; *more* tells that rows were left unread, *full* that it was for
    their size and not for their number. *size* is about what the rows hold in memory, in bytes. *affected* rows are a
    write's; *generated* is the key that the database made for the one row which was inserted, where it tells.
    """

    columns: list[str]
    types: list[str]
    rows: list[Sequence[Any]]
    more: bool = False
    full: bool = False
    size: int = 0
    affected: int | None = None
    generated: int | None = None
    widest: int | None = None
    """Characters of the longest cell, or more; None where nobody looked."""


@dataclass(slots=True)
class Reading:
    """A result while it is read: *limit* rows and one more, which makes a fact of `more`, or until *max_bytes* are in.

    *long* are the columns (by index) whose cells may be large. Without any, all rows may be asked for at once.
    """

    limit: int
    max_bytes: int
    long: Sequence[int]
    records: list[Sequence[Any]] = field(default_factory=list)
    size: int = 0
    widest: int | None = _NARROW
    """As of `Rows`."""

    @property
    def wants(self) -> int:
        """How many rows to ask for next; 0 when it is enough."""
        count = len(self.records)
        if self.is_full:
            return 0
        missing = max(0, self.limit + 1 - count)
        if not self.long:
            return missing
        if not count:
            return min(missing, _FIRST_SLICE)
        fitting = max(0, self.max_bytes - self.size) * count // max(1, self.size) + 1
        return min(missing, _FIRST_SLICE * count, fitting)

    @property
    def is_full(self) -> bool:
        # A second row is always read: the last one read is given up to prove that there is more.
        return self.size > self.max_bytes and len(self.records) > 1

    def add(self, records: Sequence[Sequence[Any]], columns: Sequence[Sequence[Any]] | None = None) -> None:
        """Take in *records*; where their *columns* are at hand as well, those need not be picked out again."""
        self.records += records
        if records:
            self.size += len(records) * (_ROW_BYTES + _CELL_BYTES * len(records[0]))
        for column in self.long:
            self.weigh(columns[column] if columns else [record[column] for record in records])

    def weigh(self, cells: Sequence[Any]) -> None:
        """Count what *cells* hold. Those of columns that are not long need not be counted if all of them are narrow."""
        try:
            size = len("".join(filter(None, cells)))
        except TypeError:  # they are not all texts
            self._weigh_others(cells)
            return
        self.size += size
        if self.widest is not None and size > self.widest:
            longest = size if size <= _TOGETHER else max(map(len, filter(None, cells)))
            self.widest = max(self.widest, longest)

    def _weigh_others(self, cells: Sequence[Any]) -> None:
        kinds = set(map(type, cells))
        if kinds <= _SHORT:
            return
        # Bytes grow when they become text, and what is no text may.
        self.widest = None
        self.size += sum(map(_weight, cells))

    async def converted(
        self, records: list[Sequence[Any]], plan: Mapping[int, Any], wide: Sequence[int] = ()
    ) -> list[Sequence[Any]]:
        """*records* as `values.rows` makes them by *plan*, in slices; the cells of the *wide* columns are weighed."""
        step = max(1, _PART_CELLS // max(1, len(records[0]))) if records else 1
        turns, rows = Turns(), list[Sequence[Any]]()
        for start in range(0, len(records), step):
            some = records[start : start + step]
            for column in wide:
                self.weigh([record[column] for record in some])
            rows += values.rows(some, plan)
            await turns.give()
        return rows

    def kept(self, *, unread: bool) -> tuple[list[Sequence[Any]], bool, bool]:
        """The rows to return, whether there are more, and whether size is why; *unread*: the end was not seen."""
        if len(self.records) > self.limit:
            return self.records[: self.limit], True, False
        if unread and self.is_full:
            return self.records[:-1], True, True
        return self.records, False, False


def _weight(cell: Any) -> int:
    kind = type(cell)
    if kind is str or kind is bytes:
        return len(cell)
    return 0 if kind in _SHORT else len(str(cell))
