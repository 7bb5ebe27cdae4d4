"""Asking the tools as a client does: a Desk is one connected client, `serving` puts it in front of a server."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastmcp import Client
from mcp_types import TextContent

from manydb.server import build_server
from manydb.settings import Settings

MODES = ("auto", "legacy")
"""The protocol's eras: 2026-07-28, which the client prefers, and the handshake before it."""


@dataclass(frozen=True, slots=True)
class Desk:
    """A client, and the three ways in which a tool may answer it."""

    client: Client[Any]

    async def text(self, tool: str, **arguments: Any) -> str:
        """The one text block of a success."""
        is_error, text = await self._call(tool, arguments)
        assert not is_error, text
        return text

    async def ask(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The JSON object of a success."""
        return _object(await self.text(tool, **arguments))

    async def refusal(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The JSON object of an error."""
        is_error, text = await self._call(tool, arguments)
        assert is_error, text
        return _object(text)

    async def rows(self, sql: str, **arguments: Any) -> list[list[Any]]:
        """The rows of execute_query."""
        found: list[list[Any]] = (await self.ask("execute_query", sql=sql, **arguments))["rows"]
        return found

    async def _call(self, tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
        result = await self.client.call_tool(tool, arguments, raise_on_error=False)
        (block,) = result.content
        assert isinstance(block, TextContent)
        return result.is_error, block.text


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


@asynccontextmanager
async def serving(mode: str = "auto", /, **settings: Any) -> AsyncGenerator[Desk]:
    """A client, in memory, of a server with these settings; ``url`` is short for its only connection, ``db``."""
    if url := settings.pop("url", None):
        settings["connections"] = {"db": {"url": url}}
    async with Client(build_server(Settings.model_validate(settings)), mode=mode) as client:
        yield Desk(client)
