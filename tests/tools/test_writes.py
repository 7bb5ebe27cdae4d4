"""Writing in SQL: what is previewed, what is confirmed, what lasts, and what is refused."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult

from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases
from tests.observers import Observer
from tests.servers import WAYS
from tests.tools import MODES, Desk, serving

TRANSACTIONAL_DDL = [way for way in WAYS if not way.startswith("mysql")]


@pytest.fixture(scope="module", params=WAYS)
async def shop_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary(request.param) as url:
        yield url


@pytest.fixture
async def stock(shop_url: str) -> Observer:
    """A table of three items, as if new."""
    observer = Observer.of(shop_url)
    await observer.run("DROP TABLE IF EXISTS stock")
    await observer.run("CREATE TABLE stock (id integer PRIMARY KEY, name varchar(20) NOT NULL, amount integer)")
    await observer.run("INSERT INTO stock VALUES (1, 'bolt', 10), (2, 'nut', 20), (3, 'gear', 30)")
    return observer


@asynccontextmanager
async def writing(url: str, mode: str = "auto", access: str = "read_write", **settings: Any) -> AsyncGenerator[Desk]:
    connections = {"db": {"url": url, "access": access}}
    async with serving(mode, connections=connections, tools=["core", "write"], **settings) as desk:
        yield desk


async def amounts(stock: Observer) -> list[int]:
    return [row[0] for row in await stock.run("SELECT amount FROM stock ORDER BY id")]


# ---- what a write replies ----


@pytest.mark.parametrize("mode", MODES)
async def test_a_write_lasts_and_its_rows_are_counted(stock: Observer, shop_url: str, mode: str) -> None:
    async with writing(shop_url, mode) as desk:
        reply = await desk.ask(
            "execute_statement", sql="UPDATE stock SET amount = :amount WHERE id > 1", params={"amount": 7}
        )
        assert (reply["connection"], reply["affected"]) == ("db", 2)
        assert await amounts(stock) == [10, 7, 7]
        assert await desk.rows("SELECT amount FROM stock WHERE id = 2") == [[7]]


async def test_rows_that_match_count_even_where_nothing_changes(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        reply = await desk.ask("execute_statement", sql="UPDATE stock SET amount = amount WHERE id > 1")
        assert reply["affected"] == 2


async def test_returning_gives_rows(stock: Observer, shop_url: str) -> None:
    # MariaDB has no RETURNING for UPDATE, but for these two.
    async with writing(shop_url) as desk:
        made = await desk.ask("execute_statement", sql="INSERT INTO stock VALUES (4, 'cog', 1) RETURNING id, name")
        assert (made["columns"], made["rows"], made["affected"]) == (["id", "name"], [[4, "cog"]], 1)
        gone = await desk.ask("execute_statement", sql="DELETE FROM stock WHERE id > 2 RETURNING id")
        assert (sorted(gone["rows"]), gone["affected"]) == ([[3], [4]], 2)
        assert await amounts(stock) == [10, 20]


@pytest.mark.parametrize("rows", [1, 3_000])
async def test_a_write_whose_returned_rows_are_not_all_wanted_is_whole(
    stock: Observer, shop_url: str, rows: int
) -> None:
    numbers = ", ".join(f"({number}, 'x', 1)" for number in range(100, 100 + rows))
    async with writing(shop_url, confirm_writes="never") as desk:
        reply = await desk.ask("execute_statement", sql=f"INSERT INTO stock VALUES {numbers} RETURNING id")
        assert reply["affected"] == rows
        assert await stock.run("SELECT count(*) FROM stock") == [(3 + rows,)]


async def test_a_generated_key_is_told(shop_url: str) -> None:
    observer = Observer.of(shop_url)
    serial = {
        "postgresql": "integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "mysql": "integer AUTO_INCREMENT PRIMARY KEY",
        "sqlite": "integer PRIMARY KEY AUTOINCREMENT",
    }[observer.backend]
    await observer.run("DROP TABLE IF EXISTS counted")
    await observer.run(f"CREATE TABLE counted (id {serial}, name varchar(20))")
    async with writing(shop_url) as desk:
        first = await desk.ask("execute_statement", sql="INSERT INTO counted (name) VALUES ('one')")
        # PostgreSQL tells keys by RETURNING alone.
        assert first.get("generated") == (None if observer.backend == "postgresql" else 1)


@pytest.mark.parametrize(
    "sql",
    ["INSERT INTO stock VALUES (1, 'again', 1)", "INSERT INTO stock VALUES (9, NULL, 1)"],
    ids=["unique", "not null"],
)
async def test_a_violated_constraint_changes_nothing(stock: Observer, shop_url: str, sql: str) -> None:
    async with writing(shop_url) as desk:
        assert (await desk.refusal("execute_statement", sql=sql))["code"] == "CONSTRAINT"
        assert await amounts(stock) == [10, 20, 30]


# ---- access ----


async def test_nothing_is_written_through_a_connection_that_only_reads(stock: Observer, shop_url: str) -> None:
    async with serving(
        tools=["core", "write"],
        connections={"db": {"url": shop_url}, "other": {"url": shop_url, "access": "read_write"}},
    ) as desk:
        for tool in ("execute_statement", "preview_statement"):
            refused = await desk.refusal(tool, connection="db", sql="DELETE FROM stock WHERE id = 1")
            assert refused["code"] == "READ_ONLY"
        assert (await desk.refusal("begin_transaction", connection="db"))["code"] == "READ_ONLY"
        assert await amounts(stock) == [10, 20, 30]


async def test_only_admin_changes_the_schema(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url, confirm_writes="never") as desk:
        refused = await desk.refusal("execute_statement", sql="CREATE TABLE made (id integer)")
        assert (refused["code"], "admin" in refused["message"]) == ("FORBIDDEN", True)
    async with writing(shop_url, access="admin", confirm_writes="never") as desk:
        await desk.ask("execute_statement", sql="CREATE TABLE made (id integer)")
        assert "made" in await desk.text("list_tables")
        await desk.ask("execute_statement", sql="DROP TABLE made")
        assert "made" not in await desk.text("list_tables")


@pytest.mark.parametrize(
    ("backend", "sql"),
    [
        ("postgresql", "COPY stock TO PROGRAM 'cat'"),
        ("postgresql", "COPY stock FROM '/etc/passwd'"),
        ("postgresql", "DO $$ BEGIN DELETE FROM stock; END $$"),
        ("postgresql", "CREATE ROLE intruder SUPERUSER"),
        ("postgresql", "ALTER SYSTEM SET work_mem = '1GB'"),
        ("postgresql", "CREATE EXTENSION dblink"),
        ("postgresql", "CREATE FUNCTION f() RETURNS integer LANGUAGE c AS 'libc', 'abs'"),
        ("postgresql", "INSERT INTO stock SELECT 4, pg_read_file('/etc/hostname'), 1"),
        ("postgresql", "UPDATE stock SET amount = 1 WHERE pg_terminate_backend(1)"),
        ("postgresql", "GRANT ALL ON stock TO PUBLIC"),
        ("postgresql", "UPDATE pg_proc SET provolatile = 'i'"),
        ("postgresql", 'WITH x AS (DELETE FROM ONLY pg_catalog."pg_class" RETURNING 1) SELECT * FROM x'),
        ("postgresql", "INSERT INTO pg_language (lanname) VALUES ('c2')"),
        ("mysql", "LOAD DATA INFILE '/etc/passwd' INTO TABLE stock"),
        ("mysql", "INSERT INTO stock SELECT 4, load_file('/etc/hostname'), 1"),
        ("mysql", "CREATE TABLE far (id integer) ENGINE=FEDERATED CONNECTION='mysql://x@y/z'"),
        ("mysql", "CREATE TABLE elsewhere (id integer) DATA DIRECTORY='/tmp'"),
        ("mysql", "UPDATE mysql.global_priv SET priv = '{}' WHERE user = 'root'"),
        ("mysql", "CREATE USER intruder"),
        ("mysql", "SET GLOBAL general_log = 1"),
        ("sqlite", "ATTACH 'other.db' AS other"),
        ("sqlite", "PRAGMA writable_schema = 1"),
        ("sqlite", "VACUUM INTO '/tmp/copy.db'"),
        ("sqlite", "CREATE VIRTUAL TABLE v USING fts5(x)"),
        ("sqlite", "INSERT INTO stock VALUES (4, load_extension('x'), 1)"),
    ],
)
async def test_what_reaches_beyond_the_database_has_no_access(databases: Databases, backend: str, sql: str) -> None:
    async with databases.temporary(backend) as url, writing(url, access="admin", confirm_writes="never") as desk:
        await desk.ask(
            "execute_statement", sql="CREATE TABLE stock (id integer PRIMARY KEY, name varchar(99), amount integer)"
        )
        assert (await desk.refusal("execute_statement", sql=sql))["code"] in {"FORBIDDEN", "READ_ONLY"}
        assert await desk.rows("SELECT * FROM stock") == []


async def test_several_statements_are_refused_as_a_whole(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        sql = "UPDATE stock SET amount = 1 WHERE id = 1; DELETE FROM stock WHERE id = 2"
        assert (await desk.refusal("execute_statement", sql=sql))["code"] == "MULTIPLE_STATEMENTS"
        assert await amounts(stock) == [10, 20, 30]


async def test_a_connection_that_hides_data_is_not_written_in_sql(stock: Observer, shop_url: str) -> None:
    connections = {"db": {"url": shop_url, "access": "read_write", "mask": ["stock.name"]}}
    async with serving(tools=["core", "write"], connections=connections) as desk:
        refused = await desk.refusal("execute_statement", sql="DELETE FROM stock WHERE name = 'bolt'")
        assert refused["code"] == "FORBIDDEN"
        assert await amounts(stock) == [10, 20, 30]


async def test_tools_that_no_connection_permits_are_not_shown(shop_url: str) -> None:
    async with serving(tools=["core", "write"], url=shop_url) as desk:
        assert "execute_statement" not in {tool.name for tool in await desk.client.list_tools()}


async def test_clients_are_told_what_destroys(shop_url: str) -> None:
    async with writing(shop_url) as desk:
        tools = {tool.name: tool.annotations for tool in await desk.client.list_tools()}
    told = {name: (hint.read_only_hint, hint.destructive_hint) for name, hint in tools.items() if hint}
    assert told["execute_query"] == (True, None)
    assert told["execute_statement"] == (False, True)
    assert told["preview_statement"] == (False, False)


# ---- previews ----


@pytest.mark.parametrize("mode", MODES)
async def test_a_preview_shows_rows_before_and_after_and_changes_nothing(
    stock: Observer, shop_url: str, mode: str
) -> None:
    async with writing(shop_url, mode) as desk:
        seen = await desk.ask(
            "preview_statement",
            sql="UPDATE stock SET amount = amount * :by WHERE id >= :least",
            params={"by": 3, "least": 2},
        )
        assert (seen["affected"], seen["columns"]) == (2, ["id", "name", "amount"])
        assert seen["before"] == [[2, "nut", 20], [3, "gear", 30]]
        assert seen["after"] == [[2, "nut", 60], [3, "gear", 90]]
        assert await amounts(stock) == [10, 20, 30]


@pytest.mark.parametrize(
    ("sql", "params", "before"),
    [
        ("DELETE FROM stock WHERE name = ?", ["nut"], [[2, "nut", 20]]),
        ("UPDATE stock SET amount = ?, name = ? WHERE id = ?", [1, "x", 3], [[3, "gear", 30]]),
        ("DELETE FROM stock WHERE id IN (SELECT id FROM stock WHERE amount > 15 AND id < 3)", None, [[2, "nut", 20]]),
        ("UPDATE stock SET amount = (SELECT 1) WHERE id = 1 -- WHERE true", None, [[1, "bolt", 10]]),
    ],
)
async def test_a_preview_finds_the_rows_by_the_statement_s_own_condition(
    stock: Observer, shop_url: str, sql: str, params: list[Any] | None, before: list[list[Any]]
) -> None:
    if stock.backend == "mysql" and "SELECT id FROM stock" in sql:
        sql = sql.replace("SELECT id FROM stock", "SELECT id FROM (SELECT * FROM stock) s")
    async with writing(shop_url) as desk:
        seen = await desk.ask("preview_statement", sql=sql, **({"params": params} if params else {}))
        assert (seen["before"], seen["affected"]) == (before, len(before))
        assert await amounts(stock) == [10, 20, 30]


async def test_a_token_does_what_was_previewed_once(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        seen = await desk.ask("preview_statement", sql="DELETE FROM stock")
        assert "WHERE" in seen["needs_confirmation"]
        done = await desk.ask("execute_statement", sql="DELETE FROM stock", confirm=seen["confirm"])
        assert done["affected"] == 3
        again = await desk.refusal("execute_statement", sql="DELETE FROM stock", confirm=seen["confirm"])
        assert again["code"] == "EXPIRED"


async def test_a_token_is_for_that_statement_and_those_values(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        sql = "DELETE FROM stock WHERE id = :id"
        seen = await desk.ask("preview_statement", sql=sql, params={"id": 1})
        for arguments in ({"sql": sql, "params": {"id": 2}}, {"sql": f"{sql} OR 1 = 1", "params": {"id": 1}}):
            refused = await desk.refusal("execute_statement", confirm=seen["confirm"], **arguments)
            assert refused["code"] == "BAD_PARAMETER"
        assert await amounts(stock) == [10, 20, 30]


async def test_a_confirmed_write_that_would_affect_other_rows_now_does_nothing(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        sql = "DELETE FROM stock WHERE amount > 15"
        seen = await desk.ask("preview_statement", sql=sql)
        await stock.run("INSERT INTO stock VALUES (4, 'new', 99)")
        refused = await desk.refusal("execute_statement", sql=sql, confirm=seen["confirm"])
        assert (refused["code"], refused["retry"]) == ("CONFLICT", "later")
        assert await amounts(stock) == [10, 20, 30, 99]


async def test_a_failing_preview_fails_as_the_statement_would(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        refused = await desk.refusal("preview_statement", sql="INSERT INTO stock VALUES (1, 'twice', 1)")
        assert refused["code"] == "CONSTRAINT"


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("mysql")])
async def test_what_cannot_be_tried_is_said(databases: Databases, way: str) -> None:
    async with databases.temporary(way) as url, writing(url, access="admin", confirm_writes="never") as desk:
        observer = Observer.of(url)
        await observer.run("CREATE TABLE fast (id integer PRIMARY KEY) ENGINE=MyISAM")
        await observer.run("CREATE VIEW over_it AS SELECT * FROM fast")
        await observer.run("CREATE TABLE safe (id integer PRIMARY KEY) ENGINE=InnoDB")
        for table, is_tried in (("fast", False), ("over_it", False), ("safe", True)):
            seen = await desk.ask("preview_statement", sql=f"INSERT INTO {table} VALUES (1)")
            assert ("affected" in seen, "note" in seen) == (is_tried, not is_tried)
            assert await observer.run(f"SELECT count(*) FROM {table}") == [(0,)]
        seen = await desk.ask("preview_statement", sql="DROP TABLE safe")
        assert "not tried" in seen["note"]
        assert await observer.run("SELECT count(*) FROM safe") == [(0,)]
        await desk.ask("execute_statement", sql="DROP TABLE safe", confirm=seen["confirm"])


@pytest.mark.parametrize("way", TRANSACTIONAL_DDL)
async def test_a_change_of_the_schema_is_tried_where_it_can_be(databases: Databases, way: str) -> None:
    async with databases.temporary(way) as url, writing(url, access="admin") as desk:
        await Observer.of(url).run("CREATE TABLE there (id integer)")
        assert (await desk.refusal("preview_statement", sql="CREATE TABLE there (id integer)"))["code"] == "SYNTAX"
        seen = await desk.ask("preview_statement", sql="DROP TABLE there")
        assert await desk.rows("SELECT * FROM there") == []
        await desk.ask("execute_statement", sql="DROP TABLE there", confirm=seen["confirm"])
        assert (await desk.refusal("execute_query", sql="SELECT * FROM there"))["code"] == "UNKNOWN_TABLE"


# ---- confirmations ----

SWEEPING = [
    "DELETE FROM stock",
    "UPDATE stock SET amount = 0",
    "UPDATE stock SET amount = (SELECT max(id) FROM (SELECT * FROM stock) s WHERE id > 0)",
]
BOUNDED = [
    "DELETE FROM stock WHERE id = 1",
    "UPDATE stock SET amount = 0 WHERE id = 2",
    "INSERT INTO stock VALUES (8, 'DELETE', 1)",
]


@pytest.mark.parametrize("sql", SWEEPING)
async def test_what_destroys_needs_a_confirmation(stock: Observer, shop_url: str, sql: str) -> None:
    async with writing(shop_url) as desk:
        refused = await desk.refusal("execute_statement", sql=sql)
        assert (refused["code"], refused["retry"]) == ("CONFIRMATION_NEEDED", "ask_user")
        assert await amounts(stock) == [10, 20, 30]


@pytest.mark.parametrize("sql", BOUNDED)
@pytest.mark.parametrize("confirm", ["never", "destructive", "always"])
async def test_settings_say_what_else_does(stock: Observer, shop_url: str, sql: str, confirm: str) -> None:
    async with writing(shop_url, confirm_writes=confirm) as desk:
        if confirm == "always":
            assert (await desk.refusal("execute_statement", sql=sql))["code"] == "CONFIRMATION_NEEDED"
        else:
            assert (await desk.ask("execute_statement", sql=sql))["affected"] == 1


async def test_many_rows_need_a_confirmation_and_are_left_alone_without(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url, confirm_rows=2) as desk:
        assert (await desk.ask("execute_statement", sql="UPDATE stock SET amount = 1 WHERE id < 3"))["affected"] == 2
        refused = await desk.refusal("execute_statement", sql="UPDATE stock SET amount = 2 WHERE id < 9")
        assert (refused["code"], "3 rows" in refused["message"]) == ("CONFIRMATION_NEEDED", True)
        assert await amounts(stock) == [1, 1, 30]
        opened = (await desk.ask("begin_transaction"))["transaction_id"]
        sql = "UPDATE stock SET amount = 2 WHERE id < 9"
        refused = await desk.refusal("execute_statement", sql=sql, transaction_id=opened)
        assert refused["code"] == "CONFIRMATION_NEEDED"
        await desk.ask("commit_transaction", transaction_id=opened)
        assert await amounts(stock) == [1, 1, 30]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("agrees", [True, False])
async def test_a_client_with_forms_asks_its_user(stock: Observer, shop_url: str, mode: str, agrees: bool) -> None:
    asked: list[str] = []

    async def user(message: str, response_type: Any, params: Any, context: Any) -> Any:
        asked.append(message)
        key = next(iter(params.requested_schema["properties"]))
        return ElicitResult(action="accept", content={key: agrees})

    settings = Settings.model_validate(
        {"connections": {"db": {"url": shop_url, "access": "read_write"}}, "tools": ["core", "write"]}
    )
    async with Client(build_server(settings), mode=mode, elicitation_handler=user) as client:
        result = await client.call_tool("execute_statement", {"sql": "DELETE FROM stock"}, raise_on_error=False)
    assert len(asked) == 1
    assert "DELETE FROM stock" in asked[0]
    assert "3 rows" in asked[0]
    assert result.is_error is not agrees
    assert await amounts(stock) == ([] if agrees else [10, 20, 30])
