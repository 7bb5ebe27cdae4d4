"""The tour: manydb's own server, started as users start it, and what an MCP client says to it and hears."""

import asyncio
import io
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from sqlalchemy import URL

from manydb.demo import shop
from manydb.demo.paste import lines_to_paste
from manydb.errors import Internal
from manydb.shell import rows_table

if TYPE_CHECKING:
    from fastmcp import Client

_ANSWER_SECONDS = 30
_RETRY = {
    "fix_sql": "correct the SQL and ask again",
    "ask_user": "ask the user",
    "later": "try again later",
    "never": "do not try again",
}


async def tour(url: str | None, scale: int) -> int:
    """Build the shop at *url*, or in a temporary file, and show in the terminal how a client uses it; the exit code.

    Raises ManydbError where the shop cannot be built, or where an answer is not what the tour is about to explain.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode still gets its tour
    console = Console(highlight=False)
    with shop.shop_url(url) as where:
        _introduce(console, where, is_kept=url is not None)
        # While the server starts; it opens no database before it is asked.
        building = asyncio.create_task(shop.build(where, scale))
        try:
            async with _serve(where) as client:
                _explain(console, await building)
                await _show(_Guide(console, client))
        finally:
            building.cancel()
            await asyncio.gather(building, return_exceptions=True)
    console.print()
    for line in lines_to_paste(url, scale):
        # Never wrapped by us: what is to be pasted has to stay in one piece.
        console.print(line, soft_wrap=True)
    return 0


def _introduce(console: Console, where: URL, *, is_kept: bool) -> None:
    shown = where.set(drivername=where.get_backend_name()).render_as_string()
    console.print(Text("manydb demo", style="bold"))
    console.print()
    console.print(f"Building an online shop in {'this' if is_kept else 'a temporary'} database, and serving it:")
    console.print(Text(f"  manydb serve --connection shop={shown}", style="cyan"), soft_wrap=True)


def _explain(console: Console, counts: shop.Counts) -> None:
    console.print()
    console.print(
        f"The shop has {counts.customers:,} customers, {counts.products:,} products and {counts.orders:,} orders. "
        "Now this program is an MCP client, as Claude or Cursor would be. After > comes the call that it sends, "
        "a tool's name and arguments; below it, the answer."
    )


@asynccontextmanager
async def _serve(where: URL) -> "AsyncGenerator[Client[Any]]":
    """A client of a server process that ends with the context. Raises Internal where the server does not answer."""
    # Half a second to import, and only here.
    from fastmcp import Client  # noqa: PLC0415
    from fastmcp.client.transports import StdioTransport  # noqa: PLC0415
    from fastmcp.exceptions import FastMCPError  # noqa: PLC0415
    from mcp.shared.exceptions import MCPError  # noqa: PLC0415

    # The URL travels in the environment: arguments are for every user of the machine to read.
    arguments = ["-m", "manydb", "serve", "--connection", "shop=${MANYDB_DEMO_URL}"]
    transport = StdioTransport(sys.executable, arguments, env=_environment(os.environ, where), keep_alive=False)
    try:
        async with Client(transport, timeout=_ANSWER_SECONDS) as client:
            yield client
    except (FastMCPError, MCPError, RuntimeError, OSError) as exc:
        raise Internal(f"the demo's server did not answer: {exc}") from exc


def _environment(environ: Mapping[str, str], where: URL) -> dict[str, str]:
    """What the server sees: the shop alone, whatever the user's own settings say."""
    kept = {name: value for name, value in environ.items() if not name.startswith("MANYDB_")}
    return kept | {"MANYDB_CONFIG": os.devnull, "MANYDB_DEMO_URL": where.render_as_string(hide_password=False)}


