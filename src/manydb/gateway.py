"""Caller and connection's name in, an answer of the database out: the one place where the parts meet."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import formats, lessons, names, query, redaction, statements, transactions
from manydb.callers import Caller
from manydb.connections import Connections, Registration
from manydb.dialects.schema import Overview, Snapshot, Table, TableName
from manydb.engines import EngineRegistry
from manydb.errors import (
    AuthFailed,
    BadParameter,
    ManydbError,
    SqlSyntax,
    TlsFailed,
    UnknownColumn,
    UnknownTable,
    Unreachable,
    Unsupported,
)
from manydb.lineage import Catalog, Routine
from manydb.policy import OPEN, Guard, Verdict
from manydb.query import Page, QueryResult
from manydb.results import Results
from manydb.schemas import SchemaCache
from manydb.settings import Format, Settings
from manydb.standings import Standings
from manydb.statements import Statement

T = TypeVar("T")

_READING_SCHEMAS_SECONDS = 30.0
_ASKING_SECONDS = 10.0
_LONG_STATEMENT = 10_000
"""Characters; reading more takes long enough to make other callers wait, so a thread does it."""
_GUARD_SECONDS = 5.0
"""How long a connection with hidden or masked data believes what it knows of views and functions."""


@dataclass
class Gateway:
    """Everything a running server holds. Use `Gateway.open`."""

    settings: Settings
    connections: Connections
    engines: EngineRegistry
    schemas: SchemaCache
    results: Results
    standings: Standings = field(init=False)

    def __post_init__(self) -> None:
        self.standings = Standings(lambda registration, work: self.read(registration, work, timeout=_ASKING_SECONDS))

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncGenerator[Self]:
        """A gateway to the settings' connections; nothing is connected before it is used."""
        connections = Connections.of(settings)
        async with EngineRegistry(settings) as engines:
            gateway = cls(settings, connections, engines, SchemaCache(settings.schema_cache_ttl), Results(settings))
            try:
                yield gateway
            finally:
                await gateway._aclose()

    async def _aclose(self) -> None:
        await self.standings.aclose()
        await self.schemas.aclose()

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> T:
        """Do *work* in a read-only transaction on *registration*'s database. Raises ManydbError."""
        try:
            # Whatever the connection permits, reads run on an engine that cannot write: they never share connections.
            async with self.engines.lease(
                registration.dialect, registration.url, "read_only", registration.pool
            ) as lease:
                answer = await transactions.read(lease, work, timeout=timeout)
        except (Unreachable, AuthFailed, TlsFailed) as exc:
            self.standings.heard(registration, exc)
            raise
        self.standings.heard(registration)
        return answer

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
    ) -> Page:
        """Run a statement that reads; its first page, fit for *format*. What was read beyond is kept for *caller*."""
        registration = self.connections.get(connection)
        statement = await self._readable(registration, sql)
        verdict = await self._judged(registration, statement)
        cap = min(row_cap or registration.limits.row_cap, self.settings.max_row_cap)

        async def work(on: AsyncConnection) -> QueryResult:
            return await query.run(
                on, registration.dialect, registration.name, statement, params, limit=cap + self.settings.kept_rows
            )

        result = await self._taught(registration, statement, params, work, self._seconds(registration, timeout))
        if verdict.masked:
            result = _concealed(result, verdict)
        page = self._page(registration, result, 0, cap, format)
        if page.next_offset is None:
            return page
        owner = caller if caller.is_known else None
        return page.kept_as(self.results.keep(owner, result, shown=len(page.rows), size=result.size))

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
        kept, shown = self.results.get(caller if caller.is_known else None, result_id)
        registration = self.connections.get(kept.connection)
        cap = min(row_cap or registration.limits.row_cap, self.settings.max_row_cap)
        return self._page(registration, kept, shown if offset is None else offset, cap, format).kept_as(result_id)

    async def explain(
        self, connection: str | None, sql: str, params: Any = None, *, analyze: bool = False
    ) -> QueryResult:
        """How the database would run a query; with *analyze*, how it ran it. Raises Unsupported where it cannot."""
        registration = self.connections.get(connection)
        dialect = registration.dialect
        statement = await self._readable(registration, sql)
        if statement.explained:  # the query was sent with an EXPLAIN of its own
            statement = await self._readable(registration, statement.explained)
        if statement.form != "query":
            raise BadParameter("explain_query takes a query")
        await self._judged(registration, statement)
        if analyze and not dialect.analyze_prefix:
            raise Unsupported(f"{dialect.title} has no EXPLAIN ANALYZE; leave analyze out")

        async def work(on: AsyncConnection) -> QueryResult:
            bound, args = statements.bind(statement, params, on.dialect.paramstyle)
            started = time.perf_counter()
            rows = await dialect.fetch(on, dialect.explained(on, bound, analyze=analyze), args, 10_000)
            elapsed = round((time.perf_counter() - started) * 1000)
            return QueryResult(registration.name, rows.columns, rows.types, rows.rows, rows.more, elapsed)

        return await self._taught(registration, statement, params, work, self._seconds(registration, None))

    async def _readable(self, registration: Registration, sql: str) -> Statement:
        """The statement, if its text is a read and calls nothing that the database itself says may act."""
        grammar = registration.dialect.grammar
        if len(sql) > _LONG_STATEMENT:
            statement = await asyncio.to_thread(statements.parse, sql, grammar)
        else:
            statement = statements.parse(sql, grammar)
        statements.require_read(statement)
        if statement.functions:
            acting = await self._schema(registration, "functions", registration.dialect.catalog.acting_functions)
            statements.check_functions(statement, acting)
        return statement

    async def _judged(self, registration: Registration, statement: Statement) -> Verdict:
        """What of the rows to conceal. Raises Forbidden where the statement touches what the connection hides."""
        if registration.policy.is_open:
            return OPEN
        asked = self.schemas.clock()
        guard = await self._guard(registration)
        strangers = [each for each in statement.tables if not guard.catalog.find(*each)]
        if strangers and self.schemas.invalidate(registration.url, before=asked):
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

    def _seconds(self, registration: Registration, asked: float | None) -> float:
        return min(asked or registration.limits.timeout_seconds, self.settings.max_timeout_seconds)

    def _page(self, registration: Registration, result: QueryResult, offset: int, row_cap: int, name: Format) -> Page:
        return query.page(
            result,
            offset=offset,
            row_cap=row_cap,
            byte_budget=registration.limits.byte_budget,
            cell_chars=self.settings.cell_chars,
            row_extra=formats.row_extra(name, result.columns),
        )

    async def _taught(
        self,
        registration: Registration,
        statement: Statement,
        params: Any,
        work: Callable[[AsyncConnection], Awaitable[T]],
        timeout: float,  # noqa: ASYNC109
    ) -> T:
        """`read`, with errors that know the schema and no bound value."""
        asked = self.schemas.clock()
        try:
            return await self.read(registration, work, timeout=timeout)
        except ManydbError as exc:
            if exc.__cause__ is not None:  # what the database says may quote values; what we say never does
                exc.message = redaction.without_values(exc.message, params)
            await self._teach(registration, statement, exc, asked)
            raise

    async def _teach(self, registration: Registration, statement: Statement, error: ManydbError, asked: float) -> None:
        """Add what the caller needs to do it right: nearest names, the columns there are, a note on the dialect."""
        if isinstance(error, UnknownTable | UnknownColumn):
            self.schemas.invalidate(
                registration.url, before=asked
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
        if found["total"] == 0 and self.schemas.invalidate(registration.url, before=asked):
            found = await find()
        return found

    async def describe(self, registration: Registration, tables: Sequence[str]) -> list[Table]:
        """The named tables in full, read anew. Raises UnknownTable with the nearest names."""
        asked = self.schemas.clock()
        try:
            addresses = await self._resolve(registration, tables)
        except UnknownTable:
            # It may be younger than what we remember.
            if not self.schemas.invalidate(registration.url, before=asked):
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
            registration.url,
            part,
            lambda: self.read(registration, read, timeout=_READING_SCHEMAS_SECONDS),
            ttl=ttl,
        )


def _concealed(result: QueryResult, verdict: Verdict) -> QueryResult:
    rows = verdict.conceal(result.columns, result.rows)
    return replace(result, rows=rows, masked=[result.columns[index] for index in verdict.masked])
