"""The floor beside us: a FastMCP server whose tool does nothing. `python -m benchmarks.floor` serves it over stdio.

With `--transport http --port N` it is served over HTTP, set up as manydb is.
"""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio")
    parser.add_argument("--port", type=int)
    chosen = parser.parse_args()
    if chosen.transport == "stdio":
        build().run(show_banner=False)
    else:
        build().run("http", show_banner=False, port=chosen.port, uvicorn_config={"access_log": False})


if __name__ == "__main__":
    main()
