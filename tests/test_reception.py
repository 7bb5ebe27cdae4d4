"""First answers are given before there is a server, and are those that it would give."""

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mcp_types
import pytest

from manydb import pipes, transports
from manydb.admission import AdmissionPolicy
from manydb.manifest import Manifest
from manydb.reception import Reception, Serve
from manydb.server import build_server
from manydb.settings import Settings
from tests.lanes import ENVELOPE, HANDSHAKE, MODERN, PATIENCE_SECONDS, over_stdio

SETTINGS = Settings.model_validate({"connections": {"db": {"url": "sqlite://"}}})
ME = {"name": "test", "version": "1"}
HELLO = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": ME}
QUESTION = {"name": "execute_query", "arguments": {"sql": "SELECT 1 AS one"}}


def request(number: Any, method: str, params: Any = None) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": number, "method": method}
    return message if params is None else message | {"params": params}


INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
BEGINNINGS = {
    HANDSHAKE: [request(1, "initialize", HELLO), INITIALIZED, request(2, "tools/list")],
    MODERN: [request(1, "server/discover", {"_meta": ENVELOPE}), request(2, "tools/list", {"_meta": ENVELOPE})],
}
QUESTIONS = {
    HANDSHAKE: request("three", "tools/call", QUESTION),
    MODERN: request("three", "tools/call", QUESTION | {"_meta": ENVELOPE}),
}


@dataclass(eq=False)
class Door:
    """A client at a reception, whose server is loaded when *may_load* is set."""

    reader: asyncio.StreamReader = field(default_factory=asyncio.StreamReader)
    said: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    may_load: threading.Event = field(default_factory=threading.Event)
    loading: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        manifest = Manifest.stored(SETTINGS, AdmissionPolicy.configured(SETTINGS, local=True))
        client = pipes.Client(self.reader, self.said.put, self.stop)
        reception = Reception(client, manifest)
        loop = asyncio.get_running_loop()
        if take_over := await reception.attend(partial(self._load, loop)):
            await take_over(pipes.Client(reception, reception.send, self.stop))

    def _load(self, loop: asyncio.AbstractEventLoop) -> Serve:
        loop.call_soon_threadsafe(self.loading.set)
        assert self.may_load.wait(PATIENCE_SECONDS)
        return partial(transports.serve_client, build_server(SETTINGS))

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.reader.feed_data((message if isinstance(message, bytes) else json.dumps(message).encode()) + b"\n")

    async def hear(self) -> Any:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return json.loads(await self.said.get())


async def answers_at_the_door(messages: Sequence[Any]) -> list[Any]:
    door = Door()
    door.may_load.set()
    door.say(*messages)
    door.reader.feed_eof()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await door.serve()
    return [json.loads(door.said.get_nowait()) for _ in range(door.said.qsize())]


async def answers_of_the_server(messages: Sequence[Any]) -> list[Any]:
    async with over_stdio(build_server(SETTINGS)) as line:
        for message in messages:
            line.reader.feed_data((message if isinstance(message, bytes) else json.dumps(message).encode()) + b"\n")
    return [json.loads(line.said.get_nowait()) for _ in range(line.said.qsize())]


def in_order(answers: list[Any]) -> list[Any]:
    """Without what a call took, which is never the same."""
    texts = [json.dumps(answer, sort_keys=True) for answer in answers]
    return sorted(text.partition("elapsed_ms")[0] for text in texts)


@pytest.mark.parametrize("era", BEGINNINGS)
async def test_the_first_answers_need_no_server(era: str) -> None:
    door = Door()
    serving = asyncio.create_task(door.serve())
    door.say(*BEGINNINGS[era])
    first = [await door.hear(), await door.hear()]  # nothing may be loaded yet
    assert [answer["id"] for answer in first] == [1, 2]
    assert "execute_query" in [tool["name"] for tool in first[1]["result"]["tools"]]
    door.say(QUESTIONS[era])
    door.may_load.set()
    answer = await door.hear()
    assert answer["id"] == "three"
    assert '"rows":[[1]]' in answer["result"]["content"][0]["text"]
    door.reader.feed_eof()
    await serving
    assert door.said.empty()  # nothing is answered twice


@pytest.mark.parametrize("era", BEGINNINGS)
async def test_a_client_that_only_looks_needs_no_server(era: str) -> None:
    door = Door()
    door.say(*BEGINNINGS[era])
    door.reader.feed_eof()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await door.serve()
    assert (door.said.qsize(), door.loading.is_set()) == (2, False)


async def test_a_server_is_loaded_when_the_client_falls_silent() -> None:
    door = Door()
    serving = asyncio.create_task(door.serve())
    door.say(*BEGINNINGS[HANDSHAKE])
    async with asyncio.timeout(PATIENCE_SECONDS):
        await door.loading.wait()
    assert [(await door.hear())["id"] for _ in range(2)] == [1, 2]
    door.may_load.set()
    door.reader.feed_eof()
    await serving
    assert door.said.empty()


@pytest.mark.parametrize("era", BEGINNINGS)
async def test_lists_are_answered_while_the_server_is_loaded(era: str) -> None:
    door = Door()
    serving = asyncio.create_task(door.serve())
    door.say(*BEGINNINGS[era], QUESTIONS[era], BEGINNINGS[era][-1] | {"id": "again"})
    assert [(await door.hear())["id"] for _ in range(3)] == [1, 2, "again"]
    door.may_load.set()
    assert (await door.hear())["id"] == "three"
    door.reader.feed_eof()
    await serving


async def test_a_client_that_vanishes_ends_a_start() -> None:
    door = Door()
    serving = asyncio.create_task(door.serve())
    door.say(*BEGINNINGS[HANDSHAKE])
    await door.hear(), await door.hear()
    door.reader.set_exception(ConnectionResetError())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await serving
    door.may_load.set()


