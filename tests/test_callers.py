"""Who is asking: four kinds of callers, on both transports and in both eras, none of whom detects another's things."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StdioTransport
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.utilities.tests import ASGIServer, asgi_server
from starlette.applications import Starlette

from manydb import lane
from manydb.callers import Caller
from manydb.gateway import Gateway
from manydb.lane.http import lead_through
from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases
from tests.observers import ENDLESS, Observer, eventually
from tests.test_transports import clean_environment, request, serving
from tests.tools import MODES, Desk

GROUPS = ["core", "connect", "write", "jobs", "operations"]
KNOWN = ["principal", "old principal", "session"]
CLIENTS = 200


@dataclass(eq=False, slots=True)
class Witness:
    """Sees which callers are released: what callers hold is kept on such shelves."""

    released: list[Caller] = field(default_factory=list)
    noun: ClassVar[str] = "witness"

    def of(self, owner: Caller) -> list[tuple[str, Any, float]]:  # noqa: ARG002
        return []

    async def release(self, owner: Caller) -> None:
        self.released.append(owner)

    async def sweep(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class House:
    """A server over HTTP, in this process so that tests see what it holds."""

    server: FastMCP[Any]
    http: ASGIServer
    witness: Witness

    @property
    def gateway(self) -> Gateway:
        return gateway_of(self.server)

    @asynccontextmanager
    async def client(self, kind: str, name: str = "a") -> AsyncGenerator[Desk]:
        """A client told apart by its login (*name*), by its session, or by nothing."""
        auth = name if "principal" in kind else None
        mode = "legacy" if kind in {"session", "old principal"} else "auto"
        async with Client(self.http.transport(auth=auth), mode=mode) as client:
            yield Desk(client)

    @asynccontextmanager
    async def two(self, kind: str) -> AsyncGenerator[tuple[Desk, Desk]]:
        async with self.client(kind, "a") as a, self.client(kind, "b") as b:
            yield a, b

    async def is_empty(self) -> bool:
        """Does it hold nothing of any caller?"""
        gateway = self.gateway
        return not (gateway.connections.count() or len(gateway.transactions) or gateway.engines.stats())


def gateway_of(server: FastMCP[Any]) -> Gateway:
    lifespan: dict[str, Any] = server._lifespan_result or {}
    gateway = lifespan["gateway"]
    assert isinstance(gateway, Gateway)
    return gateway


@asynccontextmanager
async def house(
    *, logins: bool = False, session_idle_timeout: float = 60, has_lane: bool = True, **given: Any
) -> AsyncGenerator[House]:
    """Anybody may register what this machine has."""
    settings = {"tools": GROUPS, "registration": True, "registration_networks": ["loopback"]} | given
    server = build_server(Settings.model_validate(settings | {"registration_access": "read_write"}), local=False)
    if logins:
        server.auth = StaticTokenVerifier({name: {"client_id": name, "scopes": []} for name in ("a", "b")})
    async with asgi_server(server, session_idle_timeout=session_idle_timeout) as http:
        assert isinstance(http.app, Starlette)
        if has_lane and (fast := await lane.beside(server, Settings.model_validate({}))):
            lead_through(fast, http.app)
        witness = gateway_of(server).holdings.add(Witness())
        yield House(server, http, witness)


@asynccontextmanager
async def house_of(kind: str, **given: Any) -> AsyncGenerator[House]:
    async with house(logins="principal" in kind, **given) as found:
        yield found


def unnamed(error: dict[str, Any], *names: str) -> str:
    """The whole of *error*, without what the caller itself said."""
    text = json.dumps(error)
    for name in names:
        text = text.replace(name, "…")
    return text


# -- the four kinds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_over_stdio_the_process_is_the_caller(mode: str, sqlite_url: str, tmp_path: Path) -> None:
    await Observer.of(sqlite_url).run("CREATE TABLE t (a int)")
    settings = {
        "MANYDB_TOOLS": json.dumps(GROUPS),
        "MANYDB_REGISTRATION_DIRECTORIES": json.dumps([str(Path(sqlite_url.partition("///")[2]).parent)]),
    }
    arguments = ["-m", "manydb", "serve"]
    environment = clean_environment(**settings)
    transport = StdioTransport(sys.executable, arguments, env=environment, cwd=str(tmp_path), keep_alive=False)
    async with Client(transport, mode=mode) as client:
        desk = Desk(client)
        assert (await desk.ask("register_connection", name="mine", url=sqlite_url))["name"] == "mine"
        assert await desk.rows("SELECT 1") == [[1]]
        info = await desk.ask("get_session_info")
        assert info["caller"]["kind"] == "process"
        assert [each["id"] for each in info["holds"]["connections"]] == ["mine"]


@pytest.mark.parametrize("kind", [*KNOWN, "nobody"])
async def test_over_http_login_comes_before_session_and_session_before_nobody(kind: str) -> None:
    async with house_of(kind) as found, found.client(kind) as desk:
        caller = (await desk.ask("get_session_info"))["caller"]
        assert caller["kind"] == kind.removeprefix("old ")
        assert caller.get("client") == ("a" if "principal" in kind else None)


async def test_a_session_named_by_a_header_is_not_the_callers(postgresql_url: str) -> None:
    """Stateless HTTP has no sessions in the older era either, whatever a header says."""
    server = build_server(Settings.model_validate({"tools": GROUPS}), local=False)
    async with asgi_server(server, stateless_http=True) as http:
        transport = http.transport(headers={"mcp-session-id": "somebody"})
        async with Client(transport, mode="legacy") as client:
            assert (await Desk(client).ask("get_session_info"))["caller"]["kind"] == "nobody"


@pytest.mark.parametrize("kind", ["principal", "old principal"])
async def test_a_login_keeps_its_own_from_client_to_client(kind: str, database_url: str) -> None:
    await Observer.of(database_url).run("CREATE TABLE t (a int)")
    folder = Path(database_url.partition("///")[2] or "/x").parent
    async with house_of(kind, registration_directories=[str(folder)]) as found:
        async with found.client(kind, "a") as desk:
            await desk.ask("register_connection", name="mine", url=database_url)
        async with found.client("principal", "a") as desk:
            assert await desk.rows("SELECT 1", connection="mine") == [[1]]
        assert found.witness.released == []


# -- two at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KNOWN)
async def test_another_callers_things_can_neither_be_used_nor_detected(kind: str, postgresql_url: str) -> None:
    async with house_of(kind) as found, found.two(kind) as (mine, other):
        await mine.ask("register_connection", name="mine", url=postgresql_url, access="read_write")
        page = await mine.ask("execute_query", sql="SELECT 'secret' AS s FROM generate_series(1, 9)", row_cap=1)
        opened = await mine.ask("begin_transaction", connection="mine")
        job = await mine.ask("submit_query", sql=ENDLESS)

        for tool, key, real, guess, more in (
            ("execute_query", "connection", "mine", "guess", {"sql": "SELECT 1"}),
            ("test_connection", "connection", "mine", "guess", {}),
            ("remove_connection", "connection", "mine", "guess", {}),
            ("list_tables", "connection", "mine", "guess", {}),
            ("fetch_rows", "result_id", page["result_id"], "r_guess", {}),
            ("execute_query", "transaction_id", opened["transaction_id"], "t_guess", {"sql": "SELECT 1"}),
            ("commit_transaction", "transaction_id", opened["transaction_id"], "t_guess", {}),
            ("rollback_transaction", "transaction_id", opened["transaction_id"], "t_guess", {}),
            ("get_job", "job_id", job["job_id"], "j_guess", {}),
            ("cancel_job", "job_id", job["job_id"], "j_guess", {}),
        ):
            told = [unnamed(await other.refusal(tool, **{key: each}, **more), each) for each in (real, guess)]
            assert told[0] == told[1], tool
        assert await other.ask("list_connections") == {"connections": []}
        assert "holds" not in await other.ask("get_session_info")
        assert "secret" not in await other.text("get_query_history")

        # A name is taken for its caller alone.
        await other.ask("register_connection", name="mine", url=postgresql_url)
        await other.ask("remove_connection", connection="mine")
        assert await mine.rows("SELECT 1", connection="mine") == [[1]]
        assert await mine.rows("SELECT 2", transaction_id=opened["transaction_id"]) == [[2]]


async def test_what_nobody_known_registers_is_reached_by_its_name_and_listed_to_nobody(postgresql_url: str) -> None:
    async with house() as found, found.two("nobody") as (mine, other):
        registered = await mine.ask("register_connection", name="mine", url=postgresql_url)
        name = registered["name"]
        assert name.startswith("mine-")
        assert len(name) >= len("mine-") + 16
        assert "keep this name" in registered["hint"]
        for desk in (mine, other):
            assert await desk.ask("list_connections") == {"connections": []}
            assert await desk.rows("SELECT 1", connection=name) == [[1]]
            refused = await desk.refusal("execute_query", sql="SELECT 1", connection=f"{name[:-1]}~")
            assert refused["code"] == "UNKNOWN_CONNECTION"
            assert name not in json.dumps(refused)
        again = await mine.ask("register_connection", name="mine", url=postgresql_url)
        assert again["name"] != name
        await mine.ask("remove_connection", connection=name)
        assert (await mine.refusal("execute_query", sql="SELECT 1", connection=name))["code"] == "UNKNOWN_CONNECTION"


# -- the end ---------------------------------------------------------------------------------------------------------


async def leave_things(desk: Desk, url: str) -> None:
    """Hold one thing of each kind, and a row that nobody has committed."""
    await desk.ask("register_connection", name="mine", url=url, access="read_write")
    opened = await desk.ask("begin_transaction", connection="mine")
    await desk.ask("execute_statement", sql="INSERT INTO t VALUES (1)", transaction_id=opened["transaction_id"])
    await desk.ask("submit_query", sql=ENDLESS)
    await desk.ask("execute_query", sql="SELECT 1 UNION SELECT 2", row_cap=1)


@pytest.mark.parametrize("backend", ["postgresql", "mysql"])
@pytest.mark.parametrize("end", ["the client takes leave", "the client falls silent"])
@pytest.mark.parametrize("has_lane", [True, False])
async def test_what_a_session_held_ends_with_it(has_lane: bool, end: str, backend: str, databases: Databases) -> None:
    async with databases.temporary(backend) as url:
        observer = Observer.of(url)
        await observer.run("CREATE TABLE t (a int)")
        silent = end == "the client falls silent"
        async with house(session_idle_timeout=0.3 if silent else 60, has_lane=has_lane) as found:
            if silent:
                visitor = await Visitor.arriving(found, "legacy")
                await leave_things_raw(visitor, url)
                await eventually(observer.is_left_alone, 10)
                await visitor.aclose()
            else:
                async with found.client("session") as desk:
                    await leave_things(desk, url)
                    assert await observer.sessions() >= 2
                await eventually(observer.is_left_alone, 10)
            await eventually(found.is_empty, 5)
            (caller,) = found.witness.released
            assert caller.kind == "session"
            assert found.gateway.history.of(caller) == []
            assert len(found.gateway.results) == 0
        assert await observer.run("SELECT * FROM t") == []


async def test_a_session_is_watched_once_however_often_it_asks(postgresql_url: str) -> None:
    async with house() as found:
        async with found.client("session") as desk:
            for _ in range(3):
                await desk.ask("list_connections")
        await eventually(lambda: returned(len(found.witness.released) == 1))
        # Whoever asks without a session is never released: nothing says that it is gone.
        async with found.client("nobody") as desk:
            await desk.ask("list_connections")
        assert len(found.witness.released) == 1


async def returned(value: bool) -> bool:
    return value


# -- vanishing -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Visitor:
    """A client that speaks bare HTTP, and so can vanish without a word."""

    http: httpx2.AsyncClient
    era: str
    session: dict[str, str] = field(default_factory=dict)

    @classmethod
    async def arriving(cls, found: House, era: str) -> "Visitor":
        transport = httpx2.ASGITransport(found.http.app)
        return await cls.greeting(httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1"), era)

    @classmethod
    async def greeting(cls, http: httpx2.AsyncClient, era: str) -> "Visitor":
        visitor = cls(http, era)
        if era == "legacy":
            info = {"name": "t", "version": "1"}
            hello: dict[str, Any] = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
            answer = await visitor.post(request("initialize", era, **hello))
            visitor.session = {"mcp-session-id": answer.headers["mcp-session-id"]}
            await visitor.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return visitor

    async def ask(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The JSON object of a success."""
        answer = await self.post(request("tools/call", self.era, name=tool, arguments=arguments), tool)
        # Handshake-era answers come as one event.
        (body,) = [
            line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith(("data: {", "{"))
        ]
        result = json.loads(body)["result"]
        assert not result.get("isError"), result
        told = json.loads(result["content"][0]["text"])
        assert isinstance(told, dict)
        return told

    async def post(self, message: dict[str, Any], tool: str = "") -> httpx2.Response:
        headers = {"accept": "application/json, text/event-stream", **self.session}
        if self.era == "legacy":
            headers["mcp-protocol-version"] = "2025-11-25"
        else:
            headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": tool}
        answer = await self.http.post("/mcp", json=message, headers=headers, timeout=30)
        assert answer.is_success, answer.text
        return answer

    async def aclose(self) -> None:
        await self.http.aclose()


