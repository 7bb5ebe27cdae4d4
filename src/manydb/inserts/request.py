"""What was given to be inserted: rows with columns, or records, that belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from manydb.dialects.loading import OnConflict
from manydb.errors import BadParameter

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be inserted: *rows* with *columns*, or *records*; *key* is what ``on_conflict`` is about."""

    table: str
    columns: Sequence[str] | None = None
    rows: Sequence[Row] | None = None
    records: Sequence[Mapping[str, Any]] | None = None
    on_conflict: OnConflict = "error"
    key: Sequence[str] | None = None

    @property
    def count(self) -> int:
        return len(self.rows or self.records or ())

    def spread(self) -> tuple[list[str], Sequence[Row]]:
        """Columns and rows. Raises BadParameter where they are no such, or do not belong together."""
        if (self.rows is None) == (self.records is None):
            raise BadParameter("give rows (lists, with columns) or records (objects)")
        _require("rows", self.rows, list)
        _require("records", self.records, dict)
        if self.records is not None:
            return _spread(self.records, self.columns)
        rows = self.rows or ()
        if not self.columns:
            raise BadParameter("rows need columns: the names of their values, in order")
        if set(map(len, rows)) - {len(self.columns)}:
            number = next(number for number, row in enumerate(rows) if len(row) != len(self.columns))
            raise BadParameter(
                f"row {number} has {len(rows[number])} values for {len(self.columns)} columns", row=number
            )
        return list(self.columns), rows


def _require(name: str, given: object, kind: type) -> None:
    """*given* is a list of *kind*, or nothing; those who validate arguments would copy each row."""
    if given is not None and (not isinstance(given, list) or set(map(type, given)) - {kind}):
        raise BadParameter(f"{name}: should be a list of {'lists' if kind is list else 'objects'}")


def _spread(records: Sequence[Mapping[str, Any]], columns: Sequence[str] | None) -> tuple[list[str], Sequence[Row]]:
    wanted = list(columns or (records[0] if records else ()))
    pick = itemgetter(*wanted) if len(wanted) > 1 else lambda record: tuple(record[name] for name in wanted)
    try:
        rows = list(map(pick, records))
    except KeyError:
        rows = []
    if len(rows) < len(records) or set(map(len, records)) - {len(wanted)}:
        number = next(number for number, record in enumerate(records) if record.keys() != set(wanted))
        odd = sorted(set(wanted) ^ records[number].keys())
        raise BadParameter(
            f"row {number}: every record has the same keys ({', '.join(wanted)}), null for nothing; "
            f"here {', '.join(odd)[:200]} differ",
            row=number,
        )
    return wanted, rows
