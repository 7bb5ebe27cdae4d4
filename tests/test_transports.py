"""`manydb serve` as real processes: every kind of client, every way to end, and what comes in that should not."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import IO, Any

import httpx2
import mcp
import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from mcp.client.stdio import StdioServerParameters
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

import manydb
from manydb.errors import SettingsError
from manydb.listening import require_private_address
from manydb.settings import Settings
from manydb.tools import TOOLS
from tests.conftest import Databases
from tests.servers import BACKENDS, HOST

ERAS = ("auto", "legacy")  # what FastMCP and the SDK call the 2026-07-28 protocol and the handshake before it
END_SECONDS = 2.0
PATIENCE_SECONDS = 10.0

# Ten to the sixteenth rows: of no database is it expected to count them. Functions that wait are refused.
SLOW = f"SELECT count(*) FROM {', '.join(f'digits d{n}' for n in range(16))}"
# Sessions in the current database other than the one that asks; RUNNING narrows them to those that run a statement.
SESSIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
}
RUNNING = {"postgresql": " AND state = 'active'", "mysql": " AND command = 'Query'"}
# What a client sends when it leaves in order: PostgreSQL's Terminate, MySQL's COM_QUIT.
FAREWELLS = {"postgresql": b"X\x00\x00\x00\x04", "mysql": b"\x01\x00\x00\x00\x01"}

Urls = Mapping[str, str]
AnyClient = Client[Any] | mcp.Client


@pytest.fixture(scope="module")
async def urls(databases: Databases) -> Urls:
    """A database of each backend, by the backend's name, holding a table of one pet named after it."""
    made = {backend: await databases.create(backend) for backend in BACKENDS}
    for backend, url in made.items():
        await run(url, "CREATE TABLE pets (id integer PRIMARY KEY, name varchar(40) NOT NULL)")
        await run(url, f"INSERT INTO pets VALUES (1, '{backend}')")
        await run(url, "CREATE TABLE digits (digit integer)")
        await run(url, f"INSERT INTO digits VALUES {', '.join(f'({n})' for n in range(10))}")
    return made


