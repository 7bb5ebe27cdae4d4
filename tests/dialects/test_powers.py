"""What a login could do, told by the database, and the login that the remedy makes, tried on the real servers."""

import asyncio
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import URL, NullPool, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from manydb import transactions
from manydb.dialects import DIALECTS
from manydb.dialects.mysql import powers as mysql
from manydb.dialects.postgresql import powers as postgresql
from manydb.dialects.powers import PASSWORD, Powers, counted, listed
from manydb.dialects.sqlite import powers as sqlite
from manydb.engines import EngineRegistry
from manydb.leases import Target
from manydb.settings import Settings
from tests.conftest import Databases
from tests.servers import entered, new_name

SECRET = "Pass-w0rd-of-a-test"
MODULES: Mapping[str, ModuleType] = {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}
SERVERS = ("postgresql", "mysql")


async def probe(url: URL) -> Powers:
    """As the gateway asks: on an engine that only reads, in a read-only transaction."""
    dialect = next(each for each in DIALECTS if each.name == url.get_backend_name())
    async with (
        EngineRegistry(Settings.load()) as engines,
        engines.lease(Target(dialect, dialect.normalise(url)), "read_only") as lease,
    ):
        found: Powers = await transactions.read(lease, MODULES[dialect.name].powers, timeout=5)
    return found


def without_database(url: URL) -> URL:
    return URL.create(url.drivername, url.username, url.password, url.host, url.port)


async def run(connection: AsyncConnection, *statements: str) -> None:
    for sql in statements:
        await connection.exec_driver_sql(sql.replace("%", "%%") if connection.dialect.name == "mysql" else sql)


def quoted(admin: AsyncConnection, name: str) -> str:
    return admin.dialect.identifier_preparer.quote_identifier(name)


async def drop_login(admin: AsyncConnection, login: str) -> None:
    if admin.dialect.name == "postgresql":
        await run(admin, f"DROP OWNED BY {quoted(admin, login)}", f"DROP ROLE {quoted(admin, login)}")
    else:
        user, _, host = login.rpartition("@")
        await run(admin, f"DROP USER {quoted(admin, user)}@{quoted(admin, host)}")


@pytest.fixture(params=SERVERS)
async def url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[URL]:
    """An empty database of each server that knows logins, as its administrator."""
    async with databases.temporary(request.param) as text:
        yield make_url(text)


@asynccontextmanager
async def remedied(url: URL, remedy: str) -> AsyncGenerator[URL]:
    """The login that *remedy* makes, executed by the administrator; dropped at the end."""
    async with entered(url) as admin:
        await run(admin, *remedy.replace(PASSWORD, SECRET).splitlines())
        made = re.match(r"""CREATE \w+ ([`"])(?P<name>\w+)\1""", remedy)
        assert made is not None
        reader = url.set(username=made["name"], password=SECRET)
        try:
            yield reader
        finally:
            await drop_login(admin, (await probe(reader)).login)


