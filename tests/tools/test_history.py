"""What a caller ran, and what it holds: told to that caller, and to no other."""

import json
from typing import Any

import pytest
from fastmcp import Client
from mcp_types import TextResourceContents

from manydb.settings import Settings
from tests.tools import Desk, serving
from tests.tools.test_jobs import two_clients

SECRET = "a bound value"
TOOLS = ["core", "write", "analysis", "jobs", "operations"]


async def resource(desk: Desk) -> Any:
    (contents,) = await desk.client.read_resource("query-history://recent")
    assert isinstance(contents, TextResourceContents)
    assert contents.mime_type == "application/json"
    return json.loads(contents.text)


async def test_history_tells_every_statement_and_how_it_ended(mode: str, file_url: str) -> None:
    async with serving(mode, tools=TOOLS, url=file_url) as desk:
        await desk.rows("SELECT n FROM numbers WHERE n < 4")
        await desk.refusal("execute_query", sql="SELECT missing FROM numbers")
        await desk.refusal("execute_query", sql="DROP TABLE numbers")
        await desk.ask("batch_query", queries=["SELECT 4", "SELECT five"])
        job = await desk.ask("submit_query", sql="SELECT 6")
        await desk.ask("get_job", job_id=job["job_id"], wait_seconds=10)
        statements = (await desk.ask("get_query_history"))["statements"]
        assert [(each["sql"], each["outcome"], each.get("rows")) for each in statements[:1] + statements[3:]] == [
            ("SELECT 6", "ok", 1),
            ("DROP TABLE numbers", "READ_ONLY", None),
            ("SELECT missing FROM numbers", "UNKNOWN_COLUMN", None),
            ("SELECT n FROM numbers WHERE n < 4", "ok", 3),
        ]
        assert {(each["sql"], each["outcome"]) for each in statements[1:3]} == {
            ("SELECT 4", "ok"),
            ("SELECT five", "UNKNOWN_COLUMN"),
        }
        assert all(each["connection"] == "db" and each["elapsed_ms"] >= 0 and each["at"] for each in statements)
        assert await resource(desk) == {"statements": statements}


async def test_bound_values_are_never_remembered(mode: str, database_url: str) -> None:
    connections = {"db": {"url": database_url, "access": "admin"}}
    params = {"x": SECRET}
    async with serving(mode, tools=TOOLS, connections=connections, confirm_writes="never") as desk:
        await desk.ask("execute_statement", sql="CREATE TABLE notes (x varchar(40))")
        await desk.ask("execute_statement", sql="INSERT INTO notes VALUES (:x)", params=params)
        await desk.rows("SELECT x FROM notes WHERE x = :x", params=params)
        await desk.refusal("execute_query", sql="SELECT x FROM notes WHERE y = :x", params=params)
        await desk.ask("batch_query", queries=[{"sql": "SELECT x FROM notes WHERE x <> :x", "params": params}])
        job = await desk.ask("submit_query", sql="SELECT count(*) FROM notes WHERE x = :x", params=params)
        await desk.ask("get_job", job_id=job["job_id"], wait_seconds=10)
        told = await desk.text("get_query_history", limit=50) + json.dumps(await resource(desk))
        assert told.count("INSERT INTO notes VALUES (:x)") == 2
        assert '"affected":1' in told
        assert SECRET not in told
        assert SECRET not in await desk.text("get_session_info")


async def test_history_can_be_narrowed_to_a_connection_and_a_number(mode: str, file_url: str) -> None:
    connections = {"one": {"url": file_url}, "two": {"url": file_url}}
    async with serving(mode, tools=TOOLS, connections=connections) as desk:
        for n in range(3):
            for name in connections:
                await desk.rows(f"SELECT {n}", connection=name)
        reply = await desk.ask("get_query_history", connection="two", limit=2)
        assert [(each["connection"], each["sql"]) for each in reply["statements"]] == [
            ("two", "SELECT 2"),
            ("two", "SELECT 1"),
        ]
        assert reply["total"] == 3


