"""The floor beside us: a FastMCP server whose tool does nothing. `python -m benchmarks.floor` serves it over stdio."""

from functools import cache

from fastmcp import FastMCP
from fastmcp.tools import FunctionTool, ToolResult


def build() -> FastMCP[None]:
    server: FastMCP[None] = FastMCP("floor")
    server.add_tool(FunctionTool.from_function(noop, output_schema=None))
    return server


async def noop(size: int) -> ToolResult:
    """A text of *size* characters."""
    return ToolResult(content=_text(size))


@cache
def _text(size: int) -> str:
    return "x" * size


if __name__ == "__main__":
    build().run(show_banner=False)
