"""The databases there are."""

from typing import Any

from fastmcp import Context
from fastmcp.tools import ToolResult

from manydb.connections import Registration
from manydb.engines import Health
from manydb.tools.parameters import answer, gateway


async def list_connections(ctx: Context) -> ToolResult:
    """List the databases you can use: name, backend, access, description, and whether each answers."""
    found = gateway(ctx)
    return answer(found, {"connections": [_line(*status) for status in await found.statuses()]})


def _line(registration: Registration, health: Health | None, version: str | None) -> dict[str, Any]:
    status = "unknown" if health is None else "unreachable" if health.error else "ok"
    line = {
        "name": registration.name,
        "backend": version or registration.dialect.title,
        "access": registration.access,
        "description": registration.description,
        "status": status,
        "reason": health.error.message if health and health.error else None,
    }
    return {key: value for key, value in line.items() if value}
