"""The list of tools as clients see it, and the connections behind them."""

import shutil
import sys
from pathlib import Path

import orjson
import pytest
from fastmcp import Client
from sqlalchemy.ext.asyncio import create_async_engine

from manydb.dialects.mysql import MySQL
from manydb.dialects.postgresql import PostgreSQL
from manydb.server import build_server
from manydb.settings import Settings
from manydb.tools import TOOLS
from tests.conftest import Databases
from tests.tools import MODES, serving

_MOST_TOKENS = 1_500
CORE = [
    "list_connections", "list_tables", "search_schema", "get_table_schema", "execute_query", "explain_query",
    "fetch_rows",
]  # fmt: skip


async def manifest(mode: str) -> bytes:
    """tools/list as it travels."""
    async with Client(build_server(Settings.model_validate({"tools": ["core"]})), mode=mode) as client:
        return orjson.dumps((await client.list_tools_mcp()).model_dump(by_alias=True, exclude_none=True)["tools"])


async def test_the_core_tools_fit_the_token_budget(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = len(await manifest("auto")) / 4
    with capsys.disabled():
        sys.stdout.write(f"\ncore manifest: {tokens:.0f} tokens of {_MOST_TOKENS}\n")
    assert tokens <= _MOST_TOKENS


async def test_both_eras_see_the_same_tools() -> None:
    first, second = [orjson.loads(await manifest(mode)) for mode in MODES]
    assert first == second
    assert [tool["name"] for tool in first] == CORE


async def test_every_core_tool_says_that_it_only_reads() -> None:
    for tool in orjson.loads(await manifest("auto")):
        assert tool["annotations"] == {"readOnlyHint": True, "openWorldHint": False}, tool["name"]
        assert "outputSchema" not in tool


async def test_input_schemas_are_plain_json_schema() -> None:
    known = {
        "type", "description", "default", "enum", "anyOf", "items", "additionalProperties", "minimum", "maximum",
        "exclusiveMinimum", "minLength", "maxLength",
    }  # fmt: skip
    for tool in orjson.loads(await manifest("auto")):
        for name, schema in tool["inputSchema"]["properties"].items():
            assert schema.keys() <= known, (tool["name"], name)
            assert schema.get("default", "") is not None, (tool["name"], name)


def test_the_groups_name_every_tool_once() -> None:
    names = [tool.name for tool in TOOLS]
    assert len(set(names)) == len(names)


# ---- list_connections -----------------------------------------------------------------------------------------------


async def test_a_database_that_cannot_be_reached_is_listed_with_its_reason(
    file_url: str, mode: str, tmp_path: Path
) -> None:
    connections = {
        "shop": {"url": file_url, "description": "what we sell"},
        "gone": {"url": f"sqlite:///{tmp_path}/gone.db"},
        "away": {"url": "postgresql://u:p@127.0.0.1:1/x"},
        "deaf": {"url": "mysql://u:p@127.0.0.1:1/x", "access": "read_write"},
    }
    async with serving(mode, connections=connections) as desk:
        shop, *others = (await desk.ask("list_connections"))["connections"]
        assert shop.pop("backend").startswith("SQLite 3.")
        assert shop.pop("login") in {"superuser", "could write"}  # whoever made the file may write it
        drivers = [each.pop("driver") for each in (shop, *others)]
        assert drivers == ["aiosqlite", "aiosqlite", PostgreSQL.default_driver, MySQL.default_driver]
        assert shop == {"name": "shop", "access": "read_only", "status": "ok", "description": "what we sell"}
        assert others == [
            {"name": "gone", "backend": "SQLite", "access": "read_only", "status": "unreachable",
             "reason": f"there is no database file {tmp_path}/gone.db"},
            {"name": "away", "backend": "PostgreSQL", "access": "read_only", "status": "unreachable",
             "reason": "nobody listens at 127.0.0.1:1/x"},
            {"name": "deaf", "backend": "MySQL", "access": "read_write", "status": "unreachable",
             "reason": "nobody listens at 127.0.0.1:1/x"},
        ]  # fmt: skip
        error = await desk.refusal("execute_query", sql="SELECT 1", connection="away")
        assert error == {"code": "UNREACHABLE", "message": "nobody listens at 127.0.0.1:1/x", "retry": "later"}
        assert await desk.rows("SELECT 1", connection="shop") == [[1]]


async def test_a_database_works_once_it_is_back(file: Path, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "later.db"
    async with serving(mode, url=f"sqlite:///{path}") as desk:
        assert (await desk.refusal("execute_query", sql="SELECT 1"))["code"] == "UNREACHABLE"
        shutil.copy(file, path)
        assert await desk.rows("SELECT count(*) FROM evens") == [[225]]
        (connection,) = (await desk.ask("list_connections"))["connections"]
        assert connection["status"] == "ok"


async def test_a_server_without_connections_says_how_to_give_it_one(mode: str) -> None:
    async with serving(mode) as desk:
        assert await desk.ask("list_connections") == {"connections": []}
        error = await desk.refusal("execute_query", sql="SELECT 1")
        assert error["code"] == "UNKNOWN_CONNECTION"
        assert "--connection name=url" in error["message"]


# ---- schemas --------------------------------------------------------------------------------------------------------


async def test_tables_may_be_named_in_any_kind_of_list(file_url: str, mode: str) -> None:
    async with serving(mode, url=file_url) as desk:
        for named in (["numbers", "evens"], '["numbers", "evens"]', "numbers, evens"):
            reply = await desk.ask("get_table_schema", table=named)
            assert [table["table"] for table in reply["tables"]] == ["numbers", "evens"]
        assert (await desk.ask("get_table_schema", table='"Order"'))["tables"][0]["table"] == '"Order"'


async def test_ten_tables_are_the_most_a_call_describes(file_url: str, mode: str) -> None:
    async with serving(mode, url=file_url) as desk:
        assert len((await desk.ask("get_table_schema", table=["numbers"] * 10))["tables"]) >= 1
        for count in (0, 11):
            error = await desk.refusal("get_table_schema", table=["numbers"] * count)
            assert (error["code"], error["message"]) == (
                "BAD_PARAMETER",
                f"name 1 to 10 tables a call; {count} were named",
            )


async def test_a_search_may_be_called_query(file_url: str, mode: str) -> None:
    async with serving(mode, url=file_url) as desk:
        (column,) = (await desk.ask("search_schema", query="story"))["columns"]
        assert column.lower() == "story text"


async def test_a_table_in_another_schema_is_suggested_with_it(databases: Databases) -> None:
    async with databases.temporary("postgresql") as url:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.exec_driver_sql("CREATE SCHEMA crm")
            await connection.exec_driver_sql("CREATE TABLE crm.leads (id int, email text)")
        await engine.dispose()
        async with serving(url=url) as desk:
            error = await desk.refusal("execute_query", sql="SELECT * FROM leads")
            assert (error["code"], error["suggestions"]) == ("UNKNOWN_TABLE", ["crm.leads"])
            error = await desk.refusal("execute_query", sql="SELECT emial FROM crm.leads")
            assert (error["suggestions"], error["columns"]) == (["email"], {"crm.leads": ["id", "email"]})
            error = await desk.refusal("execute_query", sql='SELECT id FROM crm.leads WHERE email = "ada@example.com"')
            assert (error["code"], "strings in single quotes" in error["note"]) == ("UNKNOWN_COLUMN", True)
