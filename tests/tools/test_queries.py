"""execute_query, explain_query and fetch_rows, through the client, where all databases are alike."""

import csv
import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.utilities.tests import asgi_server

from manydb.callers import PROCESS, Caller
from manydb.errors import Expired
from manydb.query import QueryResult
from manydb.results import Results
from manydb.server import build_server
from manydb.settings import Settings
from tests.tools import Desk, serving
from tests.tools.conftest import ROWS

NUMBERS = "SELECT n, label FROM numbers ORDER BY n"
STORIES = "SELECT id, story FROM stories ORDER BY id"


# ---- formats --------------------------------------------------------------------------------------------------------


async def test_json_says_columns_once_and_drops_what_is_empty(desk: Desk) -> None:
    reply = await desk.ask("execute_query", sql=NUMBERS, row_cap=2)
    assert reply.pop("result_id").startswith("r_")
    assert reply.pop("elapsed_ms") >= 0
    assert reply == {
        "connection": "db",
        "columns": ["n", "label"],
        "types": ["integer", "text"],
        "rows": [[1, "label 1"], [2, "label 2"]],
        "row_count": 2,
        "truncated": "max_rows",
        "hint": "fetch_rows(result_id) or narrow the query",
    }


async def test_csv_is_a_table_and_its_last_line_tells_of_the_rest(desk: Desk) -> None:
    whole = await desk.text("execute_query", sql="SELECT 'a,\"b\"' AS x, NULL AS y, 'two\nlines' AS z", format="csv")
    assert list(csv.reader(io.StringIO(whole))) == [["x", "y", "z"], ['a,"b"', "", "two\nlines"]]
    *lines, remark = (await desk.text("execute_query", sql=NUMBERS, row_cap=2, format="csv")).splitlines()
    assert lines == ["n,label", "1,label 1", "2,label 2"]
    assert remark.startswith("# row_count: 2; truncated: max_rows; result_id: r_")


async def test_markdown_escapes_what_would_break_its_table(desk: Desk) -> None:
    text = await desk.text("execute_query", sql="SELECT 'a|b' AS x, 'two\nlines' AS y, NULL AS z", format="markdown")
    assert text == "| x | y | z |\n| --- | --- | --- |\n| a\\|b | two<br>lines |  |\n"


async def test_records_repeat_the_names_and_stay_within_the_budget(file_url: str, mode: str) -> None:
    async with serving(mode, url=file_url, byte_budget=2048) as desk:
        reply = await desk.ask(
            "execute_query", sql="SELECT n AS number_with_a_long_name FROM numbers", format="records"
        )
        assert reply["truncated"] == "max_bytes"
        assert 1_500 < len(json.dumps(reply["records"], separators=(",", ":"))) <= 2048
        assert reply["records"][0] == {"number_with_a_long_name": 1}
        rest = await desk.ask("fetch_rows", result_id=reply["result_id"], format="records")
        assert rest["records"][0] == {"number_with_a_long_name": reply["row_count"] + 1}


async def test_the_server_may_prefer_another_format(file_url: str, mode: str) -> None:
    async with serving(mode, url=file_url, format="csv") as desk:
        assert await desk.text("execute_query", sql="SELECT 1 AS one") == "one\n1\n"
        assert await desk.rows("SELECT 1 AS one", format="json") == [[1]]


async def test_a_structured_copy_is_sent_where_it_is_asked_for(file_url: str, mode: str) -> None:
    for wanted in (False, True):
        async with serving(mode, url=file_url, structured=wanted) as desk:
            result = await desk.client.call_tool("execute_query", {"sql": "SELECT 1 AS one"})
            copy = result.structured_content
            assert (copy or {}).get("rows") == ([[1]] if wanted else None)
            text = await desk.client.call_tool("execute_query", {"sql": "SELECT 1 AS one", "format": "csv"})
            assert text.structured_content == ({"text": "one\n1\n"} if wanted else None)


