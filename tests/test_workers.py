"""`manydb serve --workers 2`: what a caller holds is found by whichever worker hears of it, and workers come and go."""

import asyncio
import inspect
import itertools
import json
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client

from manydb import relay
from manydb.tools import TOOLS
from tests.conftest import Databases
from tests.lanes import ENVELOPE, HANDSHAKE, JSON, Post, a_call, said
from tests.servers import BACKENDS
from tests.test_transports import (
    PATIENCE_SECONDS,
    RUNNING,
    SLOW,
    Serving,
    Urls,
    ask,
    assert_nothing_runs,
    eventually,
    over,
    run,
    serving,
    sessions,
    until_running,
)

WORKERS = ("--transport", "http", "--port", "0", "--workers", "2")
ALL_TOOLS = {
    "MANYDB_TOOLS": '["core", "connect", "write", "analysis", "jobs", "operations"]',
    "MANYDB_REGISTRATION": "true",
    "MANYDB_REGISTRATION_ACCESS": "read_write",
}
OFTEN = 8
"""Workers take turns to serve connections: so many reach each of them several times."""


@pytest.fixture(scope="module")
async def urls(databases: Databases) -> Urls:
    made = {backend: await databases.create(backend) for backend in BACKENDS}
    for backend, url in made.items():
        await run(url, "CREATE TABLE pets (id integer PRIMARY KEY, name varchar(40) NOT NULL)")
        await run(url, f"INSERT INTO pets VALUES (1, '{backend}'), (2, 'a second'), (3, 'a third')")
        await run(url, "CREATE TABLE digits (digit integer)")
        await run(url, f"INSERT INTO digits VALUES {', '.join(f'({n})' for n in range(10))}")
    return made


@pytest.fixture(scope="module")
async def http(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Serving]:
    """A server with two workers that all tests may ask and none may end."""
    folder = tmp_path_factory.mktemp("workers")
    directories = {"MANYDB_REGISTRATION_DIRECTORIES": json.dumps(["/"])}
    config = folder / "manydb.toml"
    config.write_text(
        "".join(f'[connections.{name}]\nurl = "{url}"\naccess = "read_write"\n' for name, url in urls.items())
    )
    async with serving(folder, {}, *WORKERS, environment=ALL_TOOLS | directories) as server:
        await listening(server)
        yield server


@pytest.fixture
async def anybody(http: Serving) -> AsyncGenerator["Anybody"]:
    async with strangers(http) as asking:
        yield asking


class Anybody(Post):
    """Callers whom nothing tells from each other; each call comes over a connection of its own."""

    async def call(self, tool: str, /, **arguments: Any) -> Any:
        """What *tool* answers, as it is told to a model."""
        message = json.loads(await self.ask("tools/call", a_call(tool, arguments)))
        text = message["result"]["content"][0]["text"]
        return json.loads(text)

    async def calls(self, tool: str, /, **arguments: Any) -> list[Any]:
        """The same call, so often that every worker hears of it."""
        return list(await asyncio.gather(*(self.call(tool, **arguments) for _ in range(OFTEN))))


@asynccontextmanager
async def strangers(server: Serving) -> AsyncGenerator[Anybody]:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    base = server.url.removesuffix("/mcp")
    async with httpx2.AsyncClient(base_url=base, limits=limits, timeout=PATIENCE_SECONDS) as client:
        yield Anybody(client, [])


async def marks(anybody: Anybody) -> set[str]:
    """The workers that hear of a call that any may answer."""
    found = await anybody.calls("execute_query", connection="sqlite", sql="SELECT * FROM pets", row_cap=1)
    return {each["result_id"][2:5] for each in found}


# -- what callers hold -----------------------------------------------------------------------------------------------


async def test_connections_are_shared_out_to_all_workers(anybody: Anybody) -> None:
    assert await marks(anybody) == {"w0.", "w1."}


async def test_kept_rows_are_found_by_every_worker(anybody: Anybody) -> None:
    first = await anybody.call("execute_query", connection="postgresql", sql="SELECT id FROM pets", row_cap=1)
    pages = await anybody.calls("fetch_rows", result_id=first["result_id"])
    assert [page["rows"] for page in pages] == [[[2], [3]]] * OFTEN


