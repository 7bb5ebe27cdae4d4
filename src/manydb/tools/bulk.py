"""Many rows at once: into a table, and out into a file."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import orjson
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ResourceError
from fastmcp.resources import ResourceContent, ResourceResult
from fastmcp.tools import ToolResult
from mcp_types import ResourceLink
from pydantic import Field, SkipValidation

from manydb import exports, inserts
from manydb.dialects.loading import OnConflict
from manydb.errors import ManydbError
from manydb.exports import ExportFormat
from manydb.inserts import Batch, Mode, Outcome, Request
from manydb.tools.parameters import (
    AsJson,
    Confirm,
    Connection,
    Nothing,
    Params,
    Seconds,
    TransactionId,
    answer,
    caller,
    gateway,
    writes,
)
from manydb.tools.parameters import exports as exports_of

_REPORT_SECONDS = 0.25
"""Between two notices of progress, at least."""

Names = Annotated[list[str] | Nothing, AsJson]


async def insert_rows(
    ctx: Context,
    table: Annotated[str, Field(max_length=500, description="schema.table or table")],
    columns: Annotated[Names, Field(description="Names for the values in rows")] = None,
    rows: Annotated[list[list[Any]] | Nothing, SkipValidation, AsJson, Field(description="Lists of values")] = None,
    records: Annotated[list[dict[str, Any]] | Nothing, SkipValidation, AsJson, Field(description="Or objects")] = None,
    on_conflict: Annotated[
        OnConflict | Nothing, Field(description="When a row meets a unique key: error (default), skip it, update")
    ] = None,
    key: Annotated[Names, Field(description="Its columns; default: the primary key")] = None,
    mode: Annotated[
        Mode | Nothing, Field(description="all (default) or none, or batches that last by themselves")
    ] = None,
    batch_rows: Annotated[int, Field(ge=1)] = 10_000,
    preview: Annotated[bool, Field(description="Try and undo it; gives a confirm token")] = False,  # noqa: FBT002
    confirm: Confirm = None,
    connection: Connection = None,
    transaction_id: TransactionId = None,
    timeout_seconds: Seconds = None,
) -> ToolResult:
    """Insert many rows at once, checked against the table's types before anything is written.

    Errors name row (from 0) and column. Bytes are {"$bytes": base64}; thousands of rows a call are fine.
    """
    request = Request(table, columns, rows, records, on_conflict or "error", key)
    try:
        if preview:
            return await _tried(ctx, connection, request, transaction_id, timeout_seconds)
        return await _done(
            ctx, connection, request, mode or "all", batch_rows, confirm, transaction_id, timeout_seconds
        )
    finally:
        # asyncio keeps what belongs to a time-out, the request among it, until its time would have come: minutes. So
        # these are the request's own lists, not copies, and they are emptied here.
        for given in (rows, records):
            if isinstance(given, list):
                given.clear()


async def _tried(
    ctx: Context, connection: str | None, request: Request, transaction_id: str | None, seconds: float | None
) -> ToolResult:
    found = gateway(ctx)
    seen, outcome = await inserts.preview(
        found, writes(ctx), caller(ctx), connection, request, transaction_id=transaction_id, timeout=seconds
    )
    body = _inserted(outcome) | {"preview": "nothing was changed", "note": seen.note, "confirm": seen.confirm}
    return answer(found, {name: value for name, value in body.items() if value not in (None, "", [])})


async def _done(
    ctx: Context,
    connection: str | None,
    request: Request,
    mode: Mode,
    batch_rows: int,
    confirm: str | None,
    transaction_id: str | None,
    seconds: float | None,
) -> ToolResult:
    found = gateway(ctx)
    started = time.perf_counter()
    async with _reporting(ctx, request.count) as report:
        done = 0

        def told(more: int) -> None:
            nonlocal done
            done += more
            report(done)

        outcome = await inserts.insert(
            found,
            writes(ctx),
            caller(ctx),
            connection,
            request,
            told,
            mode=mode,
            batch_rows=batch_rows,
            confirm=confirm,
            transaction_id=transaction_id,
            timeout=seconds,
        )
    elapsed = round((time.perf_counter() - started) * 1000)
    return answer(found, _inserted(outcome) | {"elapsed_ms": elapsed})


def _inserted(outcome: Outcome) -> dict[str, Any]:
    failed = [batch for batch in outcome.batches if batch.error]
    body = {
        "connection": outcome.connection,
        "table": outcome.table,
        "inserted": outcome.inserted,
        "updated": outcome.updated,
        "skipped": outcome.skipped,
        "inserted_or_updated": outcome.written,
        "lasted": _ranges([batch for batch in outcome.batches if not batch.error]) if failed else None,
        "failed": [{"rows": _range(batch), **batch.error.as_dict()} for batch in failed if batch.error],
    }
    return {name: value for name, value in body.items() if value not in (None, [])}


def _ranges(batches: list[Batch]) -> list[str]:
    """Neighbours as one."""
    joined: list[Batch] = []
    for batch in batches:
        if joined and joined[-1].last + 1 == batch.first:
            joined[-1] = Batch(joined[-1].first, batch.last)
        else:
            joined.append(batch)
    return list(map(_range, joined))


def _range(batch: Batch) -> str:
    return f"{batch.first}-{batch.last}"


async def export_query(
    ctx: Context,
    sql: Annotated[str, Field(description="One statement that reads")],
    connection: Connection = None,
    params: Params = None,
    format: Annotated[ExportFormat | Nothing, Field(description="csv (default), jsonl or parquet")] = None,  # noqa: A002
    path: Annotated[
        str | Nothing, Field(description="A new file beneath the server's directory, over stdio; else a resource")
    ] = None,
    transaction_id: TransactionId = None,
    timeout_seconds: Seconds = None,
) -> ToolResult:
    """Write all rows of a query to a file, whatever their number: at path, or as a resource to read in parts.

    No row passes through the conversation. The resource expires an hour or so after its last use.
    """
    found = gateway(ctx)
    async with _reporting(ctx, None) as report:
        handle, export = await exports_of(ctx).export(
            caller(ctx),
            connection,
            sql,
            params,
            format or "csv",
            report,
            path=path,
            transaction_id=transaction_id,
            timeout=timeout_seconds,
        )
    uri = f"export://{handle}" if handle else None
    parts = len(export.parts)
    body = {
        "connection": export.connection,
        "path": None if handle else str(export.path),
        "uri": uri,
        "parts": f"{uri}/0 to {uri}/{parts - 1}" if uri and parts > 1 else None,
        "format": export.format,
        "columns": list(export.columns),
        "row_count": export.rows,
        "bytes": export.size,
        "masked": list(export.masked),
        "expires_in_seconds": round(found.settings.export_ttl) if handle else None,
        "elapsed_ms": export.elapsed_ms,
    }
    reply = answer(found, {name: value for name, value in body.items() if value not in (None, [])})
    if uri is None:
        return reply
    link = ResourceLink(
        uri=uri,
        name=f"{export.connection}.{export.format}",
        mime_type=exports.MIME_TYPES[export.format],
        size=export.size,
    )
    return ToolResult(content=[*reply.content, link], structured_content=reply.structured_content)


def offer_exports(server: FastMCP[Any]) -> None:
    """Let clients read exports: the whole of a small one, or part by part."""
    server.resource("export://{export_id}", name="export", description="Rows that export_query wrote")(_whole)
    server.resource("export://{export_id}/{part}", name="export_part", description="A part of them, from 0")(_part)


async def _whole(export_id: str, ctx: Context) -> ResourceResult:
    return await _read(ctx, export_id, None)


async def _part(export_id: str, part: int, ctx: Context) -> ResourceResult:
    return await _read(ctx, export_id, part)


async def _read(ctx: Context, export_id: str, part: int | None) -> ResourceResult:
    try:
        export, data = await exports_of(ctx).read(caller(ctx), export_id, part)
    except ManydbError as exc:
        raise ResourceError(orjson.dumps(exc.as_dict()).decode()) from None
    content = data if export.format == "parquet" else data.decode()
    return ResourceResult([ResourceContent(content, mime_type=exports.MIME_TYPES[export.format])])


@asynccontextmanager
async def _reporting(ctx: Context, total: int | None) -> AsyncGenerator[Callable[[int], None]]:
    """A function that takes how much is done, at any pace; the client hears of it now and then, and of the end."""
    if not _is_listening(ctx):
        yield lambda _: None
        return
    changed = asyncio.Event()
    done = heard = 0

    def report(now: int) -> None:
        nonlocal done
        done = max(done, now)
        changed.set()

    async def tell() -> None:
        nonlocal heard
        if done > heard:
            heard = done
            await ctx.report_progress(heard, total)

    async def keep_telling() -> None:
        while True:
            await changed.wait()
            changed.clear()
            await tell()
            await asyncio.sleep(_REPORT_SECONDS)

    teller = asyncio.create_task(keep_telling())
    try:
        yield report
    finally:
        teller.cancel()
        await asyncio.wait({teller})
    await tell()


def _is_listening(ctx: Context) -> bool:
    """Whether the client asked for progress: FastMCP would import much, in the loop, to look for who else may have."""
    context = ctx.request_context
    return context is not None and "progressToken" in (context.meta or {})
