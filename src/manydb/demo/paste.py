"""The lines to paste into an MCP client, in the form that each client documents."""

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text
from sqlalchemy import make_url


def lines_to_paste(url: str | None, scale: int) -> Iterator[Text]:
    """How to have the shop, and then databases of one's own, in Claude, Cursor and VS Code."""
    program, *options = _program()
    arguments = [*options, *_serving(url, scale)]
    command = shlex.join([program, *arguments])
    server: dict[str, object] = {"command": program, "args": arguments}
    yield Text("Use the shop from your own client", style="bold")
    yield from _snippet("Claude Code", f"claude mcp add --transport stdio shop -- {command}")
    yield from _snippet(
        "Claude Desktop (claude_desktop_config.json), Cursor (.cursor/mcp.json)", _json("mcpServers", server)
    )
    yield from _snippet("VS Code (.vscode/mcp.json)", _json("servers", {"type": "stdio"} | server))
    if "***" in command:
        yield Text()
        yield Text("  The password belongs in place of the ***.")
    yield Text()
    yield Text("Then your own databases, with other arguments", style="bold")
    yield from _snippet(
        "Repeat --connection for more", "serve --connection sales=postgresql://user:password@host/sales"
    )
    yield from _snippet(
        "Or with a settings file, where ${VARIABLE} keeps passwords out", "serve --config /path/to/manydb.toml"
    )


def _program() -> list[str]:
    """What starts manydb for a client, whatever its own PATH: the installed script, or this Python with the module."""
    script = shutil.which("manydb", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-m", "manydb"]


def _serving(url: str | None, scale: int) -> list[str]:
    """The arguments that serve this shop: where it lasts, by its URL; else anew in a temporary file."""
    if url is not None:
        return ["serve", "--connection", f"shop={make_url(url).render_as_string()}"]
    return ["demo", "--serve", *(["--scale", str(scale)] if scale != 1 else [])]


def _json(key: str, server: dict[str, object]) -> str:
    """As people write it: one key a line, and the arguments in one."""
    entry = ",\n".join(f'      "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in server.items())
    return f'{{\n  "{key}": {{\n    "shop": {{\n{entry}\n    }}\n  }}\n}}'


def _snippet(title: str, lines: str) -> Iterator[Text]:
    yield Text()
    yield Text(f"  {title}:")
    for line in lines.splitlines():
        yield Text(f"    {line}", style="cyan")
