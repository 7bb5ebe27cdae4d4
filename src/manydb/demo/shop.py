"""The demo schema "shop": its Alembic history applied to any database, and the same rows in every one.

The tables are described once, in the history (`migrations/versions`); the inserts use what they reflect to.
"""

import signal
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError
from sqlalchemy import URL, Connection, MetaData, func, make_url, pool, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from manydb import dialects
from manydb.demo.rows import CUSTOMERS_PER_SCALE, TABLES, generate
from manydb.dialects import Dialect
from manydb.errors import BadParameter, SettingsError
from manydb.settings import Settings

__all__ = ["DEFAULT_URL", "TABLES", "Counts", "build", "settings", "shop_url", "upgrade", "with_driver"]

DEFAULT_URL = "sqlite+aiosqlite:///manydb-demo.db"
DESCRIPTION = "Demo: an online shop's customers, products, orders and payments, 2024 to 2026"

_CONNECT_SECONDS = 10.0
_DRIVERS = {
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "mysql": "mysql+aiomysql",
    "mariadb": "mariadb+aiomysql",
    "sqlite": "sqlite+aiosqlite",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows in each table of the shop."""

    categories: int
    products: int
    customers: int
    orders: int
    order_items: int
    payments: int


# ---- where it is ---------------------------------------------------------------------------------------------------


def with_driver(url: URL | str) -> URL:
    """*url* with the async driver that we ship, unless it names a driver itself."""
    parsed = make_url(url)
    return parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))


@contextmanager
def shop_url(url: str | None) -> Iterator[URL]:
    """Where the shop is to be: at *url*, or else in an SQLite file whose temporary folder is removed afterwards.

    Raises SettingsError for a URL that manydb cannot use; its message does not quote the URL.
    """
    if url is not None:
        _parse(url)
        yield with_driver(url.strip())
        return
    with _exit_on_sigterm(), _temporary_folder() as folder:
        yield URL.create("sqlite+aiosqlite", database=str(Path(folder, "shop.db")))


def _temporary_folder() -> TemporaryDirectory[str]:
    """A folder that is surely removed: no signal comes between its making and the promise to remove it."""
    if not hasattr(signal, "pthread_sigmask"):
        return TemporaryDirectory(prefix="manydb-demo-")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    try:
        return TemporaryDirectory(prefix="manydb-demo-")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit where it would end the process at once, and leave the folder behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def settings(url: URL | str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings that serve the shop at *url* and nothing else; *overrides* that are None keep their default.

    Raises SettingsError for an override that is out of its bounds.
    """
    address = make_url(url).render_as_string(hide_password=False)
    values: dict[str, Any] = {"connections": {"shop": {"url": address, "description": DESCRIPTION}}}
    values |= {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as exc:
        found = exc.errors(include_input=False, include_url=False)
        raise SettingsError("; ".join(f"--{each['loc'][0]}: {each['msg']}" for each in found)) from None


def _parse(url: URL | str) -> tuple[Dialect, URL]:
    try:
        return dialects.parse(url if isinstance(url, str) else url.render_as_string(hide_password=False))
    except BadParameter as exc:
        raise SettingsError(f"the demo's URL: {exc.message}") from None


# ---- building it ---------------------------------------------------------------------------------------------------


async def build(url: URL | str, scale: int = 1) -> Counts:
    """Upgrade the database at *url* to the newest revision and fill its tables if they are empty.

    *scale* multiplies customers (300) and orders (4,000); the catalogue stays the same. A second call changes nothing.
    Raises SettingsError if the tables were filled at another scale, or the database has another Alembic history, and
    the ManydbError of whatever else the database refuses.
    """
    if scale < 1:
        raise SettingsError(f"--scale {scale}: the shop's scale is 1 or more")
    async with _connect(url) as connection:
        await connection.run_sync(upgrade)
    async with _connect(url) as connection, connection.begin():
        return await connection.run_sync(_fill, scale)


@asynccontextmanager
async def _connect(url: URL | str) -> AsyncGenerator[AsyncConnection]:
    """A connection that may create everything, a file too: the gateway's own engines may not."""
    dialect, parsed = _parse(url)
    address, arguments = with_driver(url), {}
    if parsed.host:
        address = dialect.driver_url(parsed, "admin")
        arguments = dialect.connect_args(parsed, "admin", _CONNECT_SECONDS)
    engine = create_async_engine(address, connect_args=arguments, poolclass=pool.NullPool)
    try:
        connection = await engine.connect()
    except Exception as exc:  # whatever a driver raises while connecting
        raise dialect.connect_error(exc, parsed) from exc
    try:
        yield connection
    except DBAPIError as exc:
        raise dialect.error(exc) from exc
    finally:
        await connection.close()
        await engine.dispose()


def upgrade(connection: Connection) -> None:
    """Run `alembic upgrade head` on *connection* and commit; needs neither alembic.ini nor a current directory.

    Raises SettingsError if the database follows another Alembic history.
    """
    from alembic import command  # noqa: PLC0415  0.4 s of imports that only the demo needs
    from alembic.config import Config  # noqa: PLC0415  as above
    from alembic.util import CommandError  # noqa: PLC0415  as above

    config = Config(attributes={"connection": connection})
    # A percent sign in a path would start an interpolation.
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise SettingsError(f"the shop cannot be built in this database: {exc}") from exc


def _migrations() -> Path:
    """The folder of the history: inside an installed package, or at the top of a checkout."""
    installed = Path(__file__).with_name("migrations")
    return installed if installed.is_dir() else Path(__file__).parents[3] / "migrations"


def _fill(connection: Connection, scale: int) -> Counts:
    """Insert the rows unless they are there; the caller's transaction makes it all or nothing."""
    metadata = MetaData()
    metadata.reflect(connection, only=TABLES)
    present = _count(connection, metadata)
    if any(astuple(present)):
        _check_scale(present, scale)
        return present
    for name, batch in generate(scale):
        connection.execute(metadata.tables[name].insert(), batch)
    _restart_identities(connection, metadata)
    return _count(connection, metadata)


def _count(connection: Connection, metadata: MetaData) -> Counts:
    return Counts(
        **{name: connection.scalar(select(func.count()).select_from(metadata.tables[name])) or 0 for name in TABLES}
    )


def _check_scale(present: Counts, scale: int) -> None:
    """Raise SettingsError unless *present* is roughly what *scale* gives: visitors may have added or removed rows."""
    filled_at = round(present.customers / CUSTOMERS_PER_SCALE)
    if filled_at != scale:
        raise SettingsError(
            f"--scale {scale}: this database holds a shop of {present.customers} customers, that is scale {filled_at}; "
            "use that scale or an empty database"
        )


def _restart_identities(connection: Connection, metadata: MetaData) -> None:
    """Let the next generated id follow ours: an identity column does not notice ids that come with the row."""
    for table in metadata.tables.values():
        column = table.autoincrement_column
        if column is not None and column.identity is not None:
            following = (connection.scalar(select(func.max(column))) or 0) + 1
            connection.execute(text(f"ALTER TABLE {table.name} ALTER COLUMN {column.name} RESTART WITH {following}"))
