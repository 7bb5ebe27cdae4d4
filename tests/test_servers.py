import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import Databases
from tests.servers import BACKENDS, MissingServerError, MySQL, NetworkBackend, PostgreSQL, private_server

ROOT = Path(__file__).parent.parent
NETWORK_BACKENDS = [backend for backend in BACKENDS.values() if isinstance(backend, NetworkBackend)]
# Nothing listens on port 1.
UNREACHABLE = {
    "MANYDB_TEST_POSTGRESQL_URL": "postgresql://someone:hunter2@127.0.0.1:1/",
    "MANYDB_TEST_MYSQL_URL": "mysql://someone:hunter2@127.0.0.1:1/",
}

each_network_backend = pytest.mark.parametrize("backend", NETWORK_BACKENDS, ids=lambda backend: backend.name)


async def answer(url: str | URL, sql: str) -> str:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        return str((await connection.execute(text(sql))).scalar_one())


async def data_folder(backend: NetworkBackend, url: URL) -> Path:
    sql = {"postgresql": "SHOW data_directory", "mysql": "SELECT @@datadir"}[backend.name]
    return Path(await answer(url, sql))


def processes_naming(folder: Path) -> list[str]:
    listing = subprocess.run(
        ["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, check=True, timeout=10
    )
    return [line for line in listing.stdout.splitlines() if str(folder) in line]


@contextmanager
def needing_binaries(databases: Databases) -> Iterator[None]:
    """Skip, or fail where CI says so, when this machine has no binaries to start a private server from."""
    try:
        yield
    except MissingServerError as missing:
        databases.refuse(str(missing))


@each_network_backend
async def test_a_private_server_answers_and_leaves_no_process_and_no_folder(
    backend: NetworkBackend, databases: Databases
) -> None:
    with needing_binaries(databases):
        async with private_server(backend) as server:
            url = await server.create()
            assert await answer(url, "SELECT 6 * 7") == "42"
            folder = (await data_folder(backend, url)).parent
            assert processes_naming(folder)
    assert processes_naming(folder) == []
    assert not folder.exists()


@each_network_backend
async def test_a_private_server_is_gone_when_the_test_fails_and_a_client_is_still_connected(
    backend: NetworkBackend, databases: Databases
) -> None:
    engine = None
    with needing_binaries(databases), suppress(ZeroDivisionError):
        async with private_server(backend) as server:
            folder = (await data_folder(backend, server.url)).parent
            engine = create_async_engine(server.url)
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            raise ZeroDivisionError
    assert engine is not None
    await engine.dispose()
    assert processes_naming(folder) == []
    assert not folder.exists()


@each_network_backend
async def test_a_private_server_wants_its_password(backend: NetworkBackend, databases: Databases) -> None:
    with needing_binaries(databases):
        async with private_server(backend) as server:
            assert server.url.password
            # Each driver says no in its own words.
            with pytest.raises(Exception, match=r"(?i)password|access denied"):
                await answer(server.url.set(password="wrong"), "SELECT 1")


@each_network_backend
def test_a_private_server_goes_with_an_interpreter_that_ends_without_unwinding(
    backend: NetworkBackend, databases: Databases
) -> None:
    script = f"""
import asyncio
from tests import servers, test_servers

backend = servers.BACKENDS["{backend.name}"]
private = servers.private_server(backend)
loop = asyncio.new_event_loop()
try:
    server = loop.run_until_complete(private.__aenter__())
    print(loop.run_until_complete(test_servers.data_folder(backend, server.url)))
except servers.MissingServerError as missing:
    print("missing:", missing)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    if run.stdout.startswith("missing:"):
        databases.refuse(run.stdout)
    folder = Path(run.stdout.strip()).parent
    assert folder.name.startswith("manydb_test_")
    assert processes_naming(folder) == []
    assert not folder.exists()


@each_network_backend
async def test_the_variable_wins_over_a_local_server(backend: NetworkBackend, databases: Databases) -> None:
    with needing_binaries(databases):
        async with private_server(backend) as private:
            scheme = backend.driver.partition("+")[0]
            configured = private.url.set(drivername=scheme).render_as_string(hide_password=False)
            async with Databases({backend.variable: configured}) as chosen, chosen.temporary(backend.name) as url:
                assert make_url(url).port == private.url.port
                assert make_url(url).drivername == backend.driver
                assert next(chosen.summary()).endswith(f"({backend.variable})")


@each_network_backend
async def test_a_configured_server_that_is_unreachable_is_missing_and_its_password_stays_secret(
    backend: NetworkBackend,
) -> None:
    with pytest.raises(MissingServerError, match=backend.variable) as missing:
        async with backend.open(UNREACHABLE):
            pass
    assert "hunter2" not in str(missing.value)


@pytest.mark.parametrize("configured", ["not a url", "postgresql://127.0.0.1:port/"])
async def test_a_variable_that_holds_no_url_is_named(configured: str) -> None:
    with pytest.raises(MissingServerError, match="MANYDB_TEST_POSTGRESQL_URL"):
        async with PostgreSQL().open({"MANYDB_TEST_POSTGRESQL_URL": configured}):
            pass


@each_network_backend
async def test_a_private_server_that_cannot_start_is_quoted(
    backend: NetworkBackend, monkeypatch: pytest.MonkeyPatch, databases: Databases
) -> None:
    with needing_binaries(databases):
        async with private_server(backend) as first:
            monkeypatch.setattr("tests.servers.free_port", lambda: first.url.port)
            with pytest.raises(MissingServerError, match=r"does not answer: .*(?i:address already in use)"):
                async with private_server(backend):
                    pass


@each_network_backend
async def test_where_no_local_server_lets_us_in_a_private_one_is_started(
    backend: NetworkBackend, monkeypatch: pytest.MonkeyPatch, databases: Databases
) -> None:
    monkeypatch.setattr(type(backend), "port", 1)
    with needing_binaries(databases):
        async with backend.open({}) as server:
            assert "(private server from /" in server.label
            assert await answer(await server.create(), "SELECT 6 * 7") == "42"


@each_network_backend
async def test_a_machine_without_server_and_binaries_says_what_it_lacks(
    backend: NetworkBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backend), "port", 1)
    monkeypatch.setattr("tests.servers.may_run", lambda *_: False)
    with pytest.raises(MissingServerError, match=r"^127\.0\.0\.1:1, user .*; no .* to start a private server from$"):
        async with backend.open({}):
            pass


@pytest.mark.parametrize("name", BACKENDS)
async def test_databases_are_distinct_empty_and_dropped_at_the_end(name: str, databases: Databases) -> None:
    await databases.server(name)
    async with Databases(os.environ) as own:
        first, second = await asyncio.gather(own.create(name), own.create(name))
        assert first != second
        engine = create_async_engine(first, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE kept (id integer)"))
        with pytest.raises(Exception, match="kept"):
            await answer(second, "SELECT count(*) FROM kept")
    for url in (first, second):
        with pytest.raises(Exception, match=r"does not exist|Unknown database|unable to open"):
            await answer(url, "SELECT 1")


async def test_a_database_is_dropped_although_a_transaction_is_open_in_it(databases: Databases) -> None:
    for backend in NETWORK_BACKENDS:
        async with databases.temporary(backend.name) as url:
            engine = create_async_engine(url, poolclass=NullPool)
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TABLE held (id integer)"))
            holder = await engine.connect()
            await holder.execute(text("SELECT * FROM held"))
        with pytest.raises(Exception, match=r"does not exist|Unknown database"):
            await answer(url, "SELECT 1")
        await holder.invalidate()
        await holder.close()


async def test_each_backend_comes_in_turn(database_url: str, request: pytest.FixtureRequest) -> None:
    assert make_url(database_url).get_backend_name() in request.node.name
    assert await answer(database_url, "SELECT 6 * 7") == "42"


async def test_urls_name_the_async_drivers(postgresql_url: str, mysql_url: str, sqlite_url: str) -> None:
    assert postgresql_url.startswith("postgresql+asyncpg://")
    assert mysql_url.startswith("mysql+aiomysql://")
    assert sqlite_url.startswith("sqlite+aiosqlite:////")
    assert await answer(sqlite_url, "SELECT count(*) FROM sqlite_schema") == "0"


def run_tests(folder: Path, body: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run pytest on a file of its own, with our fixtures and nothing else of ours."""
    (folder / "test_inner.py").write_text(body)
    command = [
        *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-rs", str(folder)),
    ]
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **environ}, capture_output=True, text=True, check=False, timeout=120
    )


