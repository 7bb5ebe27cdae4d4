"""What a connection hides is hidden by every tool; what it masks is never returned in clear."""

import json
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from manydb.connections import Connections
from manydb.errors import SettingsError
from manydb.settings import Settings
from tests.tools import MODES, Desk, serving

SECRET = "zz-ada@hidden.example"
SCHEMA = (
    "CREATE TABLE customers (id int PRIMARY KEY, name varchar(40), email varchar(40))",
    "CREATE TABLE salaries (id int PRIMARY KEY, customer_id int REFERENCES customers(id), amount int)",
    "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, note varchar(40))",
    "CREATE VIEW contacts AS SELECT id, email AS address FROM customers",
    "CREATE VIEW payroll AS SELECT amount FROM salaries",
    f"INSERT INTO customers VALUES (1, 'Ada', '{SECRET}'), (2, 'Grace', NULL)",
    "INSERT INTO salaries VALUES (1, 1, 77777)",
    "INSERT INTO orders VALUES (1, 1, 'gift')",
)


async def _run(url: str, *statements: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
    await engine.dispose()


@pytest.fixture(params=MODES)
async def desk(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Desk]:
    await _run(database_url, *SCHEMA)
    connection = {"url": database_url, "deny": ["salaries"], "mask": ["customers.email"]}
    async with serving(request.param, connections={"db": connection}) as desk:
        yield desk


async def test_masked_values_are_concealed_wherever_they_are_only_shown(desk: Desk) -> None:
    for sql in (
        "SELECT id, email FROM customers ORDER BY id",
        "SELECT id, address FROM contacts ORDER BY id",
        "WITH c AS (SELECT * FROM customers) SELECT id, email AS e FROM c ORDER BY id",
    ):
        reply = await desk.ask("execute_query", sql=sql)
        assert reply["rows"] == [[1, "•••"], [2, "•••"]]
        assert reply["masked"] == [reply["columns"][1]]
    assert await desk.rows("SELECT * FROM customers ORDER BY id") == [[1, "Ada", "•••"], [2, "Grace", "•••"]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT upper(email) FROM customers",
        "SELECT name FROM customers WHERE email LIKE 'zz%'",
        "SELECT name FROM customers ORDER BY email",
        "SELECT count(DISTINCT email) FROM customers",
        "SELECT email FROM customers UNION SELECT note FROM orders",
        "SELECT o.id FROM orders o JOIN customers c ON c.email = o.note",
        "SELECT name FROM customers WHERE id IN (SELECT id FROM contacts WHERE address IS NOT NULL)",
        "SELECT amount FROM salaries",
        "SELECT amount FROM payroll",
        "SELECT (SELECT max(amount) FROM salaries) FROM customers",
    ],
)
async def test_what_would_tell_masked_or_denied_data_is_refused(desk: Desk, sql: str) -> None:
    for tool in ("execute_query", "explain_query"):
        error = await desk.refusal(tool, sql=sql)
        assert error["code"] == "FORBIDDEN"
        assert SECRET not in json.dumps(error)
        assert "77777" not in json.dumps(error)


async def test_denied_tables_are_in_no_schema_tool_and_in_no_suggestion(desk: Desk) -> None:
    told = [
        await desk.text("list_tables", detail="summary"),
        await desk.text("search_schema", pattern="a"),
        await desk.text("get_table_schema", table="customers"),
        json.dumps(await desk.refusal("get_table_schema", table="salaries")),
        json.dumps(await desk.refusal("execute_query", sql="SELECT * FROM salarys")),
    ]
    without_what_was_asked = [text.replace("'salaries'", "").replace("salarys", "") for text in told]
    assert not [text for text in without_what_was_asked if "salaries" in text]
    assert "masked" in told[2]


async def test_statements_without_hidden_data_run_as_ever(desk: Desk) -> None:
    assert await desk.rows("SELECT note FROM orders WHERE id = :id", params={"id": 1}) == [["gift"]]
    assert await desk.rows("SELECT name, count(*) FROM customers GROUP BY name ORDER BY name") == [
        ["Ada", 1],
        ["Grace", 1],
    ]


async def test_a_view_made_a_moment_ago_conceals_as_well(desk: Desk, database_url: str) -> None:
    await desk.rows("SELECT email FROM customers")
    await _run(database_url, "CREATE VIEW late AS SELECT email AS harmless FROM customers")
    assert (await desk.rows("SELECT harmless FROM late"))[0] == ["•••"]


async def test_rows_that_are_kept_are_concealed_too(desk: Desk) -> None:
    first = await desk.ask("execute_query", sql="SELECT email FROM customers ORDER BY id", row_cap=1)
    assert (await desk.ask("fetch_rows", result_id=first["result_id"]))["rows"] == [["•••"]]


def test_a_malformed_pattern_ends_the_start() -> None:
    settings = Settings.load(overrides={"connections": {"db": {"url": "sqlite:///x.db", "mask": ["email"]}}})
    with pytest.raises(SettingsError, match=r"connections\.db: .*mask"):
        Connections.configured(settings)