async def test_a_transaction_goes_on_whichever_worker_hears_of_it(anybody: Anybody) -> None:
    begun = await anybody.call("begin_transaction", connection="mysql")
    handle = begun["transaction_id"]
    for number in range(OFTEN):
        insert = f"INSERT INTO pets VALUES ({100 + number}, 'new')"
        done = await anybody.call("execute_statement", sql=insert, transaction_id=handle)
        assert done["affected"] == 1, done
    count = "SELECT count(*) FROM pets WHERE id >= 100"
    seen = await anybody.calls("execute_query", sql=count, transaction_id=handle)
    assert [each["rows"] for each in seen] == [[[OFTEN]]] * OFTEN
    await anybody.call("rollback_transaction", transaction_id=handle)
    ended = await anybody.calls("execute_query", sql=count, transaction_id=handle)
    assert {each["code"] for each in ended} == {"EXPIRED"}
    assert all("rolled back" in each["message"] for each in ended), ended


async def test_a_job_is_asked_about_at_every_worker(anybody: Anybody) -> None:
    submitted = await anybody.call("submit_query", connection="postgresql", sql="SELECT count(*) FROM pets")
    told = await anybody.calls("get_job", job_id=submitted["job_id"], wait_seconds=5)
    assert [each["result"]["rows"] for each in told] == [[[3]]] * OFTEN


async def test_a_confirmed_write_is_known_to_every_worker_and_done_once(anybody: Anybody) -> None:
    write = {"connection": "postgresql", "sql": "UPDATE pets SET name = name"}
    preview = await anybody.call("preview_statement", **write)
    done = await anybody.calls("execute_statement", confirm=preview["confirm"], **write)
    assert sorted(each.get("code", "done") for each in done) == ["EXPIRED"] * (OFTEN - 1) + ["done"]


async def test_a_page_of_rows_leads_to_the_next_at_every_worker(anybody: Anybody) -> None:
    wanted = {"connection": "mysql", "table": "pets", "order": ["id"], "row_cap": 1}
    first = await anybody.call("select_rows", **wanted)
    following = await anybody.calls("select_rows", cursor=first["cursor"], **wanted)
    assert [each["rows"][0][0] for each in following] == [2] * OFTEN


async def test_registrations_are_found_at_every_worker_and_several_in_one_call(
    anybody: Anybody, databases: Databases
) -> None:
    names = []
    for number in range(3):
        path = (await databases.create("sqlite")).partition("///")[2]
        await run(f"sqlite+aiosqlite:///{path}", f"CREATE TABLE t AS SELECT {number} AS n")
        names.append((await anybody.call("register_connection", name=f"own{number}", url=f"sqlite:///{path}"))["name"])
    answers = await anybody.calls("execute_query", connection=names[1], sql="SELECT n FROM t")
    assert [each["rows"] for each in answers] == [[[1]]] * OFTEN
    queries = [{"connection": name, "sql": "SELECT n FROM t"} for name in names]
    batches = await anybody.calls("batch_query", queries=queries)
    assert [[each["rows"] for each in batch["results"]] for batch in batches] == [[[[0]], [[1]], [[2]]]] * OFTEN
    removed = await anybody.calls("remove_connection", connection=names[0])
    assert sorted(each.get("code", "removed") for each in removed) == ["UNKNOWN_CONNECTION"] * (OFTEN - 1) + ["removed"]


async def test_an_export_is_read_at_every_worker(anybody: Anybody) -> None:
    message = json.loads(
        await anybody.ask("tools/call", a_call("export_query", {"connection": "sqlite", "sql": "SELECT id FROM pets"}))
    )
    (link,) = (each for each in message["result"]["content"] if each["type"] == "resource_link")
    read = {"uri": link["uri"], "_meta": ENVELOPE}
    headers = {"mcp-name": link["uri"]}
    answers = await asyncio.gather(*(anybody.post("resources/read", read, headers) for _ in range(OFTEN)))
    texts = {each.json()["result"]["contents"][0]["text"] for each in answers}
    assert len(texts) == 1
    assert "3" in texts.pop()


async def test_what_only_looks_like_an_id_misleads_nobody(anybody: Anybody) -> None:
    begun = await anybody.call("begin_transaction", connection="sqlite")
    other = {"w0.": "w1.", "w1.": "w0."}[begun["transaction_id"][2:5]]
    sql = f"SELECT 'r_{other}{'x' * 16}'"
    answers = await anybody.calls("execute_query", sql=sql, transaction_id=begun["transaction_id"])
    assert [each["rows"] for each in answers] == [[[f"r_{other}{'x' * 16}"]]] * OFTEN
    await anybody.call("rollback_transaction", transaction_id=begun["transaction_id"])