@pytest.fixture(scope="module")
async def http(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator["Serving"]:
    """A server of the three databases over HTTP that all tests may ask and none may end."""
    async with serving(tmp_path_factory.mktemp("http"), urls, "--transport", "http", "--port", "0") as server:
        await server.listening()
        yield server


# -- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("sdk", [False, True], ids=["fastmcp", "mcp"])
async def test_a_client_over_stdio_asks_three_databases_side_by_side(
    urls: Urls, tmp_path: Path, era: str, sdk: bool
) -> None:
    arguments = [*command(urls)[1:]]
    environment = clean_environment()
    client: AnyClient
    if sdk:
        server = StdioServerParameters(command=sys.executable, args=arguments, env=environment, cwd=tmp_path)
        client = mcp.Client(server, mode=era)
    else:
        transport = StdioTransport(sys.executable, arguments, env=environment, cwd=str(tmp_path), keep_alive=False)
        client = Client(transport, mode=era)
    async with client:
        await assert_three_answer(client)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("sdk", [False, True], ids=["fastmcp", "mcp"])
async def test_a_client_over_http_asks_three_databases_side_by_side(http: "Serving", era: str, sdk: bool) -> None:
    client: AnyClient = mcp.Client(http.url, mode=era) if sdk else Client(http.url, mode=era)
    async with client:
        await assert_three_answer(client)


async def test_clients_of_both_eras_share_one_http_server(http: "Serving") -> None:
    async with Client(http.url, mode="auto") as young, Client(http.url, mode="legacy") as old:
        await asyncio.gather(*(assert_three_answer(client) for client in (young, old) * 3))


async def assert_three_answer(client: AnyClient) -> None:
    listed = await client.list_tools()
    tools = listed if isinstance(listed, list) else listed.tools
    assert [tool.name for tool in tools] == [tool.name for tool in TOOLS if tool.group == "core"]
    connections = (await ask(client, "list_connections"))["connections"]
    assert {each["name"]: each["status"] for each in connections} == dict.fromkeys(BACKENDS, "ok")
    described = await asyncio.gather(
        *(ask(client, "get_table_schema", connection=name, table="pets") for name in BACKENDS)
    )
    assert ["name" in json.dumps(each["tables"]) for each in described] == [True] * len(BACKENDS)
    answers = await asyncio.gather(
        *(ask(client, "execute_query", connection=name, sql="SELECT name FROM pets") for name in BACKENDS)
    )
    assert [each["rows"] for each in answers] == [[[name]] for name in BACKENDS]


# -- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "era"), [(signal.SIGTERM, "auto"), (signal.SIGINT, "legacy")])
async def test_a_signal_ends_stdio_and_the_queries_that_run(
    urls: Urls, tmp_path: Path, number: signal.Signals, era: str
) -> None:
    async with serving(tmp_path, urls) as server:
        await server.greet(era)
        for backend in BACKENDS:
            await server.call(era, backend, SLOW)
        await until_running(urls)
        await server.ends(lambda: server.process.send_signal(number))
    await assert_nothing_runs(urls)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_http_and_the_queries_that_run(urls: Urls, tmp_path: Path, number: signal.Signals) -> None:
    async with serving(tmp_path, urls, "--transport", "http", "--port", "0") as server, AsyncExitStack() as clients:
        await server.listening()
        for era in ERAS:
            client = await clients.enter_async_context(leaving(Client(server.url, mode=era)))
            for backend in BACKENDS:
                clients.push_async_callback(over, asyncio.create_task(ask(client, "execute_query", backend, sql=SLOW)))
        await until_running(urls, of_each=2)
        await server.ends(lambda: server.process.send_signal(number))
    await assert_nothing_runs(urls)


async def test_the_end_of_input_ends_stdio_and_the_queries_that_run(urls: Urls, tmp_path: Path) -> None:
    async with serving(tmp_path, urls) as server:
        await server.greet("legacy")
        for backend in BACKENDS:
            await server.call("legacy", backend, SLOW)
        await until_running(urls)
        await server.ends(server.close_input)
    await assert_nothing_runs(urls)


async def test_a_client_that_vanishes_takes_its_queries_with_it(urls: Urls, tmp_path: Path) -> None:
    async with serving(tmp_path, urls) as server:
        for backend in BACKENDS:
            await server.call("auto", backend, SLOW)
        await until_running(urls)
        await server.ends(server.vanish)
    await assert_nothing_runs(urls)


async def test_an_http_client_that_vanishes_takes_its_queries_with_it(http: "Serving", urls: Urls) -> None:
    body = request("tools/call", "auto", name="execute_query", arguments={"connection": "mysql", "sql": SLOW})
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "execute_query",
    }
    async with httpx2.AsyncClient() as client:
        asked = asyncio.create_task(client.post(http.url, json=body, headers=headers, timeout=PATIENCE_SECONDS))
        await eventually(lambda: sessions(urls["mysql"], RUNNING["mysql"]), 1)
        await over(asked)
    await eventually(lambda: sessions(urls["mysql"], RUNNING["mysql"]), 0)


@pytest.mark.parametrize(("transport", "number"), [("stdio", signal.SIGINT), ("http", signal.SIGTERM)])
async def test_an_idle_server_takes_leave_of_its_databases(
    urls: Urls, tmp_path: Path, transport: str, number: signal.Signals
) -> None:
    async with AsyncExitStack() as stack:
        relays = {name: await stack.enter_async_context(relay(urls[name])) for name in FAREWELLS}
        relayed = {name: relays[name].url for name in relays}
        server = await stack.enter_async_context(serving(tmp_path, relayed, "--transport", transport, "--port", "0"))
        if transport == "stdio":
            await server.greet("legacy")
            for name in relayed:
                await server.call("legacy", name, "SELECT 1")
                assert (await server.answer())["rows"] == [[1]]
        else:
            await server.listening()
            client = await stack.enter_async_context(leaving(Client(server.url, mode="legacy")))
            for name in relayed:
                assert (await ask(client, "execute_query", name, sql="SELECT 1"))["rows"] == [[1]]
        await server.ends(lambda: server.process.send_signal(number))
        assert {name: each.last_words() for name, each in relays.items()} == FAREWELLS


