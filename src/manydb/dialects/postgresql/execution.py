"""One statement on an asyncpg connection: at most *limit* rows, in the JSON form of docs/values.md."""

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.execution import driver
from manydb.dialects.postgresql import parameters
from manydb.dialects.postgresql.codecs import Codecs, install_codecs, pin_session
from manydb.dialects.postgresql.types import title
from manydb.dialects.rows import MAX_BYTES, Reading, Rows
from manydb.dialects.streaming import Pace
from manydb.errors import BadParameter

__all__ = ["fetch", "install_codecs", "stream"]

_CODECS = "postgresql codecs"  # key in AsyncConnection.info, which lives as long as the driver's connection
_CHANGED = re.compile(rb"(?:INSERT \d+|UPDATE|DELETE|MERGE) (\d+)")
_DROPPED = 1_000
"""Rows of a write that are read and dropped at a time."""
_PARAMETER = re.compile(r"(?:parameter|argument) \$(\d+)")


class _Type(Protocol):
    oid: int
    name: str
    kind: str


class _Attribute(Protocol):
    name: str
    type: _Type


class _Statement(Protocol):
    """asyncpg's PreparedStatementState."""

    def _init_types(self) -> set[int]: ...
    def _init_codecs(self) -> None: ...
    def _get_parameters(self) -> Sequence[_Type]: ...
    def _get_attributes(self) -> Sequence[_Attribute]: ...
    def mark_unprepared(self) -> None: ...


async def fetch(
    connection: AsyncConnection,
    sql: str,
    args: tuple[Any, ...],
    limit: int,
    max_bytes: int = MAX_BYTES,
    *,
    to_end: bool = False,
) -> Rows:
    """Run *sql* (placeholders: $1) in the open transaction.

    The server stops after limit + 1 rows; with *to_end*, it goes on and the rest is dropped. A statement without result
    columns gives no columns and no rows, but a SELECT of no columns gives its empty rows. BadParameter: a value that
    does not fit the type which its placeholder has in the statement, or a wrong number of values. Other errors are the
    driver's own.
    """
    raw: Any = driver(connection)
    codecs = await _codecs(connection)
    statement = await _prepare(raw, sql, codecs)
    attributes = statement._get_attributes()  # noqa: SLF001 - see _prepare
    reading = Reading(limit, max_bytes, [index for index, a in enumerate(attributes) if _is_long(a.type)])
    unread, dropped, tag = await _execute(raw, statement, args, codecs, reading, to_end=to_end)
    kept, more, full = reading.kept(unread=unread)
    wide = [index for index, a in enumerate(attributes) if a.type.name in _WIDE]
    plan = {index: convert for index, a in enumerate(attributes) if (convert := _converter(a.type))}
    rows = await reading.converted(kept, plan, wide)
    affected = _affected(tag)
    if affected is not None and attributes:  # the tag counts the last rows that were asked for, RETURNING all of them
        affected = len(reading.records) + dropped
    columns, types = [a.name for a in attributes], [_title(a.type) for a in attributes]
    size, widest = reading.size, reading.widest
    return Rows(columns, types, rows, more=more, full=full, size=size, affected=affected, widest=widest)


