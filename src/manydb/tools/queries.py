"""Asking in SQL."""

from typing import Annotated

import orjson
from fastmcp import Context
from fastmcp.tools import ToolResult
from pydantic import Field

from manydb import formats, reads
from manydb.settings import Format
from manydb.tools.parameters import (
    Connection,
    Nothing,
    Offset,
    Params,
    RowCap,
    Seconds,
    TransactionId,
    answer,
    answer_pieces,
    caller,
    gateway,
)


async def execute_query(
    ctx: Context,
    sql: Annotated[str, Field(description="One statement that reads, in the database's own dialect")],
    connection: Connection = None,
    params: Params = None,
    row_cap: RowCap = None,
    timeout_seconds: Seconds = None,
    transaction_id: TransactionId = None,
    format: Format | Nothing = None,  # noqa: A002 - the parameter's name in every tool
) -> ToolResult:
    """Run one read-only SQL statement (SELECT, WITH, SHOW, EXPLAIN …) and return its rows.

    A reply without `truncated` is whole. Larger ones are cut at row_cap or by size; fetch_rows(result_id) reads on.
    Decimals and integers beyond 2^53 are text, bytes {"$bytes": base64}.
    """
    found = gateway(ctx)
    name = format or found.settings.format
    page = await reads.execute(
        found,
        caller(ctx),
        connection,
        sql,
        params,
        row_cap=row_cap,
        timeout=timeout_seconds,
        format=name,
        transaction_id=transaction_id,
    )
    return await answer_pieces(found, formats.FORMATS[name](page))


async def explain_query(
    ctx: Context,
    sql: Annotated[str, Field(description="The query itself")],
    connection: Connection = None,
    params: Params = None,
    analyze: Annotated[bool, Field(description="Run it too, for actual times (not SQLite)")] = False,  # noqa: FBT002
) -> ToolResult:
    """Show how the database would run a query: its plan, with the indexes it uses."""
    found = gateway(ctx)
    plan = await reads.explain(found, caller(ctx), connection, sql, params, analyze=analyze)
    if len(plan.columns) == 1:
        text = "\n".join(cell if isinstance(cell := row[0], str) else orjson.dumps(cell).decode() for row in plan.rows)
        return answer(found, {"connection": plan.connection, "plan": text})
    return answer(
        found, {"connection": plan.connection, "columns": plan.columns, "rows": [list(row) for row in plan.rows]}
    )


async def fetch_rows(
    ctx: Context,
    result_id: Annotated[str, Field(description="From the truncated reply")],
    offset: Offset = None,
    row_cap: RowCap = None,
    format: Format | Nothing = None,  # noqa: A002
) -> ToolResult:
    """Read on in a truncated answer of execute_query, page by page. Kept rows expire minutes after their last use."""
    found = gateway(ctx)
    name = format or found.settings.format
    page = await reads.fetch(found, caller(ctx), result_id, offset=offset, row_cap=row_cap, format=name)
    return await answer_pieces(found, formats.FORMATS[name](page))