async def test_a_call_that_names_what_two_workers_hold_is_refused(anybody: Anybody) -> None:
    begun = await anybody.call("begin_transaction", connection="postgresql")
    other = {"w0.": "w1.", "w1.": "w0."}[begun["transaction_id"][2:5]]
    arguments = {"sql": "SELECT 1", "transaction_id": begun["transaction_id"], "confirm": f"c_{other}{'x' * 16}"}
    answer = await anybody.post("tools/call", a_call("execute_statement", arguments), id=7)
    assert answer.status_code == 400
    assert answer.json()["id"] == 7
    assert "different workers" in answer.json()["error"]["message"]
    await anybody.call("rollback_transaction", transaction_id=begun["transaction_id"])


async def test_marks_that_no_worker_has_are_answered_as_unknown_ids(anybody: Anybody) -> None:
    answers = await anybody.calls("fetch_rows", result_id=f"r_w9.{'x' * 16}")
    assert {each["code"] for each in answers} == {"EXPIRED"}


async def test_strange_hosts_and_origins_are_refused_whatever_the_call_names(anybody: Anybody) -> None:
    first = await anybody.call("execute_query", connection="sqlite", sql="SELECT id FROM pets", row_cap=1)
    call = a_call("fetch_rows", {"result_id": first["result_id"]})
    for headers, status in (({"host": "evil.example"}, 421), ({"origin": "https://evil.example"}, 403)):
        answers = await asyncio.gather(*(anybody.post("tools/call", call, headers) for _ in range(OFTEN)))
        assert {each.status_code for each in answers} == {status}


async def test_a_client_that_vanishes_takes_its_query_at_another_worker_with_it(anybody: Anybody, urls: Urls) -> None:
    held = [await anybody.call("begin_transaction", connection="mysql") for _ in range(4)]
    asked = [
        asyncio.create_task(anybody.call("execute_query", sql=SLOW, transaction_id=each["transaction_id"]))
        for each in held
    ]
    await eventually(lambda: sessions(urls["mysql"], RUNNING["mysql"]), len(held))
    for task in asked:
        await over(task)
    await eventually(lambda: sessions(urls["mysql"], RUNNING["mysql"]), 0)


# -- sessions --------------------------------------------------------------------------------------------------------


async def test_a_session_lasts_whichever_worker_hears_of_it(anybody: Anybody) -> None:
    for _ in range(3):
        session = await Session.of(anybody)
        kept = await session.call("execute_query", connection="sqlite", sql="SELECT id FROM pets", row_cap=1)
        pages = await asyncio.gather(*(session.call("fetch_rows", result_id=kept["result_id"]) for _ in range(OFTEN)))
        assert [page["rows"] for page in pages] == [[[2], [3]]] * OFTEN
        ended = await anybody.http.delete("/mcp", headers=session.headers)
        assert ended.status_code == 200
        after = [await session.post("tools/list", {}) for _ in range(OFTEN)]
        assert {each.status_code for each in after} == {404}


async def test_a_cancel_finds_the_call_of_its_session(anybody: Anybody, urls: Urls) -> None:
    session = await Session.of(anybody)
    slow = {"name": "execute_query", "arguments": {"connection": "mysql", "sql": SLOW}}
    asked = [asyncio.create_task(session.post("tools/call", slow, number=10 + each)) for each in range(4)]
    await eventually(lambda: sessions(urls["mysql"], RUNNING["mysql"]), 4)
    for each in range(4):
        await session.post("notifications/cancelled", {"requestId": 10 + each}, number=None)
    await eventually(lambda: sessions(urls["mysql"], RUNNING["mysql"]), 0)
    for task in asked:
        await over(task)


async def test_clients_of_both_eras_are_served(http: Serving) -> None:
    async with Client(http.url, mode="auto") as young, Client(http.url, mode="legacy") as old:
        for client in (young, old) * 3:
            assert (await ask(client, "execute_query", "mysql", sql="SELECT name FROM pets WHERE id = 1"))["rows"] == [
                ["mysql"]
            ]


class Session:
    """A caller of the handshake's era, whose every request comes over a connection of its own."""

    def __init__(self, anybody: Anybody, headers: Mapping[str, str]) -> None:
        self.anybody, self.headers = anybody, headers
        self._numbers = itertools.count(100)

    @classmethod
    async def of(cls, anybody: Anybody) -> "Session":
        hello = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        session = cls(anybody, JSON)
        answer = await session.post("initialize", hello)
        name = answer.headers["mcp-session-id"]
        assert name.startswith("w")
        session.headers = JSON | {"mcp-session-id": name, "mcp-protocol-version": HANDSHAKE}
        await session.post("notifications/initialized", {}, number=None)
        return session

    async def post(self, method: str, params: Any, number: int | None = 1) -> httpx2.Response:
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
        return await self.anybody.http.post("/mcp", json=message, headers=self.headers)

    async def call(self, tool: str, /, **arguments: Any) -> Any:
        answer = await self.post("tools/call", {"name": tool, "arguments": arguments}, next(self._numbers))
        return json.loads(json.loads(said(answer))["result"]["content"][0]["text"])