async def stream(connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
    """As `fetch`, all rows: slice by slice from a portal, which keeps the server's place."""
    raw: Any = driver(connection)
    codecs = await _codecs(connection)
    statement = await _prepare(raw, sql, codecs)
    attributes = statement._get_attributes()  # noqa: SLF001 - see _prepare
    columns, types = [a.name for a in attributes], [_title(a.type) for a in attributes]
    converters = {index: convert for index, a in enumerate(attributes) if (convert := _converter(a.type))}
    pace = Pace([index for index, a in enumerate(attributes) if _is_long(a.type)])
    # The first slice by way of _execute, which knows what to say of parameters that do not fit.
    reading = Reading(pace.wants - 1, MAX_BYTES, ())
    unread, _, _ = await _execute(raw, statement, args, codecs, reading, to_end=False)
    records: Sequence[Any] = reading.records
    while True:
        pace.saw(records)
        yield Rows(columns, types, values.rows(records, converters))
        if not unread:
            return
        records, _, ended = await raw._protocol.execute(statement, "", pace.wants, True, None)  # noqa: FBT003, SLF001
        unread = not ended


async def read(connection: AsyncConnection, sql: str) -> list[Sequence[Any]]:
    """All rows of a query of our own, as the driver reads them."""
    raw: Any = driver(connection)
    statement = await _prepare(raw, sql, await _codecs(connection))
    records, _, _ = await raw._protocol.bind_execute(statement, (), "", 0, True, None)  # noqa: FBT003, SLF001
    found: list[Sequence[Any]] = records
    return found


async def _codecs(connection: AsyncConnection) -> Codecs:
    """Those of the connection, whose session writes what they read."""
    raw = driver(connection)
    codecs: Codecs | None = connection.info.get(_CODECS)
    if codecs is None:
        codecs = connection.info[_CODECS] = await install_codecs(raw)
    await pin_session(raw)  # again: what was set inside a transaction went with it
    codecs.forget_composites()
    return codecs


async def _prepare(raw: Any, sql: str, codecs: Codecs) -> _Statement:
    """Parse and describe *sql* as the unnamed statement.

    The public Connection.prepare does the same, but looks unknown types up by itself: in three round trips, and
    refusing composites that hold anything but binary types.
    """
    protocol = raw._protocol  # noqa: SLF001 - see above
    statement = cast("_Statement", await protocol.prepare("", sql, None, record_class=protocol.get_record_class()))
    if missing := statement._init_types():  # noqa: SLF001
        await codecs.learn(missing)
        statement.mark_unprepared()  # looking the types up has used the unnamed statement
    statement._init_codecs()  # noqa: SLF001
    return statement


def _affected(tag: bytes | None) -> int | None:
    """The rows of a command tag: "INSERT 0 5", "UPDATE 5"; None where it counts nothing that changed."""
    match = _CHANGED.fullmatch(tag or b"")
    return int(match[1]) if match else None


async def _execute(
    raw: Any, statement: _Statement, args: tuple[Any, ...], codecs: Codecs, reading: Reading, *, to_end: bool
) -> tuple[bool, int, bytes | None]:
    """Read what *reading* wants; whether that left rows, how many of them were dropped, and the command's tag."""
    expected = statement._get_parameters()  # noqa: SLF001 - see _prepare
    if len(args) != len(expected):
        raise BadParameter(f"the statement has {len(expected)} placeholders, and {len(args)} values were given")
    bound = [_bind(value, position, expected, codecs) for position, value in enumerate(args, 1)]
    try:
        # In the unnamed portal, which the next statement closes: a cursor would take a round trip more to do so.
        records, tag, ended = await raw._protocol.bind_execute(statement, bound, "", reading.wants, True, None)  # noqa: FBT003, SLF001
        reading.add(records)
        while not ended and (wanted := reading.wants):
            records, tag, ended = await raw._protocol.execute(statement, "", wanted, True, None)  # noqa: FBT003, SLF001
            reading.add(records)
        unread, dropped = not ended, 0
        while to_end and not ended:
            records, tag, ended = await raw._protocol.execute(statement, "", _DROPPED, True, None)  # noqa: FBT003, SLF001
            dropped += len(records)
    except Exception as error:  # the driver's and the server's: all but misfits go on as they are
        if position := _rejected(error):
            raise _misfit(position, expected, codecs) from None  # the driver's message quotes the value
        raise
    return unread, dropped, tag if ended else None


def _bind(value: Any, position: int, expected: Sequence[_Type], codecs: Codecs) -> Any:
    try:
        return parameters.bind(value, expected[position - 1].oid, codecs.known)
    except (TypeError, ValueError):
        raise _misfit(position, expected, codecs) from None


def _misfit(position: int, expected: Sequence[_Type], codecs: Codecs) -> BadParameter:
    kind = expected[position - 1]
    known = codecs.known.get(kind.oid)
    return BadParameter(f"placeholder ${position} takes a value of type {known.title if known else title(kind.name)}")


def _rejected(error: Exception) -> int | None:
    """The position of the parameter that driver or server could not read; None for every other error."""
    code = getattr(error, "sqlstate", None)
    told = getattr(error, "context", None) if code else str(error) if isinstance(error, ValueError) else None
    match = _PARAMETER.search(told or "") if code is None or code.startswith("22") else None
    return int(match[1]) if match else None


def _title(kind: _Type) -> str:
    return title(kind.name[:-2]) + "[]" if kind.kind == "array" else title(kind.name)


# By asyncpg's names; other types come out of their codecs in the form that JSON needs.
_COLUMNS: dict[str, Callable[[Sequence[Any]], Sequence[Any]]] = {
    "int8": values.integers,
    "xid8": values.integers,
    "float8": values.reals,
}


# Of these no value is long; what is not known here may be.
_SHORT = frozenset({
    "bool", "int2", "int4", "int8", "float4", "float8", "numeric", "money", "oid", "xid", "xid8", "cid", "tid",
    "uuid", "date", "time", "timetz", "timestamp", "timestamptz", "interval", "inet", "cidr", "macaddr", "macaddr8",
    "name", "char", "pg_lsn",
})  # fmt: skip


_WIDE = frozenset({"numeric"})
"""Short, but a cell may have thousands of digits."""


def _is_long(kind: _Type) -> bool:
    return kind.kind != "scalar" or kind.name not in _SHORT


def _converter(kind: _Type) -> Callable[[Sequence[Any]], Sequence[Any]] | None:
    if kind.kind == "array" and kind.name != "text[]":
        return _arrays
    return _COLUMNS.get(kind.name)


def _arrays(column: Sequence[Any]) -> Sequence[Any]:
    return [_array(value) for value in column]


def _array(value: Any) -> Any:
    """Numbers within lists; every other element has been through a codec of ours."""
    if isinstance(value, list):
        return [_array(item) for item in value]
    if isinstance(value, float):
        return values.real(value)
    return values.integer(value) if isinstance(value, int) and not isinstance(value, bool) else value