async def test_a_signal_ends_a_start() -> None:
    door = Door()
    serving = asyncio.create_task(door.serve())
    door.say(QUESTIONS[HANDSHAKE])
    door.stop.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await serving
    door.may_load.set()
    assert door.said.empty()


def modern(**meta: Any) -> dict[str, Any]:
    return {"_meta": ENVELOPE | {f"io.modelcontextprotocol/{name}": value for name, value in meta.items()}}


@pytest.mark.parametrize(
    "messages",
    [
        BEGINNINGS[HANDSHAKE],
        BEGINNINGS[MODERN],
        [request(1, "initialize", HELLO), request(2, "tools/list", {"_meta": {"progressToken": 7}})],
        [request(1, "initialize", HELLO), request(2, "tools/list", {"_meta": {"progressToken": [7]}})],
        [request(1, "initialize", HELLO), request(2, "tools/list", {"cursor": "nonsense"})],
        [request(1, "initialize", HELLO), request(2, "tools/list", {"_meta": ENVELOPE})],
        [request(1, "initialize", HELLO), request(2, "initialize", HELLO)],
        [request(1, "initialize", HELLO), request(2, "server/discover", {"_meta": ENVELOPE})],
        [request(1, "initialize", HELLO), request(2, "ping"), request(3, "resources/list"), request(4, "no/such")],
        [request(1, "tools/list"), request(2, "initialize", HELLO)],
        [INITIALIZED, request(1, "initialize", HELLO)],
        [request(1, "initialize", HELLO | {"protocolVersion": MODERN})],
        [request(1, "initialize", HELLO | {"protocolVersion": "1999-01-01"})],
        [request(1, "initialize", HELLO | {"protocolVersion": 7})],
        [request(1, "initialize", HELLO | {"capabilities": {"roots": {"listChanged": True}, "sampling": {}}})],
        [request(1, "initialize", HELLO | {"capabilities": {"roots": {"listChanged": {}}}})],
        [request(1, "initialize", HELLO | {"capabilities": {"sampling": True}})],
        [request(1, "initialize", HELLO | {"capabilities": {"sampling": {"listChanged": True}, "listChanged": True}})],
        [request(1, "initialize", HELLO | {"capabilities": {"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}})],
        [request(1, "initialize", HELLO | {"capabilities": {"experimental": {"x": {"listChanged": False}}}})],
        [request(1, "initialize", HELLO | {"capabilities": {"elicitation": {"form": {}, "url": {}}}})],
        [request(1, "initialize", HELLO | {"capabilities": None})],
        [request(1, "initialize", HELLO | {"clientInfo": {"name": "nameless"}})],
        [request(1, "initialize", HELLO | {"clientInfo": ME | {"icons": [{"src": "https://example.com/x.png"}]}})],
        [request(1, "initialize", HELLO | {"clientInfo": ME | {"title": None}})],
        [request(1, "initialize", HELLO | {"_meta": {}})],
        [request(1, "initialize")],
        [request("x", "initialize", HELLO), request("y", "tools/list", {})],
        [request(True, "initialize", HELLO)],
        [request(1.5, "initialize", HELLO)],
        [request(None, "initialize", HELLO)],
        [request("\ud800", "initialize", HELLO)],
        [request("é", "initialize", HELLO), request("ü", "tools/list", {})],
        [request(1, "initialize", HELLO), request("\ud800", "tools/list", {})],
        [{"id": 1, "method": "initialize", "params": HELLO}],
        [{"jsonrpc": "2.0", "method": "initialize", "params": HELLO}],
        [b"nonsense", request(1, "initialize", HELLO)],
        [b"", request(1, "initialize", HELLO)],
        [b"[" * 100_000],
        [[request(1, "initialize", HELLO)]],
        [request(1, "tools/list", {"_meta": ENVELOPE}), request(2, "server/discover", {"_meta": ENVELOPE})],
        [request(1, "server/discover", {"_meta": ENVELOPE}), request(2, "initialize", HELLO)],
        [request(1, "server/discover", {"_meta": ENVELOPE}), request(2, "tools/list")],
        [request(1, "server/discover", {"_meta": ENVELOPE, "cursor": "x"})],
        [request(1, "tools/list", {"_meta": ENVELOPE, "cursor": "x"})],
        [request(1, "server/discover")],
        [request(1, "server/discover", modern(protocolVersion=HANDSHAKE))],
        [request(1, "server/discover", modern(protocolVersion=7))],
        [request(1, "server/discover", modern(clientInfo={"name": "nameless"}))],
        [request(1, "server/discover", modern(clientCapabilities=[]))],
        [request(1, "server/discover", modern(clientCapabilities={"elicitation": {}, "roots": {"listChanged": True}}))],
        [request(1, "tools/list", modern(clientCapabilities={"extensions": {"io.modelcontextprotocol/ui": {}}}))],
        [request(1, "tools/list", modern(clientCapabilities={"roots": {"listChanged": {}}}))],
        [request(1, "tools/list", modern(clientCapabilities={"sampling": {"tools": {"listChanged": True}}}))],
    ],
    ids=lambda messages: repr(messages)[:150],
)
async def test_clients_cannot_tell_who_answers(messages: list[Any]) -> None:
    assert in_order(await answers_at_the_door(messages)) == in_order(await answers_of_the_server(messages))


def test_the_names_of_the_envelope_are_the_protocols() -> None:
    names = {
        mcp_types.PROTOCOL_VERSION_META_KEY,
        mcp_types.CLIENT_INFO_META_KEY,
        mcp_types.CLIENT_CAPABILITIES_META_KEY,
    }
    assert names == ENVELOPE.keys()