# -- beginnings and ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_all_workers_and_the_queries_that_run(
    urls: Urls, tmp_path: Path, number: signal.Signals
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, urls, *WORKERS))
        await listening(server)
        anybody = await stack.enter_async_context(strangers(server))
        workers = pids(server)
        arguments = [{"connection": backend, "sql": SLOW} for backend in RUNNING for _ in range(4)]
        asked = [asyncio.create_task(anybody.call("execute_query", **each)) for each in arguments]
        await until_running(urls, of_each=4)
        await server.ends(lambda: server.process.send_signal(number))
        assert not alive(workers)
        for task in asked:
            await over(task)
    await assert_nothing_runs(urls)


async def test_no_worker_outlives_the_process_above(urls: Urls, tmp_path: Path) -> None:
    async with serving(tmp_path, urls, *WORKERS) as server:
        await listening(server)
        workers = pids(server)
        assert len(workers) == 2
        server.process.kill()
        await server.process.wait()
        await eventually(lambda: nothing_of(workers), True)


async def test_a_worker_that_dies_is_replaced_and_the_others_go_on(urls: Urls, tmp_path: Path) -> None:
    many = {"MANYDB_MAX_RESULTS": "100000"}  # callers who are not known share them
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, urls, *WORKERS, environment=many))
        await listening(server)
        anybody = await stack.enter_async_context(strangers(server))
        held = await anybody.calls("execute_query", connection="sqlite", sql="SELECT id FROM pets", row_cap=1)
        workers = pids(server)
        os.kill(workers[0], signal.SIGKILL)

        async def noticed() -> bool:
            return "ended with -9" in server.complaints()

        await eventually(noticed, True)

        async def both() -> bool:
            return await marks(anybody) == {"w0.", "w1."} and len(pids(server)) == 2

        await eventually(both, True)
        answers = [await anybody.call("fetch_rows", result_id=each["result_id"]) for each in held]
        of = {
            mark: [each for each, first in zip(answers, held, strict=True) if first["result_id"][2:5] == mark]
            for mark in ("w0.", "w1.")
        }
        gone, kept = (of["w0."], of["w1."]) if "code" in of["w0."][0] else (of["w1."], of["w0."])
        assert {each["code"] for each in gone} == {"EXPIRED"}
        assert [each.get("rows", each) for each in kept] == [[[2], [3]]] * len(kept)
        assert server.complaints().count("listening at") == 1
        server.process.send_signal(signal.SIGTERM)
        assert await server.code() == 0


@pytest.mark.parametrize(
    ("options", "environment", "code", "complaint"),
    [
        (("--transport", "stdio", "--workers", "2"), {}, 2, "over stdio one process serves its one client"),
        (("--transport", "http", "--workers", "2", "--port", "0", "--host", "0.0.0.0"), {}, 2, "open to the network"),
        (WORKERS, {"MANYDB_PATH": "no-slash"}, 1, "ended with 1 before it served"),
    ],
)
async def test_what_keeps_workers_from_serving_ends_the_start(
    tmp_path: Path, options: tuple[str, ...], environment: dict[str, str], code: int, complaint: str
) -> None:
    async with serving(tmp_path, {}, *options, environment=environment) as server:
        assert await server.code() == code
        assert complaint in server.complaints()


async def test_a_port_that_is_taken_ends_the_start(http: Serving, tmp_path: Path) -> None:
    port = http.url.rpartition(":")[2].partition("/")[0]
    async with serving(tmp_path, {}, "--transport", "http", "--workers", "2", "--port", port) as server:
        assert await server.code() == 2
        assert "the port is taken" in server.complaints()


def test_the_relay_knows_every_parameter_that_takes_an_id() -> None:
    takes = {name for tool in TOOLS for name in inspect.signature(tool.function).parameters}
    ids = {name for name in takes if name.endswith("_id") or name in {"connection", "confirm"}}
    assert ids <= relay.NAMING


async def listening(server: Serving) -> None:
    """Wait until all workers serve, which takes a machine with few cores as long as they are many."""
    for patience in range(3):
        with suppress(TimeoutError) if patience < 2 else nullcontext():
            await server.listening()
            return


def pids(server: Serving) -> list[int]:
    """The workers of *server*, as the system knows them."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def alive(workers: list[int]) -> list[int]:
    return [each for each in workers if Path(f"/proc/{each}/cmdline").exists()]


async def nothing_of(workers: list[int]) -> bool:
    return not alive(workers)