async def test_open_event_streams_do_not_delay_the_end(urls: Urls, tmp_path: Path) -> None:
    sqlite = {"sqlite": urls["sqlite"]}
    async with serving(tmp_path, sqlite, "--transport", "http", "--port", "0") as server, AsyncExitStack() as clients:
        await server.listening()
        for _ in range(15):
            await clients.enter_async_context(leaving(Client(server.url, mode="legacy")))
        await server.ends(lambda: server.process.send_signal(signal.SIGTERM))


# -- input -----------------------------------------------------------------------------------------------------------


async def test_requests_piped_in_are_answered_before_the_end(urls: Urls, tmp_path: Path) -> None:
    async with serving(tmp_path, urls) as server:
        for number in range(3):
            await server.call("auto", "sqlite", f"SELECT {number}")
        await server.ends(server.close_input, within=PATIENCE_SECONDS)  # it has yet to start
        assert sorted(each["rows"] for each in server.answers()) == [[[0]], [[1]], [[2]]]


async def test_a_file_of_requests_becomes_a_file_of_answers(urls: Urls, tmp_path: Path) -> None:
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    arguments = {"connection": "sqlite", "sql": "SELECT name FROM pets"}
    message = request("tools/call", "auto", name="execute_query", arguments=arguments)
    asked.write_text(json.dumps(message) + "\n")
    with asked.open("rb") as source, answered.open("wb") as sink:
        async with serving(tmp_path, urls, stdin=source, stdout=sink) as server:
            assert await server.code() == 0
    (answer,) = [json.loads(line) for line in answered.read_text().splitlines()]
    assert content(answer)["rows"] == [["sqlite"]]
    assert server.complaints() == ""


async def test_empty_input_is_the_end_of_input(tmp_path: Path) -> None:
    async with serving(tmp_path, {}, stdin=DEVNULL) as server:
        assert await server.code() == 0
    assert server.complaints() == ""


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
async def test_without_standard_input_or_output_there_is_nothing_to_serve(tmp_path: Path, closed: str) -> None:
    arguments = ["sh", "-c", f'exec "$@" {closed}', "sh", *command({})]
    async with serving(tmp_path, {}, arguments=arguments) as server:
        assert await server.code() == 0
    assert server.complaints() == ""


async def test_garbage_between_requests_is_skipped(urls: Urls, tmp_path: Path) -> None:
    async with serving(tmp_path, urls) as server:
        await server.greet("legacy")
        for line in (
            b"hello\n",
            b"\xff\xfe\n",
            b"\n",
            b"{}\n",
            b"[]\n",
            b'{"jsonrpc": "2.0"\n',
            b"\x00" * 70_000 + b"\n",
        ):
            server.send_line(line)
        await server.call("legacy", "sqlite", "SELECT name FROM pets")
        assert (await server.answer())["rows"] == [["sqlite"]]
        await server.ends(server.close_input)


async def test_a_request_of_five_megabytes_is_read_whole(urls: Urls, tmp_path: Path) -> None:
    async with serving(tmp_path, urls) as server:
        await server.greet("legacy")
        await server.call("legacy", "sqlite", "SELECT length(:big)", params={"big": "x" * 5_000_000})
        assert (await server.answer())["rows"] == [[5_000_000]]
        await server.ends(server.close_input)


# -- where HTTP listens ----------------------------------------------------------------------------------------------


async def test_a_taken_port_is_said_in_a_line(http: "Serving", tmp_path: Path) -> None:
    port = make_url(http.url).port
    async with serving(tmp_path, {}, "--transport", "http", "--port", str(port)) as second:
        assert await second.code() == 2
    assert second.complaints() == (
        f"manydb: cannot listen on 127.0.0.1:{port}: the port is taken; see --host and --port\n"
    )


async def test_a_strange_host_header_is_refused(http: "Serving") -> None:
    async with httpx2.AsyncClient() as client:
        found = await client.post(http.url, json=request("tools/list", "legacy"), headers={"host": "evil.example"})
    assert found.status_code == 421