@asynccontextmanager
async def login_with(url: URL, *grants: str) -> AsyncGenerator[URL]:
    """A login of its own with *grants*, which write ``{login}``, ``{role}`` and ``{db}``."""
    name = new_name()[-24:]
    async with entered(url) as admin:
        if maria := admin.dialect.name == "mysql":
            login = f"{name}@{(await probe(url)).login.rpartition('@')[2]}"
            account = "@".join(quoted(admin, part) for part in login.split("@"))
            await run(admin, f"CREATE USER {account} IDENTIFIED BY '{SECRET}'")
        else:
            login, account = name, name
            await run(admin, f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
        role = f"{name}_role"
        await run(admin, f"CREATE ROLE {role}")
        try:
            await run(admin, *(grant.format(login=account, role=role, db=url.database) for grant in grants))
            yield url.set(username=name, password=SECRET)
        finally:
            await drop_login(admin, login)
            await run(
                admin, *([f"DROP ROLE IF EXISTS {role}2"] if maria else [f"DROP OWNED BY {role}"]), f"DROP ROLE {role}"
            )


async def test_the_administrator_is_a_superuser(url: URL) -> None:
    powers = await probe(url)
    assert (powers.superuser, powers.can_write) == (True, True)
    assert powers.login.split("@")[0] == url.username
    assert powers.reasons[0] in {"superuser", "ALL PRIVILEGES, GRANT OPTION on every database"}


TABLES = {
    "postgresql": [
        'CREATE SCHEMA "Odd ""name"', 'CREATE TABLE "Odd ""name"."a.b" (id serial PRIMARY KEY, x int)',
        "CREATE TABLE plain (id int)", "CREATE VIEW seen AS SELECT * FROM plain", "CREATE SEQUENCE numbers",
    ],
    "mysql": [
        "CREATE TABLE `odd ``name` (id int AUTO_INCREMENT PRIMARY KEY, x int)", "CREATE TABLE plain (id int)",
        "CREATE VIEW seen AS SELECT * FROM plain",
    ],
}  # fmt: skip
READS = {
    "postgresql": [
        'SELECT * FROM "Odd ""name"."a.b"', "SELECT * FROM plain", "SELECT * FROM seen", "SELECT * FROM later",
        "SELECT last_value FROM numbers", 'SELECT * FROM "Odd ""name".later',
    ],
    "mysql": [
        "SELECT * FROM `odd ``name`", "SELECT * FROM plain", "SELECT * FROM seen", "SELECT * FROM later",
        "SHOW CREATE VIEW seen",
    ],
}  # fmt: skip
LATER = {
    "postgresql": ["CREATE TABLE later (id int)", 'CREATE TABLE "Odd ""name".later (id int)'],
    "mysql": ["CREATE TABLE later (id int)"],
}
WRITES = {
    "postgresql": [
        "INSERT INTO plain VALUES (1)", "UPDATE plain SET id = 1", "DELETE FROM plain", "TRUNCATE plain",
        "DROP TABLE plain",
        "CREATE TABLE mine (id int)", "CREATE SCHEMA mine", "SELECT nextval('numbers')", "CREATE ROLE mine",
        'INSERT INTO "Odd ""name".later VALUES (1)', "COPY plain TO '/tmp/plain'", "COPY plain TO PROGRAM 'true'",
    ],
    "mysql": [
        "INSERT INTO plain VALUES (1)", "UPDATE plain SET id = 1", "DELETE FROM plain", "TRUNCATE plain",
        "DROP TABLE plain",
        "CREATE TABLE mine (id int)", "CREATE DATABASE mine", "CREATE USER mine", "SELECT 1 INTO OUTFILE '/tmp/plain'",
        "INSERT INTO later VALUES (1)", "SET GLOBAL sync_binlog = 7",
    ],
}  # fmt: skip


async def test_the_remedy_makes_a_login_that_reads_everything_and_writes_nothing(url: URL) -> None:
    backend = url.get_backend_name()
    async with entered(url) as admin:
        await run(admin, *TABLES[backend])
        async with remedied(url, (await probe(url)).remedy) as reader:
            await run(admin, *LATER[backend])
            powers = await probe(reader)
            assert powers == Powers(powers.login, superuser=False, can_write=False, reasons=(), remedy=powers.remedy)
            assert powers.login.split("@")[0] == reader.username
            # Without the gateway, and without the read-only default that a login may switch off.
            async with entered(reader) as connection:
                if backend == "postgresql":
                    await run(connection, "SET default_transaction_read_only = off")
                await run(connection, *READS[backend])
                for write in WRITES[backend]:
                    with pytest.raises(DBAPIError):
                        await run(connection, write)


async def test_a_reader_is_told_the_same_remedy_as_the_administrator(url: URL) -> None:
    remedy = (await probe(url)).remedy
    async with remedied(url, remedy) as reader:
        assert (await probe(reader)).remedy == remedy


async def test_a_schema_in_which_everybody_may_create_is_closed_by_the_remedy(postgresql_url: str) -> None:
    url = make_url(postgresql_url)
    async with entered(url) as admin:
        await run(admin, "GRANT CREATE ON SCHEMA public TO PUBLIC")
        async with login_with(url) as anybody:
            assert (await probe(anybody)).reasons == ("CREATE in public",)
        async with remedied(url, (await probe(url)).remedy) as reader:
            assert (await probe(reader)).reasons == ()


async def test_underscores_in_a_mysql_database_name_open_no_other_database(mysql_url: str) -> None:
    url = make_url(mysql_url)
    neighbour = str(url.database).replace("_", "x")
    async with entered(url) as admin:
        await run(admin, f"CREATE DATABASE {neighbour}", f"CREATE TABLE {neighbour}.t (id int)")
        try:
            async with remedied(url, (await probe(url)).remedy) as reader, entered(reader) as connection:
                with pytest.raises(DBAPIError, match=r"\((1142|1044), "):
                    await run(connection, f"SELECT * FROM {neighbour}.t")
        finally:
            await run(admin, f"DROP DATABASE {neighbour}")


@pytest.mark.parametrize(
    ("grants", "reasons", "can_write"),
    [
        ([], (), False),
        (["GRANT SELECT ON a, b TO {login}"], (), False),
        (["GRANT INSERT ON a, b TO {login}"], ("INSERT on 2 tables",), True),
        (["GRANT UPDATE (id) ON a TO {login}"], ("UPDATE on 1 table",), True),
        (["GRANT DELETE ON a TO PUBLIC"], ("DELETE on 1 table",), True),
        (["GRANT USAGE ON SEQUENCE s TO {login}"], ("USAGE of 1 sequence",), True),
        (["GRANT CREATE ON SCHEMA public TO {login}"], ("CREATE in public",), True),
        (["GRANT CREATE ON DATABASE {db} TO {login}"], ("CREATE on the database",), True),
        (["ALTER TABLE v OWNER TO {login}"], None, True),
        (["GRANT DELETE ON a TO {role}", "GRANT {role} TO {login}"], ("DELETE on 1 table",), True),
        (
            ["GRANT DELETE ON a TO {role}", "GRANT {role} TO {login}", "ALTER ROLE {login} NOINHERIT"],
            ("DELETE on 1 table",),
            True,
        ),
        (["GRANT pg_execute_server_program TO {login}"], ("member of pg_execute_server_program",), True),
        (["GRANT pg_read_server_files TO {login}"], ("member of pg_read_server_files",), False),
        (["ALTER ROLE {login} CREATEROLE CREATEDB"], ("CREATEROLE", "CREATEDB"), True),
    ],
)
async def test_postgresql_tells_why_a_login_can_write(
    postgresql_url: str, grants: list[str], reasons: tuple[str, ...] | None, can_write: bool
) -> None:
    url = make_url(postgresql_url)
    async with entered(url) as admin:
        await run(
            admin, "CREATE TABLE a (id int)", "CREATE TABLE b (id int)", "CREATE SEQUENCE s", "CREATE TABLE v (id int)"
        )
        async with login_with(url, *grants) as login:
            powers = await probe(login)
            assert (powers.superuser, powers.can_write) == (False, can_write)
            if reasons is None:
                assert powers.reasons[0] == "owner of 1 table"
            else:
                assert powers.reasons == reasons
            await run(admin, "DROP TABLE v")


async def test_a_login_that_may_become_a_superuser_is_one(postgresql_url: str) -> None:
    url = make_url(postgresql_url)
    async with login_with(url, "ALTER ROLE {role} SUPERUSER", "GRANT {role} TO {login}") as login:
        powers = await probe(login)
        assert (powers.superuser, powers.can_write) == (True, True)
        assert powers.reasons == (f"member of {login.username}_role, a superuser",)


@pytest.mark.parametrize(
    ("grants", "reasons", "can_write"),
    [
        (["GRANT SELECT, SHOW VIEW ON {db}.* TO {login}"], (), False),
        (["GRANT INSERT, UPDATE ON {db}.* TO {login}"], ("INSERT, UPDATE on `{db}`.*",), True),
        (["GRANT INSERT ON {db}.a TO {login}", "GRANT INSERT ON {db}.b TO {login}"], ("INSERT on 2 tables",), True),
        (["GRANT SELECT, UPDATE (id) ON {db}.a TO {login}"], ("UPDATE on 1 table",), True),
        (["GRANT FILE ON *.* TO {login}"], ("FILE on every database",), True),
        (["GRANT PROCESS ON *.* TO {login}"], ("PROCESS on every database",), False),
        (["GRANT EXECUTE ON PROCEDURE {db}.p TO {login}"], ("EXECUTE on 1 routine",), True),
        (["GRANT DELETE ON {db}.* TO {role}", "GRANT {role} TO {login}"], ("DELETE on `{db}`.*",), True),
        (
            [
                "CREATE ROLE {role}2",
                "GRANT {role}2 TO {role}",
                "GRANT {role} TO {login}",
                "GRANT DROP ON {db}.* TO {role}2",
            ],
            ("DROP on `{db}`.*",),
            True,
        ),
        (["GRANT SELECT ON {db}.* TO {login} WITH GRANT OPTION"], ("GRANT OPTION on `{db}`.*",), True),
    ],
)
async def test_mysql_tells_why_a_login_can_write(
    mysql_url: str, grants: list[str], reasons: tuple[str, ...], can_write: bool
) -> None:
    url = make_url(mysql_url)
    async with entered(url) as admin:
        await run(admin, "CREATE TABLE a (id int)", "CREATE TABLE b (id int)", "CREATE PROCEDURE p() SELECT 1")
    async with login_with(url, *grants) as login:
        # Without a database: some of these logins may enter none.
        powers = await probe(without_database(login))
        assert (powers.superuser, powers.can_write) == (False, can_write)
        shown = tuple(reason.replace("\\_", "_") for reason in powers.reasons)
        assert shown == tuple(reason.format(db=url.database) for reason in reasons)


async def test_no_reason_shows_a_password(url: URL) -> None:
    async with login_with(url) as login:
        assert SECRET not in repr(await probe(without_database(login) if "mysql" in url.drivername else login))


async def test_postgresql_answers_in_one_query(postgresql_url: str) -> None:
    engine = create_async_engine(postgresql_url, poolclass=NullPool)
    statements: list[str] = []
    async with engine.connect() as connection:
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
        await postgresql.powers(connection)
    await engine.dispose()
    assert len(statements) == 1


# -- SQLite ----------------------------------------------------------------------------------------------------------


@contextmanager
def as_an_account_without_privileges() -> Generator[None]:
    """Root is bound by no file permission: act as an account that is."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def database_file() -> Generator[Path]:
    """A file whose folder every account may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name) / "it's data"
        folder.mkdir()
        Path(name).chmod(0o755)
        folder.chmod(0o755)
        file = folder / "shop.db"
        file.touch()
        yield file


