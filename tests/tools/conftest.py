"""A small SQLite file, for what does not depend on the database; what does is in tests/dialects/test_contract.py."""

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.tools import MODES, Desk, serving

ROWS = 450


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file: numbers 1 to 450, some long texts, a column of bytes."""
    path = tmp_path_factory.mktemp("tools") / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE numbers (n integer PRIMARY KEY, label text);
            CREATE TABLE stories (id integer PRIMARY KEY, story text);
            CREATE TABLE "Order" (id integer PRIMARY KEY, "group" text);
            CREATE VIEW evens AS SELECT n FROM numbers WHERE n % 2 = 0;
            """
        )
        connection.executemany("INSERT INTO numbers VALUES (?, ?)", [(n, f"label {n}") for n in range(1, ROWS + 1)])
        connection.executemany(
            "INSERT INTO stories VALUES (?, ?)", [(number, chr(96 + number) * 1_000 * number) for number in range(1, 9)]
        )
    connection.close()
    return path


@pytest.fixture(scope="session")
def file_url(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def desk(file_url: str, mode: str) -> AsyncGenerator[Desk]:
    async with serving(mode, url=file_url) as desk:
        yield desk
