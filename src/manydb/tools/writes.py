"""Writing in SQL: looked at first, or at once."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastmcp import Context
from fastmcp.tools import ToolResult
from mcp_types import InputRequiredResult
from pydantic import Field

from manydb import formats, reads
from manydb.connections import Registration
from manydb.errors import ConfirmationNeeded, Forbidden
from manydb.gateway import Gateway
from manydb.query import QueryResult
from manydb.tools import asking
from manydb.tools.asking import Reply
from manydb.tools.parameters import (
    Confirm,
    Connection,
    Params,
    Seconds,
    TransactionId,
    answer,
    caller,
    gateway,
    writes,
)
from manydb.writes import Change, Preview

Sql = Annotated[str, Field(description="One statement that writes, in the database's own dialect")]

_RETURNED_ROWS = 1_000


async def execute_statement(
    ctx: Context,
    sql: Sql,
    connection: Connection = None,
    params: Params = None,
    confirm: Confirm = None,
    transaction_id: TransactionId = None,
    timeout_seconds: Seconds = None,
) -> Reply:
    """Run one INSERT, UPDATE, DELETE, MERGE or, with access admin, DDL statement, and commit it.

    Replies affected rows, the generated key and RETURNING rows. What destroys (DDL, no WHERE, many rows) needs a
    confirm token of preview_statement.
    """
    found = gateway(ctx)

    async def make(registration: Registration) -> Change:
        return await writes(ctx).change(registration, sql, params, limit=_RETURNED_ROWS)

    done = await perform(ctx, make, connection, confirm, transaction_id, timeout_seconds)
    return done if isinstance(done, InputRequiredResult) else written(found, done)


async def preview_statement(
    ctx: Context,
    sql: Sql,
    connection: Connection = None,
    params: Params = None,
    transaction_id: TransactionId = None,
    timeout_seconds: Seconds = None,
) -> ToolResult:
    """Try a write and roll it back: affected rows, some rows before and after, and a confirm token.

    execute_statement(same arguments, confirm=token) then does it, if it still affects as many rows. Good once.
    """

    async def make(registration: Registration) -> Change:
        return await writes(ctx).change(registration, sql, params, limit=_RETURNED_ROWS)

    seen = await writes(ctx).preview(
        caller(ctx), connection, make, transaction_id=transaction_id, timeout=timeout_seconds
    )
    return answer(gateway(ctx), shown(seen))


async def perform(
    ctx: Context,
    make: Callable[[Registration], Awaitable[Change]],
    connection: str | None,
    confirm: str | None,
    transaction_id: str | None,
    timeout: float | None,  # noqa: ASYNC109
) -> QueryResult | InputRequiredResult:
    """Do a write; where it needs a confirmation and the client can show a form, the user is asked."""
    found, owner = writes(ctx), caller(ctx)
    if (reply := asking.answered(ctx)) is not None:
        token, agreed = reply
        if not agreed:
            raise _declined()
        confirm = token

    async def do(token: str | None) -> QueryResult:
        return await found.perform(
            owner, connection, make, confirm=token, transaction_id=transaction_id, timeout=timeout
        )

    try:
        return await do(confirm)
    except ConfirmationNeeded:
        if not asking.can_ask(ctx):
            raise
    seen = await found.preview(owner, connection, make, transaction_id=transaction_id, timeout=timeout)
    said = await asking.ask(ctx, _question(seen), seen.confirm)
    if isinstance(said, InputRequiredResult):
        return said
    if not said:
        raise _declined()
    return await do(seen.confirm)


def _declined() -> Forbidden:
    return Forbidden("not done: the user declined")


def _question(seen: Preview) -> str:
    affected = "" if seen.affected is None else f"It affects {seen.affected:,} rows."
    lines = [f"Run this on {seen.connection}?", seen.sql[:2_000], affected, seen.destroys, seen.note]
    return "\n\n".join(line for line in lines if line)


def written(found: Gateway, result: QueryResult) -> ToolResult:
    """What a write did: its counts, and the rows that RETURNING gave."""
    facts: dict[str, Any] = {
        "connection": result.connection,
        "affected": result.affected,
        "generated": result.generated,
        "elapsed_ms": result.elapsed_ms,
    }
    if result.columns:
        return answer(
            found,
            formats.text(
                "json",
                reads.cut(found.settings, result, row_cap=_RETURNED_ROWS, byte_budget=found.settings.byte_budget),
            ),
        )
    return answer(found, {key: value for key, value in facts.items() if value is not None})


def shown(seen: Preview) -> dict[str, Any]:
    """A preview as a client sees it; rows as arrays under their columns, once."""
    sample = seen.before or seen.after
    facts = {
        "connection": seen.connection,
        "affected": seen.affected,
        "columns": sample.columns if sample else None,
        "before": [list(row) for row in seen.before.rows] if seen.before else None,
        "after": [list(row) for row in seen.after.rows] if seen.after else None,
        "needs_confirmation": seen.destroys or None,
        "note": seen.note or None,
        "confirm": seen.confirm,
    }
    return {key: value for key, value in facts.items() if value is not None}