def allow(path: Path, mode: int) -> None:
    path.chmod(mode)


async def of(file: Path) -> Powers:
    return await probe(URL.create("sqlite+aiosqlite", database=str(file)))


async def test_a_writable_sqlite_file_is_told_so(database_file: Path) -> None:
    allow(database_file, 0o666)
    with as_an_account_without_privileges():
        powers = await of(database_file)
    assert (powers.superuser, powers.can_write) == (False, True)
    assert "the file is writable" in powers.reasons


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second account, which only root can act as")
async def test_the_sqlite_remedy_leaves_a_file_that_others_only_read(database_file: Path) -> None:
    allow(database_file, 0o666)
    allow(database_file.parent, 0o777)
    remedy = (await of(database_file)).remedy
    chmods = [line for line in remedy.splitlines() if line.startswith("chmod")]
    assert len(chmods) == 2
    await asyncio.to_thread(subprocess.run, ["sh", "-ec", "\n".join(chmods)], check=True)
    with as_an_account_without_privileges():
        powers = await of(database_file)
    assert powers == Powers("nobody", superuser=False, can_write=False, reasons=(), remedy=remedy)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_is_told_that_permissions_do_not_bind_it(database_file: Path) -> None:
    allow(database_file, 0o444)
    powers = await of(database_file)
    assert (powers.login, powers.superuser, powers.can_write) == ("root", True, True)
    assert powers.reasons[0] == "the server runs as root, whom file permissions do not bind"


async def test_a_database_in_memory_has_nothing_to_protect() -> None:
    powers = await probe(make_url("sqlite+aiosqlite:///:memory:"))
    assert (powers.can_write, powers.reasons, powers.remedy) == (False, (), "")


@pytest.mark.parametrize(
    ("names", "text"),
    [(["a"], "a"), (["a", "b", "c", "d"], "a, b, c, d"), (["a", "b", "c", "d", "e"], "a, b, c, d and 1 more")],
)
def test_long_lists_are_cut(names: list[Any], text: str) -> None:
    assert listed(names) == text


def test_one_is_not_many() -> None:
    assert [counted(1, "table"), counted(2, "table")] == ["1 table", "2 tables"]