async def leave_things_raw(visitor: Visitor, url: str) -> str:
    """Hold one thing of each kind, as `leave_things`; the connection's name."""
    name: str = (await visitor.ask("register_connection", name="mine", url=url, access="read_write"))["name"]
    opened = await visitor.ask("begin_transaction", connection=name)
    await visitor.ask("execute_statement", sql="INSERT INTO t VALUES (1)", transaction_id=opened["transaction_id"])
    await visitor.ask("submit_query", connection=name, sql=ENDLESS)
    await visitor.ask("execute_query", connection=name, sql="SELECT 1 UNION SELECT 2", row_cap=1)
    return name


async def test_two_hundred_clients_that_vanish_leave_nothing_behind(postgresql_url: str) -> None:
    observer = Observer.of(postgresql_url)
    await observer.run("CREATE TABLE t (a int)")
    limits: dict[str, Any] = {"pool_size": 20, "job_workers": 2, "job_queue": 1_000, "max_transactions": 1}
    async with house(session_idle_timeout=600, **limits) as found:
        gateway = found.gateway
        turns = asyncio.Semaphore(8)

        async def visit(number: int) -> None:
            async with turns:
                visitor = await Visitor.arriving(found, MODES[number % 2])
                # Half of the pool is for transactions across calls, so not everybody can have one.
                if number < 8:
                    await leave_things_raw(visitor, postgresql_url)
                else:
                    # Ten databases, as far as engines are concerned.
                    url = f"{postgresql_url}?prepared_statement_cache_size={number % 10}"
                    told = await visitor.ask("register_connection", name="mine", url=url)
                    rows = await visitor.ask("execute_query", sql="SELECT 1", connection=told["name"])
                    assert rows["rows"] == [[1]]
                await visitor.aclose()

        await asyncio.gather(*(visit(number) for number in range(CLIENTS)))
        assert gateway.connections.count() == CLIENTS
        assert len(gateway.transactions) == 8
        assert len(gateway.engines.stats()) >= 10

        # An hour and more later.
        for handles in held_by(gateway):
            handles.clock = later(handles.clock, 100_000)
        await gateway.sweep()
        await gateway.sweep()  # jobs end with their connections, and are forgotten when they have ended
        assert gateway.connections.count() == 0
        assert len(gateway.transactions) == 0
        assert gateway.engines.stats() == []
        assert len(jobs_of(found)) == 0
        await eventually(observer.is_left_alone, 10)
    assert await observer.run("SELECT * FROM t") == []


