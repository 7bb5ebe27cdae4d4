"""What a login could do is told to clients and operators alike."""

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from manydb import shell
from manydb.settings import Settings
from tests.tools import MODES, serving


async def _run(url: str, *statements: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
    await engine.dispose()


@pytest.mark.parametrize("mode", MODES)
async def test_a_superuser_is_told_from_a_login_that_only_reads(mode: str, postgresql_url: str) -> None:
    await _run(postgresql_url, "CREATE ROLE manydb_only_reads LOGIN PASSWORD 'x'")
    try:
        reader = make_url(postgresql_url).set(username="manydb_only_reads", password="x")
        connections = {
            "owner": {"url": postgresql_url},
            "reader": {"url": reader.render_as_string(hide_password=False)},
        }
        async with serving(mode, connections=connections) as desk:
            listed = (await desk.ask("list_connections"))["connections"]
    finally:
        await _run(postgresql_url, "DROP ROLE manydb_only_reads")
    assert {each["name"]: each["login"] for each in listed} == {"owner": "superuser", "reader": "reads only"}


async def test_check_prints_the_login_that_it_should_be(
    postgresql_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert await shell.check(Settings.load(connections={"sales": postgresql_url})) == 0
    told = capsys.readouterr().out
    assert "superuser" in told
    assert f"GRANT CONNECT ON DATABASE {make_url(postgresql_url).database}" in told.replace('"', "")
    assert "PASSWORD '<password>'" in told
