"""Finding out what a database holds."""

import asyncio
from functools import partial
from typing import Annotated, Any, Literal

from fastmcp import Context
from fastmcp.tools import ToolResult
from pydantic import Field

from manydb import reflection, search
from manydb.errors import BadParameter
from manydb.tools.parameters import Connection, Limit, Nothing, Schema, Tables, answer, caller, gateway

_MAX_TABLES = 10
_MANY_COLUMNS = 2_000
"""Of a schema; looking through more takes milliseconds, and others wait."""


async def list_tables(
    ctx: Context,
    connection: Connection = None,
    schema: Schema = None,
    pattern: Annotated[
        str | Nothing, Field(description="Substring, or LIKE pattern with %, of names and comments")
    ] = None,
    kind: Literal["table", "view"] | Nothing = None,
    detail: Literal["names", "summary"] = "names",
    limit: Limit = 1000,
    cursor: Annotated[str | Nothing, Field(description="`next` of the reply before")] = None,
) -> ToolResult:
    """List tables and views of all schemas; detail=summary adds row estimates, column counts and comments."""
    found = gateway(ctx)
    registration = found.connections.get(caller(ctx), connection)

    async def listed() -> dict[str, Any]:
        return reflection.list_tables(
            await found.catalogs.overview(registration),
            registration.dialect.quote,
            schema=schema,
            pattern=pattern,
            kind=kind,
            detail=detail,
            limit=limit,
            cursor=cursor,
        )

    tables = await found.catalogs.fresh_if_empty(registration, listed)
    return answer(found, {"connection": registration.name, **tables})


async def search_schema(
    ctx: Context,
    pattern: Annotated[str, Field(min_length=1, description="Substring, or LIKE pattern with %")],
    connection: Connection = None,
    limit: Limit = 50,
) -> ToolResult:
    """Find tables, views, columns and indexes by a part of their name or comment."""
    found = gateway(ctx)
    registration = found.connections.get(caller(ctx), connection)

    async def searched() -> dict[str, Any]:
        snapshot = await found.catalogs.snapshot(registration)
        find = partial(search.run, snapshot, pattern, registration.dialect.quote, limit=limit)
        return await asyncio.to_thread(find) if len(snapshot.columns) > _MANY_COLUMNS else find()

    hits = await found.catalogs.fresh_if_empty(registration, searched)
    return answer(found, {"connection": registration.name, **hits})


async def get_table_schema(ctx: Context, table: Tables, connection: Connection = None) -> ToolResult:
    """Describe tables or views: columns, keys, foreign keys both ways, indexes, checks, comments."""
    found = gateway(ctx)
    registration = found.connections.get(caller(ctx), connection)
    names = [table] if isinstance(table, str) else table
    if not 1 <= len(names) <= _MAX_TABLES:
        raise BadParameter(f"name 1 to {_MAX_TABLES} tables a call; {len(names)} were named")
    tables = await found.catalogs.described(registration, names)
    overview = await found.catalogs.overview(registration)
    replies = [reflection.table_reply(each, overview, registration.dialect.quote) for each in tables]
    return answer(found, {"connection": registration.name, "tables": replies})
