"""The fast lane answers as FastMCP does, byte for byte, and takes nothing else."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
from fastmcp.server.auth import StaticTokenVerifier
from fastmcp.server.middleware import Middleware
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from opentelemetry import trace

from manydb import lane
from manydb.formats import FORMATS
from manydb.lane.http import Endpoint
from manydb.listening import sockets
from manydb.server import build_server
from manydb.settings import Settings
from manydb.tools import TOOLS
from tests.conftest import Databases
from tests.corpus_bench import BACKENDS, Bench, lines, loaded, text_of
from tests.lanes import (
    ENVELOPE,
    HANDSHAKE,
    JSON,
    MODERN,
    PATIENCE_SECONDS,
    Asked,
    Line,
    Post,
    a_call,
    configured,
    over_http,
    over_stdio,
)
from tests.observers import ENDLESS, Observer, eventually

PLACES = (
    "http",
    *(f"http-{version}" for version in HANDSHAKE_PROTOCOL_VERSIONS),
    *(f"stdio-{version}" for version in (MODERN, *HANDSHAKE_PROTOCOL_VERSIONS)),
)
CORE = {tool.name for tool in TOOLS if tool.group == "core"}

# Taken: calls of every core tool, answered and refused by the tool itself.
TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("list_connections", {}),
    ("list_tables", {}),
    ("list_tables", {"detail": "summary", "limit": "1"}),
    ("search_schema", {"pattern": "pet"}),
    ("search_schema", {"query": "pet", "limit": None}),
    ("get_table_schema", {"table": "pets"}),
    ("get_table_schema", {"table": "pets, nowhere"}),
    ("execute_query", {"sql": "SELECT id, name, weight FROM pets ORDER BY id"}),
    ("execute_query", {"query": "SELECT :n AS n", "params": '{"n": 7}', "connection": None}),
    ("execute_query", {"sql": "SELECT id FROM pets ORDER BY id", "row_cap": "1", "format": "csv"}),
    ("execute_query", {"sql": "SELECT id FROM pets ORDER BY id", "row_cap": 1}),
    ("execute_query", {"sql": "SELECT nothing FROM pets"}),
    ("execute_query", {"sql": "DELETE FROM pets"}),
    ("execute_query", {"sql": "SELECT 1; SELECT 2"}),
    ("execute_query", {"sql": "SELECT 1", "connection": "nowhere"}),
    ("execute_query", {"sql": "SELECT 'snö ☃ 🐈'"}),
    ("explain_query", {"sql": "SELECT name FROM pets WHERE id = 1"}),
    ("fetch_rows", {"result_id": "r_unknown"}),
]
# Not taken: FastMCP refuses them, or may ask somebody else.
ARGUMENTS_IN_DISORDER: list[tuple[str, Any]] = [
    ("execute_query", {}),
    ("execute_query", {"sql": 1}),
    ("execute_query", {"sql": "SELECT 1", "row_cap": 0}),
    ("execute_query", {"sql": "SELECT 1", "format": "xml"}),
    ("execute_query", {"sql": "SELECT 1", "password": "secret"}),
    ("execute_query", "SELECT 1"),
    ("execute_query", ["SELECT 1"]),
    ("list_tables", {"limit": 10_000}),
    ("execute_statement", {"sql": "DELETE FROM pets"}),
    ("no_such_tool", {}),
]


LARGE = {"sql": """SELECT n, repeat('snö ☃ 🐈 "x" | ', 100) AS t FROM generate_series(1, 3000) n""", "row_cap": 3_000}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def version_of(place: str) -> str:
    return place.partition("-")[2] or MODERN


@pytest.fixture(scope="module")
async def url(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("postgresql") as url:
        await Observer.of(url).run("CREATE TABLE pets (id integer PRIMARY KEY, name text NOT NULL, weight numeric)")
        await Observer.of(url).run("INSERT INTO pets VALUES (1, 'Ada', 4.20), (2, 'Bo', NULL)")
        yield url


@asynccontextmanager
async def asked(place: str, settings: Settings) -> AsyncGenerator[Line | Post]:
    """A server of *settings*, ready to be called."""
    is_http = place.startswith("http")
    server = build_server(settings, local=not is_http)
    if is_http:
        async with over_http(server, settings) as post:
            await post.greet(version_of(place))
            yield post
    else:
        async with over_stdio(server) as line:
            await line.greet(version_of(place))
            yield line


def compared(place: str, answer: bytes) -> Any:
    """*answer* without what differs from call to call, times and handles; over HTTP, FastMCP writes ASCII alone."""
    plain = re.sub(rb"r_[\w-]{16}", b"_", re.sub(rb'(elapsed_ms\\?":)[\d.]+', rb"\g<1>0", answer))
    return json.loads(plain) if place.startswith("http") else plain


async def assert_same(place: str, settings: Settings, calls: list[tuple[str, Any]], *, taken: bool) -> None:
    """Each of *calls* is answered alike with the lane and without it; and *taken* or not."""
    version = version_of(place)
    params = [a_call(tool, version=version) | {"arguments": arguments} for tool, arguments in calls]
    await assert_params_same(place, settings, params, taken=taken)


async def assert_params_same(place: str, settings: Settings, calls: list[dict[str, Any]], *, taken: bool) -> None:
    slow = settings.model_copy(update={"fast_lane": False})
    async with asked(place, settings) as fast, asked(place, slow) as plain:
        for params in calls:
            expected = compared(place, await plain.ask("tools/call", params))
            before = len(fast.seen)
            answer = await fast.ask("tools/call", params)
            assert compared(place, answer) == expected, params
            assert went_past(fast, before, answer) is taken, params


async def is_taken(asked: Asked, params: Any, **envelope: Any) -> bool:
    before = len(asked.seen)
    return went_past(asked, before, await asked.ask("tools/call", params, **envelope))


def went_past(asked: Asked, before: int, answer: bytes) -> bool:
    """Whether *answer* was given past FastMCP: what it refuses before it looks at the method is an error."""
    return len(asked.seen) == before and b'"result":' in answer


# -- the same answers ------------------------------------------------------------------------------------------------


async def test_every_core_tool_answers_with_the_bytes_that_fastmcp_sends(place: str, url: str) -> None:
    assert {tool for tool, _ in TAKEN} == CORE
    await assert_same(place, configured(url), TAKEN, taken=True)


async def test_a_structured_copy_is_the_same_too(place: str, url: str) -> None:
    await assert_same(place, configured(url, structured=True), TAKEN, taken=True)


async def test_an_answer_in_many_pieces_is_the_same_too(place: str, url: str) -> None:
    calls = [("execute_query", LARGE | {"format": name}) for name in FORMATS]
    calls += [("execute_query", LARGE | {"row_cap": 1_000})]
    await assert_same(place, configured(url, byte_budget=10_000_000, max_row_cap=5_000), calls, taken=True)


async def test_calls_in_disorder_are_left_to_fastmcp(place: str, url: str) -> None:
    await assert_same(place, configured(url), ARGUMENTS_IN_DISORDER, taken=False)


async def test_ids_come_back_as_they_were(place: str, url: str) -> None:
    async with asked(place, configured(url)) as fast:
        for number in (0, -1, 2**70, "7", "", "☃"):
            params = a_call("list_connections", version=version_of(place))
            answer = await fast.ask("tools/call", params, id=number)
            assert json.loads(answer)["id"] == number
            assert await is_taken(fast, params, id=number)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_acceptance_corpus_gets_the_same_answers(databases: Databases, backend: str) -> None:
    limits = {"byte_budget": 10_000_000, "max_row_cap": 100_000, "pool_size": 1}
    async with loaded(databases, backend) as bench, AsyncExitStack() as stack:
        settings = configured(bench.url.render_as_string(hide_password=False), **limits)
        fast = await stack.enter_async_context(asked("http", settings))
        plain = await stack.enter_async_context(asked("http", settings.model_copy(update={"fast_lane": False})))
        for sql in corpus(bench):
            params = a_call("execute_query", {"sql": sql, "row_cap": 100})
            expected = settled(await plain.ask("tools/call", params))
            assert settled(await fast.ask("tools/call", params)) == expected, sql
        assert fast.seen == []


def corpus(bench: Bench) -> list[str]:
    """What is accepted, and what the policy refuses, whose answers are the same each time."""
    refused = [line for line in lines("must_reject", bench.backend) if line["by"] == ["policy"]]
    accepted = lines("must_accept", bench.backend)
    return [bench.named(text_of(line)) for line in (*refused, *accepted)]


def settled(answer: bytes) -> Any:
    """*answer* without the rows, which some statements of the corpus make anew, or in any order."""
    result = json.loads(answer)["result"]
    (block,) = result["content"]
    said = json.loads(block.pop("text"))
    return result, {key: value for key, value in said.items() if key not in {"rows", "elapsed_ms", "result_id"}}


# -- what passes on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["http", f"stdio-{MODERN}"])
async def test_a_call_that_asks_for_more_than_a_tool_passes_on(place: str, url: str) -> None:
    more: list[dict[str, Any]] = [
        {"task": {"ttl": 1}},
        {"inputResponses": {}},
        {"requestState": "x"},
        {"name": ["list_connections"]},
        {"name": None},
        {"arguments": None, "extra": 1},
        {"_meta": ENVELOPE | {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}},
        {"_meta": ENVELOPE | {"io.modelcontextprotocol/logLevel": "debug"}},
        {"_meta": ENVELOPE | {"io.modelcontextprotocol/protocolVersion": "2099-01-01"}},
        {"_meta": ENVELOPE | {"io.modelcontextprotocol/protocolVersion": None}},
        {"_meta": ENVELOPE | {"io.modelcontextprotocol/clientCapabilities": None}},
        {"_meta": ENVELOPE | {"io.modelcontextprotocol/clientCapabilities": []}},
        {"_meta": ENVELOPE | {"io.modelcontextprotocol/clientInfo": "me"}},
        {"_meta": {}},
        {"_meta": None},
        {"_meta": []},
    ]
    calls = [a_call("list_connections") | each for each in more]
    await assert_params_same(place, configured(url), calls, taken=False)


async def test_a_progress_token_keeps_no_call_from_the_lane(place: str, url: str) -> None:
    meta = {"progressToken": 7} | (ENVELOPE if version_of(place) == MODERN else {})
    calls = [a_call("list_connections") | {"_meta": meta}]
    await assert_params_same(place, configured(url), calls, taken=True)


async def test_a_call_of_the_other_era_passes_on(url: str) -> None:
    for place, version in ((f"stdio-{MODERN}", HANDSHAKE), (f"stdio-{HANDSHAKE}", MODERN)):
        calls = [a_call("list_connections", version=version)]
        await assert_params_same(place, configured(url), calls, taken=False)


async def test_the_first_request_decides_the_era_and_passes_on(url: str) -> None:
    async with over_stdio(build_server(configured(url))) as line:
        assert not await is_taken(line, a_call("list_connections"))
        assert await is_taken(line, a_call("list_connections"))
        refused = await line.ask("initialize", {"protocolVersion": HANDSHAKE})
        assert json.loads(refused)["error"]["code"] == -32022


async def test_before_the_handshake_nothing_is_taken(url: str) -> None:
    call = a_call("list_connections", version=HANDSHAKE)
    async with over_stdio(build_server(configured(url))) as line:
        for _ in range(2):
            assert not await is_taken(line, call)
        await line.greet(HANDSHAKE)
        assert await is_taken(line, call)


async def test_a_call_sent_with_the_handshake_is_answered_after_it(url: str) -> None:
    async with over_stdio(build_server(configured(url))) as line:
        hello = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        line.send("initialize", hello, id=1)
        line.send("tools/call", a_call("list_connections", version=HANDSHAKE), id=2)
        assert [json.loads(await line.answer())["id"] for _ in range(2)] == [1, 2]
        assert line.seen == ["list_connections"]


async def test_clients_that_speak_an_extension_of_the_server_pass_on(url: str) -> None:
    pytest.importorskip("fastmcp_tasks")
    speaking: dict[str, Any] = {
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    }
    params = a_call("list_connections") | {"_meta": ENVELOPE | speaking}
    async with asked("http", configured(url)) as plain, asked("http", configured(url, tools=["core", "jobs"])) as fast:
        assert await is_taken(plain, params)
        assert not await is_taken(fast, params)
        assert await is_taken(fast, a_call("list_connections"))


async def test_calls_whose_spans_are_recorded_pass_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked("http", configured(url)) as fast:
        assert await is_taken(fast, a_call("list_connections"))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", trace.NoOpTracerProvider())
        assert not await is_taken(fast, a_call("list_connections"))


async def test_there_is_no_lane_beside_middleware_that_it_does_not_know(url: str) -> None:
    server = build_server(configured(url))
    assert await lane.beside(server, configured(url)) is not None
    server.add_middleware(Middleware())
    assert await lane.beside(server, configured(url)) is None


# -- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"mcp-name": "list_tables"},
        {"mcp-name": None},
        {"mcp-name": "=?base64?bGlzdF9jb25uZWN0aW9ucw==?="},
        {"mcp-method": "tools/list"},
        {"mcp-method": None},
        {"mcp-protocol-version": "2099-01-01"},
        {"mcp-protocol-version": HANDSHAKE},
        {"mcp-protocol-version": None},
        {"content-type": "text/plain"},
        {"accept": "application/json"},
        {"accept": "text/html"},
        {"mcp-param-sql": "SELECT 2"},
        {"content-length": "5000000"},
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
    ],
)
async def test_under_headers_that_do_not_fit_fastmcp_answers(url: str, headers: dict[str, str | None]) -> None:
    settings = configured(url)
    async with (
        asked("http", settings) as fast,
        asked("http", settings.model_copy(update={"fast_lane": False})) as plain,
    ):
        assert isinstance(fast, Post)
        assert isinstance(plain, Post)
        one, other = [await each.post("tools/call", a_call("list_connections"), headers) for each in (fast, plain)]
        assert (one.status_code, one.content) == (other.status_code, other.content)
        assert one.headers.get("content-type") == other.headers.get("content-type")
        assert fast.seen == plain.seen


async def test_a_routing_header_that_comes_twice_is_refused(url: str) -> None:
    async with asked("http", configured(url)) as fast:
        assert isinstance(fast, Post)
        headers = [("mcp-name", "list_connections"), ("mcp-name", "list_tables"), ("mcp-method", "tools/call")]
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": a_call("list_connections")}
        found = await fast.http.post(
            "/mcp", json=body, headers=[*JSON.items(), ("mcp-protocol-version", MODERN), *headers]
        )
        assert (found.status_code, found.json()["error"]["message"]) == (400, "mcp-name header appears more than once")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"id":1}', b"\xff", b"[" * 100_000])
async def test_what_is_no_message_is_left_to_fastmcp(url: str, body: bytes) -> None:
    settings = configured(url)
    answers = []
    for fast in (True, False):
        async with asked("http", settings.model_copy(update={"fast_lane": fast})) as place:
            assert isinstance(place, Post)
            headers = JSON | {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "list_tables"}
            found = await place.http.post("/mcp", content=body, headers=headers)
            answers.append((found.status_code, found.content))
    assert answers[0] == answers[1]


async def test_a_body_in_pieces_is_read_whole(url: str) -> None:
    async with asked("http", configured(url)) as fast:
        assert isinstance(fast, Post)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": a_call("list_connections")}
        body = json.dumps(message).encode()

        async def pieces() -> AsyncGenerator[bytes]:
            for start in range(0, len(body), 10):
                yield body[start : start + 10]

        headers = JSON | {
            "mcp-protocol-version": MODERN,
            "mcp-method": "tools/call",
            "mcp-name": "list_connections",
            "content-length": str(len(body)),
        }
        found = await fast.http.post("/mcp", content=pieces(), headers=headers)
        assert found.json()["result"]["isError"] is False
        assert fast.seen == []


async def test_the_lane_lies_behind_the_login(url: str) -> None:
    settings = configured(url)
    server = build_server(settings, local=False)
    server.auth = StaticTokenVerifier(tokens={name: {"client_id": name, "scopes": []} for name in ("key", "other")})
    async with over_http(server, settings) as post:
        call = a_call("execute_query", {"sql": "SELECT id FROM pets", "row_cap": 1})
        assert (await post.post("tools/call", call)).status_code == 401
        found = await post.post("tools/call", call, {"authorization": "Bearer key"})
        (block,) = found.json()["result"]["content"]
        rest = a_call("fetch_rows", {"result_id": json.loads(block["text"])["result_id"]})
        others = await post.post("tools/call", rest, {"authorization": "Bearer other"})
        assert "EXPIRED" in others.text
        own = await post.post("tools/call", rest, {"authorization": "Bearer key"})
        assert "EXPIRED" not in own.text
        assert post.seen == []


# -- the end of a call -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [MODERN, HANDSHAKE])
async def test_a_cancelled_call_is_not_answered_and_ends_in_the_database(url: str, version: str) -> None:
    observer = Observer.of(url)
    async with asked(f"stdio-{version}", configured(url)) as line:
        assert isinstance(line, Line)
        line.send("tools/call", a_call("execute_query", {"sql": ENDLESS}, version), id=7)
        line.send("tools/call", a_call("execute_query", {"sql": ENDLESS}, version), id="8")
        await eventually(partial(runs, observer, 2))
        line.send("notifications/cancelled", {"requestId": "7"})
        await eventually(partial(runs, observer, 1))
        line.send("notifications/cancelled", {"requestId": 8})
        await eventually(observer.is_quiet)
        assert json.loads(await line.ask("tools/call", a_call("list_connections", version=version)))["id"] == 1
        assert line.said.empty()
        assert line.seen == []


async def test_a_cancelled_call_of_a_session_is_told_so_and_ends_in_the_database(url: str) -> None:
    observer = Observer.of(url)
    endless = a_call("execute_query", {"sql": ENDLESS}, HANDSHAKE)
    async with asked(f"http-{HANDSHAKE}", configured(url)) as post:
        assert isinstance(post, Post)
        calls = [asyncio.create_task(post.ask("tools/call", endless, id=number)) for number in (7, "8")]
        await eventually(partial(runs, observer, 2))
        await post.notify("notifications/cancelled", {"requestId": "7"})
        await eventually(partial(runs, observer, 1))
        await post.notify("notifications/cancelled", {"requestId": 8})
        await eventually(observer.is_quiet)
        for number, call in zip((7, "8"), calls, strict=True):
            cancelled = {"code": -32800, "message": "Request cancelled"}
            assert json.loads(await call) == {"jsonrpc": "2.0", "id": number, "error": cancelled}
        assert post.seen == []


async def test_an_id_that_is_under_way_is_left_to_fastmcp(url: str) -> None:
    observer = Observer.of(url)
    async with asked(f"http-{HANDSHAKE}", configured(url)) as post:
        assert isinstance(post, Post)
        endless = a_call("execute_query", {"sql": ENDLESS}, HANDSHAKE)
        call = asyncio.create_task(post.ask("tools/call", endless, id=7))
        await eventually(observer.is_busy)
        assert not await is_taken(post, a_call("list_connections", version=HANDSHAKE), id=7)
        await post.notify("notifications/cancelled", {"requestId": 7})
        assert b"Request cancelled" in await call
        assert await is_taken(post, a_call("list_connections", version=HANDSHAKE), id=7)


async def test_calls_of_a_session_end_with_it(url: str) -> None:
    observer = Observer.of(url)
    async with asked(f"http-{HANDSHAKE}", configured(url)) as post:
        assert isinstance(post, Post)
        call = asyncio.create_task(post.ask("tools/call", a_call("execute_query", {"sql": ENDLESS}, HANDSHAKE)))
        await eventually(observer.is_busy)
        await post.leave()
        assert json.loads(await call)["error"] == {"code": -32000, "message": "Connection closed"}
        await eventually(observer.is_quiet)
        late = await post.post("tools/call", a_call("list_connections", version=HANDSHAKE))
        assert (late.status_code, late.json()["error"]["message"]) == (404, "Session not found")
        assert post.seen == []


async def test_a_session_is_not_idle_while_a_call_of_it_runs(url: str) -> None:
    observer = Observer.of(url)
    settings = configured(url, caller_idle_ttl=1)
    async with asked(f"http-{HANDSHAKE}", settings) as post:
        assert isinstance(post, Post)
        slow = a_call("execute_query", {"sql": ENDLESS, "timeout_seconds": 1.5}, HANDSHAKE)
        assert b"TIMEOUT" in await post.ask("tools/call", slow)
        assert await is_taken(post, a_call("list_connections", version=HANDSHAKE))
        await eventually(partial(is_forgotten, post), 10)
        assert post.seen == []
        late = await post.post("tools/call", a_call("list_connections", version=HANDSHAKE))
        assert late.status_code == 404
    await eventually(observer.is_quiet)


async def is_forgotten(post: Post) -> bool:
    return not post.sessions


async def test_a_connection_that_breaks_cancels_no_call_of_a_session(url: str) -> None:
    observer = Observer.of(url)
    async with asked(f"http-{HANDSHAKE}", configured(url)) as post:
        assert isinstance(post, Post)
        message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
        body = json.dumps(message | {"params": a_call("execute_query", {"sql": ENDLESS}, HANDSHAKE)}).encode()
        headers = JSON | post.session | {"content-length": str(len(body)), "host": "127.0.0.1"}
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/mcp",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        heard: asyncio.Queue[Any] = asyncio.Queue()
        heard.put_nowait({"type": "http.request", "body": body})
        said: asyncio.Queue[Any] = asyncio.Queue()
        call = asyncio.create_task(post.app(scope, heard.get, said.put))
        await eventually(observer.is_busy)
        heard.put_nowait({"type": "http.disconnect"})
        assert await is_taken(post, a_call("list_connections", version=HANDSHAKE))
        assert await observer.is_busy()
        await post.notify("notifications/cancelled", {"requestId": 7})
        async with asyncio.timeout(PATIENCE_SECONDS):
            await call
        await eventually(observer.is_quiet)


async def test_a_session_holds_its_own_and_reaches_nothing_of_anothers(url: str) -> None:
    server = build_server(configured(url), local=False)
    async with over_http(server, configured(url)) as post:
        other = Post(post.http, post.seen, post.app)
        for each in (post, other):
            await each.greet(HANDSHAKE)
        first = await post.ask(
            "tools/call", a_call("execute_query", {"sql": "SELECT id FROM pets", "row_cap": 1}, HANDSHAKE)
        )
        (block,) = json.loads(first)["result"]["content"]
        rest = a_call("fetch_rows", {"result_id": json.loads(block["text"])["result_id"]}, HANDSHAKE)
        assert b"EXPIRED" in await other.ask("tools/call", rest)
        assert b"EXPIRED" not in await post.ask("tools/call", rest)
        assert post.seen == []


async def test_a_session_is_taken_from_nobody_but_the_login_that_opened_it(url: str) -> None:
    settings = configured(url)
    server = build_server(settings, local=False)
    server.auth = StaticTokenVerifier(tokens={name: {"client_id": name, "scopes": []} for name in ("key", "other")})
    async with over_http(server, settings) as post:
        post.login = {"authorization": "Bearer key"}
        await post.greet(HANDSHAKE)
        call = a_call("list_connections", version=HANDSHAKE)
        assert await is_taken(post, call)
        stolen = await post.post("tools/call", call, {"authorization": "Bearer other"})
        assert (stolen.status_code, stolen.json()["error"]["message"]) == (404, "Session not found")
        assert (await post.post("tools/call", call, {"authorization": None})).status_code == 401


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"mcp-protocol-version": None}, True),
        ({"mcp-protocol-version": "2025-06-18"}, False),
        ({"content-type": "application/json; charset=utf-8"}, True),
        ({"content-length": "5000000"}, False),
    ],
)
async def test_a_session_speaks_its_own_version(url: str, headers: dict[str, str | None], *, taken: bool) -> None:
    async with asked(f"http-{HANDSHAKE}", configured(url)) as post:
        assert isinstance(post, Post)
        found = await post.post("tools/call", a_call("list_connections", version=HANDSHAKE), headers)
        assert (post.seen == [] and found.is_success) is taken
        if taken:
            assert found.headers["mcp-session-id"] == post.session["mcp-session-id"]


async def runs(observer: Observer, number: int) -> bool:
    return await observer.running() == number


async def test_a_call_that_input_ends_upon_is_told_so_and_ends_in_the_database(url: str) -> None:
    observer = Observer.of(url)
    async with over_stdio(build_server(configured(url))) as line:
        await line.greet(MODERN)
        line.send("tools/call", a_call("execute_query", {"sql": ENDLESS}), id=7)
        await eventually(observer.is_busy)
    assert json.loads(await line.answer()) == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {"code": -32000, "message": "Connection closed"},
    }
    await eventually(observer.is_quiet)


async def test_answers_come_as_they_are_ready(url: str) -> None:
    observer = Observer.of(url)
    async with over_stdio(build_server(configured(url))) as line:
        await line.greet(MODERN)
        line.send("tools/call", a_call("execute_query", {"sql": ENDLESS, "timeout_seconds": 1}), id=7)
        await eventually(observer.is_busy)
        assert json.loads(await line.ask("tools/call", a_call("list_connections"), id=8))["id"] == 8
        assert json.loads(await line.answer())["id"] == 7


async def test_a_client_that_reads_no_more_ends_the_service(url: str) -> None:
    async with over_stdio(build_server(configured(url))) as line:
        await line.greet(MODERN)
        line.deaf = True
        line.send("tools/call", a_call("list_connections"), id=1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await line.stop.wait()


async def test_a_long_call_over_http_is_kept_open_by_pings(url: str) -> None:
    observer = Observer.of(url)
    async with called_by_hand(url, {"sql": ENDLESS, "timeout_seconds": 1}, ping_seconds=0.1) as (said, _):
        start, ping = await said.get(), await said.get()
        assert (start["status"], dict(start["headers"])[b"content-type"]) == (200, b"text/event-stream")
        assert (ping["body"], ping["more_body"]) == (b": ping\r\n\r\n", True)
        while (last := await said.get()).get("more_body"):
            assert last == ping
        event, data = last["body"].decode().split("\r\n")[:2]
        assert event == "event: message"
        assert '\\"TIMEOUT\\"' in data
    await eventually(observer.is_quiet)


async def test_a_large_answer_over_http_is_sent_in_pieces(url: str) -> None:
    more = {"byte_budget": 10_000_000, "max_row_cap": 5_000}
    async with called_by_hand(url, LARGE, more) as (said, _):
        start, bodies = await said.get(), list[dict[str, Any]]()
        while not bodies or bodies[-1].get("more_body"):
            bodies.append(await said.get())
    body = b"".join(each["body"] for each in bodies)
    assert int(dict(start["headers"])[b"content-length"]) == len(body)
    assert max(len(each["body"]) for each in bodies) < 512 * 1024
    (block,) = json.loads(body)["result"]["content"]
    assert len(json.loads(block["text"])["rows"]) == 3_000


async def test_an_http_client_that_leaves_ends_its_call_in_the_database(url: str) -> None:
    observer = Observer.of(url)
    async with called_by_hand(url, {"sql": ENDLESS}) as (said, leave):
        await eventually(observer.is_busy)
        leave()
        await eventually(observer.is_quiet)
    assert said.empty()


@asynccontextmanager
async def called_by_hand(
    url: str, arguments: dict[str, Any], more: Mapping[str, Any] = MappingProxyType({}), ping_seconds: float = 15.0
) -> AsyncGenerator[tuple[asyncio.Queue[Any], Callable[[], None]]]:
    """What the lane sends as the answer to a call, and how its client leaves."""
    settings = configured(url, **more)
    server = build_server(settings, local=False)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": a_call("execute_query", arguments)}
    body = json.dumps(message).encode()
    heard.put_nowait({"type": "http.request", "body": body})
    headers = JSON | {
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": "execute_query",
        "content-length": str(len(body)),
    }
    scope = {"type": "http", "method": "POST", "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    beside = await lane.beside(server, settings)
    assert beside is not None

    async def passed_on(*_: Any) -> None:
        raise AssertionError(body)

    async with server._lifespan_manager():
        endpoint = Endpoint(beside, passed_on, ping_seconds=ping_seconds)
        call = asyncio.create_task(endpoint(scope, heard.get, said.put))
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield said, partial(heard.put_nowait, {"type": "http.disconnect"})
            await call


def test_answers_over_http_are_sent_at_once() -> None:
    (listening,) = sockets("127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
