"""Caller and connection's name in, an answer of the database out: the one place where the parts meet.

Reads and schemas are answered here; what callers hold across calls (registrations, results, transactions, and what
the modules above add with `hold`) is swept, released and closed here.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import formats, lessons, names, query, redaction, statements, transactions
from manydb.callers import Caller
from manydb.connections import Connections, Registration
from manydb.dialects.schema import Overview, Snapshot, Table, TableName
from manydb.engines import EngineRegistry, Lease
from manydb.errors import (
    AuthFailed,
    BadParameter,
    Cancelled,
    ManydbError,
    ReadOnly,
    SqlSyntax,
    TlsFailed,
    TooMany,
    UnknownColumn,
    UnknownTable,
    Unreachable,
    Unsupported,
)
from manydb.handles import Handles
from manydb.history import History
from manydb.lineage import Catalog, Routine
from manydb.policy import OPEN, Guard, Verdict
from manydb.query import Page, QueryResult
from manydb.results import Results
from manydb.schemas import SchemaCache
from manydb.settings import Format, Isolation, Settings
from manydb.standings import Standings
from manydb.statements import Statement
from manydb.transactions import Transaction

T = TypeVar("T")

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0
_READING_SCHEMAS_SECONDS = 30.0
_ASKING_SECONDS = 10.0
_LONG_STATEMENT = 10_000
"""Characters; reading more takes long enough to make other callers wait, so a thread does it."""
_GUARD_SECONDS = 5.0
"""How long a connection with hidden or masked data believes what it knows of views and functions."""


class Shelf(Protocol):
    """Things that callers hold: listed with their ids and the seconds they have left, and ended in time."""

    @property
    def noun(self) -> str: ...
    def of(self, owner: Caller) -> list[tuple[str, Any, float]]: ...
    async def release(self, owner: Caller) -> None: ...
    async def sweep(self) -> None: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a statement runs. *run* does work there; the *transaction* goes on after it."""

    registration: Registration
    run: Callable[[Callable[[AsyncConnection], Awaitable[Any]], float], Awaitable[Any]]
    transaction: Transaction | None = None

    @property
    def goes_on(self) -> bool:
        return self.transaction is not None

    @property
    def open(self) -> Transaction:
        """The transaction, where one was named."""
        if self.transaction is None:
            raise BadParameter("transaction_id is missing")
        return self.transaction


@dataclass(slots=True)
class Record:
    """What history will tell of a statement besides how it ended."""

    rows: int | None = None
    affected: int | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """A transaction across calls, and the connection that it is on."""

    registration: Registration
    transaction: Transaction


S = TypeVar("S", bound=Shelf)