# ---- what a reply may hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cap", "shown"), [(1, 1), (ROWS, ROWS), (10_000_000, ROWS)])
async def test_a_call_may_ask_for_fewer_or_more_rows(desk: Desk, cap: int, shown: int) -> None:
    reply = await desk.ask("execute_query", sql="SELECT n FROM numbers", row_cap=cap)
    assert reply["row_count"] == shown
    assert ("truncated" in reply) == (shown < ROWS)


async def test_no_call_gets_more_rows_than_the_server_allows(file_url: str, mode: str) -> None:
    async with serving(mode, url=file_url, max_row_cap=20) as desk:
        assert (await desk.ask("execute_query", sql=NUMBERS, row_cap=400))["row_count"] == 20


async def test_rows_beyond_the_byte_budget_wait_for_fetch_rows(file_url: str, mode: str) -> None:
    async with serving(mode, url=file_url, byte_budget=1024) as desk:
        page = await desk.ask("execute_query", sql=NUMBERS)
        seen = page["rows"]
        assert (page["truncated"], 20 < len(seen) < 100) == ("max_bytes", True)
        while "truncated" in page:
            assert len(json.dumps(page["rows"], separators=(",", ":"))) <= 1024
            page = await desk.ask("fetch_rows", result_id=page["result_id"], offset=len(seen))
            seen += page["rows"]
        assert seen == [[n, f"label {n}"] for n in range(1, ROWS + 1)]


async def test_a_long_cell_is_clipped_and_named(desk: Desk) -> None:
    reply = await desk.ask("execute_query", sql=f"{STORIES} LIMIT 5")
    assert reply["clipped"] == ["row 4 story: 5000 characters"]
    assert reply["rows"][4] == [5, "e" * 4096 + "…"]
    assert reply["rows"][3] == [4, "d" * 4000]
    assert reply["hint"].startswith("select a part of the clipped cells")


async def test_clipped_cells_of_a_later_page_are_counted_from_its_first_row(desk: Desk) -> None:
    page = await desk.ask("execute_query", sql=STORIES, row_cap=3)
    rest = await desk.ask("fetch_rows", result_id=page["result_id"])
    assert rest["clipped"] == [f"row {row} story: {5000 + 1000 * (row - 1)} characters" for row in range(1, 5)]


async def test_more_clipped_cells_than_anybody_reads_are_counted(file_url: str, mode: str) -> None:
    async with serving(mode, url=file_url, cell_chars=16) as desk:
        reply = await desk.ask("execute_query", sql="SELECT label || ' and a little more' AS x FROM numbers")
        assert len(reply["clipped"]) == 21
        assert reply["clipped"][-1] == "and 80 more"


async def test_one_row_larger_than_the_budget_is_clipped_until_it_fits(desk: Desk) -> None:
    columns = ", ".join(f"story AS c{n}" for n in range(100))
    reply = await desk.ask("execute_query", sql=f"SELECT {columns} FROM stories WHERE id > 3 ORDER BY id")
    assert (reply["row_count"], reply["truncated"]) == (1, "max_bytes")
    assert len(json.dumps(reply["rows"], ensure_ascii=False)) <= 65_536
    assert reply["clipped"][0] == "row 0 c0: 4000 characters"
    assert reply["clipped"][-1] == "and 80 more"
    assert all(cell.startswith("ddd") for cell in reply["rows"][0])
    rest = await desk.ask("fetch_rows", result_id=reply["result_id"])
    assert rest["rows"][0][0].startswith("eee")


# ---- reading on -----------------------------------------------------------------------------------------------------


