"""The fuzz must find what is there to be found: with a wall that lets everything pass, it does, at once."""

from collections.abc import AsyncGenerator
from itertools import count
from pathlib import Path
from random import Random

import pytest

from tests.conftest import Databases
from tests.corpus_bench import BACKENDS
from tests.fuzz.campaign import passes, search
from tests.fuzz.grounds import GROUNDS, Ground, changes
from tests.fuzz.hostile import Hostile
from tests.servers import SQLiteFolder

WRITES = {
    "postgresql": [
        ("UPDATE accounts SET balance = balance", "table accounts"),
        ("SELECT * FROM accounts FOR UPDATE", "table accounts"),
        ("SELECT nextval('hit_seq')", "table hit_seq"),
        ("CREATE VIEW evil AS SELECT 1 AS x", "pg_class"),
        ("SELECT lo_unlink(424242)", "pg_largeobject"),
        ("SET application_name = 'evil'", "session: settings"),
        ("SELECT pg_advisory_lock(42)", "session: locks"),
        ("PREPARE evil AS SELECT 1", "session: statements"),
    ],
    "mysql": [
        ("UPDATE accounts SET balance = 0", "table accounts"),
        ("SELECT NEXT VALUE FOR hit_seq", "table hit_seq"),
        ("CREATE VIEW evil AS SELECT 1 AS x", "views"),
        ("SET @evil = 1", "session: user variables"),
        ("SELECT get_lock('evil', 0)", "session: user variables"),
        ("SET SESSION sql_mode = ''", "session: variables"),
    ],
    "sqlite": [
        ("UPDATE accounts SET balance = 0", "file"),
        ("CREATE TEMP TABLE evil (x)", "session: temporary"),
        ("PRAGMA foreign_keys = 1", "session: foreign_keys"),
        ("ATTACH '{folder}/attached' AS evil; CREATE TABLE evil.x (y)", "folder"),
    ],
}


@pytest.fixture(scope="module", params=BACKENDS)
async def ground(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Ground]:
    """A ground on the server of the tests, told nothing that would change it for others."""
    kind = type("Shared", (GROUNDS[request.param],), {"quiet": ()})
    async with kind(await databases.server(request.param), tmp_path_factory.mktemp("watched")) as ground:
        yield ground


async def test_every_kind_of_change_is_seen(ground: Ground) -> None:
    before = await ground.snapshot()
    for sql, part in WRITES[ground.dialect.name]:
        assert await ground.run(sql.replace("{folder}", str(ground.folder))), sql
        after = await ground.snapshot()
        assert part in changes(before, after), sql
        before = after


async def test_reading_is_no_change(ground: Ground) -> None:
    session_and_tables = ("table ", "session: ", "file", "folder")
    before = await ground.snapshot()
    assert await ground.run("SELECT * FROM accounts")
    changed = changes(before, await ground.snapshot())
    assert [part for part in changed if part.startswith(session_and_tables)] == []


@pytest.fixture
async def file_ground(tmp_path: Path) -> AsyncGenerator[Ground]:
    folders = [tmp_path / "databases", tmp_path / "watched"]
    for folder in folders:
        folder.mkdir()
    async with GROUNDS["sqlite"](SQLiteFolder(folders[0]), folders[1]) as ground:
        yield ground


async def test_a_wall_that_lets_everything_pass_is_found_out_and_the_statement_made_short(file_ground: Ground) -> None:
    hostile = Hostile("sqlite", str(file_ground.folder), Random(1))
    tally, miss = await search(file_ground, hostile.statement, goes_on=lambda: True, judge=lambda _, sql: sql)
    assert miss is not None
    (statement,) = miss.statements
    assert len(statement) < 100
    assert not passes(file_ground, statement)
    assert tally.generated < 1_000


async def test_the_walls_text_holds_against_a_few_hundred_statements(file_ground: Ground) -> None:
    hostile, rounds = Hostile("sqlite", str(file_ground.folder), Random(1)), count()
    tally, miss = await search(file_ground, hostile.statement, goes_on=lambda: next(rounds) < 2_000)
    assert miss is None
    assert tally.executed > 50


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_statements(backend: str) -> None:
    one, other = (Hostile(backend, "/folder", Random(7)) for _ in range(2))
    assert [one.statement() for _ in range(200)] == [other.statement() for _ in range(200)]
