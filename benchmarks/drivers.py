"""The floors below us: each database's driver, asked without manydb and without SQLAlchemy; and SQLAlchemy Core."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import aiosqlite
import asyncpg
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine

Fetch = Callable[..., Awaitable[Any]]
"""All rows of a query: its text, then its arguments."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver, by how it is connected; *mark* is its placeholder for a first argument."""

    connect: Callable[[URL], AbstractAsyncContextManager[Fetch]]
    mark: str


@asynccontextmanager
async def _asyncpg(url: URL) -> AsyncGenerator[Fetch]:
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        yield connection.fetch
    finally:
        await connection.close()


def _mysql(driver: str) -> Callable[[URL], AbstractAsyncContextManager[Fetch]]:
    """How *driver* connects: both have pymysql's ways."""

    @asynccontextmanager
    async def connected(url: URL) -> AsyncGenerator[Fetch]:
        connection = await import_module(driver).connect(
            host=url.host, port=url.port or 3306, user=url.username, password=url.password or "", db=url.database
        )

        async def fetch(sql: str, *args: Any) -> Any:
            async with connection.cursor() as cursor:
                await cursor.execute(sql, args or None)
                return await cursor.fetchall()

        try:
            yield fetch
        finally:
            await connection.ensure_closed()

    return connected


@asynccontextmanager
async def _psycopg(url: URL) -> AsyncGenerator[Fetch]:
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await import_module("psycopg").AsyncConnection.connect(address, autocommit=True)

    async def fetch(sql: str, *args: Any) -> Any:
        return await (await connection.execute(sql, args or None)).fetchall()

    try:
        yield fetch
    finally:
        await connection.close()


@asynccontextmanager
async def _aiosqlite(url: URL) -> AsyncGenerator[Fetch]:
    async with aiosqlite.connect(str(url.database)) as connection:

        async def fetch(sql: str, *args: Any) -> Any:
            return await connection.execute_fetchall(sql, args)

        yield fetch


DRIVERS: Mapping[str, Driver] = {
    "postgresql": Driver(_asyncpg, "$1"),
    "postgresql+psycopg": Driver(_psycopg, "%s"),
    "mysql": Driver(_mysql("aiomysql"), "%s"),
    "sqlite": Driver(_aiosqlite, "?"),
    "mysql+asyncmy": Driver(_mysql("asyncmy"), "%s"),
}
"""By the way to a database: its backend, by the driver that is always there, or with one of manydb[fast]."""


def ways(url: URL) -> Iterator[tuple[str, URL]]:
    """The ways to the database of *url* whose drivers are installed, each with the URL that takes it."""
    for way in DRIVERS:
        backend, _, driver = way.partition("+")
        if backend == url.get_backend_name() and (not driver or find_spec(driver)):
            yield way, url.set(drivername=way) if driver else url


@asynccontextmanager
async def core(url: URL) -> AsyncGenerator[Fetch]:
    """SQLAlchemy Core as its users have it: a connection of its pool for each query, whose argument is called :id."""
    engine = create_async_engine(url, pool_size=1)

    async def fetch(sql: str, *args: Any) -> Any:
        async with engine.connect() as connection:
            return (await connection.execute(text(sql), dict(zip(["id"], args, strict=False)))).all()

    try:
        yield fetch
    finally:
        await engine.dispose()
