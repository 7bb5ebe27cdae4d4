"""Several queries of one call: each with its own answer, side by side, within what one answer may cost."""

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manydb.batches import Batches, Query, shared
from manydb.callers import Caller
from manydb.gateway import Gateway
from manydb.query import Page
from manydb.settings import Settings
from tests.conftest import Databases
from tests.observers import ENDLESS, Observer, eventually
from tests.servers import BACKENDS
from tests.tools import serving

STOPS_WITHIN = 1.0


async def test_each_query_has_its_own_result_or_error_in_order(mode: str, file_url: str) -> None:
    queries = [
        "SELECT count(*) AS n FROM numbers",
        {"sql": "SELECT missing FROM numbers"},
        {"query": "SELECT label FROM numbers WHERE n = :n", "params": '{"n": 7}'},
        {"sql": "DELETE FROM numbers"},
        {"sql": "SELECT n FROM numbers ORDER BY n", "row_cap": 2},
        {"sql": "SELECT 1", "connection": "other"},
    ]
    async with serving(mode, tools=["core", "analysis"], url=file_url) as desk:
        found = (await desk.ask("batch_query", queries=queries))["results"]
        assert [each.get("rows") or each["error"]["code"] for each in found] == [
            [[450]],
            "UNKNOWN_COLUMN",
            [["label 7"]],
            "READ_ONLY",
            [[1], [2]],
            "UNKNOWN_CONNECTION",
        ]
        assert (await desk.ask("fetch_rows", result_id=found[4]["result_id"], row_cap=1))["rows"] == [[3]]
        assert found[0] | {"elapsed_ms": 0} == (
            await desk.ask("execute_query", sql="SELECT count(*) AS n FROM numbers")
        ) | {"elapsed_ms": 0}


async def test_one_batch_asks_many_databases(mode: str, databases: Databases) -> None:
    urls = {backend: await databases.create(backend) for backend in BACKENDS}
    for backend, url in urls.items():
        await Observer.of(url).run("CREATE TABLE pets (name varchar(40))")
        await Observer.of(url).run(f"INSERT INTO pets VALUES ('{backend}')")
    connections = {backend: {"url": url} for backend, url in urls.items()}
    async with serving(mode, tools=["analysis"], connections=connections) as desk:
        queries = [{"sql": "SELECT name FROM pets", "connection": backend} for backend in BACKENDS]
        found = (await desk.ask("batch_query", queries=[*queries, "SELECT name FROM pets"], connection="sqlite"))[
            "results"
        ]
    assert [each["connection"] for each in found] == [*BACKENDS, "sqlite"]
    assert [each["rows"] for each in found] == [[[name]] for name in [*BACKENDS, "sqlite"]]
    for url in urls.values():
        await databases.drop(url)


async def test_queries_run_side_by_side_and_leave_half_of_the_pool_to_others(postgresql_url: str) -> None:
    observer = Observer.of(postgresql_url)
    connections = {"db": {"url": postgresql_url, "pool_size": 4}}
    async with serving(tools=["core", "analysis"], connections=connections, timeout_seconds=1) as desk:
        started = time.monotonic()
        batches = [asyncio.create_task(desk.ask("batch_query", queries=[ENDLESS] * 2)) for _ in range(2)]
        await eventually(lambda: is_running(observer, 2))
        assert await desk.rows("SELECT 1 AS one") == [[1]]
        await asyncio.wait(batches)
        assert 1.9 < time.monotonic() - started < 3.5
        for batch in batches:
            assert [each["error"]["code"] for each in batch.result()["results"]] == ["TIMEOUT"] * 2


async def is_running(observer: Observer, number: int) -> bool:
    count = await observer.running()
    assert count <= number
    return count == number


async def test_a_short_batch_does_not_wait_for_the_whole_of_a_long_one(postgresql_url: str) -> None:
    observer = Observer.of(postgresql_url)
    connections = {"db": {"url": postgresql_url, "pool_size": 2}}
    async with Gateway.open(Settings.model_validate({"connections": connections})) as gateway:
        batches, caller = Batches(gateway), Caller("session", "a")
        long = asyncio.create_task(batches.run(caller, [Query(ENDLESS)] * 10, timeout=0.5))
        await eventually(observer.is_busy)
        (page,) = await batches.run(Caller("session", "b"), [Query("SELECT 1 AS one")])
        assert isinstance(page, Page)
        assert not long.done()
        long.cancel()
        await asyncio.wait({long})


async def test_cancelling_a_batch_ends_all_its_statements(mode: str, database_url: str) -> None:
    observer = Observer.of(database_url)
    async with serving(mode, tools=["core", "analysis"], url=database_url) as desk:
        call = asyncio.create_task(desk.client.call_tool("batch_query", {"queries": [ENDLESS] * 8}))
        await eventually(observer.is_busy)
        cancelled = time.monotonic()
        call.cancel()
        await asyncio.wait({call})
        await eventually(observer.is_quiet, cancelled + STOPS_WITHIN - time.monotonic())
        assert await desk.rows("SELECT 1 AS one") == [[1]]


async def test_the_rows_of_all_results_fit_one_byte_budget(mode: str, file_url: str) -> None:
    big = "SELECT story FROM stories ORDER BY id"
    async with serving(mode, tools=["core", "analysis"], url=file_url, byte_budget=8_192) as desk:
        found = (await desk.ask("batch_query", queries=["SELECT 1 AS one", *[big] * 3, "SELECT n FROM numbers"]))[
            "results"
        ]
        sizes = [len(json.dumps(each["rows"], separators=(",", ":"), ensure_ascii=False).encode()) for each in found]
        assert sum(sizes) <= 8_192
        assert (found[0]["rows"], found[4]["row_count"]) == ([[1]], 100)  # those that are small are whole
        assert {(each["truncated"], each["row_count"]) for each in found[1:4]} == {("max_bytes", 1)}
        rest = await desk.ask("fetch_rows", result_id=found[1]["result_id"])
        assert rest["rows"][0][0].startswith("bb")


@given(st.lists(st.integers(0, 1_000), min_size=1), st.integers(0, 10_000))
def test_what_is_shared_is_never_more_than_there_is_or_than_is_wanted(wanted: list[int], budget: int) -> None:
    shares = shared(wanted, budget)
    assert sum(shares) <= budget
    assert all(share <= want for share, want in zip(shares, wanted, strict=True))
    short = [share for share, want in zip(shares, wanted, strict=True) if share < want]
    # Nobody goes short while another gets more, and nothing is left over.
    assert all(share <= min(short) + len(wanted) for share in shares) if short else shares == wanted


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([], "a batch has 1 to 3 queries; 0 were given"),
        (["SELECT 1"] * 4, "a batch has 1 to 3 queries; 4 were given"),
        ([{"sql": "SELECT 1", "limit": 1}], "queries: Extra inputs are not permitted"),
        ([{"connection": "db"}], "queries: Field required"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused(mode: str, file_url: str, queries: list[Any], message: str) -> None:
    async with serving(mode, tools=["analysis"], url=file_url, max_batch=3) as desk:
        error = await desk.refusal("batch_query", queries=queries)
        assert (error["code"], error["message"]) == ("BAD_PARAMETER", message)


async def test_queries_may_come_as_text(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["analysis"], url=file_url) as desk:
        for queries in ('["SELECT 1 AS one"]', '[{"sql": "SELECT 1 AS one"}]', ['{"sql": "SELECT 1 AS one"}']):
            assert (await desk.ask("batch_query", queries=queries))["results"][0]["rows"] == [[1]]
