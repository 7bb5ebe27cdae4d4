"""What MCP clients see: TOOLS, in the order they see it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastmcp.tools import ToolResult
from mcp_types import ToolAnnotations

from manydb.policy import Policy
from manydb.settings import Access, Group
from manydb.tools import connections, queries, schemas


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: the function (its name, signature and docstring are what clients see), and when it is offered."""

    function: Callable[..., Awaitable[ToolResult]]
    group: Group
    access: Access = "read_only"
    """What a connection must permit for the tool to be of use."""

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def annotations(self) -> ToolAnnotations:
        """What clients are told about the risk of a call."""
        hint = Policy(self.access).hint(self.access)
        return ToolAnnotations(read_only_hint=hint.read_only, open_world_hint=False)


TOOLS: tuple[Tool, ...] = (
    Tool(connections.list_connections, "core"),
    Tool(schemas.list_tables, "core"),
    Tool(schemas.search_schema, "core"),
    Tool(schemas.get_table_schema, "core"),
    Tool(queries.execute_query, "core"),
    Tool(queries.explain_query, "core"),
    Tool(queries.fetch_rows, "core"),
)