async def test_the_summary_names_what_was_tested(
    tmp_path: Path, databases: Databases, postgresql_url: str, mysql_url: str
) -> None:
    postgresql, mysql = await databases.server("postgresql"), await databases.server("mysql")
    run = run_tests(tmp_path, "def test_any(database_url: str) -> None: ...", {"CI": "true"})
    assert run.returncode == 0, run.stdout
    # The origin may differ: a private server of ours is not the inner run's.
    for tested in (postgresql.label, mysql.label):
        assert tested.partition(" (")[0] in run.stdout
    assert "databases tested: PostgreSQL " in run.stdout
    assert ", SQLite " in run.stdout
    assert "databases missing" not in run.stdout


def test_what_no_test_asked_for_is_neither_tested_nor_missing(tmp_path: Path) -> None:
    run = run_tests(tmp_path, "def test_any(sqlite_url: str) -> None: ...", {"CI": "true", **UNREACHABLE})
    assert run.returncode == 0, run.stdout
    assert "databases tested: SQLite " in run.stdout
    assert "databases missing" not in run.stdout


def test_with_ci_a_missing_server_fails_the_run(tmp_path: Path) -> None:
    run = run_tests(tmp_path, "def test_any(database_url: str) -> None: ...", {"CI": "true", **UNREACHABLE})
    assert run.returncode == 1, run.stdout
    assert "1 passed, 2 errors" in run.stdout
    assert "databases missing: no PostgreSQL: MANYDB_TEST_POSTGRESQL_URL" in run.stdout
    assert "databases missing: no MySQL/MariaDB: MANYDB_TEST_MYSQL_URL" in run.stdout


def test_on_a_laptop_a_missing_server_is_a_named_skip(tmp_path: Path) -> None:
    run = run_tests(tmp_path, "def test_any(database_url: str) -> None: ...", UNREACHABLE)
    assert run.returncode == 0, run.stdout
    assert "1 passed, 2 skipped" in run.stdout
    for backend in (PostgreSQL, MySQL):
        assert f"no {backend.title}" in run.stdout
        assert f"set {backend.variable}" in run.stdout
