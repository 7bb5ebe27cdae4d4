"""Rows into a PostgreSQL table by COPY, in its text form: the server reads the values and is the last to judge them.

Where rows may meet others, or the table has row-level security, which COPY refuses, they go by way of a temporary one.
Text form: https://www.postgresql.org/docs/current/sql-copy.html, "File Formats".
"""

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import errors, values
from manydb.dialects import loading
from manydb.dialects.execution import driver
from manydb.dialects.loading import Fit, Load, Loaded, Part, Told
from manydb.dialects.postgresql import types
from manydb.dialects.postgresql.codecs import pin_session
from manydb.dialects.postgresql.libpq import asking
from manydb.dialects.postgresql.parameters import bind, written
from manydb.dialects.postgresql.types import Type

_NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_SPECIAL = "\\\t\n\r"
_STAGE = "manydb_rows"
_COLUMNS = """
SELECT a.attname::text, a.atttypid::bigint, pg_catalog.format_type(a.atttypid, a.atttypmod),
       pg_catalog.row_security_active(a.attrelid)
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = {table}::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped"""
_TEXTS = {18, 19, 25, 1042, 1043}
_MOMENTS = {1082: "date", 1083: "time", 1184: "timestamptz", 1186: "interval", 1266: "timetz"}
_TWICE = "21000"


async def loader(
    connection: AsyncConnection, load: Load, error: Callable[[BaseException], errors.ManydbError]
) -> "Copy":
    """Ask the catalog for the types of the columns."""
    address = _quoted(connection, *load.table.address)
    sql = _COLUMNS.format(table="'" + address.replace("'", "''") + "'")
    found: dict[str, tuple[Any, ...]] = {
        row[0]: tuple(row[1:]) for row in (await connection.exec_driver_sql(_escaped(connection, sql))).fetchall()
    }
    oids = [int(found[name][0]) for name in load.names]
    raw: Any = driver(connection)
    known = dict(types.WELL_KNOWN)
    unusual = [oid for oid in oids if _fit(oid, {}) is None]
    if unusual:
        known |= await (types.read(raw, unusual) if _is_asyncpg(raw) else asking.types_of(connection, unusual))
    return Copy(
        load,
        [_fit(oid, known) or _other(oid, known) for oid in oids],
        [str(found[name][1]) for name in load.names],
        bool(found[load.names[0]][2]),
        error,
    )


@dataclass(frozen=True, slots=True)
class Copy:
    """*types* are the columns' types as SQL; *secured* tells that row-level security is on."""

    load: Load
    fits: Sequence[Fit]
    types: Sequence[str]
    secured: bool
    error: Callable[[BaseException], errors.ManydbError]

    def part(self, rows: Sequence[Sequence[Any]], first: int) -> Part:
        columns = loading.fitted(self.load, self.fits, rows, first, _NULL)
        text = "\n".join(map("\t".join, zip(*columns, strict=True)))
        return Part(first, len(rows), f"{text}\n".encode())

    async def send(self, connection: AsyncConnection, parts: Sequence[Part], told: Told) -> Loaded:
        raw: Any = driver(connection)
        if _is_asyncpg(raw):
            await pin_session(raw)
        count = sum(part.count for part in parts)
        staged = self.load.on_conflict != "error" or self.secured
        try:
            if not staged:
                await self._copy(raw, _quoted(connection, *self.load.table.address), connection, parts, told)
                return Loaded(inserted=count)
            return await self._by_stage(raw, connection, parts, told, count)
        except errors.ManydbError:
            raise
        except Exception as exc:
            raise self._failure(exc, parts) from exc

    async def _copy(self, raw: Any, into: str, connection: AsyncConnection, parts: Sequence[Part], told: Told) -> None:
        names = ", ".join(_quoted(connection, name) for name in self.load.names)
        sql = f"COPY {into} ({names}) FROM STDIN"
        if not _is_asyncpg(raw):
            async with raw.cursor() as cursor, cursor.copy(sql) as copy:
                for part in parts:
                    await copy.write(part.data)
                    told(part.count)
            return

        async def source() -> AsyncGenerator[bytes]:
            for part in parts:
                yield part.data
                told(part.count)

        # What the public copy_to_table does, which quotes names by itself and cannot be given pg_temp.
        await raw._copy_in(sql, source(), None)  # noqa: SLF001

    async def _by_stage(
        self, raw: Any, connection: AsyncConnection, parts: Sequence[Part], told: Told, count: int
    ) -> Loaded:
        quoted = [_quoted(connection, name) for name in self.load.names]
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(quoted, self.types, strict=True))
        names = ", ".join(quoted)
        await _run(connection, f"CREATE TEMPORARY TABLE {_STAGE} ({columns}) ON COMMIT DROP")
        await self._copy(raw, f"pg_temp.{_STAGE}", connection, parts, told)
        into = (
            f"INSERT INTO {_quoted(connection, *self.load.table.address)} ({names}) OVERRIDING SYSTEM VALUE "
            f"SELECT {names} FROM pg_temp.{_STAGE}{self._resolution(connection)}"
        )
        loaded = await self._insert(connection, into, count)
        await _run(connection, f"DROP TABLE pg_temp.{_STAGE}")
        return loaded

    def _resolution(self, connection: AsyncConnection) -> str:
        if self.load.on_conflict == "error":
            return ""
        changed = [_quoted(connection, name) for name in self.load.changed]
        if not changed:
            return " ON CONFLICT DO NOTHING"
        key = ", ".join(_quoted(connection, name) for name in self.load.key)
        return f" ON CONFLICT ({key}) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in changed)

    async def _insert(self, connection: AsyncConnection, sql: str, count: int) -> Loaded:
        if not self.load.changed:
            inserted = (await _run(connection, sql)).rowcount
            skips = self.load.on_conflict != "error"
            return Loaded(inserted=inserted, skipped=count - inserted if skips else None)
        if self.load.table.kind != "table":
            # Only a table of its own tells which of its rows are new.
            return Loaded(written=(await _run(connection, sql)).rowcount)
        # A row that nobody has updated or locked has no xmax yet.
        counting = (
            f"WITH w AS ({sql} RETURNING xmax = 0 AS fresh) SELECT count(*) FILTER (WHERE fresh), count(*) FROM w"
        )
        inserted, written = (await _run(connection, counting)).one()
        return Loaded(inserted=int(inserted), updated=int(written) - int(inserted))

    def _failure(self, exc: Exception, parts: Sequence[Part]) -> errors.ManydbError:
        """Our error, with the row and column that the server names in its context: which quotes values, so no more."""
        error = self.error(exc)
        state = str(error.details.get("sqlstate") or "")
        if state == _TWICE:
            return errors.BadParameter(f"two of the rows have the same key ({', '.join(self.load.key)})")
        row, name = _place(exc, [_STAGE, self.load.table.name])
        if row is None:
            return error
        row += parts[0].first
        if name in self.load.names and state.startswith("22"):
            kind = self.types[self.load.names.index(name)]
            return loading.misfit(row, name, f"a value of type {kind}")
        error.details["row"] = row
        return error


