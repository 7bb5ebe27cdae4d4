"""Rows → CSV, JSON Lines, Parquet, slice by slice. WRITERS is the list."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, BinaryIO, Literal, Protocol

import orjson

from manydb.errors import Unsupported
from manydb.formats import plain, unique
from manydb.values import BYTES, from_base64

ExportFormat = Literal["csv", "jsonl", "parquet"]
MIME_TYPES: dict[ExportFormat, str] = {
    "csv": "text/csv",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}
_ROW_GROUP = 65_536
_BATCH = 32
_ROW_GROUP_BYTES = 16 * 1024 * 1024


class Writer(Protocol):
    is_splittable: bool
    """Whether the file may be read in pieces that begin where a slice does."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None: ...
    def close(self) -> None: ...


class _Csv:
    is_splittable = True

    def __init__(self, file: BinaryIO, columns: Sequence[str], _types: Sequence[str]) -> None:
        self._file = file
        self._write([columns])

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        for some in _batches(rows):
            self._write(zip(*map(_cells, zip(*some, strict=True)), strict=True))

    def _write(self, lines: Any) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        self._file.write(text.getvalue().encode())

    def close(self) -> None:
        self._file.flush()


def _batches(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """*rows*, few at a time: what is done to some at once, in C, lets no other thread go on."""
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _cells(column: Sequence[Any]) -> Sequence[Any]:
    """As `formats` writes them; what csv writes the same by itself, it may."""
    return column if set(map(type, column)) <= {str, int, type(None)} else [plain(cell) for cell in column]


class _JsonLines:
    is_splittable = True

    def __init__(self, file: BinaryIO, columns: Sequence[str], _types: Sequence[str]) -> None:
        self._file = file
        self._names = unique(list(columns))

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        names = self._names
        for some in _batches(rows):
            lines = (orjson.dumps(dict(zip(names, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE) for row in some)
            self._file.write(b"".join(lines))

    def close(self) -> None:
        self._file.flush()


# Arrow's types by the databases' names, as far as every value of theirs fits; all others are text.
_ARROW = {
    **dict.fromkeys(("bigint", "integer", "int", "smallint", "tinyint", "mediumint", "year", "oid"), "int64"),
    **dict.fromkeys(("smallint unsigned", "tinyint unsigned", "mediumint unsigned", "int unsigned"), "int64"),
    **dict.fromkeys(("bigint unsigned", "xid8"), "uint64"),
    **dict.fromkeys(("real", "double precision", "float", "double"), "float64"),
    "boolean": "bool_",
    **dict.fromkeys(
        ("bytea", "blob", "tinyblob", "mediumblob", "longblob", "binary", "varbinary", "geometry"), "binary"
    ),
}


class _Parquet:
    """Row groups of their own size, whatever the slices' is. Types are those of the first slice."""

    is_splittable = False

    def __init__(self, file: BinaryIO, columns: Sequence[str], types: Sequence[str]) -> None:
        self._arrow = import_module("pyarrow")
        self._kinds = [_ARROW.get(kind, "string") for kind in types]
        self._schema = self._arrow.schema(
            [
                (name, getattr(self._arrow, kind)())
                for name, kind in zip(unique(list(columns)), self._kinds, strict=True)
            ]
        )
        self._writer = import_module("pyarrow.parquet").ParquetWriter(file, self._schema)
        self._waiting: list[Any] = []
        self._rows = self._bytes = self._before = 0

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        arrays = [self._array(*each) for each in zip(range(len(self._kinds)), zip(*rows, strict=True), strict=True)]
        batch = self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _ROW_GROUP or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(self._arrow.Table.from_batches(self._waiting, schema=self._schema))
        self._waiting = []
        self._before += self._rows
        self._rows = self._bytes = 0

    def _array(self, place: int, column: Sequence[Any]) -> Any:
        kind, wanted = self._kinds[place], self._schema.field(place)
        try:
            return self._arrow.array(_FROM_JSON[kind](column), type=wanted.type)
        except (TypeError, ValueError, OverflowError):  # of pyarrow, too: its errors derive from these
            raise Unsupported(
                f"column {wanted.name} holds values of several types, and a Parquet column has one ({wanted.type}): "
                "cast it in the query, or take jsonl"
            ) from None


def _whole(column: Sequence[Any]) -> Sequence[Any]:
    return [int(cell) if isinstance(cell, str) else cell for cell in column]


def _real(column: Sequence[Any]) -> Sequence[Any]:
    return [float(cell) if isinstance(cell, str) else cell for cell in column]


def _binary(column: Sequence[Any]) -> Sequence[Any]:
    return [None if cell is None else from_base64(cell[BYTES]) for cell in column]


def _text(column: Sequence[Any]) -> Sequence[Any]:
    return [cell if cell is None or isinstance(cell, str) else plain(cell) for cell in column]


_FROM_JSON: dict[str, Callable[[Sequence[Any]], Sequence[Any]]] = {
    "int64": _whole,
    "uint64": _whole,
    "float64": _real,
    "bool_": list,
    "binary": _binary,
    "string": _text,
}

WRITERS: dict[ExportFormat, Callable[[BinaryIO, Sequence[str], Sequence[str]], Writer]] = {
    "csv": _Csv,
    "jsonl": _JsonLines,
    "parquet": _Parquet,
}


def require_writer(name: ExportFormat) -> None:
    if name != "parquet":
        return
    try:
        import_module("pyarrow.parquet")
    except ImportError:
        raise Unsupported("parquet needs the extra manydb[parquet] on the server; take csv or jsonl") from None
