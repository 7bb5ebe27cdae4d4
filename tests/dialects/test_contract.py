"""What every database must do alike, through the client that a user has: one suite, unchanged for each of them."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from manydb import statements
from tests.conftest import Databases
from tests.servers import WAYS
from tests.tools import MODES, Desk, serving

_NUMBERS = ", ".join(f"({n}, 'label {n}')" for n in range(1, 451))
# What is spelled differently in each database: types, quotes, and how a schema beside the default one is made.
WORDS: dict[str, dict[str, str]] = {
    "postgresql": {
        "bytes": "bytea", "uuid": "uuid", "moment": "timestamptz", "json": "jsonb", "q": '"',
        "real": "double precision", "long": "repeat('x', 1000000)",
    },
    "mysql": {
        "bytes": "varbinary(40)", "uuid": "uuid", "moment": "datetime(6)", "json": "json", "q": "`", "real": "double",
        "long": "repeat('x', 1000000)",
    },
    "sqlite": {
        "bytes": "blob", "uuid": "text", "moment": "text", "json": "text", "q": '"', "real": "real",
        "long": "hex(zeroblob(500000))",
    },
}  # fmt: skip
SCHEMA = """
CREATE TABLE customers (id integer PRIMARY KEY, email varchar(80) NOT NULL UNIQUE, full_name varchar(80));
CREATE TABLE {q}Order{q} (id integer PRIMARY KEY, customer_id integer NOT NULL REFERENCES customers (id),
    {q}group{q} varchar(20), total decimal(12,2) CHECK (total >= 0));
CREATE TABLE kinds (id integer PRIMARY KEY, day date, at {moment}, uid {uuid}, amount decimal(12,2), data {bytes},
    doc {json}, ratio {real}, flag boolean, big bigint);
CREATE TABLE numbers (n integer PRIMARY KEY, label varchar(20));
CREATE VIEW evens AS SELECT n FROM numbers WHERE n % 2 = 0;
CREATE INDEX orders_by_customer ON {q}Order{q} (customer_id);
INSERT INTO customers VALUES (1, 'ada@example.com', 'Ada'), (2, 'bob%x@example.com', 'Bob'),
    (3, 'eve@example.com', NULL);
INSERT INTO {q}Order{q} VALUES (1, 1, 'a', 10.50), (2, 1, 'b', 20), (3, 2, 'a', 0.1);
INSERT INTO kinds VALUES (1, '2026-01-05', '2026-01-05 10:00:00', '6f1c1f5e-6a0b-4b44-9c39-1f0a3a3e7d10', 12.50,
    {blob}, '{{"a": [1, 2]}}', 0.5, TRUE, 9007199254740993);
INSERT INTO kinds (id) VALUES (2);
INSERT INTO numbers VALUES {numbers}
"""
BLOBS = {"postgresql": r"'\x00ff10'", "mysql": "x'00ff10'", "sqlite": "x'00ff10'"}


async def seed(url: str, backend: str) -> None:
    script = SCHEMA.format(numbers=_NUMBERS, blob=BLOBS[backend], **WORDS[backend])
    await run(url, *script.split(";\n"))


async def run(url: str, *script: str) -> None:
    """Run the statements one by one, as somebody else than the gateway."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement in script:
            is_filled_in = connection.dialect.paramstyle in {"format", "pyformat"}
            await connection.exec_driver_sql(statement.replace("%", "%%") if is_filled_in else statement)
    await engine.dispose()