async def _show(guide: "_Guide") -> None:
    """The stops of the tour."""
    reply = await guide.ask("Which databases are there?", "list_connections")
    guide.show(_records(reply["connections"]))

    reply = await guide.ask("What does a table look like?", "get_table_schema", table="orders")
    guide.show(_schema(reply["tables"][0]))

    reply = await guide.ask(
        "A question: which customers in Germany brought in most?",
        "execute_query",
        sql="SELECT name, order_count, revenue FROM customer_revenue "
        "WHERE country = :country ORDER BY revenue DESC LIMIT 5",
        params={"country": "DE"},
    )
    guide.show(_rows(reply))

    reply = await guide.ask(
        "Many rows: the answer is cut, says so, and the rest is kept",
        "execute_query",
        sql="SELECT number, status, total FROM orders ORDER BY id",
        row_cap=4,
    )
    guide.show(_rows(reply))

    reply = await guide.ask("Reading on where it was cut", "fetch_rows", result_id=reply["result_id"], row_cap=4)
    guide.show(_rows(reply))

    reply = await guide.ask(
        "A mistake: the error says what would have been right",
        "execute_query",
        expect="UNKNOWN_COLUMN",
        sql="SELECT name, vat_rate FROM categories",
    )
    guide.show(_error(reply))

    reply = await guide.ask(
        "A write: refused, and the database would refuse it too",
        "execute_query",
        expect="READ_ONLY",
        sql="DELETE FROM orders WHERE status = 'cancelled'",
    )
    guide.show(_error(reply))


@dataclass
class _Guide:
    """Asks as a client, and shows both sides of it."""

    console: Console
    client: "Client[Any]"
    asked: int = 0

    async def ask(self, question: str, tool: str, /, *, expect: str | None = None, **arguments: Any) -> dict[str, Any]:
        """The tool's reply, once the question and the call are shown.

        Raises ManydbError unless the reply's error code is *expect*: None for an answer.
        """
        self.asked += 1
        self.console.print()
        self.console.print(Text(f"{self.asked}  {question}", style="bold"))
        call = Text.assemble("> ", tool, " ", orjson.dumps(arguments).decode() if arguments else "{}", style="cyan")
        self.show(call)
        result = await self.client.call_tool(tool, arguments, raise_on_error=False)
        reply: dict[str, Any] = orjson.loads("".join(block.text for block in result.content if block.type == "text"))
        if reply.get("code") != expect:
            raise Internal(f"{tool} was to answer {expect or 'the question'}, but said: {reply}")
        return reply

    def show(self, answer: RenderableType) -> None:
        self.console.print(Padding(answer, (0, 0, 0, 3), expand=False))


# ---- an answer as a person reads it --------------------------------------------------------------------------------


def _records(records: list[dict[str, Any]]) -> RenderableType:
    columns = list(records[0])
    return _table(columns, [[record.get(column) for column in columns] for record in records])


def _rows(reply: dict[str, Any]) -> RenderableType:
    facts = ", ".join(f"{key} {reply[key]}" for key in ("row_count", "truncated", "result_id") if key in reply)
    hint = f"\nhint: {reply['hint']}" if "hint" in reply else ""
    return Group(_table(reply["columns"], reply["rows"]), Text(facts + hint, style="dim"))


def _table(columns: list[str], rows: list[list[Any]]) -> Table:
    table = rows_table(columns, rows)
    table.box, table.show_edge, table.pad_edge = box.SIMPLE_HEAD, False, False
    return table


def _schema(table: dict[str, Any]) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column()
    for column in table["columns"]:
        name, _, rest = column.partition(" ")
        lines.add_row(name, Text(rest))
    title = " · ".join(filter(None, (table["table"], table.get("comment"))))
    return Group(Text(title, style="bold"), lines, Text("\n".join(table["keys"]), style="dim"))


def _error(error: dict[str, Any]) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True, style="bold")
    lines.add_column()
    lines.add_row(Text(error["code"], style="bold red"), Text(error["message"]))
    if suggestions := error.get("suggestions"):
        lines.add_row("suggestions", Text(", ".join(suggestions)))
    for table, columns in error.get("columns", {}).items():
        lines.add_row(f"{table} has", Text(", ".join(columns)))
    lines.add_row("retry", Text(f"{error['retry']}: {_RETRY[error['retry']]}"))
    return lines
