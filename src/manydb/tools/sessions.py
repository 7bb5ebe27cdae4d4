"""What a caller did, is and holds."""

import math
from typing import Annotated, Any

from fastmcp import Context
from fastmcp.tools import ToolResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from manydb.callers import Caller
from manydb.gateway import Gateway
from manydb.tools.parameters import Connection, answer, caller, gateway

_NOTES = {
    "principal": "recognised by login: what you hold is yours alone, from every client that you use",
    "process": "the only client of this server: all that is held is yours",
    "session": "recognised by the protocol's session: what you hold ends with it",
    "nobody": "not recognised from call to call: what you hold is found by its id alone, and nothing is remembered",
}


async def get_query_history(
    ctx: Context,
    connection: Connection = None,
    limit: Annotated[int, Field(ge=1, le=1000)] = 20,
) -> ToolResult:
    """List the statements that you ran, the latest first: SQL, connection, duration, rows, "ok" or the error's code.

    Values of params are not remembered. Old statements are forgotten, and long ones clipped.
    """
    found = gateway(ctx)
    return answer(found, history(found, caller(ctx), connection, limit))


def history(found: Gateway, who: Caller, connection: str | None = None, limit: int = 1000) -> dict[str, Any]:
    """What *who* ran, as a reply within the byte budget."""
    entries = [each for each in found.history.of(who) if connection in (None, each.connection)]
    told: list[dict[str, Any]] = []
    size = 0
    for entry in entries[:limit]:
        told.append(entry.as_dict())
        size += len(entry.sql.encode()) + _ENTRY_BYTES
        if size > found.settings.byte_budget:
            break
    reply = {
        "statements": told,
        "total": len(entries) if len(entries) > len(told) else None,
        "note": None if who.is_known else _NOTES["nobody"],
    }
    return {key: value for key, value in reply.items() if value is not None}


_ENTRY_BYTES = 150
"""About what an entry's other facts take."""


async def get_session_info(ctx: Context) -> ToolResult:
    """Say who you are to this server, what you hold here and when it expires, and the limits in force."""
    found, who, request = gateway(ctx), caller(ctx), ctx.request_context
    version = request.protocol_version if request else ""
    reply = {
        "caller": {"kind": who.kind, **_principal(who), "note": _NOTES[who.kind]},
        "protocol": {"version": version, "era": "sessionless" if version in MODERN_PROTOCOL_VERSIONS else "handshake"},
        "holds": _holdings(found, who),
        "remembered_statements": len(found.history.of(who)),
        "limits": {name: getattr(found.settings, name) for name in _LIMITS},
    }
    return answer(found, {key: value for key, value in reply.items() if value not in (None, {}, [])})


def _principal(who: Caller) -> dict[str, str]:
    """What a login says of itself: names, never a token."""
    if who.kind != "principal":
        return {}
    return {name: part for name, part in zip(_PARTS, who.key.split("\x00"), strict=False) if part}


def _holdings(found: Gateway, who: Caller) -> dict[str, list[dict[str, Any]]]:
    """What *who* holds, by kind."""
    holdings: dict[str, list[dict[str, Any]]] = {}
    for noun, handle, _, left in found.holdings.of(who):
        holding: dict[str, Any] = {"id": handle}
        if math.isfinite(left):
            holding["seconds_left"] = round(left)
        holdings.setdefault(f"{noun}s", []).append(holding)
    return holdings


_PARTS = ("issuer", "client", "subject")
_LIMITS = (
    "row_cap",
    "max_row_cap",
    "byte_budget",
    "timeout_seconds",
    "max_timeout_seconds",
    "max_results",
    "result_ttl",
    "max_transactions",
    "transaction_idle_ttl",
    "transaction_max_age",
    "max_registrations",
    "registration_ttl",
    "max_batch",
    "max_jobs",
    "job_timeout_seconds",
    "job_ttl",
    "max_exports",
    "export_ttl",
    "history_size",
    "caller_idle_ttl",
)
