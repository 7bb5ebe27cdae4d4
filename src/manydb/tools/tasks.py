"""MCP tasks (SEP-2663): a query that takes longer than a moment becomes a job, and its client is told which.

Clients that speak tasks say so with every request, and fetch the answer without their model's doing; to all others
nothing changes. Of `fastmcp-tasks` only the wire is used: where tasks run, who owns them and how they end is manydb's.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import orjson
from fastmcp import Context
from fastmcp.server.dependencies import get_context
from fastmcp.server.extensions import MethodBinding, ServerExtension, ToolCallContinuation, ToolCallOutcome
from fastmcp.tools import ToolResult
from fastmcp.utilities.tasks import TASKS_EXTENSION_ID
from fastmcp_tasks import TasksExtension, wire_production
from fastmcp_tasks.models import (
    CancelTaskResult,
    CreateTaskResult,
    GetTaskParams,
    GetTaskResult,
    UpdateTaskParams,
    UpdateTaskResult,
)
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolRequestParams, CallToolResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict, ValidationError

from manydb import formats
from manydb.errors import Expired, ManydbError
from manydb.jobs import Job
from manydb.settings import Format
from manydb.tools.parameters import Connection, Nothing, Params, RowCap, Seconds, answer, caller, gateway, jobs

_AT_ONCE_SECONDS = 1.0
"""What is over sooner is answered at once."""
_POLL_MILLISECONDS = 1_000
_STATUS = {"queued": "working", "running": "working", "done": "completed", "failed": "completed"}


class _Query(BaseModel):
    """The arguments of execute_query outside transactions; whatever else comes is the tool's own business."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    sql: str
    connection: Connection = None
    params: Params = None
    row_cap: RowCap = None
    timeout_seconds: Seconds = None
    format: Format | Nothing = None


class Tasks(ServerExtension):
    """The server's side of tasks; a task's id is its job's."""

    identifier = TASKS_EXTENSION_ID

    def __init__(self) -> None:
        # Never registered: it only knows how requests about tasks must look.
        self._rules = TasksExtension()

    def methods(self) -> Sequence[MethodBinding]:
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [
            MethodBinding("tasks/get", GetTaskParams, self._get, versions),
            MethodBinding("tasks/update", UpdateTaskParams, self._update, versions),
            MethodBinding("tasks/cancel", GetTaskParams, self._cancel, versions),
        ]

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Let task results pass the SDK, which knows none."""
        wire_production.install()
        try:
            yield
        finally:
            wire_production.uninstall()

    async def intercept_tool_call(
        self, params: CallToolRequestParams, context: Context, call_next: ToolCallContinuation
    ) -> ToolCallOutcome:
        request = context.request_context
        if (
            params.name != "execute_query"
            or request is None
            or request.protocol_version not in MODERN_PROTOCOL_VERSIONS
            or context.client_extension_settings(self.identifier) is None
        ):
            return await call_next()
        try:
            asked = _Query.model_validate(params.arguments or {})
            begun = await self._begin(context, asked)
        except (ValidationError, ManydbError):
            return await call_next()  # the tool says it better
        if begun is None:  # no worker is free: better slowly than late
            return await call_next()
        return await self._outcome(context, *begun)

    async def _begin(self, context: Context, asked: _Query) -> tuple[str, Job] | None:
        return await jobs(context).begin(
            caller(context),
            asked.connection,
            asked.sql,
            asked.params,
            row_cap=asked.row_cap,
            timeout=asked.timeout_seconds,
            format=asked.format or gateway(context).settings.format,
        )

    async def _outcome(self, context: Context, job_id: str, job: Job) -> ToolCallOutcome:
        """The answer, if there soon is one; else the task that will have it."""
        running = jobs(context)
        try:
            await running.wait(caller(context), job_id, _AT_ONCE_SECONDS)
        except BaseException:  # the client gave up before it heard of a task
            with anyio.CancelScope(shield=True):
                await running.forget(job_id)
            raise
        if not job.over.is_set():
            task: BaseModel = CreateTaskResult(**_facts(context, job_id, job))
            return task
        await running.forget(job_id)
        return _result(context, job)

    async def _get(self, request: ServerRequestContext[Any, Any], params: GetTaskParams) -> GetTaskResult:
        context, job = self._find(request, params.task_id)
        inlined: dict[str, Any] | None = None
        if job.state in {"done", "failed"}:
            said = _result(context, job)
            result = CallToolResult(
                content=said.content, structured_content=said.structured_content, is_error=said.is_error
            )
            inlined = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        return GetTaskResult(**_facts(context, params.task_id, job), result=inlined)

    async def _update(self, request: ServerRequestContext[Any, Any], params: UpdateTaskParams) -> UpdateTaskResult:
        self._find(request, params.task_id)  # no task of ours asks for anything
        return UpdateTaskResult()

    async def _cancel(self, request: ServerRequestContext[Any, Any], params: GetTaskParams) -> CancelTaskResult:
        context, _ = self._find(request, params.task_id)
        await jobs(context).cancel(caller(context), params.task_id)
        return CancelTaskResult()

    def _find(self, request: ServerRequestContext[Any, Any], task_id: str) -> tuple[Context, Job]:
        """The caller's task; another's does not exist."""
        self._rules._check_task_request(request, task_id)  # noqa: SLF001 - a test holds on to the name
        context = get_context()
        try:
            return context, jobs(context).get(caller(context), task_id)
        except Expired as exc:
            raise MCPError(INVALID_PARAMS, exc.message) from exc


def _facts(context: Context, task_id: str, job: Job) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {
        "task_id": task_id,
        "status": _STATUS.get(job.state, job.state),
        "created_at": job.created_at.isoformat(),
        "last_updated_at": now,
        "ttl_ms": round((gateway(context).settings.job_ttl + job.seconds) * 1000),
        "poll_interval_ms": _POLL_MILLISECONDS,
    }


def _result(context: Context, job: Job) -> ToolResult:
    """What execute_query would have answered."""
    if job.page is None:
        return ToolResult(content=orjson.dumps(job.error).decode(), is_error=True)
    return answer(gateway(context), formats.text(job.format, job.page))
