"""Rows of one table without SQL: the same call on every database."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastmcp import Context
from fastmcp.tools import ToolResult
from mcp_types import InputRequiredResult
from pydantic import Field

from manydb import formats, rows
from manydb.connections import Registration
from manydb.errors import ConfirmationNeeded
from manydb.rows import Found, Selection
from manydb.tools.asking import Reply
from manydb.tools.parameters import (
    AsJson,
    Confirm,
    Connection,
    Nothing,
    RowCap,
    Seconds,
    TransactionId,
    answer,
    caller,
    gateway,
    writes,
)
from manydb.tools.parameters import rows as rows_of
from manydb.tools.writes import perform, shown, written
from manydb.writes import Change

Table = Annotated[str, Field(max_length=500, description="schema.table or table")]
Names = Annotated[list[str] | Nothing, AsJson]
Filter = Annotated[
    dict[str, Any] | list[Any] | Nothing,
    AsJson,
    Field(
        description='{"column","op","value"}, {"and":[…]}, {"or":[…]}, {"not":…}; op: eq ne lt le gt ge in between '
        "like ilike contains is_null"
    ),
]
Chosen = Annotated[dict[str, Any] | list[Any], AsJson, Field(description="Which rows, as in select_rows")]
Preview = Annotated[bool, Field(description="Try and undo it; gives a confirm token")]


async def select_rows(
    ctx: Context,
    table: Table,
    columns: Names = None,
    filter: Filter = None,  # noqa: A002 - what everybody calls it
    order: Annotated[list[str | dict[str, Any]] | Nothing, AsJson, Field(description='"column", "-column"')] = None,
    group_by: Names = None,
    aggregates: Annotated[
        list[dict[str, Any]] | Nothing,
        AsJson,
        Field(description='{"op","column","name"}; op: count count_distinct sum avg min max'),
    ] = None,
    row_cap: RowCap = None,
    cursor: Annotated[str | Nothing, Field(description="Of the reply before, all else the same: the next page")] = None,
    connection: Connection = None,
    transaction_id: TransactionId = None,
    timeout_seconds: Seconds = None,
) -> ToolResult:
    """Read rows of one table without SQL, the same on every database: filtered, sorted, grouped, page by page.

    Text compares exactly, dates are ISO text, nulls sort last and fit no condition but is_null.
    """
    found = await rows_of(ctx).select(
        caller(ctx),
        connection,
        Selection(table, columns, filter, order or (), group_by or (), aggregates or ()),
        cursor=cursor,
        row_cap=row_cap,
        transaction_id=transaction_id,
        timeout=timeout_seconds,
    )
    return answer(gateway(ctx), _told(found))


async def update_rows(
    ctx: Context,
    table: Table,
    set: Annotated[dict[str, Any], AsJson, Field(description="New value of each column")],  # noqa: A002 - SQL's word
    filter: Chosen,  # noqa: A002
    preview: Preview = False,  # noqa: FBT002
    confirm: Confirm = None,
    connection: Connection = None,
    transaction_id: TransactionId = None,
    timeout_seconds: Seconds = None,
) -> Reply:
    """Give the rows that a filter chooses new values, without SQL, and commit it; replies the number of rows.

    Many rows need a confirm token of preview=true.
    """
    make = await rows.changing(gateway(ctx), caller(ctx), connection, table, set, filter, transaction_id=transaction_id)
    return await _change(ctx, make, connection, transaction_id, timeout_seconds, confirm, preview=preview)


async def delete_rows(
    ctx: Context,
    table: Table,
    filter: Chosen,  # noqa: A002
    preview: Preview = False,  # noqa: FBT002
    confirm: Confirm = None,
    connection: Connection = None,
    transaction_id: TransactionId = None,
    timeout_seconds: Seconds = None,
) -> Reply:
    """Delete the rows that a filter chooses, without SQL, and commit it; replies the number of rows.

    Many rows need a confirm token of preview=true.
    """
    make = await rows.deleting(gateway(ctx), caller(ctx), connection, table, filter, transaction_id=transaction_id)
    return await _change(ctx, make, connection, transaction_id, timeout_seconds, confirm, preview=preview)


async def _change(
    ctx: Context,
    make: Callable[[Registration], Awaitable[Change]],
    connection: str | None,
    transaction_id: str | None,
    timeout: float | None,  # noqa: ASYNC109
    confirm: str | None,
    *,
    preview: bool,
) -> Reply:
    if preview:
        seen = await writes(ctx).preview(caller(ctx), connection, make, transaction_id=transaction_id, timeout=timeout)
        return answer(gateway(ctx), shown(seen))
    try:
        done = await perform(ctx, make, connection, confirm, transaction_id, timeout)
    except ConfirmationNeeded as exc:
        exc.suggestions = ["the same call with preview=true shows what it would do and gives a confirm token"]
        raise
    return done if isinstance(done, InputRequiredResult) else written(gateway(ctx), done)


def _told(found: Found) -> str:
    """As execute_query tells it, with a cursor in place of what only SQL can do about the rest."""
    text = formats.text("json", replace(found.page, truncated=None))
    rest = {
        "truncated": found.page.truncated,
        "cursor": found.cursor,
        "hint": f"no cursor: {found.reason}" if found.reason else None,
    }
    told = {key: value for key, value in rest.items() if value}
    return f"{text[:-1]},{orjson.dumps(told).decode()[1:]}" if told else text
