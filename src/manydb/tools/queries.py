"""Asking in SQL."""

from typing import Annotated

import orjson
from fastmcp import Context
from fastmcp.tools import ToolResult
from pydantic import Field

from manydb import callers
from manydb.formats import FORMATS
from manydb.settings import Format
from manydb.tools.parameters import Connection, Nothing, Params, RowCap, answer, gateway


async def execute_query(
    ctx: Context,
    sql: Annotated[str, Field(description="One statement that reads, in the database's own dialect")],
    connection: Connection = None,
    params: Params = None,
    row_cap: RowCap = None,
    timeout_seconds: Annotated[float | Nothing, Field(gt=0)] = None,
    format: Format | Nothing = None,  # noqa: A002 - the parameter's name in every tool
) -> ToolResult:
    """Run one read-only SQL statement (SELECT, WITH, SHOW, EXPLAIN …) and return its rows.

    Large answers are cut at the row cap and byte budget; `truncated` then says so, and fetch_rows(result_id) reads on.
    """
    found = gateway(ctx)
    page = await found.execute(callers.resolve(ctx), connection, sql, params, row_cap=row_cap, timeout=timeout_seconds)
    return answer(found, FORMATS[format or found.settings.format](page))


async def explain_query(
    ctx: Context,
    sql: Annotated[str, Field(description="The query, without EXPLAIN")],
    connection: Connection = None,
    params: Params = None,
    analyze: Annotated[bool, Field(description="Run it and report actual times")] = False,  # noqa: FBT002
) -> ToolResult:
    """Show how the database would run a query: its plan, with the indexes it uses."""
    found = gateway(ctx)
    plan = await found.explain(connection, sql, params, analyze=analyze)
    if len(plan.columns) == 1:
        text = "\n".join(cell if isinstance(cell := row[0], str) else orjson.dumps(cell).decode() for row in plan.rows)
        return answer(found, {"connection": plan.connection, "plan": text})
    return answer(
        found, {"connection": plan.connection, "columns": plan.columns, "rows": [list(row) for row in plan.rows]}
    )


async def fetch_rows(
    ctx: Context,
    result_id: str,
    offset: Annotated[int | Nothing, Field(ge=0, description="First row; default: after the first page")] = None,
    row_cap: RowCap = None,
    format: Format | Nothing = None,  # noqa: A002
) -> ToolResult:
    """Read on in a truncated answer of execute_query. Kept rows expire some minutes after their last use."""
    found = gateway(ctx)
    page = found.fetch(callers.resolve(ctx), result_id, offset=offset, row_cap=row_cap)
    return answer(found, FORMATS[format or found.settings.format](page))
