"""One statement on an aiomysql connection: at most *limit* rows, in the JSON form of docs/values.md.

The server's text is decoded here and not by the driver, whose converters lose zero dates, the width of BIT, and every
row of a result in which one string is not valid.
"""

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, cast

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.execution import driver
from manydb.dialects.rows import MAX_BYTES, Reading, Rows
from manydb.dialects.streaming import Pace
from manydb.errors import BadParameter

_SELECT_LIMIT = "sql_select_limit"
_NO_LIMIT = 2**64 - 1


class _Field(Protocol):
    """pymysql's FieldDescriptorPacket; *length* is in bytes."""

    name: str
    type_code: int
    charsetnr: int
    length: int
    scale: int
    flags: int


class _Result(Protocol):
    """aiomysql's MySQLResult."""

    unbuffered_active: bool
    affected_rows: int
    insert_id: int
    fields: Sequence[_Field]
    converters: list[tuple[str | None, Callable[[bytes], Any] | None]]

    async def _read_rowdata_packet_unbuffered(self) -> Sequence[Any] | None: ...


class _Driver(Protocol):
    """aiomysql.Connection."""

    _result: _Result

    async def query(self, sql: str, *, unbuffered: bool = False) -> int: ...

    def escape(self, obj: str) -> str: ...


async def fetch(
    connection: AsyncConnection,
    sql: str,
    args: tuple[Any, ...],
    limit: int,
    max_bytes: int = MAX_BYTES,
    *,
    to_end: bool = False,
) -> Rows:
    """Run *sql* (placeholders: %s, other % doubled, if and only if there are *args*) in the open transaction.

    The server is asked to stop after limit + 1 rows. Where it does not (an explicit LIMIT, SHOW, CALL) and rows are
    left unread, the connection is invalidated, transaction included: the protocol has no other way to stop a result.
    With *to_end*, they are read and dropped.
    BadParameter: a value that cannot be bound, or a wrong number of them. Other errors are the driver's own.
    """
    raw = cast("_Driver", driver(connection))
    text = _with_literals(raw, sql, args) if args else sql
    await _limit_selects(connection, raw, limit + 1)
    await raw.query(text, unbuffered=True)
    result = raw._result  # noqa: SLF001 - the driver's unbuffered cursor reads from the same object
    if not result.unbuffered_active:
        # The driver's number for a key is that of the first row of several.
        key = result.insert_id if result.affected_rows == 1 else None
        return Rows([], [], [], affected=result.affected_rows, generated=key or None)
    result.converters = [(None, _converter(field)) for field in result.fields]
    long = [index for index, field in enumerate(result.fields) if field.type_code in _LONG_CODES]
    reading = Reading(limit, max_bytes, long)
    dropped = await _read(result, reading)
    kept, more, full = reading.kept(unread=result.unbuffered_active)
    count = len(reading.records) + dropped
    if to_end:
        count += await _drop(result)
    elif result.unbuffered_active:
        await connection.invalidate()
    columns, types = [field.name for field in result.fields], [type_name(field) for field in result.fields]
    # The protocol counts nothing for RETURNING, which gives a row for each that changed.
    return Rows(columns, types, kept, more=more, full=full, size=reading.size, affected=count if to_end else None)


