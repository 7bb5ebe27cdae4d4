"""Transactions across calls: what lasts, what is undone, and when they end by themselves."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import Databases
from tests.observers import ENDLESS, Observer, eventually, wired
from tests.servers import WAYS
from tests.tools import MODES, Desk, serving

NETWORKED = [way for way in WAYS if way != "sqlite"]
ADD = "UPDATE stock SET amount = amount + 1 WHERE id = :id"


@pytest.fixture(scope="module", params=WAYS)
async def shop_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary(request.param) as url:
        yield url


@pytest.fixture
async def stock(shop_url: str) -> Observer:
    observer = Observer.of(shop_url)
    await observer.run("DROP TABLE IF EXISTS stock")
    await observer.run("CREATE TABLE stock (id integer PRIMARY KEY, amount integer NOT NULL)")
    await observer.run("INSERT INTO stock VALUES (1, 10), (2, 20)")
    return observer


@asynccontextmanager
async def writing(url: str, mode: str = "auto", **given: Any) -> AsyncGenerator[Desk]:
    connection = {"url": url, "access": given.pop("access", "read_write"), "pool_size": given.pop("size", 4)}
    async with serving(mode, connections={"db": connection}, tools=["core", "write"], **given) as desk:
        yield desk


async def begin(desk: Desk, **arguments: Any) -> str:
    opened: str = (await desk.ask("begin_transaction", **arguments))["transaction_id"]
    return opened


async def add(desk: Desk, opened: str, item: int = 1) -> dict[str, Any]:
    return await desk.ask("execute_statement", sql=ADD, params={"id": item}, transaction_id=opened)


async def amounts(stock: Observer) -> list[int]:
    return [row[0] for row in await stock.run("SELECT amount FROM stock ORDER BY id")]


# ---- the ordinary life ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_committed_lasts_and_is_seen_by_others_only_then(
    stock: Observer, shop_url: str, mode: str
) -> None:
    async with writing(shop_url, mode) as desk:
        opened = await begin(desk)
        await add(desk, opened)
        sql = "SELECT amount FROM stock WHERE id = 1"
        assert await desk.rows(sql, transaction_id=opened) == [[11]]
        assert await desk.rows(sql) == [[10]]
        await desk.ask("commit_transaction", transaction_id=opened)
        assert await desk.rows(sql) == [[11]]
        assert await amounts(stock) == [11, 20]


async def test_what_is_rolled_back_never_was(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        opened = await begin(desk)
        await add(desk, opened)
        await desk.ask("rollback_transaction", transaction_id=opened)
        refused = await desk.refusal("execute_statement", sql=ADD, params={"id": 1}, transaction_id=opened)
        assert (refused["code"], "rolled back" in refused["message"]) == ("EXPIRED", True)
        assert await amounts(stock) == [10, 20]


async def test_a_statement_that_fails_leaves_the_transaction_as_it_was(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        opened = await begin(desk)
        await add(desk, opened)
        sql = "INSERT INTO stock VALUES (3, 30), (1, 1)"
        assert (await desk.refusal("execute_statement", sql=sql, transaction_id=opened))["code"] == "CONSTRAINT"
        wrong = await desk.refusal("execute_query", sql="SELECT missing FROM stock", transaction_id=opened)
        assert wrong["code"] == "UNKNOWN_COLUMN"
        await add(desk, opened, 2)
        await desk.ask("commit_transaction", transaction_id=opened)
        assert await amounts(stock) == [11, 21]


async def test_savepoints_undo_what_came_after_them(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        opened = await begin(desk)
        await add(desk, opened)
        first = (await desk.ask("begin_transaction", transaction_id=opened))["savepoint"]
        await add(desk, opened)
        second = (await desk.ask("begin_transaction", transaction_id=opened))["savepoint"]
        await add(desk, opened, 2)
        await desk.ask("rollback_transaction", transaction_id=opened, savepoint=first)
        gone = await desk.refusal("rollback_transaction", transaction_id=opened, savepoint=second)
        assert gone["code"] == "BAD_PARAMETER"
        await desk.ask("commit_transaction", transaction_id=opened, savepoint=first)
        await desk.ask("commit_transaction", transaction_id=opened)
        assert await amounts(stock) == [11, 20]


async def test_a_read_only_transaction_sees_one_moment_and_writes_nothing(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        opened = await begin(desk, read_only=True, isolation="repeatable read")
        assert await desk.rows("SELECT count(*) FROM stock", transaction_id=opened) == [[2]]
        if stock.backend != "sqlite":  # whose open readers keep writers out
            await stock.run("INSERT INTO stock VALUES (3, 30)")
            assert await desk.rows("SELECT count(*) FROM stock", transaction_id=opened) == [[2]]
        refused = await desk.refusal("execute_statement", sql=ADD, params={"id": 1}, transaction_id=opened)
        assert refused["code"] == "READ_ONLY"
        await desk.ask("rollback_transaction", transaction_id=opened)


async def test_a_cut_answer_costs_no_transaction(stock: Observer, shop_url: str) -> None:
    values = ", ".join(f"({number}, 1)" for number in range(100, 1_100))
    await stock.run(f"INSERT INTO stock VALUES {values}")
    async with writing(shop_url, kept_rows=0) as desk:
        opened = await begin(desk)
        await add(desk, opened)
        # With a LIMIT of its own, which no cap can lower.
        found = await desk.ask("execute_query", sql="SELECT id FROM stock LIMIT 1000", row_cap=5, transaction_id=opened)
        assert (found["row_count"], found["truncated"]) == (5, "max_rows")
        await desk.ask("commit_transaction", transaction_id=opened)
        assert (await amounts(stock))[0] == 11


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("mysql")])
async def test_a_schema_change_that_would_commit_is_refused_inside(databases: Databases, way: str) -> None:
    async with databases.temporary(way) as url:
        stock = Observer.of(url)
        await stock.run("CREATE TABLE stock (id integer PRIMARY KEY, amount integer)")
        await stock.run("INSERT INTO stock VALUES (1, 10)")
        async with writing(url, access="admin", confirm_writes="never") as desk:
            opened = await begin(desk)
            await add(desk, opened)
            for tool in ("execute_statement", "preview_statement"):
                refused = await desk.refusal(tool, sql="CREATE TABLE t (id integer)", transaction_id=opened)
                assert refused["code"] == "UNSUPPORTED"
            await desk.ask("rollback_transaction", transaction_id=opened)
            assert await amounts(stock) == [10]


async def test_a_transaction_is_on_one_connection(stock: Observer, shop_url: str) -> None:
    connections = {name: {"url": shop_url, "access": "read_write"} for name in ("one", "two")}
    async with serving(connections=connections, tools=["core", "write"]) as desk:
        opened = await begin(desk, connection="one")
        refused = await desk.refusal("execute_query", sql="SELECT 1", connection="two", transaction_id=opened)
        assert refused["code"] == "BAD_PARAMETER"
        assert await desk.rows("SELECT 1", connection="one", transaction_id=opened) == [[1]]


# ---- how it ends -----------------------------------------------------------------------------------------------------


async def is_free(stock: Observer) -> bool:
    """Whether nobody holds the row any more: another writer gets it at once."""
    try:
        async with asyncio.timeout(0.3):
            await stock.run("UPDATE stock SET amount = amount WHERE id = 1")
    except Exception:  # noqa: BLE001 - whatever the driver says of a lock
        return False
    return True


async def test_an_unused_transaction_is_rolled_back_and_says_so(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url, transaction_idle_ttl=0.2) as desk:
        opened = await begin(desk)
        await add(desk, opened)
        await eventually(lambda: is_free(stock), 5)
        refused = await desk.refusal("commit_transaction", transaction_id=opened)
        assert (refused["code"], "not used for 0.2 s" in refused["message"]) == ("EXPIRED", True)
        assert await amounts(stock) == [10, 20]


async def test_a_transaction_in_use_is_ended_by_its_age_alone(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url, transaction_idle_ttl=60, transaction_max_age=1) as desk:
        opened = await begin(desk)

        async def is_over() -> bool:
            is_error, text = await desk._call(
                "execute_statement", {"sql": ADD, "params": {"id": 1}, "transaction_id": opened}
            )
            return is_error and "was open for 1 s" in text

        await eventually(is_over, 5)
        assert await amounts(stock) == [10, 20]


async def test_a_stopped_statement_ends_its_transaction_in_the_database(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        opened = await begin(desk)
        await add(desk, opened)
        call = asyncio.ensure_future(desk.rows(ENDLESS, transaction_id=opened))
        await eventually(stock.is_busy)
        call.cancel()
        await asyncio.wait({call})
        await eventually(lambda: is_free(stock))
        refused = await desk.refusal("commit_transaction", transaction_id=opened)
        assert (refused["code"], "stopped" in refused["message"]) == ("EXPIRED", True)
        assert await amounts(stock) == [10, 20]


async def test_a_statement_past_its_time_is_undone_alone_or_ends_the_transaction(
    stock: Observer, shop_url: str
) -> None:
    async with writing(shop_url) as desk:
        opened = await begin(desk)
        await add(desk, opened)
        refused = await desk.refusal("execute_query", sql=ENDLESS, timeout_seconds=0.3, transaction_id=opened)
        assert refused["code"] == "TIMEOUT"
        is_error, text = await desk._call("commit_transaction", {"transaction_id": opened})
        assert await amounts(stock) == ([10, 20] if is_error else [11, 20])
        assert not is_error or "EXPIRED" in text


@pytest.mark.parametrize("way", NETWORKED)
async def test_a_lost_connection_ends_its_transaction(databases: Databases, way: str) -> None:
    async with databases.temporary(way) as url, writing(url) as desk:
        stock = Observer.of(url)
        await stock.run("CREATE TABLE stock (id integer PRIMARY KEY, amount integer)")
        await stock.run("INSERT INTO stock VALUES (1, 10)")
        opened = await begin(desk)
        await add(desk, opened)
        await stock.kill_sessions()
        refused = await desk.refusal("execute_statement", sql=ADD, params={"id": 1}, transaction_id=opened)
        assert refused["code"] == "UNREACHABLE"
        assert (await desk.refusal("commit_transaction", transaction_id=opened))["code"] == "EXPIRED"
        assert await amounts(stock) == [10]


@pytest.mark.parametrize("way", NETWORKED)
async def test_of_two_that_block_each_other_one_is_told_to_try_later(databases: Databases, way: str) -> None:
    async with databases.temporary(way) as url, writing(url) as desk:
        stock = Observer.of(url)
        await stock.run("CREATE TABLE stock (id integer PRIMARY KEY, amount integer)")
        await stock.run("INSERT INTO stock VALUES (1, 10), (2, 20)")
        first, second = await begin(desk), await begin(desk)
        await add(desk, first, 1)
        await add(desk, second, 2)
        both = await asyncio.gather(
            desk._call("execute_statement", {"sql": ADD, "params": {"id": 2}, "transaction_id": first}),
            desk._call("execute_statement", {"sql": ADD, "params": {"id": 1}, "transaction_id": second}),
        )
        lost = [index for index, (is_error, text) in enumerate(both) if is_error and "CONFLICT" in text]
        assert len(lost) == 1
        loser, winner = (first, second) if lost == [0] else (second, first)
        assert "conflict" in (await desk.refusal("commit_transaction", transaction_id=loser))["message"]
        await desk.ask("commit_transaction", transaction_id=winner)
        assert await amounts(stock) == [11, 21]


async def test_nothing_is_left_open_when_the_server_ends(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        opened = await begin(desk)
        await add(desk, opened)
    assert await is_free(stock)
    assert await amounts(stock) == [10, 20]


# ---- limits ----------------------------------------------------------------------------------------------------------


async def test_a_caller_has_so_many_transactions_and_no_more(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url, max_transactions=2, size=10) as desk:
        first, _ = await begin(desk, read_only=True), await begin(desk, read_only=True)
        assert (await desk.refusal("begin_transaction", read_only=True))["code"] == "TOO_MANY"
        await desk.ask("rollback_transaction", transaction_id=first)
        await begin(desk, read_only=True)


async def test_transactions_leave_half_of_the_pool_to_statements(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url, size=4) as desk:
        for _ in range(2):
            await begin(desk, read_only=True)
        assert (await desk.refusal("begin_transaction", read_only=True))["code"] == "POOL_BUSY"
        answers = await asyncio.gather(*(desk.rows("SELECT 1") for _ in range(10)))
        assert answers == [[[1]]] * 10


async def test_a_pool_of_one_has_no_connection_for_transactions(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url, size=1) as desk:
        assert (await desk.refusal("begin_transaction"))["code"] == "POOL_BUSY"


# ---- what is lost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", NETWORKED)
async def test_a_commit_whose_answer_is_lost_is_called_unknown_and_not_repeated(databases: Databases, way: str) -> None:
    async with databases.temporary(way) as real, wired(real) as (wire, url):
        stock = Observer.of(real)
        await stock.run("CREATE TABLE stock (id integer PRIMARY KEY, amount integer)")
        await stock.run("INSERT INTO stock VALUES (1, 10)")
        connection = {"url": url, "access": "read_write", "timeout_seconds": 0.3}
        async with serving(connections={"db": connection}, tools=["core", "write"]) as desk:
            opened = await begin(desk)
            await add(desk, opened)
            wire.mute()
            lost = await desk.refusal("commit_transaction", transaction_id=opened)
            assert (lost["code"], lost["retry"]) == ("OUTCOME_UNKNOWN", "ask_user")
            assert (await desk.refusal("commit_transaction", transaction_id=opened))["code"] == "EXPIRED"
        assert await amounts(stock) == [10]


@pytest.mark.parametrize("way", NETWORKED)
@pytest.mark.parametrize("retries", [0, 2])
async def test_a_read_whose_connection_is_lost_is_done_again_and_a_write_is_not(
    databases: Databases, way: str, retries: int
) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
    sql = f"{numbers} SELECT count(*) AS c FROM n a, n b, n c WHERE c.i < 9"
    async with databases.temporary(way) as url:
        stock = Observer.of(url)
        await stock.run("CREATE TABLE stock (id integer PRIMARY KEY, amount bigint)")
        await stock.run("INSERT INTO stock VALUES (1, 10)")
        async with writing(url, read_retries=retries) as desk:
            call = asyncio.ensure_future(desk._call("execute_query", {"sql": sql}))
            await eventually(stock.is_busy)
            await stock.kill_sessions()
            is_error, text = await call
            assert (is_error, "UNREACHABLE" in text, "8000000" in text) == (not retries, not retries, bool(retries))
            change = f"UPDATE stock SET amount = amount + (SELECT c FROM ({sql}) x) WHERE id = 1"
            call = asyncio.ensure_future(desk._call("execute_statement", {"sql": change}))
            await eventually(stock.is_busy, 10)
            await stock.kill_sessions()
            is_error, text = await call
            assert is_error
            assert "UNREACHABLE" in text
            assert await amounts(stock) == [10]