@pytest.fixture(scope="session", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def backend(way: str) -> str:
    return way.partition("+")[0]


@pytest.fixture(scope="session")
async def url(databases: Databases, way: str, backend: str) -> AsyncGenerator[str]:
    async with databases.temporary(way) as url:
        await seed(url, backend)
        yield url


@pytest.fixture(scope="session", params=MODES)
async def desk(request: pytest.FixtureRequest, url: str) -> AsyncGenerator[Desk]:
    async with serving(request.param, url=url) as desk:
        yield desk


@pytest.fixture
def quoted_order(backend: str) -> str:
    """The name of the table called Order as this database needs it."""
    quote = WORDS[backend]["q"]
    return f"{quote}Order{quote}"


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("day", "2026-01-05"),
        ("at", "2026-01-05 10:00:00"),
        ("uid", "6f1c1f5e-6a0b-4b44-9c39-1f0a3a3e7d10"),
        ("amount", "12.50"),
        ("amount", 12.5),
        ("data", {"$bytes": "AP8Q"}),
        ("ratio", 0.5),
        ("flag", True),
        ("big", "9007199254740993"),
    ],
)
@pytest.mark.parametrize(("mark", "wrap"), [(":value", dict), ("?", list), ("%s", list)])
async def test_a_value_given_as_json_finds_the_row_that_holds_it(
    desk: Desk, column: str, value: Any, mark: str, wrap: type
) -> None:
    params: Any = {"value": value} if wrap is dict else [value]
    for given in (params, json.dumps(params)):
        assert await desk.rows(f"SELECT id FROM kinds WHERE {column} = {mark}", params=given) == [[1]]


async def test_an_array_fills_in_and_nulls_bind(desk: Desk) -> None:
    for condition in ("n IN :some", "n IN (:some)"):
        sql = f"SELECT n FROM numbers WHERE {condition} ORDER BY n"
        assert await desk.rows(sql, params={"some": [3, 1, 2]}) == [[1], [2], [3]]
    sql = "SELECT count(*) FROM customers WHERE full_name = :name OR full_name IS NULL"
    assert await desk.rows(sql, params={"name": None}) == [[1]]


async def test_one_name_may_stand_in_several_places(desk: Desk) -> None:
    sql = "SELECT n FROM numbers WHERE n >= :n AND n < :n + 2 AND label <> :label ORDER BY n"
    assert await desk.rows(sql, params={"n": 7, "label": "label 8"}) == [[7]]


async def test_what_only_looks_like_a_placeholder_is_left_alone(desk: Desk) -> None:
    sql = """SELECT ':x' AS a, '{"b": ":y", "c": "%s ? %"}' AS b /* :z ? */ -- :w
             , email FROM customers WHERE email LIKE 'bob%' AND email LIKE '%!%x%' ESCAPE '!' AND id = :id"""
    assert await desk.rows(sql, params={"id": 2}) == [[":x", '{"b": ":y", "c": "%s ? %"}', "bob%x@example.com"]]
    assert await desk.rows("SELECT email FROM customers WHERE email LIKE 'bob%'") == [["bob%x@example.com"]]


async def test_values_come_back_exactly(desk: Desk) -> None:
    reply = await desk.ask("execute_query", sql="SELECT data, big, full_name FROM kinds, customers WHERE kinds.id = 1 "
                           "AND customers.id = 3")  # fmt: skip
    assert reply["rows"] == [[{"$bytes": "AP8Q"}, "9007199254740993", None]]


# ---- the reply ------------------------------------------------------------------------------------------------------


async def test_a_whole_answer_says_no_more_than_it_must(desk: Desk) -> None:
    reply = await desk.ask("execute_query", sql="SELECT n, label FROM numbers WHERE n < 3 ORDER BY n")
    assert reply.pop("elapsed_ms") >= 0
    types = reply.pop("types")
    assert len(types) == 2
    assert reply == {
        "connection": "db",
        "columns": ["n", "label"],
        "rows": [[1, "label 1"], [2, "label 2"]],
        "row_count": 2,
    }


async def test_an_answer_past_the_cap_is_cut_and_read_on_to_its_end(desk: Desk) -> None:
    page = await desk.ask("execute_query", sql="SELECT n FROM numbers ORDER BY n")
    assert (page["row_count"], page["truncated"]) == (100, "max_rows")
    seen = [row[0] for row in page["rows"]]
    while "truncated" in page:
        page = await desk.ask("fetch_rows", result_id=page["result_id"], offset=len(seen))
        assert page["offset"] == len(seen)
        seen += [row[0] for row in page["rows"]]
    assert seen == list(range(1, 451))


