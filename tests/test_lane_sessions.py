"""What the lane owes to the handshake era's sessions at the moments when they change."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from fastmcp.server.auth import StaticTokenVerifier

from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases
from tests.lanes import HANDSHAKE, JSON, PATIENCE_SECONDS, Post, a_call, configured, over_http, said
from tests.observers import ENDLESS, Observer, eventually

OLDER = "2024-11-05"
CANCELLED = {"code": -32800, "message": "Request cancelled"}
CLOSED = {"code": -32000, "message": "Connection closed"}
PAST_THE_LANE = {"_meta": {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}}
"""Of a call that FastMCP is left to answer."""


@pytest.fixture(scope="module")
async def url(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("postgresql") as url:
        await Observer.of(url).run("CREATE TABLE pets (id integer PRIMARY KEY, name text NOT NULL)")
        await Observer.of(url).run("INSERT INTO pets VALUES (1, 'Ada'), (2, 'Bo'), (3, 'Cy')")
        yield url


@asynccontextmanager
async def greeted(url: str) -> AsyncGenerator[Post]:
    """A session of a server of its own."""
    settings = configured(url)
    async with over_http(build_server(settings, local=False), settings) as post:
        await post.greet(HANDSHAKE)
        yield post


@dataclass(eq=False)
class Request:
    """A message of *post*'s session that is sent by hand: its body when `say` is called."""

    post: Post
    message: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    twice: bool = False
    """Whether a header comes twice."""
    heard: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    told: list[Any] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    def begin(self) -> "Request":
        headers = JSON | {"host": "127.0.0.1", "content-length": str(len(self.body))} | self.post.session
        told = [(name.encode(), value.encode()) for name, value in (headers | dict(self.headers)).items() if value]
        told += [(b"via", b"1.1 a"), (b"via", b"1.1 b")] if self.twice else []
        scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": told, "query_string": b""}
        self._task = asyncio.create_task(self.post.app(scope, self.heard.get, self._hear))
        return self

    async def _hear(self, message: Any) -> None:
        self.told.append(message)

    @property
    def body(self) -> bytes:
        return json.dumps(self.message).encode()

    def say(self) -> "Request":
        self.heard.put_nowait({"type": "http.request", "body": self.body})
        return self

    def vanish(self) -> None:
        self.heard.put_nowait({"type": "http.disconnect"})

    async def answer(self) -> Any:
        """The status, and the message."""
        assert self._task
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._task
        body = b"".join(each.get("body", b"") for each in self.told)
        return self.told[0]["status"], json.loads(body) if body else None


def calling(post: Post, number: Any, tool: str = "list_connections", **arguments: Any) -> Request:
    params = a_call(tool, arguments, HANDSHAKE)
    return Request(post, {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})


def running(post: Post, number: Any) -> Request:
    return calling(post, number, "execute_query", sql=ENDLESS)


def cancelling(post: Post, number: Any, headers: Mapping[str, str] | None = None) -> Request:
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
    return Request(post, message, headers or {}, twice=not headers)


async def test_a_notice_that_comes_in_the_moment_of_the_call_cancels_it(url: str) -> None:
    async with greeted(url) as post:
        call, notice = running(post, 7).say().begin(), cancelling(post, 7).say().begin()
        assert (await notice.answer())[0] == 202
        assert (await call.answer())[1]["error"] == CANCELLED
        await eventually(Observer.of(url).is_quiet)


@pytest.mark.parametrize("headers", [{"mcp-protocol-version": OLDER}, {"content-length": ""}, {}])
async def test_a_notice_cancels_whichever_way_it_comes(url: str, headers: dict[str, str]) -> None:
    async with greeted(url) as post:
        call = running(post, 7).say().begin()
        await eventually(Observer.of(url).is_busy)
        assert (await cancelling(post, "7", headers).say().begin().answer())[0] == 202
        assert (await call.answer())[1]["error"] == CANCELLED


async def test_of_two_calls_with_one_id_both_end_with_the_session(url: str) -> None:
    async with greeted(url) as post:
        calls = [running(post, 7).say().begin() for _ in range(2)]
        await eventually(partial(runs, Observer.of(url), 2))
        await post.leave()
        await eventually(Observer.of(url).is_quiet)
        assert (await calls[0].answer())[1]["error"] == CLOSED


async def runs(observer: Observer, number: int) -> bool:
    return await observer.running() == number


