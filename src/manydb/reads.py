"""Statements that read: from their text to the first page of their rows, with the rest kept behind an id."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import formats, lessons, redaction, slices, statements
from manydb import query as queries
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.errors import BadParameter, ManydbError, SqlSyntax, UnknownColumn, UnknownTable, Unsupported
from manydb.gateway import Gateway, Place
from manydb.policy import OPEN, Verdict
from manydb.query import Page, QueryResult
from manydb.settings import Format, Settings
from manydb.slices import Sliced
from manydb.statements import Statement

T = TypeVar("T")

_LONG_STATEMENT = 10_000
"""Characters; reading more takes long enough to make other callers wait, so a thread does it."""
_PLAN_ROWS = 10_000


# -- answers ---------------------------------------------------------------------------------------------------------


async def execute(
    gateway: Gateway,
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
    async with gateway.on(caller, connection, transaction_id) as place:
        registration = place.registration
        most = cap(gateway.settings, registration, row_cap)
        result = await run(
            gateway, caller, place, sql, params, row_cap=most, timeout=gateway.seconds(registration, timeout)
        )
    budget = registration.limits.byte_budget
    page = await slices.in_turn(cutting(gateway.settings, result, row_cap=most, byte_budget=budget, name=format))
    return keep(gateway, caller, page)


async def run(
    gateway: Gateway,
    caller: Caller,
    place: Place,
    sql: str,
    params: Any,
    *,
    row_cap: int,
    timeout: float,  # noqa: ASYNC109
) -> QueryResult:
    """Run *sql* for *caller*: what a page of *row_cap* rows needs, and what is kept beyond it. Raises ManydbError."""
    with gateway.recorded(caller, place.registration, sql) as record:
        result = await query(gateway, place, sql, params, limit=row_cap + gateway.settings.kept_rows, timeout=timeout)
        record.rows = len(result.rows)
    return result


async def fetch(
    gateway: Gateway,
    caller: Caller,
    result_id: str,
    *,
    offset: int | None = None,
    row_cap: int | None = None,
    format: Format = "json",  # noqa: A002
) -> Page:
    """Further rows of a kept result, from *offset* on (by default the first row after the first page)."""
    kept, shown = gateway.results.get(_owner(caller), result_id)
    registration = gateway.connections.get(caller, kept.connection)
    page = await slices.in_turn(
        cutting(
            gateway.settings,
            kept,
            offset=shown if offset is None else offset,
            row_cap=cap(gateway.settings, registration, row_cap),
            byte_budget=registration.limits.byte_budget,
            name=format,
        )
    )
    return page.kept_as(result_id)


async def explain(
    gateway: Gateway, caller: Caller, connection: str | None, sql: str, params: Any = None, *, analyze: bool = False
) -> QueryResult:
    """How the database would run a query; with *analyze*, how it ran it. Raises Unsupported where it cannot."""
    registration = gateway.connections.get(caller, connection)
    dialect = registration.dialect
    statement = await readable(gateway, registration, sql)
    if statement.explained:  # the query was sent with an EXPLAIN of its own
        statement = await readable(gateway, registration, statement.explained)
    if statement.form != "query":
        raise BadParameter("explain_query takes a query")
    await judged(gateway, registration, statement)
    if analyze and not dialect.analyze_prefix:
        raise Unsupported(f"{dialect.title} has no EXPLAIN ANALYZE; leave analyze out")

    async def work(on: AsyncConnection) -> QueryResult:
        bound, args = statements.bind(statement, params, on.dialect.paramstyle)
        started = time.perf_counter()
        rows = await dialect.fetch(on, dialect.explained(on, bound, analyze=analyze), args, 10_000)
        elapsed = round((time.perf_counter() - started) * 1000)
        return QueryResult(registration.name, rows.columns, rows.types, rows.rows, rows.more, elapsed)

    async with gateway.on(caller, registration.name) as place:
        return await taught(gateway, place, statement, params, work, gateway.seconds(registration, None))


# -- pages -----------------------------------------------------------------------------------------------------------


def cap(settings: Settings, registration: Registration, asked: int | None) -> int:
    """How many rows a page may have, where *asked* were asked for."""
    return min(asked or registration.limits.row_cap, settings.max_row_cap)


def cut(settings: Settings, result: QueryResult, *, row_cap: int, byte_budget: int, name: Format = "json") -> Page:
    """The first page of *result*, at once."""
    return slices.at_once(cutting(settings, result, row_cap=row_cap, byte_budget=byte_budget, name=name))


def cutting(
    settings: Settings,
    result: QueryResult,
    *,
    row_cap: int,
    byte_budget: int,
    offset: int = 0,
    name: Format = "json",
) -> Sliced[Page]:
    """The page of *result* that begins at *offset*, in *byte_budget* bytes, for the format called *name*."""
    return queries.page(
        result,
        offset=offset,
        row_cap=row_cap,
        byte_budget=byte_budget,
        cell_chars=settings.cell_chars,
        row_extra=formats.row_extra(name, result.columns),
    )


def keep(gateway: Gateway, caller: Caller, page: Page) -> Page:
    """*page*, with an id for what was read beyond it. An unknown caller's is a capability."""
    if page.next_offset is None:
        return page
    owner = _owner(caller)
    return page.kept_as(gateway.results.keep(owner, page.result, shown=len(page.rows), size=page.result.size))