@pytest.mark.parametrize(("cap", "truncated"), [(449, "max_rows"), (450, None), (451, None)])
async def test_exactly_as_many_rows_as_the_cap_are_a_whole_answer(desk: Desk, cap: int, truncated: str | None) -> None:
    reply = await desk.ask("execute_query", sql="SELECT n FROM numbers", row_cap=cap)
    assert (reply["row_count"], reply.get("truncated")) == (min(cap, 450), truncated)


async def test_rows_that_nobody_read_are_never_called_all(desk: Desk) -> None:
    sql = "SELECT a.n FROM numbers a, numbers b"  # 202,500 rows
    page = await desk.ask("execute_query", sql=sql, row_cap=100)
    last = await desk.ask("fetch_rows", result_id=page["result_id"], offset=100, row_cap=1000)
    assert (last["row_count"], last["truncated"]) == (400, "max_rows")
    assert last["hint"].startswith("the rest was not read")


async def test_a_result_of_long_rows_is_not_read_to_its_end(desk: Desk, backend: str) -> None:
    sql = f"SELECT n, {WORDS[backend]['long']} AS x FROM numbers ORDER BY n"  # 450 MB
    page = await desk.ask("execute_query", sql=sql, row_cap=10)
    assert (page["row_count"], page["truncated"]) == (10, "max_rows")
    assert page["clipped"][9] == "row 9 x: 1000000 characters"
    rest = await desk.ask("fetch_rows", result_id=page["result_id"])
    assert [row[0] for row in rest["rows"]] == list(range(11, 11 + rest["row_count"]))
    assert (rest["row_count"] < 30, rest["truncated"]) == (True, "max_bytes")
    assert rest["hint"].startswith("the rest was not read: narrow the query, or select fewer or shorter columns")
    assert await desk.rows("SELECT count(*) FROM numbers") == [[450]]


async def test_columns_of_one_name_are_both_there(desk: Desk) -> None:
    sql = "SELECT 1 AS id, 2 AS id"
    reply = await desk.ask("execute_query", sql=sql)
    assert (reply["columns"], reply["rows"]) == (["id", "id"], [[1, 2]])
    assert (await desk.ask("execute_query", sql=sql, format="records"))["records"] == [{"id": 1, "id_2": 2}]


async def test_no_rows_still_have_their_columns(desk: Desk) -> None:
    reply = await desk.ask("execute_query", sql="SELECT n, label FROM numbers WHERE n < 0")
    assert (reply["columns"], reply["rows"], reply["row_count"]) == (["n", "label"], [], 0)
    assert await desk.text("execute_query", sql="SELECT n FROM numbers WHERE n < 0", format="csv") == "n\n"


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1 AS one;", "SELECT 1 AS one; -- done", "```sql\nSELECT 1 AS one\n```", "```\nSELECT 1 AS one;\n```"],
)
async def test_fences_and_a_closing_semicolon_are_taken_off(desk: Desk, sql: str) -> None:
    assert await desk.rows(sql) == [[1]]


async def test_a_query_that_takes_too_long_is_stopped(desk: Desk) -> None:
    sql = "SELECT count(*) FROM numbers a, numbers b, numbers c, numbers d WHERE a.n + b.n + c.n + d.n = 7"
    error = await desk.refusal("execute_query", sql=sql, timeout_seconds=0.2)
    assert (error["code"], error["retry"]) == ("TIMEOUT", "fix_sql")
    assert await desk.rows("SELECT 1") == [[1]]


# ---- plans ----------------------------------------------------------------------------------------------------------


async def test_a_plan_names_the_table_and_its_index(desk: Desk) -> None:
    for sql, params in (
        ("SELECT label FROM numbers WHERE n = :n", {"n": 5}),
        ("SELECT label FROM numbers WHERE n = ?", [5]),
        ("EXPLAIN SELECT label FROM numbers WHERE n = 5", None),
    ):
        plan = await desk.text("explain_query", sql=sql, params=params)
        assert "numbers" in plan
        assert "PRIMARY" in plan.upper() or "PKEY" in plan.upper()


