"""What every database must do alike, through the client that a user has: one suite, unchanged for each of them."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import Databases
from tests.servers import BACKENDS
from tests.tools import MODES, Desk, serving

_NUMBERS = ", ".join(f"({n}, 'label {n}')" for n in range(1, 451))
# What is spelled differently in each database: types, quotes, and how a schema beside the default one is made.
WORDS: dict[str, dict[str, str]] = {
    "postgresql": {
        "bytes": "bytea", "uuid": "uuid", "moment": "timestamptz", "json": "jsonb", "q": '"', "real": "double precision",
    },
    "mysql": {
        "bytes": "varbinary(40)", "uuid": "uuid", "moment": "datetime(6)", "json": "json", "q": "`", "real": "double",
    },
    "sqlite": {"bytes": "blob", "uuid": "text", "moment": "text", "json": "text", "q": '"', "real": "real"},
}  # fmt: skip
SCHEMA = """
CREATE TABLE customers (id integer PRIMARY KEY, email varchar(80) NOT NULL UNIQUE, full_name varchar(80));
CREATE TABLE {q}Order{q} (id integer PRIMARY KEY, customer_id integer NOT NULL REFERENCES customers (id),
    {q}group{q} varchar(20), total decimal(12,2) CHECK (total >= 0));
CREATE TABLE kinds (id integer PRIMARY KEY, day date, at {moment}, uid {uuid}, amount decimal(12,2), data {bytes},
    doc {json}, ratio {real}, flag boolean, big bigint);
CREATE TABLE numbers (n integer PRIMARY KEY, label varchar(20));
CREATE VIEW evens AS SELECT n FROM numbers WHERE n % 2 = 0;
CREATE INDEX orders_by_customer ON {q}Order{q} (customer_id);
INSERT INTO customers VALUES (1, 'ada@example.com', 'Ada'), (2, 'bob%x@example.com', 'Bob'), (3, 'eve@example.com', NULL);
INSERT INTO {q}Order{q} VALUES (1, 1, 'a', 10.50), (2, 1, 'b', 20), (3, 2, 'a', 0.1);
INSERT INTO kinds VALUES (1, '2026-01-05', '2026-01-05 10:00:00', '6f1c1f5e-6a0b-4b44-9c39-1f0a3a3e7d10', 12.50,
    {blob}, '{{"a": [1, 2]}}', 0.5, TRUE, 9007199254740993);
INSERT INTO kinds (id) VALUES (2);
INSERT INTO numbers VALUES {numbers}
"""
BLOBS = {"postgresql": r"'\x00ff10'", "mysql": "x'00ff10'", "sqlite": "x'00ff10'"}


class Contract(Desk):
    """A client of one seeded database; *words* are those of its SQL that no other database shares."""

    __slots__ = ("backend", "url")
    backend: str
    url: str


async def seed(url: str, backend: str) -> None:
    script = SCHEMA.format(numbers=_NUMBERS, blob=BLOBS[backend], **WORDS[backend])
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement in script.split(";\n"):
            await connection.exec_driver_sql(statement.replace("%", "%%") if backend == "mysql" else statement)
    await engine.dispose()


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
async def url(databases: Databases, backend: str) -> AsyncGenerator[str]:
    async with databases.temporary(backend) as url:
        await seed(url, backend)
        yield url


@pytest.fixture(scope="session", params=MODES)
async def desk(request: pytest.FixtureRequest, url: str) -> AsyncGenerator[Desk]:
    async with serving(request.param, url=url) as desk:
        yield desk


async def test_x(desk: Desk) -> None:
    print(await desk.ask("execute_query", sql="select * from kinds"))
