"""SQLite's short reads, which run on the event loop's thread: whatever may take longer does not."""

import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from manydb import transactions
from manydb.dialects.execution import driver
from manydb.dialects.rows import Rows
from manydb.leases import Lease
from tests.observers import Observer, leased


@pytest.fixture
async def lease(sqlite_url: str) -> AsyncGenerator[Lease]:
    observer = Observer.of(sqlite_url)
    await observer.run("CREATE TABLE goods (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, picture BLOB)")
    await observer.run("INSERT INTO goods VALUES (1, 'tea', x'00'), (2, hex(zeroblob(20000)), zeroblob(4000000))")
    async with leased(sqlite_url) as lease:
        await read(lease, "SELECT 1")  # which reads the schema
        yield lease


async def read(lease: Lease, sql: str, *args: Any) -> Rows:
    return await transactions.read(
        lease, lambda connection: lease.dialect.fetch(connection, sql, args, 100), timeout=10, alone=True
    )


@asynccontextmanager
async def opened(lease: Lease) -> AsyncGenerator[sqlite3.Connection]:
    async with lease.connect() as connection:
        yield driver(connection)._conn


async def compiles_here(lease: Lease, sql: str) -> bool:
    """Whether the event loop's thread looks at more of *sql* than what has changed before it."""
    here: list[int] = []

    def note(action: int, *_: object) -> int:
        if threading.current_thread() is threading.main_thread() and action != sqlite3.SQLITE_PRAGMA:
            here.append(action)
        return sqlite3.SQLITE_OK

    async with opened(lease) as file:
        file.set_authorizer(note)
    await read(lease, sql)
    return bool(here)


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT name FROM goods WHERE id = 1", "SELECT * FROM goods WHERE id = 9"])
async def test_a_read_of_a_row_visits_no_thread(lease: Lease, sql: str) -> None:
    assert await compiles_here(lease, sql)


async def test_what_repeats_itself_is_not_even_compiled_here(lease: Lease) -> None:
    steps = "".join(f", c{n}(x) AS (VALUES ((SELECT x FROM c{n - 1}) + (SELECT x FROM c{n - 1})))" for n in range(1, 8))
    assert not await compiles_here(lease, f"WITH c0(x) AS (VALUES (1)){steps} SELECT x FROM c7")


@pytest.mark.parametrize(
    ("view", "written"), [("Best", "best"), ("Best", '"BEST"'), ("Ä b", '"Ä B"'), ('a"b', '"a""b"'), ("a]b", '"a]b"')]
)
async def test_what_names_a_view_is_not_compiled_here(lease: Lease, sqlite_url: str, view: str, written: str) -> None:
    quoted = view.replace('"', '""')
    await Observer.of(sqlite_url).run(f'CREATE VIEW "{quoted}" AS SELECT * FROM goods WHERE id = 1')
    for _ in range(3):
        assert not await compiles_here(lease, f"SELECT name FROM {written}")
    await Observer.of(sqlite_url).run(f'DROP VIEW "{quoted}"')
    await read(lease, "SELECT 1")
    assert await compiles_here(lease, "SELECT name FROM goods WHERE id = 1")


async def test_a_table_is_read_here_although_there_are_views(lease: Lease, sqlite_url: str) -> None:
    await Observer.of(sqlite_url).run("CREATE VIEW best AS SELECT * FROM goods WHERE id = 1")
    await read(lease, "SELECT 1")
    assert await compiles_here(lease, "SELECT name FROM goods WHERE id = 1")


@pytest.mark.parametrize(
    ("expression", "length"),
    [("name", 40_000), ("picture", 4_000_000), ("CAST(picture AS TEXT)", 4_000_000), ("name = 'tea'", 1)],
)
async def test_long_cells_are_read_elsewhere_and_whole(lease: Lease, expression: str, length: int) -> None:
    threads: list[threading.Thread] = []
    async with opened(lease) as file:
        file.set_trace_callback(lambda sql: None if "PRAGMA" in sql else threads.append(threading.current_thread()))
    found = (await read(lease, f"SELECT {expression} FROM goods WHERE id = 2")).rows[0][0]
    assert len(found["$bytes"] if isinstance(found, dict) else str(found)) >= length
    assert threads[-1] is not threading.main_thread()
    async with opened(lease) as file:
        assert file.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) == 50_000_000