async def stream(connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
    """As `fetch`, all rows, as they come from the server. Whoever stops early costs the connection."""
    raw = cast("_Driver", driver(connection))
    text = _with_literals(raw, sql, args) if args else sql
    await _limit_selects(connection, raw, _NO_LIMIT)
    await raw.query(text, unbuffered=True)
    result = raw._result  # noqa: SLF001 - as in fetch
    if not result.unbuffered_active:
        yield Rows([], [], [])
        return
    result.converters = [(None, _converter(field)) for field in result.fields]
    columns, types = [field.name for field in result.fields], [type_name(field) for field in result.fields]
    pace = Pace([index for index, field in enumerate(result.fields) if field.type_code in _LONG_CODES])
    try:
        while result.unbuffered_active:
            records = await _slice(result, pace.wants)
            pace.saw(records)
            yield Rows(columns, types, records)
    finally:
        if result.unbuffered_active:
            await connection.invalidate()


async def _slice(result: _Result, count: int) -> list[Sequence[Any]]:
    read = result._read_rowdata_packet_unbuffered  # noqa: SLF001
    records: list[Sequence[Any]] = []
    while len(records) < count and (record := await read()) is not None:
        records.append(record)
    return records


async def _drop(result: _Result) -> int:
    """Read a result to its end; how many rows that were."""
    count = 0
    while result.unbuffered_active and await result._read_rowdata_packet_unbuffered() is not None:  # noqa: SLF001
        count += 1
    return count


async def _limit_selects(connection: AsyncConnection, raw: _Driver, rows: int) -> None:
    """Set the session's limit, unless this very check-out has: sessions are reset on their way back to the pool."""
    checkout = cast("Connection", connection.sync_connection)
    if checkout.get_execution_options().get(_SELECT_LIMIT) != rows:
        await raw.query(f"SET SESSION {_SELECT_LIMIT} = {rows}")
        checkout.execution_options(**{_SELECT_LIMIT: rows})


async def _read(result: _Result, reading: Reading) -> int:
    """The rows that *reading* wants, and the end of the result if it comes right after them; rows read in vain."""
    read = result._read_rowdata_packet_unbuffered  # noqa: SLF001 - fetchmany would add two coroutines a row
    while (record := await read()) is not None:
        if not reading.wants:
            return 1
        reading.add((record,))
    return 0


# ---- server's text → JSON -------------------------------------------------------------------------------------------


def _bigint(value: bytes) -> int | str:
    return values.integer(int(value))


def _moment(value: bytes) -> str:
    return value.decode().replace(" ", "T")


def _json(value: bytes) -> Any:
    return values.jsonb_value(value.decode())


_TEXT_CODES = {
    15: ("varchar", "varbinary"),
    249: ("tinytext", "tinyblob"),
    250: ("mediumtext", "mediumblob"),
    251: ("longtext", "longblob"),
    252: ("text", "blob"),
    253: ("varchar", "varbinary"),
    254: ("char", "binary"),
}
_LONG_CODES = {*_TEXT_CODES, 245, 255}
_DECIMALS = {0, 246}
_BIT = 16
_BINARY_CHARSET = 63
_UNSIGNED, _ENUM, _SET = 32, 256, 2048

# Type code of the protocol → name, function of the bytes that the text protocol carries (NULL does not reach it).
_CONVERTERS: dict[int, tuple[str, Callable[[bytes], Any]]] = {
    1: ("tinyint", int),
    2: ("smallint", int),
    3: ("int", int),
    4: ("float", float),
    5: ("double", float),
    6: ("null", bytes.decode),
    7: ("timestamp", _moment),
    8: ("bigint", _bigint),
    9: ("mediumint", int),
    10: ("date", bytes.decode),
    11: ("time", bytes.decode),
    12: ("datetime", _moment),
    13: ("year", int),
    14: ("date", bytes.decode),
    245: ("json", _json),
    255: ("geometry", values.data),
}
_NUMBERS = {1, 2, 3, 4, 5, 8, 9}


def _converter(field: _Field) -> Callable[[bytes], Any]:
    if field.type_code in _CONVERTERS:
        return _CONVERTERS[field.type_code][1]
    if field.type_code in _DECIMALS:
        return bytes.decode
    if field.type_code == _BIT:
        return lambda value: f"{int.from_bytes(value):0{field.length}b}"
    return values.data if field.charsetnr == _BINARY_CHARSET else values.text


def type_name(field: _Field) -> str:
    """As SHOW COLUMNS writes it, as far as a result tells: "bigint unsigned", "decimal(12,2)", "bit(8)", "varchar"."""
    code = field.type_code
    unsigned = " unsigned" if field.flags & _UNSIGNED else ""
    if code in _DECIMALS:
        # The length counts a sign and a point where there can be one.
        return f"decimal({field.length - (not unsigned) - (field.scale > 0)},{field.scale}){unsigned}"
    if code in _CONVERTERS:
        return _CONVERTERS[code][0] + (unsigned if code in _NUMBERS else "")
    if code == _BIT:
        return f"bit({field.length})"
    if field.flags & (_ENUM | _SET):
        return "enum" if field.flags & _ENUM else "set"
    return _TEXT_CODES.get(code, ("text", "blob"))[field.charsetnr == _BINARY_CHARSET]


# ---- JSON → literal -------------------------------------------------------------------------------------------------


def _with_literals(raw: _Driver, sql: str, args: tuple[Any, ...]) -> str:
    """*sql* with its %s replaced by literals. The driver's own substitution cannot write bytes."""
    literals = tuple(_literal(raw, value, position) for position, value in enumerate(args, 1))
    try:
        return sql % literals
    except (TypeError, ValueError) as error:
        raise BadParameter(f"{len(args)} values do not fit the number of placeholders in the statement") from error


def _literal(raw: _Driver, value: Any, position: int) -> str:  # noqa: PLR0911 - one line a type
    try:
        match value:
            case None:
                return "NULL"
            case bool() | int():
                return str(int(value))
            case float():
                return _real(value)
            case str():
                return raw.escape(values.utc_moment(value) or values.scalar_text(value))
            case bytes():
                return f"x'{value.hex()}'"
            case dict() if (data := values.tagged_bytes(value)) is not None:
                return f"x'{data.hex()}'"
            case _:
                return raw.escape(values.scalar_text(value))
    except (TypeError, ValueError) as error:
        raise BadParameter(f"placeholder {position} takes null, text, bytes or a finite number") from error


def _real(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("MySQL has no NaN and no infinity")
    digits = repr(value)
    return digits if "e" in digits else f"{digits}e0"  # without an exponent it would be a DECIMAL
