"""The databases there are."""

from typing import Any

from fastmcp import Context
from fastmcp.tools import ToolResult

from manydb.connections import Registration
from manydb.dialects.powers import Powers
from manydb.standings import Standing
from manydb.tools.parameters import answer, caller, gateway


async def list_connections(ctx: Context) -> ToolResult:
    """List the databases you can use: name, backend, access, login's rights, description, whether each answers."""
    found = gateway(ctx)
    standings = await found.standings.of(found.connections.visible(caller(ctx)))
    return answer(found, {"connections": [_line(*each) for each in standings]})


def _line(registration: Registration, standing: Standing) -> dict[str, Any]:
    health, powers = standing.health, standing.powers
    status = "unknown" if health is None else "unreachable" if health.error else "ok"
    line = {
        "name": registration.name,
        "backend": standing.version or registration.dialect.title,
        "access": registration.access,
        "login": powers and _said(powers),
        "description": registration.description,
        "status": status,
        "reason": health.error.message if health and health.error else None,
    }
    return {key: value for key, value in line.items() if value}


def _said(powers: Powers) -> str:
    """Whether the database itself would stop a write, which is the strongest wall there is."""
    return "superuser" if powers.superuser else "could write" if powers.can_write else "reads only"
