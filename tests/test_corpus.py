"""The acceptance corpus, through the client that a user has: what must be refused is, and what must run gives its rows.

Every line runs with the most powerful login, since the gateway must hold for careless operators, and again as a reader.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases
from tests.corpus_bench import BACKENDS, LOGINS, Bench, lines, text_of, with_clients


def cases(name: str) -> list[Any]:
    return [
        pytest.param(backend, login, line, id=f"{line['id']}-{login}")
        for backend in BACKENDS
        for login in LOGINS
        for line in lines(name, backend)
        if backend != "sqlite" or login == "owner"  # a file knows no logins
    ]


@pytest.fixture(scope="module")
async def benches(databases: Databases) -> AsyncIterator[Callable[[str], Awaitable[Bench]]]:
    async with AsyncExitStack() as stack:
        made: dict[str, Bench] = {}

        async def get(backend: str) -> Bench:
            if backend not in made:
                made[backend] = await stack.enter_async_context(with_clients(databases, backend))
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
async def test_hostile_statements_change_nothing(
    benches: Benches, backend: str, login: str, line: dict[str, Any]
) -> None:
    bench = await benches(backend)
    proof = line["proof"]
    sql = text_of(line)
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
    Path(proof["path"]).unlink(missing_ok=True)  # noqa: ASYNC240 - one look at a local file
    refused, reply = await bench.ask(login, sql)
    assert refused, reply
    assert not Path(proof["path"]).exists()  # noqa: ASYNC240 - one look at a local file


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
async def test_honest_statements_give_their_rows(
    benches: Benches, backend: str, login: str, line: dict[str, Any]
) -> None:
    bench = await benches(backend)
    refused, reply = await bench.ask(login, line["sql"], row_cap=100_000)
    assert not refused, reply
    _compare(line, reply, bench)


def _compare(line: dict[str, Any], reply: dict[str, Any], bench: Bench) -> None:
    proof = line["proof"]
    if bench.backend == "mysql":
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
        crowd = Bench(bench.url, bench.admin, {"owner": client})
        together = asyncio.Semaphore(50)

        async def run(line: dict[str, Any]) -> None:
            async with together:
                refused, reply = await crowd.ask("owner", line["sql"], row_cap=10_000, timeout_seconds=30)
            assert not refused, reply
            _compare(line, reply, crowd)

        await asyncio.gather(*(run(line) for line in lines("must_accept", backend)))