async def test_history_is_bounded_in_number_and_size(mode: str, file_url: str) -> None:
    async with serving(mode, tools=TOOLS, url=file_url, history_size=5, byte_budget=4_096) as desk:
        for n in range(7):
            await desk.rows(f"SELECT {n}")
        reply = await desk.ask("get_query_history")
        assert [each["sql"] for each in reply["statements"]] == [f"SELECT {n}" for n in (6, 5, 4, 3, 2)]
        for n in range(5):
            await desk.rows(f"SELECT {n} -- {'x' * 5_000}")
        reply = await desk.ask("get_query_history")
        assert (len(reply["statements"]), reply["total"]) == (2, 5)
        assert all(len(each["sql"]) == 2_001 for each in reply["statements"])


@pytest.mark.parametrize("kind", ["principal", "old principal", "session"])
async def test_another_clients_history_does_not_exist(kind: str, file_url: str) -> None:
    async with two_clients(kind, file_url, tools=TOOLS) as (mine, other):
        await mine.rows("SELECT 'mine' AS x")
        await other.rows("SELECT 'other' AS x")
        for desk, sql in ((mine, "SELECT 'mine' AS x"), (other, "SELECT 'other' AS x")):
            (entry,) = (await desk.ask("get_query_history"))["statements"]
            assert entry["sql"] == sql
            assert await resource(desk) == {"statements": [entry]}


async def test_of_callers_nobody_knows_nothing_is_remembered(file_url: str) -> None:
    async with two_clients("nobody", file_url, tools=TOOLS) as (mine, other):
        await mine.rows("SELECT 1")
        for desk in (mine, other):
            reply = await desk.ask("get_query_history")
            assert reply["statements"] == []
            assert "not recognised" in reply["note"]


@pytest.mark.parametrize(
    ("kind", "told", "era"),
    [
        ("principal", {"kind": "principal", "client": "a"}, "sessionless"),
        ("old principal", {"kind": "principal", "client": "a"}, "handshake"),
        ("session", {"kind": "session"}, "handshake"),
        ("nobody", {"kind": "nobody"}, "sessionless"),
    ],
)
async def test_a_caller_is_told_who_it_is(kind: str, told: dict[str, str], era: str, file_url: str) -> None:
    async with two_clients(kind, file_url, tools=TOOLS) as (desk, _):
        info = await desk.ask("get_session_info")
        assert info["caller"].pop("note")
        assert (info["caller"], info["protocol"]["era"]) == (told, era)


async def test_a_caller_is_told_what_it_holds_and_for_how_long(mode: str, file_url: str) -> None:
    connections = {"db": {"url": file_url, "access": "read_write"}}
    async with serving(mode, tools=TOOLS, connections=connections) as desk:
        page = await desk.ask("execute_query", sql="SELECT n FROM numbers", row_cap=1)
        transaction = await desk.ask("begin_transaction")
        job = await desk.ask("submit_query", sql="SELECT 1")
        await desk.ask("get_job", job_id=job["job_id"], wait_seconds=10)
        info = await desk.ask("get_session_info")
        assert info["caller"]["kind"] == "process"
        held = {noun: [each["id"] for each in things] for noun, things in info["holds"].items()}
        assert held == {
            "results": [page["result_id"]],
            "transactions": [transaction["transaction_id"]],
            "jobs": [job["job_id"]],
        }
        limits = Settings.model_validate({}).model_dump()
        (left,) = [each["seconds_left"] for each in info["holds"]["results"]]
        assert limits["result_ttl"] - 10 <= left <= limits["result_ttl"]
        assert info["limits"]["max_jobs"] == limits["max_jobs"]
        assert info["remembered_statements"] >= 2


async def test_a_session_is_told_nothing_that_opens_it(file_url: str) -> None:
    async with two_clients("session", file_url, tools=TOOLS) as (desk, _):
        client: Client[Any] = desk.client
        session_id = client.transport.get_session_id()
        assert session_id
        assert session_id not in await desk.text("get_session_info")
