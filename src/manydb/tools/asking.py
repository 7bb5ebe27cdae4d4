"""Asking the person behind the client, in both eras of the protocol."""

from typing import Any

from fastmcp import Context
from fastmcp.tools import ToolResult
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Reply = ToolResult | InputRequiredResult
"""What a tool returns that may have to ask first."""

_KEY = "confirm"


def can_ask(ctx: Context) -> bool:
    """Whether the client shows forms to its user."""
    request = ctx.request_context
    capabilities = ctx.session.client_capabilities if request is not None else None
    return capabilities is not None and capabilities.elicitation is not None


def answered(ctx: Context) -> tuple[str, bool] | None:
    """What `ask` was given to remember, and whether the user agreed; None where nothing was asked yet."""
    reply: Any = (ctx.input_responses or {}).get(_KEY)
    if reply is None or ctx.request_state is None:
        return None
    agreed = reply.action == "accept" and bool((reply.content or {}).get("ok"))
    return str(ctx.request_state), agreed


async def ask(ctx: Context, question: str, remember: str) -> InputRequiredResult | bool:
    """Whether the user agrees; or what the tool must return to be called again with the answer, see `answered`."""
    request = ctx.request_context
    if request is None or request.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        reply = await ctx.elicit(question, bool)
        return reply.action == "accept" and bool(reply.data)
    form = {"type": "object", "properties": {"ok": {"type": "boolean", "title": "Do it"}}, "required": ["ok"]}
    params = ElicitRequestFormParams(message=question, requested_schema=form)
    return InputRequiredResult(request_state=remember, input_requests={_KEY: ElicitRequest(params=params)})