async def test_http_on_the_network_needs_a_setting_that_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, {}, "--transport", "http", "--host", "0.0.0.0", "--port", "0") as server:
        assert await server.code() == 2
    assert server.complaints().startswith("manydb: command line: host: 0.0.0.0 is open to the network, and ")
    assert "MANYDB_ALLOW_UNAUTHENTICATED_NETWORK" in server.complaints()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.7", "::ffff:192.0.2.7", "database.example", "localhost.example"]
)
def test_an_address_that_others_reach_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="open to the network"):
        require_private_address(Settings.load(overrides={"host": host}))
    require_private_address(Settings.load(overrides={"host": host, "allow_unauthenticated_network": True}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LocalHost."])
def test_an_address_of_this_machine_alone_is_fine(host: str) -> None:
    require_private_address(Settings.load(overrides={"host": host}))


async def test_http_listens_on_the_network_where_the_setting_is_on(urls: Urls, tmp_path: Path) -> None:
    setting = {"MANYDB_ALLOW_UNAUTHENTICATED_NETWORK": "true"}
    arguments = ("--transport", "http", "--host", "0.0.0.0", "--port", "0")
    async with serving(tmp_path, urls, *arguments, environment=setting) as server:
        await server.listening()
        async with Client(server.url.replace("0.0.0.0", HOST)) as client:
            assert (await ask(client, "execute_query", "sqlite", sql="SELECT 1"))["rows"] == [[1]]


# -- the processes and what speaks to them ---------------------------------------------------------------------------


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without settings of the person who runs the tests; it finds manydb from every folder."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MANYDB_")}
    mine.pop("DATABASE_URL", None)
    return mine | {"PYTHONPATH": str(Path(manydb.__file__).parents[1])} | more


def command(urls: Urls, *arguments: str) -> list[str]:
    connections = [part for name, url in urls.items() for part in ("--connection", f"{name}={url}")]
    return [sys.executable, "-m", "manydb", "serve", *connections, *arguments]


def request(method: str, era: str, *, number: int = 1, **params: Any) -> dict[str, Any]:
    """A message as a client of *era* sends it: the younger protocol introduces itself in every one."""
    if era != "legacy":
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def content(answer: Mapping[str, Any]) -> Any:
    """What a tool said."""
    return json.loads(answer["result"]["content"][0]["text"])


async def ask(client: AnyClient, tool: str, connection: str | None = None, **arguments: Any) -> Any:
    if connection is not None:
        arguments["connection"] = connection
    result = await client.call_tool(tool, arguments)
    (block,) = result.content
    assert block.type == "text"
    return json.loads(block.text)


@dataclass
class Serving:
    """A `manydb serve` of ours; over stdio its client is this object, which hides nothing."""

    process: asyncio.subprocess.Process
    log: Path
    url: str = ""
    _asked: int = 0
    _said: list[dict[str, Any]] = field(default_factory=list)

    async def listening(self) -> None:
        """Wait until it says where it listens."""

        async def address() -> str | None:
            found = re.search(r"listening at (\S+)", self.complaints())
            return found[1] if found else None

        self.url = await eventually(address)

    async def greet(self, era: str) -> None:
        if era == "legacy":
            hello: dict[str, Any] = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            }
            self.send(request("initialize", era, **hello))
            assert (await self.receive())["result"]["serverInfo"]["name"] == "manydb"
            self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def call(self, era: str, connection: str, sql: str, **arguments: Any) -> None:
        self._asked += 1
        arguments |= {"connection": connection, "sql": sql}
        self.send(request("tools/call", era, number=100 + self._asked, name="execute_query", arguments=arguments))
        await self.input.drain()

    @property
    def input(self) -> asyncio.StreamWriter:
        assert self.process.stdin is not None
        return self.process.stdin

    def send(self, message: Mapping[str, Any]) -> None:
        self.send_line(json.dumps(message).encode() + b"\n")

    def send_line(self, line: bytes) -> None:
        self.input.write(line)

    async def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            message: dict[str, Any] = json.loads(await self.process.stdout.readline())
        self._said.append(message)
        return message

    async def answer(self) -> Any:
        return content(await self.receive())

    def answers(self) -> list[Any]:
        return [content(message) for message in self._said]

    def close_input(self) -> None:
        self.input.close()

    def vanish(self) -> None:
        """Close both ends at once, as a client does that crashed."""
        self.input.close()
        # asyncio offers no other way to stop reading.
        transport: Any = self.process._transport  # type: ignore[attr-defined]
        transport.get_pipe_transport(1).close()

    async def ends(self, cause: Any, within: float = END_SECONDS) -> None:
        """Let *cause* end it: within two seconds, in order, and with nothing on stdout that is not protocol."""
        started = time.monotonic()
        cause()
        assert await self.code() == 0, self.complaints()
        assert time.monotonic() - started < within
        assert re.sub(r"manydb: listening at \S+\n", "", self.complaints()) == ""
        if self.process.stdout is not None:
            rest = await self.process.stdout.read()
            self._said += [json.loads(line) for line in rest.splitlines()]
        assert all(message["jsonrpc"] == "2.0" for message in self._said)

    async def code(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    def complaints(self) -> str:
        return self.log.read_text()


@asynccontextmanager
async def serving(
    folder: Path,
    urls: Urls,
    *options: str,
    arguments: list[str] | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = PIPE,
    stdout: int | IO[bytes] = PIPE,
) -> AsyncGenerator[Serving]:
    """`manydb serve` of *urls* in *folder*, killed at the end if it still runs."""
    log = folder / "stderr"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(arguments or command(urls, *options)),
            cwd=folder,
            env=clean_environment(**(environment or {})),
            stdin=stdin,
            stdout=stdout,
            stderr=errors,
            limit=16 * 1024 * 1024,
        )
    try:
        yield Serving(process, log)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@asynccontextmanager
