"""A statement that reads, for as long as its caller may wait; and its first page, with the rest kept behind an id."""

from manydb import formats, query
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.gateway import Gateway
from manydb.query import Page, QueryResult
from manydb.settings import Format, Settings


def cap(settings: Settings, registration: Registration, asked: int | None) -> int:
    """How many rows a page may have, where *asked* were asked for."""
    return min(asked or registration.limits.row_cap, settings.max_row_cap)


async def read(
    gateway: Gateway,
    caller: Caller,
    registration: Registration,
    sql: str,
    params: object,
    *,
    row_cap: int,
    timeout: float,  # noqa: ASYNC109
) -> QueryResult:
    """Run *sql* for *caller*: what a page of *row_cap* rows needs, and what is kept beyond it. Raises ManydbError."""
    async with gateway.on(caller, registration.name) as place:
        with gateway.recorded(caller, registration, sql) as record:
            result = await gateway.query(
                place, sql, params, limit=row_cap + gateway.settings.kept_rows, timeout=timeout
            )
            record.rows = len(result.rows)
    return result


def cut(settings: Settings, result: QueryResult, *, row_cap: int, byte_budget: int, name: Format = "json") -> Page:
    """The first page of *result* in *byte_budget* bytes, for the format called *name*."""
    return query.page(
        result,
        offset=0,
        row_cap=row_cap,
        byte_budget=byte_budget,
        cell_chars=settings.cell_chars,
        row_extra=formats.row_extra(name, result.columns),
    )


def keep(gateway: Gateway, caller: Caller, page: Page) -> Page:
    """*page*, with an id for what was read beyond it. An unknown caller's is a capability."""
    if page.next_offset is None:
        return page
    owner = caller if caller.is_known else None
    return page.kept_as(gateway.results.keep(owner, page.result, shown=len(page.rows), size=page.result.size))
