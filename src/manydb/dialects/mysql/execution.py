"""One statement on a connection of aiomysql or asyncmy: at most *limit* rows, in the JSON form of docs/values.md.

The server's text is decoded here and not by the driver, whose converters lose zero dates, the width of BIT, and every
row of a result in which one string is not valid.
"""

import math
from collections.abc import AsyncGenerator, Sequence
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.execution import driver
from manydb.dialects.mysql import wire
from manydb.dialects.mysql.wire import Answer, Convert, Field
from manydb.dialects.rows import MAX_BYTES, Reading, Rows
from manydb.dialects.streaming import Pace
from manydb.errors import BadParameter

SELECT_LIMIT = "sql_select_limit"
"""The server's setting; and the key in a connection's info, which has what the session was told, if anything."""
_NO_LIMIT = 2**64 - 1


class _Driver(Protocol):
    """aiomysql.Connection, asyncmy.connection.Connection."""

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
    text = _with_literals(driver(connection), sql, args) if args else sql
    await _limit_selects(connection, limit + 1)
    async with wire.asked(connection, text) as answer:
        if not answer.fields:
            # The server's number for a key is that of the first row of several.
            key = answer.key if answer.affected == 1 else None
            return Rows([], [], [], affected=answer.affected, generated=key or None)
        reading = Reading(limit, max_bytes, ())
        dropped = await _read(answer, reading)
        kept, more, full = reading.kept(unread=answer.is_open)
        count = len(reading.records) + dropped
        if to_end:
            count += await answer.drop()
    columns, types = _described(answer)
    # The protocol counts nothing for RETURNING, which gives a row for each that changed.
    return Rows(columns, types, kept, more=more, full=full, size=reading.size, affected=count if to_end else None)


async def stream(connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
    """As `fetch`, all rows, as they come from the server. Whoever stops early costs the connection."""
    text = _with_literals(driver(connection), sql, args) if args else sql
    await _limit_selects(connection, _NO_LIMIT)
    async with wire.asked(connection, text) as answer:
        if not answer.fields:
            yield Rows([], [], [])
            return
        converters = _converters(answer)
        columns, types = _described(answer)
        pace = Pace([index for index, field in enumerate(answer.fields) if field.type_code in _LONG_CODES])
        while answer.is_open:
            records = await answer.rows(converters, pace.wants)
            pace.saw(records)
            with answer.waiting():
                yield Rows(columns, types, records)


async def _read(answer: Answer, reading: Reading) -> int:
    """The rows that *reading* wants, and the end of the result if it comes right after them; rows read in vain."""
    converters = _converters(answer)
    while answer.is_open and (wanted := reading.wants):
        before = answer.received
        reading.add(await answer.rows(converters, wanted, max(0, reading.max_bytes - reading.size)))
        reading.size += answer.received - before
    return len(await answer.rows((), 1))


async def _limit_selects(connection: AsyncConnection, rows: int) -> None:
    """Set the session's limit, unless it is what the session was told last."""
    told = connection.sync_connection.info  # type: ignore[union-attr]  # it is open
    if told.get(SELECT_LIMIT) != rows:
        await wire.run(connection, f"SET SESSION {SELECT_LIMIT} = {rows}")
        told[SELECT_LIMIT] = rows


def _described(answer: Answer) -> tuple[list[str], list[str]]:
    return [field.name for field in answer.fields], [_reading(field)[0] for field in answer.fields]


def _converters(answer: Answer) -> Sequence[Convert]:
    return [_reading(field)[1] for field in answer.fields]


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
_CONVERTERS: dict[int, tuple[str, Convert]] = {
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


@lru_cache(maxsize=1_000)
def _reading(field: Field) -> tuple[str, Convert]:
    return type_name(field), _converter(field)


def _converter(field: Field) -> Convert:
    if field.type_code in _CONVERTERS:
        return _CONVERTERS[field.type_code][1]
    if field.type_code in _DECIMALS:
        return bytes.decode
    if field.type_code == _BIT:
        return lambda value: f"{int.from_bytes(value):0{field.length}b}"
    return values.data if field.charsetnr == _BINARY_CHARSET else values.text


def type_name(field: Field) -> str:
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
