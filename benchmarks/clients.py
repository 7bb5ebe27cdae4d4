"""Clients that cost next to nothing, so that what is timed is the server: JSON-RPC over its pipes, and over HTTP.

Both speak revision 2026-07-28, which needs no handshake: every request says who asks.
"""

import asyncio
import json
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

_VERSION = "2026-07-28"
_NAMESPACE = "io.modelcontextprotocol"
_META = {
    f"{_NAMESPACE}/protocolVersion": _VERSION,
    f"{_NAMESPACE}/clientInfo": {"name": "benchmarks", "version": "1"},
    f"{_NAMESPACE}/clientCapabilities": {},
}
MOST_BYTES = 128 * 1024 * 1024
"""Of one answer."""


class CallFailedError(Exception):
    """The server, or the tool, answered with an error; the message is the answer."""


class Asking(Protocol):
    """Somebody who calls tools."""

    async def text(self, tool: str, /, **arguments: Any) -> str:
        """The one text block of a success. Raises CallFailedError."""


def _request(number: int, tool: str, arguments: Mapping[str, Any]) -> bytes:
    params = {"name": tool, "arguments": arguments, "_meta": _META}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()


def _text(message: Mapping[str, Any]) -> str:
    result = message.get("result")
    if result is None or result.get("isError"):
        raise CallFailedError(json.dumps(message)[:1_000])
    (block,) = result["content"]
    return str(block["text"])


@dataclass(eq=False, slots=True)
class PipeClient:
    """Over the pipes of *process*; any number of calls at once. Somebody has to `listen`."""

    process: Process
    _number: int = 0
    _waiting: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)

    async def text(self, tool: str, /, **arguments: Any) -> str:
        self._number += 1
        answer = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        self.process.stdin.write(_request(self._number, tool, arguments) + b"\n")
        await self.process.stdin.drain()
        return _text(json.loads(await answer))

    async def listen(self) -> None:
        """Hand out answers until the server ends, which fails the calls that wait."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            # Only the number is read here; the rest by whoever waits for it.
            number = json.loads(line).get("id")
            if answer := self._waiting.pop(number, None):
                answer.set_result(line)
        for answer in self._waiting.values():
            answer.set_exception(CallFailedError("the server has ended"))


@dataclass(eq=False, slots=True)
class HTTPClient:
    """Over one connection that is kept, to *port* of this machine; one call at a time."""

    port: int
    _ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def text(self, tool: str, /, **arguments: Any) -> str:
        return _text(json.loads(await self.raw(tool, **arguments)))

    async def raw(self, tool: str, /, **arguments: Any) -> bytes:
        """The whole answer, whatever it is, as it came."""
        body = _request(1, tool, arguments)
        request = _HEAD.format(port=self.port, tool=tool, length=len(body)).encode() + body
        reader, head = await self._head(request)
        found = await _body(reader, head)
        if "text/event-stream" in head:
            found = next(line[5:] for line in found.splitlines() if line.startswith(b"data:"))
        return found

    async def _head(self, request: bytes) -> tuple[asyncio.StreamReader, str]:
        is_kept = self._ends is not None
        if self._ends is None:
            self._ends = await asyncio.open_connection("127.0.0.1", self.port, limit=MOST_BYTES)
        reader, writer = self._ends
        try:
            writer.write(request)
            await writer.drain()
            return reader, (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        except (ConnectionError, asyncio.IncompleteReadError):
            if not is_kept:
                raise
        self.close()  # by the server, as connections are that nobody has used for a while
        return await self._head(request)

    def close(self) -> None:
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None


_HEAD = (
    "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    "Accept: application/json, text/event-stream\r\nContent-Length: {length}\r\n"
    f"MCP-Protocol-Version: {_VERSION}\r\nMcp-Method: tools/call\r\nMcp-Name: {{tool}}\r\n\r\n"
)


async def _body(reader: asyncio.StreamReader, head: str) -> bytes:
    if "transfer-encoding: chunked" not in head:
        length = head.partition("content-length:")[2].partition("\r\n")[0]
        return await reader.readexactly(int(length))
    parts: list[bytes] = []
    while size := int(await reader.readline(), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(parts)
