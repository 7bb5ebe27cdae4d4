"""What we ask ourselves over psycopg: what types are, and what the catalog has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.execution import driver
from manydb.dialects.postgresql import literals, types
from manydb.dialects.postgresql.libpq import transactions
from manydb.dialects.postgresql.libpq.columns import Columns, Reader
from manydb.dialects.postgresql.libpq.pipeline import Result, pipeline
from manydb.dialects.postgresql.types import Type

T = TypeVar("T")

_READER = "postgresql reader"  # key in AsyncConnection.info, which lives as long as the driver's connection
_PART = 100
"""Rows that are taken at a time: each is short."""


def reader(connection: AsyncConnection) -> Reader:
    """What reads the rows of *connection*."""
    known: Reader | None = connection.info.get(_READER)
    if known is None:
        known = connection.info[_READER] = Reader(driver(connection))
    return known


async def types_of(connection: AsyncConnection, oids: Iterable[int]) -> dict[int, Type]:
    """What the catalog says of these types."""
    return await types.read(_Catalog(driver(connection), reader(connection)), oids)


async def texts(connection: AsyncConnection, sql: str, args: Sequence[str]) -> list[bytes]:
    """The first column of a query, which is never null; all arguments are texts."""
    found: list[bytes] = []
    await _ask(connection, sql, args, lambda part: found.extend(part.get_value(row, 0) or b"" for row in _rows(part)))
    return found


async def rows(connection: AsyncConnection, sql: str, make: Callable[..., T]) -> list[T]:
    """The rows of a query, each as *make* makes it of its cells; the types of its columns are built in."""
    known = reader(connection)
    found: list[T] = []

    def take(part: Result) -> None:
        converters = Columns.of(part).converters(known.known)
        found.extend(make(*row) for row in values.rows(known.load(part), converters))

    await _ask(connection, sql, (), take)
    return found


async def _ask(connection: AsyncConnection, sql: str, args: Sequence[str], take: Callable[[Result], None]) -> None:
    """Let *take* have the rows of *sql*, part by part.

    As the statement of a `fetch`, it takes along what is still to be sent in front of it.
    """
    opening = transactions.taken(connection)
    async with pipeline(driver(connection)) as line:
        transactions.put(line, opening)
        line.query(sql, [each.encode() for each in args])
        await line.send()
        await transactions.opened(line, opening)
        part = await line.next(_PART)
        while part is not None:
            take(part)
            part = await line.next()


def _rows(part: Result) -> range:
    return range(part.ntuples)


@dataclass(frozen=True, slots=True)
class _Catalog:
    """What `types.read` asks."""

    raw: Any
    reader: Reader

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """*args* are lists of oids."""
        written = [literals.to_array(list(map(str, each))).encode() for each in args]
        async with pipeline(self.raw) as line:
            line.query(query, written)
            await line.send()
            result = await line.one()
        columns = Columns.of(result)
        rows = values.rows(self.reader.load(result), columns.converters(self.reader.known))
        return [dict(zip(columns.names, row, strict=True)) for row in rows]