async def test_kept_rows_are_read_from_any_offset(desk: Desk) -> None:
    page = await desk.ask("execute_query", sql=NUMBERS, row_cap=10)
    for offset, first in ((None, 11), (0, 1), (409, 410)):
        reply = await desk.ask("fetch_rows", result_id=page["result_id"], offset=offset, row_cap=1)
        assert reply["rows"] == [[first, f"label {first}"]]
    assert (await desk.ask("fetch_rows", result_id=page["result_id"], offset=410))["rows"] == []
    error = await desk.refusal("fetch_rows", result_id=page["result_id"], offset=411)
    assert (error["code"], error["message"]) == ("BAD_PARAMETER", "offset 411 is past the end: 410 rows are kept")


async def test_an_id_that_nobody_gave_says_how_to_get_one(desk: Desk) -> None:
    error = await desk.refusal("fetch_rows", result_id="r_guess")
    assert (error["code"], error["retry"]) == ("EXPIRED", "fix_sql")
    assert "run execute_query again" in error["message"]


def result(rows: int = 1) -> QueryResult:
    return QueryResult("db", ["n"], ["integer"], [[n] for n in range(rows)], more=False, elapsed_ms=0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_kept_rows_expire_after_their_last_use() -> None:
    clock = Clock()
    results = Results(Settings.model_validate({"result_ttl": 10}), clock)
    kept = str(results.keep(PROCESS, result(), shown=1, size=1))
    clock.now = 9
    assert results.get(PROCESS, kept)[1] == 1
    clock.now = 18
    assert results.get(PROCESS, kept)[1] == 1
    clock.now = 28
    with pytest.raises(Expired):
        results.get(PROCESS, kept)
    assert len(results) == 0


def test_kept_rows_are_bounded_in_number_for_each_caller() -> None:
    results = Results(Settings.model_validate({"max_results": 2}))
    other = Caller("session", "other")
    others = str(results.keep(other, result(), shown=1, size=1))
    ids = [str(results.keep(PROCESS, result(), shown=1, size=1)) for _ in range(3)]
    assert len(results) == 3
    with pytest.raises(Expired):
        results.get(PROCESS, ids[0])
    assert results.get(other, others)


def test_kept_rows_are_bounded_in_bytes_for_all() -> None:
    results = Results(Settings.model_validate({"max_result_bytes": 100}))
    first, second = (str(results.keep(PROCESS, result(), shown=1, size=40)) for _ in range(2))
    results.get(PROCESS, first)  # used last, so it stays
    assert results.keep(PROCESS, result(), shown=1, size=101) is None
    results.keep(PROCESS, result(), shown=1, size=40)
    assert results.get(PROCESS, first)
    with pytest.raises(Expired):
        results.get(PROCESS, second)


def test_another_callers_id_looks_like_an_unknown_one() -> None:
    results = Results(Settings.model_validate({}))
    kept = str(results.keep(Caller("session", "a"), result(), shown=1, size=1))
    messages = []
    for owner, result_id in ((Caller("session", "b"), kept), (None, kept), (None, "r_" + "x" * 16)):
        with pytest.raises(Expired) as caught:
            results.get(owner, result_id)
        messages.append(caught.value.message.replace(result_id, "ID"))
    assert len(set(messages)) == 1


async def test_over_http_a_session_reads_its_own_rows_only(file_url: str) -> None:
    server = build_server(Settings.model_validate({"connections": {"db": {"url": file_url}}}))
    async with (
        asgi_server(server) as http,
        Client(http.transport(), mode="legacy") as a,
        Client(http.transport(), mode="legacy") as b,
    ):
        mine, other = Desk(a), Desk(b)
        kept = (await mine.ask("execute_query", sql=NUMBERS))["result_id"]
        assert (await other.refusal("fetch_rows", result_id=kept))["code"] == "EXPIRED"
        assert (await mine.ask("fetch_rows", result_id=kept))["rows"][0][0] == 101


async def test_over_http_without_sessions_the_id_alone_opens_the_rows(file_url: str) -> None:
    server = build_server(Settings.model_validate({"connections": {"db": {"url": file_url}}}))
    async with (
        asgi_server(server) as http,
        Client(http.transport()) as a,
        Client(http.transport()) as b,
        Client(http.transport(), mode="legacy") as c,
    ):
        kept = (await Desk(a).ask("execute_query", sql=NUMBERS))["result_id"]
        for client in (a, b, c):
            assert (await Desk(client).ask("fetch_rows", result_id=kept))["rows"][0][0] == 101


# ---- arguments ------------------------------------------------------------------------------------------------------


async def test_sql_may_be_called_query(desk: Desk) -> None:
    for tool in ("execute_query", "explain_query"):
        assert "columns" in await desk.ask(tool, query="SELECT 1 AS one")


async def test_null_is_the_same_as_left_out(desk: Desk) -> None:
    nothing = dict.fromkeys(["connection", "params", "row_cap", "timeout_seconds", "format"])
    assert await desk.rows("SELECT 1 AS one", **nothing) == [[1]]
    page = await desk.ask("execute_query", sql=NUMBERS, row_cap=1)
    assert (await desk.ask("fetch_rows", result_id=page["result_id"], offset=None, row_cap=None, format=None))["rows"]
    assert (await desk.ask("explain_query", sql="SELECT 1", analyze=None, params=None))["rows"]


@pytest.mark.parametrize("params", ["", " ", "null", "{}", "[]", {}, []])
async def test_no_params_come_in_many_spellings(desk: Desk, params: Any) -> None:
    assert await desk.rows("SELECT 1 AS one", params=params) == [[1]]


async def test_numbers_may_come_as_text(desk: Desk) -> None:
    reply = await desk.ask("execute_query", sql=NUMBERS, row_cap="2", timeout_seconds="5")
    assert reply["row_count"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "sql: Missing required argument"),
        ({"sql": "SELECT 1", "row_cap": 0}, "row_cap: should be greater than or equal to 1"),
        ({"sql": "SELECT 1", "timeout_seconds": -1}, "timeout_seconds: should be greater than 0"),
        ({"sql": "SELECT 1", "format": "xml"}, "format: should be 'json', 'csv', 'markdown' or 'records'"),
        ({"sql": "SELECT 1", "params": "abc"}, "params: should be a valid dictionary, or should be a valid list"),
        (
            {"sql": "SELECT 1", "limit": 3},
            (
                "limit: there is no such parameter; "
                "the tool takes sql, connection, params, row_cap, timeout_seconds, transaction_id, format"
            ),
        ),
    ],
)
async def test_a_wrong_argument_is_told_what_it_should_be(desk: Desk, arguments: dict[str, Any], message: str) -> None:
    error = await desk.refusal("execute_query", **arguments)
    assert error == {"code": "BAD_PARAMETER", "message": message, "retry": "fix_sql"}


async def test_a_tool_that_does_not_exist_is_an_error_like_any_other(desk: Desk) -> None:
    error = await desk.refusal("drop_everything", sql="SELECT 1")
    assert (error["code"], error["message"]) == ("UNSUPPORTED", "there is no tool 'drop_everything'")


async def test_several_connections_must_be_told_apart(file_url: str, tmp_path: Path, mode: str) -> None:
    other = tmp_path / "other.db"
    sqlite3.connect(other).close()
    connections = {"shop": {"url": file_url}, "other": {"url": f"sqlite:///{other}"}}
    async with serving(mode, connections=connections) as desk:
        error = await desk.refusal("execute_query", sql="SELECT 1")
        assert (error["code"], error["suggestions"]) == ("UNKNOWN_CONNECTION", ["shop", "other"])
        assert (await desk.refusal("execute_query", sql="SELECT 1", connection="shp"))["suggestions"] == ["shop"]
        assert await desk.rows("SELECT count(*) FROM numbers", connection="shop") == [[ROWS]]
        assert (await desk.refusal("execute_query", sql=NUMBERS, connection="other"))["code"] == "UNKNOWN_TABLE"