class Gateway:
    """Everything a running server holds. Use `Gateway.open`."""

    def __init__(self, settings: Settings, engines: EngineRegistry, *, local: bool) -> None:
        self.settings = settings
        self.local = local
        """Whether one client on this machine owns the process: stdio."""
        self.engines = engines
        self.schemas = SchemaCache(settings.schema_cache_ttl)
        self.history = History(settings.history_size, settings.caller_idle_ttl)
        self.standings = Standings(lambda registration, work: self.read(registration, work, timeout=_ASKING_SECONDS))
        self._shelves: list[Shelf] = []
        self.transactions = self.hold(
            Handles[Open](
                "t",
                "transaction",
                "begin another",
                idle_ttl=settings.transaction_idle_ttl,
                max_age=settings.transaction_max_age,
                per_owner=settings.max_transactions,
                end=lambda held: held.transaction.close(),
                in_use=lambda held: held.transaction.is_busy,
            )
        )
        self.results = self.hold(Results(settings))
        self.connections = self.hold(Connections.configured(settings, self._left))

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, local: bool = True) -> AsyncGenerator[Self]:
        """A gateway to the settings' connections; nothing is connected before it is used."""
        async with EngineRegistry(settings) as engines:
            gateway = cls(settings, engines, local=local)
            watch = asyncio.create_task(gateway._watch())
            try:
                yield gateway
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
                await gateway._aclose()

    async def _aclose(self) -> None:
        for shelf in reversed(self._shelves):
            await shelf.aclose()
        await self.standings.aclose()
        await self.schemas.aclose()

    # -- what callers hold -------------------------------------------------------------------------------------------

    def hold(self, shelf: S) -> S:
        """Sweep, release and close *shelf* from now on; the last one added goes first."""
        self._shelves.append(shelf)
        return shelf

    def held(self, caller: Caller) -> list[tuple[str, str, Any, float]]:
        """What *caller* holds: the kind of thing, its id, the thing, and the seconds left if nobody uses it."""
        return [(shelf.noun, *each) for shelf in self._shelves for each in shelf.of(caller)]

    async def release(self, caller: Caller) -> None:
        """*caller* is gone: end all that it holds."""
        for shelf in reversed(self._shelves):
            await shelf.release(caller)
        self.history.forget(caller)

    async def sweep(self) -> None:
        """End what has expired."""
        for shelf in self._shelves:
            await shelf.sweep()
        self.history.sweep()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                await self.sweep()
            except Exception as exc:  # noqa: BLE001 - one bad round must not end the watch
                # The kind alone: a driver's message may hold what must not be logged.
                _log.error("the gateway's watch failed with %s; it goes on", type(exc).__qualname__)

    async def _left(self, registration: Registration, is_last: bool) -> None:  # noqa: FBT001
        """A caller's registration is gone, and with it what was open on it."""
        gone = [handle for handle, held in self.transactions.everything() if held.registration is registration]
        for handle in gone:
            await self.transactions.remove(handle, f"was rolled back: {registration.name} was removed")
        if is_last:
            self.engines.retire(registration.target)
            self.schemas.invalidate(registration.target)

    # -- transactions ------------------------------------------------------------------------------------------------

    async def read(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> T:
        """Do *work* in a read-only transaction on *registration*'s database; again where the connection was lost.

        Raises ManydbError.
        """
        started = time.monotonic()
        try:
            return await self._read_once(registration, work, timeout)
        except Unreachable:
            if not self.settings.read_retries or time.monotonic() - started > timeout:
                raise
            return await self._read_again(registration, work, timeout)

    async def _read_once(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        timeout: float,  # noqa: ASYNC109
    ) -> T:
        # Whatever the connection permits, reads run on an engine that cannot write: they never share connections.
        async with (
            self._heard(registration),
            self.engines.lease(registration.target, "read_only", registration.pool) as lease,
        ):
            return await transactions.read(lease, work, timeout=timeout)

    async def _read_again(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        timeout: float,  # noqa: ASYNC109
    ) -> T:
        import tenacity  # noqa: PLC0415 - only where a connection was lost

        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            stop=tenacity.stop_after_attempt(self.settings.read_retries),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
            reraise=True,
        )
        await asyncio.sleep(0.05 * random.random())  # noqa: S311 - spreads callers, guards nothing
        return await again(self._read_once, registration, work, timeout)

    async def write(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        timeout: float,  # noqa: ASYNC109
        commit: bool = True,
    ) -> T:
        """Do *work* in a transaction that may write and, with *commit*, lasts. Never tried again."""
        async with self._heard(registration), self._writing(registration) as lease:
            return await transactions.write(lease, work, timeout=timeout, commit=commit)

    async def begin(
        self, caller: Caller, registration: Registration, *, read_only: bool, isolation: Isolation | None
    ) -> str:
        """Open a transaction that lasts across calls; its id. Raises TooMany and PoolBusy."""
        self.transactions.require_room(caller)
        leasing = AsyncExitStack()
        async with self._heard(registration):
            engine = (
                self.engines.lease(registration.target, "read_only", registration.pool)
                if read_only
                else self._writing(registration)
            )
            transaction = await transactions.begin(
                await leasing.enter_async_context(engine),
                leasing.aclose,
                read_only=read_only,
                isolation=isolation,
                timeout=registration.limits.timeout_seconds,
            )
        try:
            return self.transactions.add(caller, Open(registration, transaction))
        except TooMany:
            await transaction.close()
            raise

    @asynccontextmanager
    async def _writing(self, registration: Registration) -> AsyncGenerator[Lease]:
        if registration.access == "read_only":
            raise ReadOnly(f"{registration.name} has access read_only: nothing is written through it")
        if not registration.dialect.is_shared(registration.target.url):
            raise Unsupported("a database in memory is a different one for each engine: register a file to write to")
        async with self.engines.lease(registration.target, registration.access, registration.pool) as lease:
            yield lease

    @asynccontextmanager
    async def _heard(self, registration: Registration) -> AsyncGenerator[None]:
        """Remember whether the database answered."""
        try:
            yield
        except (Unreachable, AuthFailed, TlsFailed) as exc:
            self.standings.heard(registration, exc)
            raise
        self.standings.heard(registration)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def execute(
        self,
        caller: Caller,
        connection: str | None,
        sql: str,
        params: Any = None,
        *,
        row_cap: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        format: Format = "json",  # noqa: A002
        transaction_id: str | None = None,
    ) -> Page:
        """Run a statement that reads; its first page, fit for *format*. What was read beyond is kept for *caller*."""
        async with self.on(caller, connection, transaction_id) as place:
            registration = place.registration
            cap = min(row_cap or registration.limits.row_cap, self.settings.max_row_cap)
            with self.recorded(caller, registration, sql) as record:
                result = await self.query(
                    place, sql, params, limit=cap + self.settings.kept_rows, timeout=self.seconds(registration, timeout)
                )
                record.rows = len(result.rows)
        page = self._page(registration, result, 0, cap, format)
        if page.next_offset is None:
            return page
        return page.kept_as(self.results.keep(_owner(caller), result, shown=len(page.rows), size=result.size))

    async def query(
        self,
        place: "Place",
        sql: str,
        params: Any,
        *,
        limit: int,
        timeout: float,  # noqa: ASYNC109
    ) -> QueryResult:
        """Run a statement that reads at *place*: at most *limit* rows, what is masked concealed. Raises ManydbError."""
        registration = place.registration
        statement = await self.readable(registration, sql)
        verdict = await self.judged(registration, statement)

        async def work(on: AsyncConnection) -> QueryResult:
            return await query.run(
                on, registration.dialect, registration.name, statement, params, limit=limit, goes_on=place.goes_on
            )

        result = await self.taught(place, statement, params, work, timeout)
        return _concealed(result, verdict) if verdict.masked else result

    @asynccontextmanager
    async def on(
        self, caller: Caller, connection: str | None, transaction_id: str | None = None
    ) -> AsyncGenerator["Place"]:
        """Where a statement runs: in *caller*'s open transaction, or in one of its own on *connection*."""
        if transaction_id is None:
            registration = self.connections.get(caller, connection)
            yield Place(registration, lambda work, timeout: self.read(registration, work, timeout=timeout))
            return
        found = self.transactions.get(caller, transaction_id)
        transaction = found.transaction
        if connection is not None and found.registration.name != connection:
            raise BadParameter(f"the transaction is on {found.registration.name}; leave connection out, or name that")
        try:
            yield Place(found.registration, lambda work, timeout: transaction.run(work, timeout=timeout), transaction)
        finally:
            self.transactions.touch(transaction_id)
            if transaction.ended:
                with anyio.CancelScope(shield=True):
                    await self.transactions.remove(transaction_id, transaction.ended)

    @asynccontextmanager
    async def writing_on(
        self, caller: Caller, connection: str | None, transaction_id: str | None = None, *, tries: bool = False
    ) -> AsyncGenerator["Place"]:
        """Where a write runs, as `on`: committed by itself, or part of an open transaction; undone if it only *tries*.

        Raises ReadOnly where the connection, or the transaction, is.
        """
        async with self.on(caller, connection, transaction_id) as place:
            registration, transaction = place.registration, place.transaction
            if transaction is None:
                yield Place(
                    registration,
                    lambda work, timeout: self.write(registration, work, timeout=timeout, commit=not tries),
                )
            elif transaction.read_only:
                raise ReadOnly("the transaction was begun read-only; begin another to write")
            else:
                undo: Literal["always", "failed"] = "always" if tries else "failed"
                yield Place(
                    registration,
                    lambda work, timeout: transaction.run(work, timeout=timeout, undo=undo),
                    transaction,
                )

    @contextmanager
    def recorded(self, caller: Caller, registration: Registration, sql: str) -> Generator["Record"]:
        """Remember what *caller* runs, and how it ended."""
        record, started, outcome = Record(), time.perf_counter(), "ok"
        try:
            yield record
        except ManydbError as exc:
            outcome = exc.code
            raise
        except asyncio.CancelledError:
            outcome = Cancelled.code
            raise
        finally:
            elapsed = round((time.perf_counter() - started) * 1000)
            self.history.add(
                caller, registration.name, sql, elapsed, outcome, rows=record.rows, affected=record.affected
            )

    def fetch(
        self,
        caller: Caller,
        result_id: str,
        *,
        offset: int | None = None,
        row_cap: int | None = None,
        format: Format = "json",  # noqa: A002
    ) -> Page:
        """Further rows of a kept result, from *offset* on (by default the first row after the first page)."""
        kept, shown = self.results.get(_owner(caller), result_id)
        registration = self.connections.get(caller, kept.connection)
        cap = min(row_cap or registration.limits.row_cap, self.settings.max_row_cap)
        return self._page(registration, kept, shown if offset is None else offset, cap, format).kept_as(result_id)

    async def explain(
        self, caller: Caller, connection: str | None, sql: str, params: Any = None, *, analyze: bool = False
    ) -> QueryResult:
        """How the database would run a query; with *analyze*, how it ran it. Raises Unsupported where it cannot."""
        registration = self.connections.get(caller, connection)
        dialect = registration.dialect
        statement = await self.readable(registration, sql)
        if statement.explained:  # the query was sent with an EXPLAIN of its own
            statement = await self.readable(registration, statement.explained)
        if statement.form != "query":
            raise BadParameter("explain_query takes a query")
        await self.judged(registration, statement)
        if analyze and not dialect.analyze_prefix:
            raise Unsupported(f"{dialect.title} has no EXPLAIN ANALYZE; leave analyze out")

        async def work(on: AsyncConnection) -> QueryResult:
            bound, args = statements.bind(statement, params, on.dialect.paramstyle)
            started = time.perf_counter()
            rows = await dialect.fetch(on, dialect.explained(on, bound, analyze=analyze), args, 10_000)
            elapsed = round((time.perf_counter() - started) * 1000)
            return QueryResult(registration.name, rows.columns, rows.types, rows.rows, rows.more, elapsed)

        async with self.on(caller, registration.name) as place:
            return await self.taught(place, statement, params, work, self.seconds(registration, None))

    async def readable(self, registration: Registration, sql: str) -> Statement:
        """The statement, if its text is a read and calls nothing that the database itself says may act."""
        grammar = registration.dialect.grammar
        if len(sql) > _LONG_STATEMENT:
            statement = await asyncio.to_thread(statements.parse, sql, grammar)
        else:
            statement = statements.parse(sql, grammar)
        statements.require_read(statement)
        await statements.require_consent(statement)
        catalog = registration.dialect.catalog
        if statement.functions or catalog.operators_may_act:
            statements.check_functions(statement, await self.acting_functions(registration))
        return statement

    async def acting_functions(self, registration: Registration) -> frozenset[str]:
        """The functions (and operators) that the database itself says may act."""
        return await self._schema(registration, "functions", registration.dialect.catalog.acting_functions)

    async def judged(self, registration: Registration, statement: Statement) -> Verdict:
        """What of the rows to conceal. Raises Forbidden where the statement touches what the connection hides."""
        if registration.policy.is_open:
            return OPEN
        asked = self.schemas.clock()
        guard = await self._guard(registration)
        strangers = [each for each in statement.tables if not guard.catalog.find(*each)]
        if strangers and self.schemas.invalidate(registration.target, before=asked):
            # They may be younger than what we remember, and views of what is masked.
            guard = await self._guard(registration)
        return guard.judge(statement)

    async def _guard(self, registration: Registration) -> Guard:
        """The connection's policy over its database as it is now, or was some seconds ago."""
        catalog = registration.dialect.catalog

        async def read(on: AsyncConnection) -> Guard:
            overview = await catalog.overview(on)
            tables = await catalog.describe(on, [each.address for each in overview.relations])
            routines = [Routine(name, text, tuple(signs.split())) for name, text, signs in await catalog.routines(on)]
            known = Catalog.of(overview, tables, parents=await catalog.parents(on), routines=routines)
            return Guard.of(registration.policy, known)

        return await self._schema(registration, f"guard of {registration.name}", read, ttl=_GUARD_SECONDS)

    def seconds(self, registration: Registration, asked: float | None) -> float:
        """How long a statement may take, where *asked* were asked for."""
        return min(asked or registration.limits.timeout_seconds, self.settings.max_timeout_seconds)

    def page(self, result: QueryResult, row_cap: int) -> Page:
        """The first page of *result*, as JSON."""
        return query.page(
            result,
            offset=0,
            row_cap=row_cap,
            byte_budget=self.settings.byte_budget,
            cell_chars=self.settings.cell_chars,
            row_extra=0,
        )

    def _page(self, registration: Registration, result: QueryResult, offset: int, row_cap: int, name: Format) -> Page:
        return query.page(
            result,
            offset=offset,
            row_cap=row_cap,
            byte_budget=registration.limits.byte_budget,
            cell_chars=self.settings.cell_chars,
            row_extra=formats.row_extra(name, result.columns),
        )

    async def taught(
        self,
        place: "Place",
        statement: Statement,
        params: Any,
        work: Callable[[AsyncConnection], Awaitable[T]],
        timeout: float,  # noqa: ASYNC109
    ) -> T:
        """Do *work* at *place*, with errors that know the schema and no bound value."""
        asked = self.schemas.clock()
        try:
            answer: T = await place.run(work, timeout)
        except ManydbError as exc:
            if exc.__cause__ is not None:  # what the database says may quote values; what we say never does
                exc.message = redaction.without_values(exc.message, params)
            await self._teach(place.registration, statement, exc, asked)
            raise
        return answer

    async def _teach(self, registration: Registration, statement: Statement, error: ManydbError, asked: float) -> None:
        """Add what the caller needs to do it right: nearest names, the columns there are, a note on the dialect."""
        if isinstance(error, UnknownTable | UnknownColumn):
            self.schemas.invalidate(
                registration.target, before=asked
            )  # the database knows its schema better than we remember it
        if isinstance(error, UnknownTable | UnknownColumn | SqlSyntax):
            try:
                await lessons.add(error, statement, registration.dialect, lambda: self.snapshot(registration))
            except ManydbError:
                return  # a lesson that cannot be had must not hide the mistake

    # -- schemas -----------------------------------------------------------------------------------------------------

    async def overview(self, registration: Registration) -> Overview:
        """Every table and view of the database, as the schema cache has it."""
        overview = await self._schema(registration, "overview", registration.dialect.catalog.overview)
        return registration.policy.visible(overview)

    async def snapshot(self, registration: Registration) -> Snapshot:
        """All that a search looks through."""
        catalog = registration.dialect.catalog
        overview, columns, indexes = await asyncio.gather(
            self.overview(registration),
            self._schema(registration, "columns", catalog.columns),
            self._schema(registration, "indexes", catalog.indexes),
        )
        return registration.policy.visible(Snapshot(overview, columns, indexes))

    async def fresh_if_empty(
        self, registration: Registration, find: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """What *find* finds in the schema; where that is nothing, once more with the schema read anew.

        What a caller looks for in vain may be younger than what we remember.
        """
        asked = self.schemas.clock()
        found = await find()
        if found["total"] == 0 and self.schemas.invalidate(registration.target, before=asked):
            found = await find()
        return found

    async def describe(self, registration: Registration, tables: Sequence[str]) -> list[Table]:
        """The named tables in full, read anew. Raises UnknownTable with the nearest names."""
        asked = self.schemas.clock()
        try:
            addresses = await self._resolve(registration, tables)
        except UnknownTable:
            # It may be younger than what we remember.
            if not self.schemas.invalidate(registration.target, before=asked):
                raise
            addresses = await self._resolve(registration, tables)
        described = await self.read(
            registration,
            lambda on: registration.dialect.catalog.describe(on, addresses),
            timeout=_READING_SCHEMAS_SECONDS,
        )
        return [registration.policy.visible(table) for table in described]

    async def _resolve(self, registration: Registration, tables: Sequence[str]) -> list[TableName]:
        overview = await self.overview(registration)
        return [names.resolve(overview, table, registration.dialect.quote) for table in tables]

    async def _schema(
        self,
        registration: Registration,
        part: str,
        read: Callable[[AsyncConnection], Awaitable[T]],
        *,
        ttl: float | None = None,
    ) -> T:
        return await self.schemas.get(
            registration.target,
            part,
            lambda: self.read(registration, read, timeout=_READING_SCHEMAS_SECONDS),
            ttl=ttl,
        )


def _owner(caller: Caller) -> Caller | None:
    return caller if caller.is_known else None


def _concealed(result: QueryResult, verdict: Verdict) -> QueryResult:
    rows = verdict.conceal(result.columns, result.rows)
    return replace(result, rows=rows, masked=[result.columns[index] for index in verdict.masked])
