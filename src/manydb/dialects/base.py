"""What SQLAlchemy does not tell us about a backend: one object, with defaults that any async dialect can live with."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from sqlalchemy import URL, event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlalchemy.sql.compiler import IdentifierPreparer
from sqlalchemy.util import await_only, greenlet_spawn

from manydb import errors
from manydb.dialects import execution, streaming
from manydb.dialects.catalog import Catalog
from manydb.dialects.grammar import STANDARD, Grammar
from manydb.dialects.loading import Load, Loader, PlainLoader
from manydb.dialects.powers import Powers
from manydb.dialects.rows import Rows
from manydb.settings import Access, Isolation

__all__ = ["Dialect", "Rows", "causes", "original"]

T = TypeVar("T")

_PING_SECONDS = 1.0
"""How long a pooled connection may take to prove that it lives, or to be cleaned: a silent one would take for ever."""


class Dialect:
    """Facts about one backend.

    Engines are made in AUTOCOMMIT: SQLAlchemy begins nothing, and `begin` opens the transaction with its limits. A
    connection that comes back is rolled back and stripped of what its user left in it (`scrub`) before it is lent.
    """

    name: ClassVar[str] = "generic"
    title: ClassVar[str] = "SQL database"
    default_driver: ClassVar[str] = ""
    """What a URL without one is given: the fastest that is installed of those that hold what manydb promises."""
    other_drivers: ClassVar[Collection[str]] = ()
    """What else holds it."""
    schemes: ClassVar[tuple[str, ...]] = ()
    """What a URL may begin with, besides ``name+driver``."""
    default_port: ClassVar[int | None] = None
    case_sensitive_names: ClassVar[bool] = True
    """Whether ``Orders`` and ``orders`` may be two tables."""
    options: ClassVar[Mapping[str, str]] = {}
    """URL options: every accepted spelling → its canonical one."""
    explain_prefix: ClassVar[str] = "EXPLAIN "
    analyze_prefix: ClassVar[str] = ""
    """Runs the statement and reports what happened; empty where a database cannot."""
    note: ClassVar[str] = ""
    """What a writer of SQL for other databases most often gets wrong here: part of a syntax error's reply."""
    aborts_on_error: ClassVar[bool] = False
    """Whether a failed statement leaves its transaction unusable, unless a savepoint was set before."""
    commits_ddl: ClassVar[bool] = False
    """Whether a change of the schema commits the transaction it is in."""
    chooses_key: ClassVar[bool] = True
    """Whether a statement may say by which unique key a row meets another; else any of them counts."""
    grammar: ClassVar[Grammar] = STANDARD
    catalog: ClassVar[Catalog] = Catalog()

    # -- registration ------------------------------------------------------------------------------------------------

    def normalise(self, url: URL) -> URL:
        """The one spelling of *url*: two URLs that mean the same database become equal. Raises BadParameter."""
        query: dict[str, str] = {}
        for key, value in url.query.items():
            canonical = self.options.get(key.lower())
            if canonical is None:
                known = ", ".join(sorted(set(self.options))) or "none"
                raise errors.BadParameter(f"{self.title} URLs have no option {key!r}; known: {known}")
            text = value if isinstance(value, str) else ",".join(value)
            if query.get(canonical, text) != text:
                raise errors.BadParameter(f"the URL gives {canonical!r} twice, with different values")
            query[canonical] = text
        return url.set(
            host=url.host.lower() if url.host else None,
            port=url.port or self.default_port if url.host else None,
            query=query,
        )

    def quote(self, name: str) -> str:
        """*name* as SQL, quoted only where this database needs it."""
        return self._preparer.quote(name)

    @cached_property
    def _preparer(self) -> IdentifierPreparer:
        driver = f"+{self.default_driver}" if self.default_driver else ""
        if self.name == Dialect.name:
            return DefaultDialect().identifier_preparer
        return URL.create(f"{self.name}{driver}").get_dialect()().identifier_preparer

    def location(self, url: URL) -> str:
        """Where *url* leads, without credentials: ``db.example.com:5432/sales``."""
        host = f"{url.host}:{url.port}" if url.port else url.host or ""
        return f"{host}/{url.database or ''}"

    def is_shared(self, url: URL) -> bool:  # noqa: ARG002 - for those that have one in memory
        """Whether all engines of *url* see the same data."""
        return True

    # -- engines -----------------------------------------------------------------------------------------------------

    def driver_url(self, url: URL, access: Access) -> URL:  # noqa: ARG002 - for those who need it
        """What SQLAlchemy is given: options travel as `connect_args`."""
        return url.set(query={})

    def connect_args(self, url: URL, access: Access, connect_timeout: float) -> dict[str, Any]:  # noqa: ARG002
        """The driver's arguments for *url*'s options. Raises TlsFailed for certificates that cannot be read."""
        return {}

    def engine_options(self, url: URL, access: Access) -> dict[str, Any]:  # noqa: ARG002
        """Keyword arguments of ``create_async_engine`` that this backend needs."""
        return {}

    def prepare(self, engine: AsyncEngine, access: Access) -> None:
        """Attach what every connection of *engine* needs."""
        event.listen(engine.sync_engine, "connect", lambda dbapi, _: self.on_connect(dbapi, access))

        def reset(dbapi: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
            if not state.terminate_only and not self.is_clean(dbapi.driver_connection, access):
                await_only(_limited(self.scrub(dbapi.driver_connection, record, access)))

        event.listen(engine.sync_engine, "reset", reset)
        # SQLAlchemy offers no event for its ping, and no time limit.
        engine.sync_engine.dialect.do_ping = _bounded(engine.sync_engine.dialect.do_ping)  # type: ignore[method-assign, assignment]

    def on_connect(self, dbapi: Any, access: Access) -> None:
        """Set up a new connection; runs inside SQLAlchemy's greenlet."""

    def is_clean(self, raw: Any, access: Access) -> bool:  # noqa: ARG002 - for those who can tell without asking
        """Whether the last user of *raw*, the driver's connection, left nothing to undo."""
        return False

    def is_gone(self, raw: Any) -> bool:  # noqa: ARG002 - for those whose driver tells
        """Whether *raw*, the driver's connection, is known to be closed."""
        return False

    async def scrub(self, raw: Any, record: ConnectionPoolEntry, access: Access) -> None:  # noqa: ARG002
        """Undo whatever the last user did to the connection; an exception makes the pool drop it."""
        adapted: Any = record.dbapi_connection
        await greenlet_spawn(adapted.rollback)

    # -- a call ------------------------------------------------------------------------------------------------------

    async def begin(
        self,
        connection: AsyncConnection,
        *,
        read_only: bool,  # noqa: ARG002
        timeout: float,  # noqa: ARG002, ASYNC109
        isolation: Isolation | None = None,
        alone: bool = False,  # noqa: ARG002 - for those who can save a trip
    ) -> None:
        """Open a transaction whose statements end by themselves after *timeout* seconds; *read_only*, it cannot write.

        One `fetch` *alone* comes after it: what opens the transaction may be sent together with that. Raises
        Unsupported for an *isolation* that this database does not offer.
        """
        if isolation is not None:
            raise errors.Unsupported(f"the isolation of {self.title}'s transactions cannot be chosen")
        await connection.exec_driver_sql("BEGIN")

    async def limit(self, connection: AsyncConnection, timeout: float) -> None:  # noqa: ASYNC109
        """Give the next statements of an open transaction *timeout* seconds each."""

    async def commit(self, connection: AsyncConnection) -> None:
        """Make the transaction last. Raises Conflict where the database rolled it back instead."""
        await connection.exec_driver_sql("COMMIT")

    async def is_open(self, connection: AsyncConnection) -> bool:  # noqa: ARG002 - for those who can tell
        """Whether the transaction is still open after a statement failed."""
        return True

    async def execute(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int) -> Rows:
        """Run one statement to its end, whatever it does; keep at most *limit* of the rows that it returns."""
        if not args and connection.dialect.paramstyle in {"format", "pyformat"}:
            sql = sql.replace("%", "%%")
        return await execution.execute(connection, sql, args, limit)

    async def lasting(self, connection: AsyncConnection, names: Collection[str]) -> str:  # noqa: ARG002
        """Why what a statement with these *names* (in lower case) does would outlast a rollback; "" if it would not."""
        return ""

    async def fetch(
        self,
        connection: AsyncConnection,
        sql: str,
        args: tuple[Any, ...],
        limit: int,
        *,
        goes_on: bool = False,  # noqa: ARG002 - for those whose connection a cut result costs
    ) -> Rows:
        """Run one statement in the open transaction and read at most *limit* rows.

        Unless the transaction *goes_on*, it may be ended by that.
        """
        if not args and connection.dialect.paramstyle in {"format", "pyformat"}:
            sql = sql.replace("%", "%%")  # SQLAlchemy passes no arguments as (), and these drivers then fill them in
        return await execution.fetch(connection, sql, args, limit)

    def stream(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
        """Run one statement that reads in the open transaction; all of its rows, a slice at a time, at least one slice.

        Whoever stops early closes the generator, and the transaction may be ended by that.
        """
        if not args and connection.dialect.paramstyle in {"format", "pyformat"}:
            sql = sql.replace("%", "%%")
        return streaming.stream(connection, sql, args)

    async def loader(self, connection: AsyncConnection, load: Load) -> Loader:  # noqa: ARG002 - for those who ask
        """What makes rows fit *load*'s columns and sends them. Only reads; what it returns outlives *connection*."""
        return PlainLoader(load)

    def explained(self, connection: AsyncConnection, sql: str, *, analyze: bool) -> str:  # noqa: ARG002
        """The statement that tells how *sql* is run."""
        return (self.analyze_prefix if analyze else self.explain_prefix) + sql

    async def stop(self, raw: Any, side: Callable[[], AsyncEngine]) -> None:
        """Stop what *raw*, the driver's connection, is running; nobody uses it again.

        *side* makes an engine without a pool to the same database, for a connection beside the busy one.
        """

    async def server_version(self, connection: AsyncConnection) -> str:
        """Product and version, as a person would say them."""
        version = connection.dialect.server_version_info or ()
        return f"{self.title} {'.'.join(map(str, version))}"

    async def powers(self, connection: AsyncConnection) -> Powers | None:  # noqa: ARG002 - for those who can tell
        """What the login could do if nothing but the database held it back; None where nobody knows."""
        return None

    # -- errors ------------------------------------------------------------------------------------------------------

    def error(self, exc: BaseException) -> errors.ManydbError:
        """Our error for what the driver raised, by the database's code and never by the text of the message."""
        return errors.Internal(f"the database driver failed: {type(exc).__name__}")

    def connect_error(self, exc: BaseException, url: URL) -> errors.ManydbError:
        """Our error for what went wrong while connecting to *url*."""
        place = self.location(url)
        for cause in causes(exc):
            for kind, error, sentence in _UNREACHED:
                if isinstance(cause, kind):
                    return error(sentence.format(place=place))
        known = self.error(exc)
        if isinstance(known, errors.Internal):
            return errors.Unreachable(f"{place} cannot be reached: {type(original(exc)).__name__}")
        return known


# What the operating system says of a database that was not reached; the first that fits tells most.
_UNREACHED: tuple[tuple[type[BaseException], type[errors.ManydbError], str], ...] = (
    (ssl.SSLCertVerificationError, errors.TlsFailed, "the certificate of {place} is not trusted"),
    (ssl.SSLError, errors.TlsFailed, "no TLS with {place}"),
    (socket.gaierror, errors.Unreachable, "the host name of {place} is not known"),
    (TimeoutError, errors.Unreachable, "{place} does not answer"),
    (ConnectionRefusedError, errors.Unreachable, "nobody listens at {place}"),
    (ConnectionResetError, errors.Unreachable, "{place} closed the connection"),
    (FileNotFoundError, errors.Unreachable, "nobody listens at {place}"),
)


async def _limited(work: Awaitable[T]) -> T:
    """Await *work*. Raises TimeoutError where the database stays silent."""
    async with asyncio.timeout(_PING_SECONDS):
        return await work


def _bounded(ping: Callable[[DBAPIConnection], bool]) -> Callable[[DBAPIConnection], bool]:
    """*ping*, for which a connection that stays silent is a dead one. Runs inside SQLAlchemy's greenlet."""

    async def asked(dbapi: DBAPIConnection) -> bool:
        try:
            return await _limited(greenlet_spawn(ping, dbapi))
        except TimeoutError:
            return False

    return lambda dbapi: await_only(asked(dbapi))


def causes(exc: BaseException) -> Iterator[BaseException]:
    """*exc* and everything it was raised from."""
    seen: BaseException | None = exc
    while seen is not None:
        yield seen
        seen = (seen.orig if isinstance(seen, DBAPIError) else None) or seen.__cause__


def original(exc: BaseException) -> BaseException:
    """The driver's own exception inside SQLAlchemy's (and inside SQLAlchemy's asyncio adapters')."""
    if isinstance(exc, DBAPIError) and exc.orig is not None:
        exc = exc.orig
    while exc.__cause__ is not None and getattr(exc, "sqlstate", None) is None and not exc.args:
        exc = exc.__cause__
    return exc