async def test_a_client_that_falls_silent_over_the_network_is_forgotten_in_time(
    postgresql_url: str, tmp_path: Path
) -> None:
    observer = Observer.of(postgresql_url)
    await observer.run("CREATE TABLE t (a int)")
    environment = {
        "MANYDB_TOOLS": json.dumps(GROUPS),
        "MANYDB_REGISTRATION": "true",
        "MANYDB_REGISTRATION_ACCESS": "read_write",
        "MANYDB_REGISTRATION_NETWORKS": '["loopback"]',
        "MANYDB_CALLER_IDLE_TTL": "1",
    }
    options = ("--transport", "http", "--port", "0")
    async with serving(tmp_path, {}, *options, environment=environment) as server:
        await server.listening()
        async with httpx2.AsyncClient(base_url=server.url.removesuffix("/mcp")) as http:
            await leave_things_raw(await Visitor.greeting(http, "legacy"), postgresql_url)
            assert await observer.sessions() >= 2
        await eventually(observer.is_left_alone, 10)
    assert await observer.run("SELECT * FROM t") == []


def held_by(gateway: Gateway) -> list[Any]:
    """All that tells the time of handles."""
    jobs = [shelf for shelf in gateway.holdings._shelves if shelf.noun == "job"]
    return [gateway.transactions, gateway.connections._registered, gateway.results, *jobs]


