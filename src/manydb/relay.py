"""Requests find the worker that holds what they name: over HTTP, any worker of a server may hear any of them.

A worker marks what it hands out: ids of what it holds, and of sessions. A request that bears another's mark is passed
on to it, as it came, over a socket that no other user can reach. A mark only says whom to ask: whether the caller may
have the thing is judged where it is.
"""

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
import orjson
from mcp.server.auth.middleware.bearer_auth import RequireAuthMiddleware
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SESSION = b"mcp-session-id"
_SESSION_MARK = re.compile(rb"w(\d{1,2})\.(.+)", re.DOTALL)
_MARKED = re.compile(rb"[_-]w(\d{1,2})\.[A-Za-z0-9_-]{16}(?![A-Za-z0-9_-])")
NAMING = frozenset({"connection", "result_id", "transaction_id", "job_id", "confirm", "taskId", "uri"})
"""The parameters that name what a worker holds."""
_TOOL = (b"mcp-name", b"register_connection")
_OF_ONE_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"content-length"}
_OF_EVERY_ANSWER = {b"date", b"server"}  # uvicorn adds them again

Way = httpx2.AsyncBaseTransport


def mark(worker: int) -> str:
    """What the handles of the worker of that number, from 0, begin with."""
    return f"w{worker}."


@asynccontextmanager
async def ways(sockets: Sequence[str]) -> AsyncGenerator[list[Way]]:
    """How to reach the workers, each at its Unix socket."""
    # A connection for each request: one that was kept may be closed by the other end at the moment that it is used.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    found: list[Way] = [httpx2.AsyncHTTPTransport(verify=False, uds=path, limits=limits) for path in sockets]
    try:
        yield found
    finally:
        for way in found:
            await way.aclose()


def lead_through(app: Starlette, path: str, worker: int, ways: Sequence[Way]) -> None:
    """Put a relay before the MCP endpoint of *app*, behind all that guards it: Host, Origin, and who asks."""
    for route in app.routes:
        if isinstance(route, Route) and route.path == path:
            holder = route.app if isinstance(route.app, RequireAuthMiddleware) else route
            holder.app = Relay(holder.app, worker, ways)


@dataclass(frozen=True, slots=True)
class Relay:
    """An ASGI app: *app*, for what *worker* holds and what nobody does; the other workers, for what they hold."""

    app: ASGIApp
    worker: int
    ways: Sequence[Way]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read, body = await _read(receive) if scope["method"] == "POST" else ([], b"")
        # What is too long for the endpoint is refused by it, wherever that is.
        owners = {self.worker} if _is_passed_on(scope) or body is None else self._owners(scope, body)
        read.reverse()

        async def again() -> Message:
            return read.pop() if read else await receive()

        if owners <= {self.worker}:
            await self._keep(scope, again, send)
        elif len(owners) == 1:
            await self._pass_on(owners.pop(), scope, body or b"", receive, send)
        else:
            why = "the call names things that are held by different workers of this server: make one of them anew"
            await _error(400, INVALID_PARAMS, why, body or b"")(scope, again, send)

    def _owners(self, scope: Scope, body: bytes) -> set[int]:
        """The workers that hold what the request names; none where any of them will do."""
        session = next((value for name, value in scope["headers"] if name == _SESSION), None)
        if session is not None:  # it holds all that its caller has
            match = _SESSION_MARK.fullmatch(session)
            return self._known(int(match[1])) if match else set()
        if _TOOL in scope["headers"]:
            return {0}  # one worker has the connections of all who are not known, so that one call may name several
        marked = set[int]().union(*(self._known(int(number)) for number in _MARKED.findall(body)))
        if len(marked) > 1:  # a statement or a value may look like an id
            named = [int(number) for name in _names(body) for number in _MARKED.findall(name.encode())]
            return set[int]().union(*map(self._known, named)) or marked
        return marked

    def _known(self, number: int) -> set[int]:
        return {number} if number < len(self.ways) else set()

    async def _keep(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let *app* answer, to whom sessions have no marks."""
        mine = mark(self.worker).encode()

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                told = [(name, mine + value if name == _SESSION else value) for name, value in headers]
                message = {**message, "headers": told}
            await send(message)

        bare = [(name, value.removeprefix(mine) if name == _SESSION else value) for name, value in scope["headers"]]
        await self.app({**scope, "headers": bare}, receive, marked)

    async def _pass_on(self, owner: int, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let *owner* answer, as long as the client is there to hear it."""

        async def attend() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attend)
            try:
                response = await self.ways[owner].handle_async_request(_request(scope, body))
            except httpx2.TransportError:
                why = "the worker that holds what the call names has just ended, and with it what it held"
                await _error(503, INTERNAL_ERROR, why, body)(scope, receive, send)
            else:
                await _deliver(response, send)
            tasks.cancel_scope.cancel()


def _is_passed_on(scope: Scope) -> bool:
    """Whether another worker sent it: Unix sockets have no port."""
    return scope["server"] is not None and scope["server"][1] is None


async def _read(receive: Receive) -> tuple[list[Message], bytes | None]:
    """What came of a body, and the whole; None where it is longer than the endpoint takes, or its sender has left."""
    read: list[Message] = []
    size, more = 0, True
    while more and size <= DEFAULT_MAX_REQUEST_BODY_SIZE:
        read.append(message := await receive())
        if message["type"] == "http.disconnect":
            return read, None
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    return read, None if more else b"".join(each.get("body", b"") for each in read)


def _names(body: bytes) -> Iterator[str]:
    """What the parameters in *body* name, at any depth."""
    try:
        rest = [orjson.loads(body)]
    except orjson.JSONDecodeError:
        return
    while rest:
        each: Any = rest.pop()
        if isinstance(each, dict):
            yield from (value for key, value in each.items() if key in NAMING and isinstance(value, str))
            rest += each.values()
        elif isinstance(each, list):
            rest += each


def _request(scope: Scope, body: bytes) -> httpx2.Request:
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    url = httpx2.URL(scheme="http", host="worker", raw_path=target)
    headers = [(name, value) for name, value in scope["headers"] if name not in _OF_ONE_HOP]
    return httpx2.Request(scope["method"], url, headers=headers, content=body or None)


async def _deliver(response: httpx2.Response, send: Send) -> None:
    dropped = _OF_ONE_HOP - {b"content-length"} | _OF_EVERY_ANSWER
    headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in dropped]
    try:
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        async for part in response.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except httpx2.TransportError:
        return  # the other worker ended meanwhile: the client sees that the answer is not whole
    finally:
        with anyio.CancelScope(shield=True):
            await response.aclose()


def _error(status: int, code: int, message: str, body: bytes) -> Response:
    try:
        number = orjson.loads(body)["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        number = None
    answer = {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
    return Response(orjson.dumps(answer), status, media_type="application/json")