async def test_analyze_runs_the_query_or_says_that_it_cannot(desk: Desk, backend: str) -> None:
    sql = "SELECT count(*) FROM numbers"
    if backend == "sqlite":
        assert (await desk.refusal("explain_query", sql=sql, analyze=True))["code"] == "UNSUPPORTED"
    else:
        plan = await desk.text("explain_query", sql=sql, analyze=True)
        assert "actual" in plan or "r_rows" in plan


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("DELETE FROM numbers", "READ_ONLY"),
        ("SELECT 1; SELECT 2", "MULTIPLE_STATEMENTS"),
        ("SELECT * FROM nmbers", "UNKNOWN_TABLE"),
    ],
)
async def test_what_is_not_one_good_query_has_no_plan(desk: Desk, sql: str, code: str) -> None:
    for analyze in (False, True):
        assert (await desk.refusal("explain_query", sql=sql, analyze=analyze))["code"] in {code, "UNSUPPORTED"}


# ---- errors that teach ----------------------------------------------------------------------------------------------


async def test_an_unknown_table_brings_the_nearest_names(desk: Desk, quoted_order: str) -> None:
    error = await desk.refusal("execute_query", sql="SELECT * FROM custmers")
    assert (error["code"], error["retry"], error["suggestions"][0]) == ("UNKNOWN_TABLE", "fix_sql", "customers")
    assert quoted_order in (await desk.refusal("execute_query", sql="SELECT * FROM orders"))["suggestions"]


async def test_an_unknown_column_brings_the_columns_there_are(desk: Desk) -> None:
    error = await desk.refusal("execute_query", sql="SELECT c.full_nme FROM customers c JOIN numbers ON n = id")
    assert (error["code"], error["retry"], error["suggestions"]) == ("UNKNOWN_COLUMN", "fix_sql", ["full_name"])
    assert error["columns"] == {"customers": ["id", "email", "full_name"], "numbers": ["n", "label"]}


async def test_a_syntax_error_brings_a_note_and_the_quoting_of_a_keyword(desk: Desk, quoted_order: str) -> None:
    error = await desk.refusal("execute_query", sql="SELECT * FROM Order WHERE id = 1")
    assert (error["code"], error["retry"], error["suggestions"]) == ("SYNTAX", "fix_sql", [quoted_order])
    assert error["note"]
    assert await desk.rows(f"SELECT id FROM {quoted_order} WHERE id = 1") == [[1]]


@pytest.mark.parametrize(
    ("sql", "code", "retry"),
    [
        ("", "SYNTAX", "fix_sql"),
        ("SELECT 'open", "SYNTAX", "fix_sql"),
        ("SELECT FROM WHERE", "SYNTAX", "fix_sql"),
        ("SELECT nofunction(1)", "SYNTAX", "fix_sql"),
        ("SELECT 1; SELECT 2", "MULTIPLE_STATEMENTS", "fix_sql"),
        ("DELETE FROM numbers", "READ_ONLY", "fix_sql"),
        ("WITH x AS (SELECT 1) DELETE FROM numbers", "READ_ONLY", "fix_sql"),
        ("CREATE TABLE more (n integer)", "READ_ONLY", "fix_sql"),
        ("DROP TABLE numbers", "READ_ONLY", "fix_sql"),
        ("COMMIT", "FORBIDDEN", "ask_user"),
    ],
)
async def test_a_statement_that_is_no_read_is_refused_with_its_code(
    desk: Desk, sql: str, code: str, retry: str
) -> None:
    error = await desk.refusal("execute_query", sql=sql)
    assert (error["code"], error["retry"]) == (code, retry)
    assert error["message"]