def later(clock: Callable[[], float], seconds: float) -> Callable[[], float]:
    return lambda: clock() + seconds


def jobs_of(found: House) -> Any:
    (jobs,) = [shelf for shelf in found.gateway.holdings._shelves if shelf.noun == "job"]
    return jobs


# -- caps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KNOWN)
async def test_a_caller_registers_no_more_than_its_share(kind: str, postgresql_url: str) -> None:
    async with house_of(kind, max_registrations=2) as found, found.two(kind) as (mine, other):
        for name in ("one", "two"):
            await mine.ask("register_connection", name=name, url=postgresql_url)
        refused = await mine.refusal("register_connection", name="three", url=postgresql_url)
        assert (refused["code"], refused["retry"]) == ("TOO_MANY", "later")
        assert "you have 2 connections, which is the most" in refused["message"]
        await other.ask("register_connection", name="three", url=postgresql_url)
        await mine.ask("remove_connection", connection="one")
        await mine.ask("register_connection", name="three", url=postgresql_url)


async def test_all_callers_together_register_no_more_than_the_server_holds(postgresql_url: str) -> None:
    async with house(max_all_registrations=4) as found, AsyncExitStack() as stack:
        nobody = await stack.enter_async_context(found.client("nobody"))
        for _ in range(2):
            await nobody.ask("register_connection", name="n", url=postgresql_url)
        # Whom nobody knows, nobody can hold to a share of its own: half of all is for all of them.
        refused = await nobody.refusal("register_connection", name="n", url=postgresql_url)
        assert (refused["code"], "callers without a session or a login" in refused["message"]) == ("TOO_MANY", True)
        for _ in range(2):
            desk = await stack.enter_async_context(found.client("session"))
            await desk.ask("register_connection", name="s", url=postgresql_url)
        desk = await stack.enter_async_context(found.client("session"))
        refused = await desk.refusal("register_connection", name="s", url=postgresql_url)
        assert (refused["code"], "this server holds 4 connections" in refused["message"]) == ("TOO_MANY", True)


async def test_a_caller_holds_no_more_transactions_than_its_share(postgresql_url: str) -> None:
    async with house(max_transactions=1) as found, found.client("session") as desk:
        await desk.ask("register_connection", name="db", url=postgresql_url, access="read_write")
        await desk.ask("begin_transaction")
        refused = await desk.refusal("begin_transaction")
        assert (refused["code"], "you have 1 transactions" in refused["message"]) == ("TOO_MANY", True)
