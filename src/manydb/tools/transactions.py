"""Transactions that stay open between calls."""

from typing import Annotated, Any

from fastmcp import Context
from fastmcp.tools import ToolResult
from pydantic import Field

from manydb.settings import Isolation
from manydb.tools.parameters import Connection, Nothing, answer, caller, gateway

Savepoint = Annotated[str | Nothing, Field(description="Only down to this savepoint; the transaction stays open")]
OpenId = Annotated[str, Field(description="From begin_transaction")]


async def begin_transaction(
    ctx: Context,
    connection: Connection = None,
    isolation: Isolation | Nothing = None,
    read_only: Annotated[bool, Field(description="A stable view of the data, for several reads")] = False,  # noqa: FBT002
    transaction_id: Annotated[str | Nothing, Field(description="Set a savepoint in this open one instead")] = None,
) -> ToolResult:
    """Open a transaction and get its transaction_id, which execute_query, execute_statement and insert_rows take.

    It is rolled back when unused for a minute, or too old: commit soon. A conflict ends it.
    """
    found, owner = gateway(ctx), caller(ctx)
    if transaction_id is not None:
        async with found.on(owner, connection, transaction_id) as place:
            name = await place.open.savepoint(timeout=place.registration.limits.timeout_seconds)
        return answer(found, {"transaction_id": transaction_id, "savepoint": name})
    registration = found.connections.get(owner, connection)
    opened = await found.begin(owner, registration, read_only=read_only, isolation=isolation)
    reply: dict[str, Any] = {
        "transaction_id": opened,
        "connection": registration.name,
        "idle_seconds": found.settings.transaction_idle_ttl,
        "max_seconds": found.settings.transaction_max_age,
    }
    return answer(found, reply)


async def commit_transaction(ctx: Context, transaction_id: OpenId, savepoint: Savepoint = None) -> ToolResult:
    """Make everything done in the transaction last, and end it; with savepoint, forget that savepoint only."""
    found = gateway(ctx)
    async with found.on(caller(ctx), None, transaction_id) as place:
        seconds = place.registration.limits.timeout_seconds
        if savepoint is not None:
            await place.open.release(savepoint, timeout=seconds)
            return answer(found, {"transaction_id": transaction_id, "released": savepoint})
        await place.open.commit(timeout=seconds)
    found.catalogs.invalidate(place.registration.target)
    return answer(found, {"connection": place.registration.name, "committed": True})


async def rollback_transaction(ctx: Context, transaction_id: OpenId, savepoint: Savepoint = None) -> ToolResult:
    """Undo everything done in the transaction, and end it; with savepoint, undo what came after it."""
    found = gateway(ctx)
    async with found.on(caller(ctx), None, transaction_id) as place:
        if savepoint is not None:
            await place.open.roll_back_to(savepoint, timeout=place.registration.limits.timeout_seconds)
            return answer(found, {"transaction_id": transaction_id, "rolled_back_to": savepoint})
        await place.open.close()
    return answer(found, {"connection": place.registration.name, "rolled_back": True})