_LINE = re.compile(r", \S+ (\d+)(?:, \S+ (.+?)(?::|$))?", re.MULTILINE)


def _place(exc: Exception, tables: Sequence[str]) -> tuple[int | None, str]:
    """Row (from 0) and column of "COPY items, line 3, column amount: …", whose words are in the server's language."""
    cause = getattr(exc, "orig", None) or exc
    diagnostics = getattr(cause, "diag", None)
    context = str(getattr(cause, "context", None) or getattr(diagnostics, "context", None) or "")
    for table in tables:
        start = context.find(f"COPY {table}, ")
        match = _LINE.match(context, start + len(f"COPY {table}")) if start >= 0 else None
        if match:
            return int(match[1]) - 1, match[2] or ""
    return None, ""


def _is_asyncpg(raw: Any) -> bool:
    return type(raw).__module__.startswith("asyncpg")


async def _run(connection: AsyncConnection, sql: str) -> Any:
    return await connection.exec_driver_sql(_escaped(connection, sql))


def _escaped(connection: AsyncConnection, sql: str) -> str:
    return sql.replace("%", "%%") if connection.dialect.paramstyle in {"format", "pyformat"} else sql


def _quoted(connection: AsyncConnection, *names: str) -> str:
    return ".".join(connection.dialect.identifier_preparer.quote_identifier(name) for name in names)


# -- values as text --------------------------------------------------------------------------------------------------


def _escape(found: Sequence[str]) -> Sequence[str]:
    joined = "".join(found)
    if "\0" in joined:
        raise ValueError("text without NUL")
    if not any(special in joined for special in _SPECIAL):
        return found
    return [text.translate(_ESCAPES) for text in found]


def _digits(found: Sequence[Any]) -> Sequence[str]:
    return list(map(str, found))


def _words(found: Sequence[bool]) -> Sequence[str]:
    return ["t" if each else "f" for each in found]


def _fit(oid: int, known: Mapping[int, Type]) -> Fit | None:  # noqa: PLR0911 - one line a kind of type
    """How values of a usual type are written; None for others."""
    described = known.get(oid)
    if described is not None and described.kind == "domain":
        return _fit(described.base, known)
    if oid in _BITS:
        return loading.bits(_BITS[oid]).then(_digits)
    if oid in _TEXTS:
        return loading.texts().then(_escape)
    if oid == 1700:
        return loading.decimals(finite=False).then(_escape)
    if oid in (700, 701):
        return loading.reals(finite=False).then(_digits)
    if oid == 16:
        return loading.booleans().then(_words)
    if oid == 1114:
        return loading.moments(lambda text: values.utc_moment(text) or text, "a timestamp as ISO text").then(_escape)
    if oid in _MOMENTS:
        return loading.moments(what=f"a value of type {_MOMENTS[oid]}, as ISO text").then(_escape)
    return None


_BITS = {21: 16, 23: 32, 20: 64}


def _other(oid: int, known: Mapping[int, Type]) -> Fit:
    """As parameters of that type are bound, one by one."""

    def convert(found: Sequence[Any]) -> Sequence[str]:
        return [str(written(bind(each, oid, known))) for each in found]

    named = known.get(oid)
    return Fit(f"a value of type {named.title}" if named else _NAMES.get(oid, "a value of its type"), convert).then(
        _escape
    )


_NAMES = {17: 'bytes, as {"$bytes": base64}', 114: "JSON", 3802: "JSON", 2950: "a UUID"}