@pytest.mark.parametrize(
    ("sql", "params", "message"),
    [
        ("SELECT n FROM numbers WHERE n = :n", None, "the statement has placeholders (:n) but no params"),
        ("SELECT n FROM numbers WHERE n = :n", {"m": 1}, "params has no value for :n; it has m"),
        ("SELECT n FROM numbers WHERE n = :n", [1], "the statement has :n: send params as an object of these names"),
        (
            "SELECT n FROM numbers WHERE n = ?",
            [1, 2],
            "the statement has 1 positional placeholders, params has 2 values",
        ),
        ("SELECT n FROM numbers", {"m": 1}, "params not used by the statement: m"),
    ],
)
async def test_params_that_do_not_fit_say_what_would(desk: Desk, sql: str, params: Any, message: str) -> None:
    error = await desk.refusal("execute_query", sql=sql, params=params)
    assert (error["code"], error["retry"], error["message"]) == ("BAD_PARAMETER", "fix_sql", message)


async def test_a_value_that_cannot_be_bound_is_told_by_the_name_it_was_given(desk: Desk) -> None:
    sql = "SELECT n FROM numbers WHERE n IN :some AND n > :low AND label = :label AND n < :low + 9"
    params = {"some": [1, 2], "low": 0, "label": {"$bytes": "not base64"}}
    error = await desk.refusal("execute_query", sql=sql, params=params)
    assert (error["code"], error["message"].startswith(":label takes ")) == ("BAD_PARAMETER", True)
    positional = await desk.refusal("execute_query", sql="SELECT ?", params=[{"$bytes": "not base64"}])
    assert positional["message"].startswith("placeholder ")


async def test_an_unknown_connection_brings_the_known_ones(desk: Desk) -> None:
    error = await desk.refusal("execute_query", sql="SELECT 1", connection="bd")
    assert error == {
        "code": "UNKNOWN_CONNECTION",
        "message": "no connection named 'bd'; known: db",
        "suggestions": ["db"],
        "retry": "ask_user",
    }


async def test_with_the_classification_off_the_database_refuses_the_write(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "require_read", lambda _statement: None)
    for sql in ("DELETE FROM numbers", "INSERT INTO numbers VALUES (0, 'x')", "CREATE TABLE more (n integer)"):
        assert (await desk.refusal("execute_query", sql=sql))["code"] in {"READ_ONLY", "FORBIDDEN"}
    assert await desk.rows("SELECT count(*) FROM numbers") == [[450]]


# ---- schemas --------------------------------------------------------------------------------------------------------


async def test_tables_and_views_are_listed(desk: Desk, quoted_order: str) -> None:
    schema = await _schema(desk)
    reply = await desk.ask("list_tables", schema=schema)
    assert reply["tables"] == {schema: f"{quoted_order},customers,kinds,numbers"}
    assert (reply["views"], reply["total"]) == ({schema: "evens"}, 5)
    assert (await desk.ask("list_tables", schema=schema, kind="view"))["total"] == 1


async def _schema(desk: Desk) -> str:
    """The schema that names without a prefix are in."""
    reply = await desk.ask("list_tables", pattern="evens")
    return str(next(iter(reply["views"])))


async def test_pages_of_a_list_follow_each_other(desk: Desk, quoted_order: str) -> None:
    names: list[str] = []
    cursor = None
    schema = await _schema(desk)
    while True:
        page = await desk.ask("list_tables", schema=schema, limit=2, cursor=cursor)
        names += [
            name for group in ("tables", "views") for name in page.get(group, {}).get(schema, "").split(",") if name
        ]
        if (cursor := page.get("next")) is None:
            break
    assert sorted(names) == sorted([quoted_order, "customers", "evens", "kinds", "numbers"])


@pytest.mark.parametrize("pattern", ["umber", "num%", "%BERS", "n%s"])
async def test_a_pattern_finds_names(desk: Desk, pattern: str) -> None:
    reply = await desk.ask("list_tables", pattern=pattern, schema=await _schema(desk))
    assert list(reply["tables"].values()) == ["numbers"]


async def test_a_search_finds_tables_columns_and_indexes(desk: Desk, quoted_order: str, backend: str) -> None:
    quote = WORDS[backend]["q"]
    found = await desk.ask("search_schema", pattern="customer")
    assert "customers" in found["tables"]
    assert any(
        line.startswith("customer_id ") and quoted_order in tables.split(",")
        for line, tables in found["columns"].items()
    )
    found = await desk.ask("search_schema", pattern="orders_by_customer")  # a server may hold many customers
    assert f"orders_by_customer on {quoted_order} (customer_id)" in found["indexes"]
    found = (await desk.ask("search_schema", pattern="group"))["columns"]
    (group,) = [line for line, tables in found.items() if quoted_order in tables.split(",")]
    assert group.startswith(f"{quote}group{quote} varchar(20)")


