"""What MCP clients may read without calling a tool: RESOURCES."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from fastmcp import Context

from manydb.settings import Group
from manydb.tools import sessions
from manydb.tools.parameters import caller, gateway


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource: its address, the function that reads it (whose docstring clients see), and with which tools it is
    offered.
    """

    uri: str
    function: Callable[..., Awaitable[str]]
    group: Group
    mime_type: str = "application/json"

    @property
    def name(self) -> str:
        return self.function.__name__


async def recent_queries(ctx: Context) -> str:
    """The statements that you ran, the latest first, as get_query_history lists them."""
    return orjson.dumps(sessions.history(gateway(ctx), caller(ctx))).decode()


RESOURCES: tuple[Resource, ...] = (Resource("query-history://recent", recent_queries, "operations"),)
