"""What MCP clients see: TOOLS, in the order they see it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mcp_types import ToolAnnotations

from manydb.policy import Policy
from manydb.settings import Access, Group
from manydb.tools import batches, bulk, connections, jobs, queries, rows, schemas, sessions, transactions, writes
from manydb.tools.asking import Reply


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: the function (its name, signature and docstring are what clients see), and when it is offered."""

    function: Callable[..., Awaitable[Reply]]
    group: Group
    access: Access = "read_only"
    """What a connection must permit for the tool to be of use."""
    additive: bool = False
    """Whether a tool that is not read-only still takes nothing away."""
    registers: bool = False
    """Whether it is about connections of the caller's own, which lead out of the operator's world."""

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def annotations(self) -> ToolAnnotations:
        """What clients are told about the risk of a call."""
        if self.registers:
            return ToolAnnotations(read_only_hint=False, destructive_hint=not self.additive, open_world_hint=True)
        hint = Policy(self.access).hint(self.access)
        if hint.read_only:
            return ToolAnnotations(read_only_hint=True, open_world_hint=False)
        return ToolAnnotations(
            read_only_hint=False, destructive_hint=hint.destructive and not self.additive, open_world_hint=False
        )


TOOLS: tuple[Tool, ...] = (
    Tool(connections.list_connections, "core"),
    Tool(schemas.list_tables, "core"),
    Tool(schemas.search_schema, "core"),
    Tool(schemas.get_table_schema, "core"),
    Tool(queries.execute_query, "core"),
    Tool(queries.explain_query, "core"),
    Tool(queries.fetch_rows, "core"),
    Tool(connections.register_connection, "connect", additive=True, registers=True),
    Tool(connections.test_connection, "connect"),
    Tool(connections.remove_connection, "connect", registers=True),
    Tool(writes.execute_statement, "write", "read_write"),
    Tool(writes.preview_statement, "write", "read_write", additive=True),
    Tool(bulk.insert_rows, "write", "read_write"),
    Tool(rows.update_rows, "write", "read_write"),
    Tool(rows.delete_rows, "write", "read_write"),
    Tool(transactions.begin_transaction, "write", "read_write", additive=True),
    Tool(transactions.commit_transaction, "write", "read_write"),
    Tool(transactions.rollback_transaction, "write", "read_write", additive=True),
    Tool(rows.select_rows, "analysis"),
    Tool(batches.batch_query, "analysis"),
    Tool(bulk.export_query, "analysis"),
    Tool(jobs.submit_query, "jobs"),
    Tool(jobs.get_job, "jobs"),
    Tool(jobs.cancel_job, "jobs"),
    Tool(sessions.get_session_info, "operations"),
    Tool(sessions.get_query_history, "operations"),
)