# -- one statement ---------------------------------------------------------------------------------------------------


async def query(
    gateway: Gateway,
    place: Place,
    sql: str,
    params: Any,
    *,
    limit: int,
    timeout: float,  # noqa: ASYNC109
) -> QueryResult:
    """Run a statement that reads at *place*: at most *limit* rows, what is masked concealed. Raises ManydbError."""
    registration = place.registration
    statement = await readable(gateway, registration, sql)
    verdict = await judged(gateway, registration, statement)

    async def work(on: AsyncConnection) -> QueryResult:
        return await queries.run(
            on, registration.dialect, registration.name, statement, params, limit=limit, goes_on=place.goes_on
        )

    result = await taught(gateway, place, statement, params, work, timeout, alone=True)
    return _concealed(result, verdict) if verdict.masked else result


async def readable(gateway: Gateway, registration: Registration, sql: str) -> Statement:
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
        statements.check_functions(statement, await gateway.catalogs.acting_functions(registration))
    return statement


async def judged(gateway: Gateway, registration: Registration, statement: Statement) -> Verdict:
    """What of the rows to conceal. Raises Forbidden where the statement touches what the connection hides."""
    if registration.policy.is_open:
        return OPEN
    asked = gateway.catalogs.clock()
    guard = await gateway.catalogs.guard(registration)
    strangers = [each for each in statement.tables if not guard.catalog.find(*each)]
    if strangers and gateway.catalogs.invalidate(registration.target, before=asked):
        # They may be younger than what we remember, and views of what is masked.
        guard = await gateway.catalogs.guard(registration)
    return guard.judge(statement)


async def taught(
    gateway: Gateway,
    place: Place,
    statement: Statement,
    params: Any,
    work: Callable[[AsyncConnection], Awaitable[T]],
    timeout: float,  # noqa: ASYNC109
    *,
    alone: bool = False,
) -> T:
    """Do *work*, which is a `Dialect.fetch` *alone* or more, at *place*; errors know the schema and no bound value."""
    asked = gateway.catalogs.clock()
    try:
        answer: T = await (place.fetch if alone else place.run)(work, timeout)
    except ManydbError as exc:
        if exc.__cause__ is not None:  # what the database says may quote values; what we say never does
            exc.message = redaction.without_values(exc.message, params)
        await _teach(gateway, place.registration, statement, exc, asked)
        raise
    return answer


async def _teach(
    gateway: Gateway, registration: Registration, statement: Statement, error: ManydbError, asked: float
) -> None:
    """Add what the caller needs to do it right: nearest names, the columns there are, a note on the dialect."""
    if isinstance(error, UnknownTable | UnknownColumn):
        gateway.catalogs.invalidate(
            registration.target, before=asked
        )  # the database knows its schema better than we remember it
    if isinstance(error, UnknownTable | UnknownColumn | SqlSyntax):
        try:
            await lessons.add(error, statement, registration.dialect, lambda: gateway.catalogs.snapshot(registration))
        except ManydbError:
            return  # a lesson that cannot be had must not hide the mistake


def _owner(caller: Caller) -> Caller | None:
    return caller if caller.is_known else None


def _concealed(result: QueryResult, verdict: Verdict) -> QueryResult:
    rows = verdict.conceal(result.columns, result.rows)
    return replace(result, rows=rows, masked=[result.columns[index] for index in verdict.masked])
