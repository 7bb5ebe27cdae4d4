"""Asking in SQL without waiting for the answer."""

from typing import Annotated, Any

import orjson
from fastmcp import Context
from fastmcp.tools import ToolResult
from pydantic import Field

from manydb import formats
from manydb.jobs import Job
from manydb.tools.parameters import Connection, Params, RowCap, Seconds, answer, caller, gateway, jobs

JobId = Annotated[str, Field(description="From submit_query")]

_MOST_WAITING = 60


async def submit_query(
    ctx: Context,
    sql: Annotated[str, Field(description="One statement that reads")],
    connection: Connection = None,
    params: Params = None,
    row_cap: RowCap = None,
    timeout_seconds: Seconds = None,
) -> ToolResult:
    """Start a long read-only query and return its job_id at once; get_job has the answer later.

    For what execute_query has no time for: a job may run for an hour. Few jobs run at once, others wait their turn.
    """
    submitted = jobs(ctx)
    job_id, job = await submitted.submit(caller(ctx), connection, sql, params, row_cap=row_cap, timeout=timeout_seconds)
    return answer(gateway(ctx), _told(job_id, job, submitted.ahead(job)))


async def get_job(
    ctx: Context,
    job_id: JobId,
    wait_seconds: Annotated[float, Field(ge=0, le=_MOST_WAITING, description="Wait so long for its end")] = 0,
) -> ToolResult:
    """Say how far a job is: queued, running, done (with its rows), failed (with its error) or cancelled.

    What has ended is kept for an hour after the last look, as are rows beyond the first page: fetch_rows(result_id).
    """
    submitted = jobs(ctx)
    job = await submitted.wait(caller(ctx), job_id, wait_seconds)
    return answer(gateway(ctx), _told(job_id, job, submitted.ahead(job)))


async def cancel_job(ctx: Context, job_id: JobId) -> ToolResult:
    """Stop a job: its statement ends in the database too. A job that has ended stays as it is."""
    job = await jobs(ctx).cancel(caller(ctx), job_id)
    return answer(gateway(ctx), {"job_id": job_id, "state": job.state})


def _told(job_id: str, job: Job, ahead: int) -> str:
    """The reply about *job*, which holds the ordinary reply of its rows."""
    reply: dict[str, Any] = {
        "job_id": job_id,
        "state": job.state,
        "connection": job.registration.name,
        "ahead": ahead,
        "waited_ms": round(job.waited * 1000),
        "elapsed_ms": None if job.started is None else round(job.elapsed * 1000),
        "timeout_seconds": None if job.over.is_set() else job.seconds,
        "reason": job.reason,
        "error": job.error,
        "result": orjson.Fragment(formats.text("json", job.page)) if job.page else None,
        "hint": None if job.over.is_set() else "get_job(job_id, wait_seconds)",
    }
    return orjson.dumps({key: value for key, value in reply.items() if value not in (None, "", 0)}).decode()
