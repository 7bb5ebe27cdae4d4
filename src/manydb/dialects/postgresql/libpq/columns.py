"""The columns of a result that libpq brought as text: their names, their types, their values in JSON form.

psycopg's loaders, which are compiled, read what Python has the same text of; the rest goes column by column.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manydb import values
from manydb.dialects.postgresql import records, texts, types
from manydb.dialects.postgresql.libpq.pipeline import Result
from manydb.dialects.postgresql.types import Type

RECORD, RECORDS = 2249, 2287
NUMERIC = 1700
_FIRST_USER_OID = 16384
_TEXT, _BINARY = 0, 1
_VOID, _VECTORS = 2278, {22: "smallint[]", 30: "oid[]"}
# Read by psycopg; all else, and what is not known, is text.
_INTEGERS = (20, 21, 23, 26, 28, 29, 5069)
_LOADERS = {16: 16, 17: 17, 700: 701, 701: 701, **dict.fromkeys(_INTEGERS, 20)}
# No value is long of: bool, "char", name, bigint, smallint, integer, oid, tid, xid, cid, xid8, real, double precision,
# money, numeric, uuid, pg_lsn, and the types of dates, times and addresses.
_SHORT = frozenset({
    16, 18, 19, 20, 21, 23, 26, 27, 28, 29, 5069, 700, 701, 790, 1700, 2950, 3220, 1082, 1083, 1114, 1184, 1186, 1266,
    650, 774, 829, 869,
})  # fmt: skip

Convert = Callable[[Sequence[Any]], Sequence[Any]]


class Reader:
    """What one connection knows of types, and how it reads rows."""

    def __init__(self, raw: Any) -> None:
        from psycopg.adapt import AdaptersMap, Transformer  # noqa: PLC0415 - an extra, whose connection *raw* is

        adapters = AdaptersMap()
        for oid, reads_as in {0: 25, **_LOADERS}.items():
            adapters.register_loader(oid, raw.adapters.get_loader(reads_as, _TEXT))
        self._transformer = Transformer(_Context(adapters, raw))
        self._builtin: dict[int, Type] = {
            oid: _described(oid, info)
            for info in raw.adapters.types
            for oid in (info.oid, info.array_oid)
            if 0 < oid < _FIRST_USER_OID
        }
        self.known = dict(self._builtin)
        self._has_composites = False

    def missing(self, oids: Iterable[int]) -> set[int]:
        """Those that only the catalog knows."""
        return set(oids) - self.known.keys()

    def learn(self, found: Mapping[int, Type]) -> None:
        self.known |= {oid: described for oid, described in found.items() if oid not in self._builtin}
        self._has_composites = any(described.kind == "composite" for described in self.known.values())

    def forget_composites(self) -> None:
        """Composites are tables, too: their columns come and go, so they are read anew for each statement."""
        if self._has_composites:
            self.known = dict(self._builtin)
            self._has_composites = False

    def load(self, result: Result) -> list[tuple[Any, ...]]:
        """The rows of *result*, some of their values in the form that JSON needs."""
        if result.nfields and result.fformat(0) == _BINARY:
            return self.load_binary(result, range(result.nfields), result.ntuples)
        self._transformer.set_pgresult(result)  # type: ignore[arg-type]  # psycopg's own
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def load_binary(self, result: Result, places: Sequence[int], count: int) -> list[tuple[Any, ...]]:
        """The columns at *places* in the first *count* rows of a binary *result*, in the form that JSON needs."""
        columns = [(place, result.ftype(place)) for place in places]
        return [
            tuple(records.field(oid, result.get_value(row, place), self.known) for place, oid in columns)
            for row in range(count)
        ]


@dataclass(frozen=True, slots=True)
class _Context:
    """psycopg's AdaptContext."""

    adapters: Any
    connection: Any


@dataclass(slots=True)
class Columns:
    """What a result says of its columns."""

    names: list[str] = field(default_factory=list)
    oids: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, result: Result) -> "Columns":
        count = range(result.nfields)
        return cls([(result.fname(each) or b"").decode() for each in count], [result.ftype(each) for each in count])

    @property
    def have_records(self) -> bool:
        """Whether text would not tell the types of what is in them."""
        return not {RECORD, RECORDS}.isdisjoint(self.oids)

    @property
    def long(self) -> list[int]:
        """Those whose cells may be large."""
        return [index for index, oid in enumerate(self.oids) if oid not in _SHORT]

    def types(self, known: Mapping[int, Type]) -> list[str]:
        return [described.title if (described := known.get(oid)) else "unknown" for oid in self.oids]

    def converters(self, known: Mapping[int, Type]) -> dict[int, Convert]:
        """Index → function of a whole column, for those that the loaders have not finished."""
        return {index: convert for index, oid in enumerate(self.oids) if (convert := _converter(oid, known))}


def _described(oid: int, info: Any) -> Type:
    name = info.name.strip('"')
    if oid == info.array_oid:
        return Type(oid, f"_{name}", f"{types.title(name)}[]", "array", info.oid, delimiter=info.delimiter)
    return Type(oid, name, _VECTORS.get(oid) or types.title(name))


def _converter(oid: int, known: Mapping[int, Type]) -> Convert | None:
    if oid in _COLUMNS:
        return _COLUMNS[oid]
    if oid in _INTEGERS or oid == 16:
        return None
    decode = texts.decoder(oid, known)
    return None if decode is str else _each(decode)


def _each(decode: Callable[[Any], Any]) -> Convert:
    # What is no text has been decoded already: bytes that are not UTF-8.
    return lambda column: [decode(value) if isinstance(value, str) else value for value in column]


def _data(column: Sequence[bytes | None]) -> Sequence[Any]:
    return [None if value is None else values.data(value) for value in column]


def _moments(column: Sequence[str | None]) -> Sequence[Any]:
    """All at once, where none is infinite, or before the year 1."""
    given = _given(column)
    joined = "\n".join(given)
    if joined.count(" ") == len(given) and "+" not in joined:
        return _between_nulls(column, joined.replace(" ", "T").split("\n"))
    return [None if value is None else values.timestamp(value) for value in column]


def _instants(column: Sequence[str | None]) -> Sequence[Any]:
    """As `_moments`, in UTC."""
    given = _given(column)
    joined = "\n".join([*given, ""])
    if joined.count(" ") == joined.count("+00\n") == len(given):
        return _between_nulls(column, joined.replace(" ", "T").replace("+00\n", "+00:00\n").split("\n"))
    return [None if value is None else values.timestamp(value) for value in column]


def _given(column: Sequence[str | None]) -> Sequence[str]:
    return [value for value in column if value is not None] if None in column else column  # type: ignore[return-value]


def _between_nulls(column: Sequence[str | None], found: list[str]) -> Sequence[Any]:
    """What was *found* for the values of *column*, in order, with its nulls where they were."""
    if None not in column:
        return found[: len(column)]
    rest = iter(found)
    return [None if value is None else next(rest) for value in column]


_COLUMNS: dict[int, Convert] = {
    17: _data,
    20: values.integers,
    5069: values.integers,
    700: values.reals,
    701: values.reals,
    1114: _moments,
    1184: _instants,
    _VOID: lambda column: [None] * len(column),
}