async def test_a_table_is_described_with_what_refers_to_it(desk: Desk, quoted_order: str) -> None:
    reply = await desk.ask("get_table_schema", table=["customers", "Order", "evens"])
    customers, order, evens = reply["tables"]
    assert [line.split()[0] for line in customers["columns"]] == ["id", "email", "full_name"]
    assert f"referenced by {quoted_order}.customer_id" in customers["keys"]
    assert order["table"] == quoted_order
    assert order["columns"][1].endswith("not null -> customers.id")
    assert any(line.startswith("index orders_by_customer") for line in order["keys"])
    assert any(line.startswith("check") and "total" in line for line in order["keys"])
    assert (evens["kind"], "SELECT" in evens["definition"].upper()) == ("view", True)


async def test_an_unknown_table_has_no_description_but_neighbours(desk: Desk) -> None:
    error = await desk.refusal("get_table_schema", table="custmers")
    assert (error["code"], error["suggestions"][0]) == ("UNKNOWN_TABLE", "customers")


async def test_a_table_made_after_the_schema_was_read_is_found_at_once(databases: Databases, backend: str) -> None:
    async with databases.temporary(backend) as url:
        await seed(url, backend)
        async with serving(url=url, schema_cache_ttl=3600) as desk:
            assert (await desk.ask("search_schema", pattern="numbers"))["total"] > 0
            for tool, parameter in (
                ("get_table_schema", "table"),
                ("list_tables", "pattern"),
                ("search_schema", "pattern"),
            ):
                name = f"later_{tool}"
                await run(url, f"CREATE TABLE {name} (n integer)")
                assert name in json.dumps(await desk.ask(tool, **{parameter: name}))
            await run(url, "CREATE TABLE latest (n integer)")
            assert "latest" in (await desk.refusal("execute_query", sql="SELECT * FROM latst"))["suggestions"]


async def test_a_description_is_believed_until_the_database_says_otherwise(databases: Databases, backend: str) -> None:
    async with databases.temporary(backend) as url:
        await seed(url, backend)
        async with serving(url=url, schema_cache_ttl=3600) as desk:

            async def columns() -> list[str]:
                (table,) = (await desk.ask("get_table_schema", table="numbers"))["tables"]
                return [line.split()[0] for line in table["columns"]]

            before = await columns()
            await run(url, "ALTER TABLE numbers ADD COLUMN later integer")
            assert await columns() == before
            await desk.refusal("execute_query", sql="SELECT latr FROM numbers")
            assert await columns() == [*before, "later"]


async def test_a_table_dropped_since_it_was_listed_is_unknown(databases: Databases, backend: str) -> None:
    async with databases.temporary(backend) as url:
        await seed(url, backend)
        await run(url, "CREATE TABLE passing (n integer)")
        async with serving(url=url, schema_cache_ttl=3600) as desk:
            await desk.ask("list_tables")
            await run(url, "DROP TABLE passing")
            error = await desk.refusal("get_table_schema", table=["numbers", "passing"])
            assert (error["code"], "passing" in error["message"]) == ("UNKNOWN_TABLE", True)


async def test_every_connection_tells_what_it_is(desk: Desk, url: str) -> None:
    (connection,) = (await desk.ask("list_connections"))["connections"]
    product = connection.pop("backend")
    assert product.split()[0] in {"PostgreSQL", "MariaDB", "MySQL", "SQLite"}
    assert product.split()[1][0].isdigit()
    assert connection.pop("login") in {"superuser", "could write"}  # the tests make databases with it
    driver = make_url(url).get_driver_name()
    assert connection == {"name": "db", "driver": driver, "access": "read_only", "status": "ok"}