async def leaving(client: Client[Any]) -> AsyncGenerator[Client[Any]]:
    """*client*, whose server may be gone when it leaves."""
    await client.__aenter__()  # type: ignore[no-untyped-call]
    try:
        yield client
    finally:
        with suppress(Exception):
            await client.__aexit__(None, None, None)  # type: ignore[no-untyped-call]


async def over(task: asyncio.Task[Any]) -> None:
    """End *task*, whose server is gone, however it ends."""
    task.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


# -- the databases' own view -----------------------------------------------------------------------------------------


async def run(url: str, sql: str) -> Any:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        result = await connection.execute(text(sql))
        return result.scalar_one() if result.returns_rows else None


async def sessions(url: str, kind: str = "") -> int:
    count: int = await run(url, SESSIONS[make_url(url).get_backend_name()] + kind)
    return count


async def until_running(urls: Urls, of_each: int = 1) -> None:
    for backend, kind in RUNNING.items():
        await eventually(lambda url=urls[backend], kind=kind: sessions(url, kind), of_each)


async def assert_nothing_runs(urls: Urls) -> None:
    """Nothing runs any more, or in a moment: a statement that was told to stop may take one to do so."""
    for backend, kind in RUNNING.items():
        await eventually(lambda url=urls[backend], kind=kind: sessions(url, kind), 0)


async def eventually(look: Any, wanted: Any = None) -> Any:
    """What *look* finds once it is *wanted*, or anything where nothing certain is."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await look()
            if found == wanted if wanted is not None else found is not None:
                return found
            await asyncio.sleep(0.02)


@dataclass
class Relay:
    """Stands between manydb and a database, and remembers the end of what manydb sent."""

    url: str
    _tails: list[bytearray] = field(default_factory=list)

    def last_words(self) -> bytes:
        """What every connection ended with; empty where they differ."""
        words = {bytes(tail) for tail in self._tails}
        return words.pop() if len(words) == 1 else b""


@asynccontextmanager
async def relay(url: str) -> AsyncGenerator[Relay]:
    """A way to the database of *url* that hears what is said."""
    target = make_url(url)
    made = Relay("")
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(this := asyncio.current_task())  # type: ignore[arg-type]  # it runs in one
        made._tails.append(tail := bytearray())
        from_database, to_database = await asyncio.open_connection(target.host, target.port)
        back = asyncio.create_task(pass_on(from_database, writer))
        await pass_on(reader, to_database, tail)
        await back
        talks.discard(this)

    server = await asyncio.start_server(talk, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    # In clear text, or there would be nothing to hear.
    clear = {"sslmode": "disable"} if target.get_backend_name() == "postgresql" else {}
    made.url = target.set(host=HOST, port=port, query=clear).render_as_string(hide_password=False)
    async with server:
        yield made
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*talks)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tail: bytearray | None = None) -> None:
    """Copy until *reader* ends, keeping the last five bytes in *tail*."""
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            if tail is not None:
                tail[:] = (tail + data)[-5:]
            writer.write(data)
            await writer.drain()
    writer.close()