async def test_a_call_whose_session_ends_before_its_body_came_is_not_taken(url: str) -> None:
    async with greeted(url) as post:
        call = calling(post, 7).begin()
        await asyncio.sleep(0)
        await post.leave()
        status, answer = await call.say().answer()
        assert (status, answer["error"]["message"]) == (404, "Session not found")


async def test_a_client_that_vanished_leaves_nothing_when_its_session_expires(url: str) -> None:
    settings = configured(url, caller_idle_ttl=1)
    async with over_http(build_server(settings, local=False), settings) as post:
        await post.greet(HANDSHAKE)
        call = running(post, 7).say().begin()
        await eventually(Observer.of(url).is_busy)
        call.vanish()
        await eventually(Observer.of(url).is_quiet, 5)
        assert not post.sessions


async def test_a_session_is_not_idle_while_a_body_comes(url: str) -> None:
    settings = configured(url, caller_idle_ttl=0.5)
    async with over_http(build_server(settings, local=False), settings) as post:
        await post.greet(HANDSHAKE)
        call = calling(post, 7).begin()
        other = Post(post.http, post.seen, post.app)
        await other.greet(HANDSHAKE)
        await eventually(partial(is_gone, post, other), 5)
        assert (await call.say().answer())[0] == 200


async def is_gone(post: Post, other: Post) -> bool:
    return other.session["mcp-session-id"] not in post.sessions


async def test_a_session_that_is_greeted_anew_speaks_the_new_version(url: str) -> None:
    async with greeted(url) as post:
        hello = {"protocolVersion": OLDER, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        await post.ask("initialize", hello)
        assert await seen_of(post, {"arguments": {}, "name": "list_connections"})


async def seen_of(post: Post, params: Any) -> bool:
    before = len(post.seen)
    await post.ask("tools/call", params)
    return len(post.seen) > before


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/jsonx"},
        {"content-type": "Application/JSON"},
        {"content-type": "application/json, text/plain"},
        {"content-type": "application/json;charset=latin-1"},
        {"content-type": " application/json"},
        {"accept": "application/json"},
        {"accept": "*/*"},
        {"accept": "application/*, text/*"},
        {"accept": "application/json;q=0, text/event-stream"},
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"mcp-session-id": "x"},
        {"mcp-session-id": ""},
        {"mcp-protocol-version": ""},
        {"mcp-protocol-version": "x"},
        {"mcp-method": "tools/list"},
        {"content-encoding": "gzip"},
    ],
)
async def test_a_session_is_refused_the_same(url: str, headers: dict[str, str]) -> None:
    assert await status_of(configured(url), headers) == await status_of(configured(url, fast_lane=False), headers)


async def status_of(settings: Settings, headers: dict[str, str]) -> int:
    async with over_http(build_server(settings, local=False), settings) as post:
        await post.greet(HANDSHAKE)
        return (await post.post("tools/call", a_call("list_connections", version=HANDSHAKE), headers)).status_code


@pytest.mark.parametrize("login", [{}, {"authorization": "Bearer key"}])
async def test_a_caller_is_the_same_through_the_lane_and_past_it(url: str, login: dict[str, str]) -> None:
    settings = configured(url, tools=["core", "operations"])
    server = build_server(settings, local=False)
    if login:
        server.auth = StaticTokenVerifier(tokens={"key": {"client_id": "key", "scopes": []}})
    async with over_http(server, settings) as post:
        post.login = login
        await post.greet(HANDSHAKE)
        for one, other in (({}, PAST_THE_LANE), (PAST_THE_LANE, {})):
            query = a_call("execute_query", {"sql": "SELECT id FROM pets ORDER BY id", "row_cap": 1}, HANDSHAKE)
            found = await told(post, query | one)
            rest = await told(post, a_call("fetch_rows", {"result_id": found["result_id"]}, HANDSHAKE) | other)
            assert rest["rows"] == [[2], [3]]
        assert post.seen == ["fetch_rows", "execute_query"]
        history = await told(post, a_call("get_query_history", version=HANDSHAKE))
        assert json.dumps(history).count("SELECT id FROM pets ORDER BY id") == 2


async def told(post: Post, params: dict[str, Any]) -> Any:
    answer = json.loads(said(await post.post("tools/call", params)))
    return json.loads(answer["result"]["content"][0]["text"])
