"""Asking the person behind the client for a password, which then is in no argument and in no model's context."""

from typing import Any

from fastmcp import Context
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from manydb.errors import BadParameter

_KEY = "password"
_TITLE = "Password"


def answered(ctx: Context, remember: str) -> str | None:
    """What the user typed after `ask`, "" where that was nothing; None where nobody was asked yet.

    Raises BadParameter for the answer to another question.
    """
    reply: Any = (ctx.input_responses or {}).get(_KEY)
    if reply is None:
        return None
    if ctx.request_state != remember:
        raise BadParameter("the password was asked for another connection; call again")
    return str((reply.content or {}).get(_KEY) or "") if reply.action == "accept" else ""


async def ask(ctx: Context, question: str, remember: str) -> str | InputRequiredResult:
    """What the user types, "" for nothing; or what the tool must return to be called again, see `answered`.

    *remember* travels through the client, sealed: it holds no secret.
    """
    request = ctx.request_context
    if request is None or request.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        reply = await ctx.elicit(question, str, response_title=_TITLE)
        return str(reply.data) if reply.action == "accept" else ""
    form = {"type": "object", "properties": {_KEY: {"type": "string", "title": _TITLE}}, "required": [_KEY]}
    params = ElicitRequestFormParams(message=question, requested_schema=form)
    return InputRequiredResult(request_state=remember, input_requests={_KEY: ElicitRequest(params=params)})
