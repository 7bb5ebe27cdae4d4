"""The acceptance corpus, through the client that a user has: what must be refused is, and what must run gives its rows.

Every line runs with the most powerful login, since the gateway must hold for careless operators, and again as a reader.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases

CORPUS = Path(__file__).parent / "corpus"
BACKENDS = ("postgresql", "mysql", "sqlite")
LOGINS = ("owner", "reader")
_STATEMENT_SECONDS = 1.5


def lines(name: str, backend: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (CORPUS / f"{name}.jsonl").read_text().splitlines()]
    return [line for line in found if line["dialect"] == backend and line.get("engine") != "mysql8"]


def cases(name: str) -> list[Any]:
    return [
        pytest.param(backend, login, line, id=f"{line['id']}-{login}")
        for backend in BACKENDS
        for login in LOGINS
        for line in lines(name, backend)
        if backend != "sqlite" or login == "owner"  # a file knows no logins
    ]


@dataclass
class Bench:
    """One loaded database: the gateway's client for each login, and an administrator's connection beside it."""

    url: URL
    clients: dict[str, Client[Any]]
    admin: AsyncConnection

    def named(self, sql: str) -> str:
        """*sql* with the corpus' names for the database replaced by this one's."""
        database = self.url.database or ""
        sql = sql.replace("{DB_PATH}", database).replace("LIKE 'sec%'", "LIKE 'manydb%'")
        return re.sub(r"`sec`(?=\.)|\bsec(?=\.)", database, sql) if self.url.get_backend_name() == "mysql" else sql

    async def ask(self, login: str, sql: str, **arguments: Any) -> tuple[bool, dict[str, Any]]:
        """(was it refused, the reply)"""
        call = {"sql": self.named(sql), "timeout_seconds": _STATEMENT_SECONDS, **arguments}
        result = await self.clients[login].call_tool("execute_query", call, raise_on_error=False)
        reply: dict[str, Any] = json.loads(result.content[0].text)
        return bool(result.is_error), reply

    async def proof(self, sql: str) -> list[tuple[Any, ...]]:
        found = await self.admin.exec_driver_sql(self.named(sql).replace("%", "%%") if "%" in sql else self.named(sql))
        return [tuple(row) for row in found]


async def _load(url: URL) -> None:
    backend = url.get_backend_name()
    script = (CORPUS / f"schema_{backend}.sql").read_text().replace("{database}", url.database or "")
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        if backend == "postgresql":
            await raw.execute(script)
        elif backend == "sqlite":
            await raw.executescript(script)
        else:
            cursor = await raw.cursor()
            await cursor.execute(script)
            while await cursor.nextset():
                pass
            await cursor.close()
    await engine.dispose()


@asynccontextmanager
async def _bench(databases: Databases, backend: str) -> AsyncGenerator[Bench]:
    async with AsyncExitStack() as stack:
        url = make_url(await stack.enter_async_context(databases.temporary(backend)))
        await _load(url)
        engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        stack.push_async_callback(engine.dispose)
        admin = await stack.enter_async_context(engine.connect())
        clients = {}
        for login in LOGINS:
            seen = url if login == "owner" or backend == "sqlite" else url.set(username="sec_reader", password="sec_reader")
            settings = Settings.load(
                connections={"sec": seen.render_as_string(hide_password=False)},
                overrides={"pool_size": 1, "max_row_cap": 1_000_000, "byte_budget": 10_000_000, "cell_chars": 10_000_000},
            )
            clients[login] = await stack.enter_async_context(Client(build_server(settings)))
        yield Bench(url, clients, admin)
        if backend != "sqlite":
            stack.push_async_callback(_drop_logins, admin, backend)


async def _drop_logins(admin: AsyncConnection, backend: str) -> None:
    for login in ("sec_reader", "sec_writer"):
        if backend == "postgresql":
            await admin.exec_driver_sql(f"DROP OWNED BY {login}")
            with suppress(DBAPIError):  # another run may be using them in a database of its own
                await admin.exec_driver_sql(f"DROP ROLE {login}")
        else:
            await admin.exec_driver_sql(f"DROP USER IF EXISTS '{login}'@'%%'")


@pytest.fixture(scope="module")
async def benches(databases: Databases) -> AsyncIterator[Callable[[str], Awaitable[Bench]]]:
    async with AsyncExitStack() as stack:
        made: dict[str, Bench] = {}

        async def get(backend: str) -> Bench:
            if backend not in made:
                made[backend] = await stack.enter_async_context(_bench(databases, backend))
            return made[backend]

        yield get


Benches = Callable[[str], Awaitable[Bench]]


@asynccontextmanager
async def _victim(bench: Bench) -> AsyncGenerator[None]:
    """A connection that a hostile statement may want to end."""
    url = bench.url.set(username="sec_writer", password="sec_writer")
    if url.get_backend_name() == "postgresql":
        engine = create_async_engine(
            url, poolclass=NullPool, connect_args={"server_settings": {"application_name": "sec_victim"}}
        )
    else:
        engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect():
        yield
    await engine.dispose()


@pytest.mark.parametrize(("backend", "login", "line"), cases("must_reject"))
async def test_hostile_statements_change_nothing(benches: Benches, backend: str, login: str, line: dict[str, Any]) -> None:
    bench = await benches(backend)
    proof = line["proof"]
    sql = line["sql"] if "sql" in line else "".join(text * times for text, times in line["sql_parts"])
    async with AsyncExitStack() as stack:
        if proof.get("victim"):
            await stack.enter_async_context(_victim(bench))
        await PROOFS[proof["kind"]](bench, login, sql, proof)
    refused, reply = await bench.ask(login, "SELECT 1 AS one")
    assert (refused, reply["rows"]) == (False, [[1]]), "the next call works"
    if set(line["by"]) <= {"policy", "database"}:
        refused, reply = await bench.ask(login, sql)
        assert refused, reply
        assert reply["retry"] in {"fix_sql", "ask_user", "later", "never"}
        if line["by"] == ["policy"]:
            assert not {"sqlstate", "errno"} & reply.keys(), "the statement reached the database"


async def _refused(bench: Bench, login: str, sql: str, proof: dict[str, Any]) -> None:
    refused, reply = await bench.ask(login, sql)
    assert refused, reply


async def _unchanged(bench: Bench, login: str, sql: str, proof: dict[str, Any]) -> None:
    before = await bench.proof(proof["check"])
    await bench.ask(login, sql)
    assert await bench.proof(proof["check"]) == before


async def _still_read_only(bench: Bench, login: str, sql: str, proof: dict[str, Any]) -> None:
    before = await bench.proof(proof["check"])
    await bench.ask(login, sql)
    refused, reply = await bench.ask(login, proof["then"])
    assert refused, reply
    assert await bench.proof(proof["check"]) == before


async def _session_unchanged(bench: Bench, login: str, sql: str, proof: dict[str, Any]) -> None:
    before = await bench.ask(login, proof["check"])
    await bench.ask(login, sql)
    refused, after = await bench.ask(login, proof["check"])
    if proof.get("check_must_fail"):
        assert refused, after
    else:
        assert after.get("rows") == before[1].get("rows")


async def _file_absent(bench: Bench, login: str, sql: str, proof: dict[str, Any]) -> None:
    refused, reply = await bench.ask(login, sql)
    assert refused, reply
    assert not Path(proof["path"]).exists()


async def _no_connection(bench: Bench, login: str, sql: str, proof: dict[str, Any]) -> None:
    knocks: list[Any] = []
    server = await asyncio.start_server(lambda *streams: knocks.append(streams), "127.0.0.1", proof["port"])
    async with server:
        refused, reply = await bench.ask(login, sql)
    assert refused, reply
    assert not knocks


async def _bounded(bench: Bench, login: str, sql: str, proof: dict[str, Any]) -> None:
    started = time.monotonic()
    await bench.ask(login, sql)
    assert time.monotonic() - started < proof["max_seconds"]
    started = time.monotonic()
    refused, reply = await bench.ask(login, proof["then"])
    assert not refused, reply
    assert time.monotonic() - started < 2


PROOFS: dict[str, Callable[[Bench, str, str, dict[str, Any]], Awaitable[None]]] = {
    "refused": _refused,
    "unchanged": _unchanged,
    "still_read_only": _still_read_only,
    "session_unchanged": _session_unchanged,
    "file_absent": _file_absent,
    "no_connection": _no_connection,
    "bounded": _bounded,
}


@pytest.mark.parametrize(("backend", "login", "line"), cases("must_accept"))
async def test_honest_statements_give_their_rows(benches: Benches, backend: str, login: str, line: dict[str, Any]) -> None:
    bench = await benches(backend)
    refused, reply = await bench.ask(login, line["sql"], row_cap=100_000)
    assert not refused, reply
    _compare(line, reply, bench)


def _compare(line: dict[str, Any], reply: dict[str, Any], bench: Bench) -> None:
    proof = line["proof"]
    if bench.url.get_backend_name() == "mysql":
        here = json.dumps(proof).replace('"sec"', f'"{bench.url.database}"')
        proof = json.loads(here.replace("Tables_in_sec", f"Tables_in_{bench.url.database}"))
    if proof["kind"] == "columns":
        assert reply["columns"] == proof["columns"]
        assert reply["row_count"] >= proof["min_rows"]
        return
    assert reply["columns"] == proof["columns"]
    rows = [list(row) for row in reply["rows"]]
    expected = proof["rows"]
    if proof.get("any_order"):
        rows, expected = sorted(rows, key=repr), sorted(expected, key=repr)
    assert rows == expected


@pytest.mark.parametrize("backend", BACKENDS)
async def test_honest_statements_run_side_by_side(benches: Benches, backend: str) -> None:
    bench = await benches(backend)
    url = bench.url.render_as_string(hide_password=False)
    settings = Settings.load(connections={"sec": url}, overrides={"byte_budget": 10_000_000, "pool_timeout": 30})
    async with Client(build_server(settings)) as client:
        crowd = Bench(bench.url, {"owner": client}, bench.admin)
        together = asyncio.Semaphore(50)

        async def run(line: dict[str, Any]) -> None:
            async with together:
                refused, reply = await crowd.ask("owner", line["sql"], row_cap=10_000, timeout_seconds=30)
            assert not refused, reply
            _compare(line, reply, crowd)

        await asyncio.gather(*(run(line) for line in lines("must_accept", backend)))
