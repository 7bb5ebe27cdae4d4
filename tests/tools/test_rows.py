"""Rows without SQL: one call means the same on every database, and no call means more than it says."""

import datetime as dt
import re
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from manydb.callers import Caller
from manydb.errors import Expired
from manydb.gateway import Gateway
from manydb.rows import Rows, Selection
from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases
from tests.observers import Observer
from tests.servers import BACKENDS
from tests.tools import MODES, Desk, serving

SEED = 20_261_121
TYPES = {
    "postgresql": {"decimal": "numeric(12,2)", "moment": "timestamp", "real": "double precision"},
    "mysql": {"decimal": "decimal(12,2)", "moment": "datetime(6)", "real": "double"},
    "sqlite": {"decimal": "decimal(12,2)", "moment": "timestamp", "real": "double"},
}
NAMES = [
    "Ada", "ada", "ADA", "Ada ", " Ada", "Zoë", "zoe", "100%", "100", "a_c", "abc", "", "x/y", "b\\c", "日本", "🦊",
    "O'Hara",
]  # fmt: skip
COLUMNS = ["id", "name", "amount", "price", "ratio", "ok", "day", "at"]
Item = dict[str, Any]


def _items() -> list[Item]:
    """Rows whose values meet each other often: every column but the key has nulls and repetitions."""
    moment = dt.datetime(2025, 1, 31, 23, 59, 58)  # noqa: DTZ001 - a time without a zone
    return [
        {
            "id": number,
            "name": None if number % 7 == 3 else NAMES[number % len(NAMES)],
            "amount": None if number % 5 == 4 else number % 4 - 1,
            "price": None if number % 6 == 5 else Decimal(number % 9) / 4,
            "ratio": None if number % 8 == 7 else number % 3 / 8,
            "ok": None if number % 9 == 8 else number % 2 == 0,
            "day": None if number % 7 == 6 else dt.date(2024, 2, 27) + dt.timedelta(days=number % 5),
            "at": None if number % 4 == 3 else moment + dt.timedelta(seconds=number % 6, microseconds=number % 2),
        }
        for number in range(1, 41)
    ]


ITEMS = _items()


def told(value: Any) -> Any:
    """A value as a client sends it."""
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime):
        return f"'{value.isoformat(' ')}'"
    if isinstance(value, str | dt.date):
        return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"
    return str(value)


async def fill(observer: Observer, table: str, items: list[Item]) -> None:
    types, collation = TYPES[observer.backend], ""
    if observer.backend == "postgresql":  # one that sorts as people do, where the server has one
        known = await observer.run("SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu'")
        collation = ' COLLATE "und-x-icu"' if known == [(1,)] else ""
    await observer.run(
        f"CREATE TABLE {table} (id integer PRIMARY KEY, name varchar(40){collation}, amount integer, "
        f"price {types['decimal']}, ratio {types['real']}, ok boolean, day date, at {types['moment']})"
    )
    rows = ", ".join(f"({', '.join(literal(item[name]) for name in COLUMNS)})" for item in items)
    sql = f"INSERT INTO {table} VALUES {rows}"
    await observer.run(sql if observer.backend == "mysql" else sql.replace("\\\\", "\\"))


@pytest.fixture(scope="module", params=[*BACKENDS])
async def shop_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary(request.param) as url:
        await fill(Observer.of(url), "items", ITEMS)
        yield url


@pytest.fixture(scope="module")
async def desk(shop_url: str) -> AsyncGenerator[Desk]:
    async with serving(url=shop_url, tools=["core", "analysis"]) as desk:
        yield desk


@pytest.fixture
async def stock(shop_url: str) -> Observer:
    """A table of three items, as if new."""
    observer = Observer.of(shop_url)
    await observer.run("DROP TABLE IF EXISTS stock")
    await observer.run("CREATE TABLE stock (id integer PRIMARY KEY, name varchar(40) NOT NULL, amount integer)")
    await observer.run("INSERT INTO stock VALUES (1, 'bolt', 10), (2, 'nut', 20), (3, 'gear', 30)")
    return observer


@asynccontextmanager
async def writing(url: str, mode: str = "auto", /, **given: Any) -> AsyncGenerator[Desk]:
    limits: dict[str, Any] = {key: given.pop(key) for key in ("deny", "mask", "allow") if key in given}
    connections = {"db": {"url": url, "access": given.pop("access", "read_write"), **limits}}
    tools = ["core", "write", "analysis", "operations"]
    async with serving(mode, connections=connections, tools=tools, **given) as desk:
        yield desk


async def ids(desk: Desk, **arguments: Any) -> list[int]:
    reply = await desk.ask("select_rows", table="items", columns=["id"], row_cap=1000, **arguments)
    return [row[0] for row in reply["rows"]]


async def pages(desk: Desk, row_cap: int, **arguments: Any) -> list[list[Any]]:
    """All rows, read page by page."""
    rows: list[list[Any]] = []
    reply = await desk.ask("select_rows", row_cap=row_cap, **arguments)
    while True:
        rows += reply["rows"]
        if "cursor" not in reply:
            assert "truncated" not in reply
            return rows
        assert len(rows) < 10_000
        reply = await desk.ask("select_rows", row_cap=row_cap, cursor=reply["cursor"], **arguments)


# ---- conditions, against a model -------------------------------------------------------------------------------------

Condition = dict[str, Any]


def holds(condition: Condition, item: Item) -> bool | None:
    """What SQL says of a condition; None where it does not know."""
    match condition:
        case {"and": several}:
            found = [holds(each, item) for each in several]
            return False if False in found else None if None in found else True
        case {"or": several}:
            found = [holds(each, item) for each in several]
            return True if True in found else None if None in found else False
        case {"not": single}:
            inner = holds(single, item)
            return None if inner is None else not inner
    value, op, wanted = item[condition["column"]], condition["op"], condition["value"]
    if op == "is_null":
        return (value is None) is wanted
    if op == "in" and not wanted:
        return False
    return None if value is None else SENSE[op](value, wanted)


def fits(text: str, pattern: str, *, folds: bool = False) -> bool:
    signs = {"%": ".*", "_": "."}
    parts = [re.escape(part[1:]) if part[0] == "\\" else signs.get(part) or re.escape(part)
             for part in re.findall(r"\\.|.", pattern, re.DOTALL)]  # fmt: skip
    return re.fullmatch("".join(parts), text, re.DOTALL | (re.IGNORECASE | re.ASCII if folds else 0)) is not None


SENSE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, wanted: value == wanted,
    "ne": lambda value, wanted: value != wanted,
    "lt": lambda value, wanted: value < wanted,
    "le": lambda value, wanted: value <= wanted,
    "gt": lambda value, wanted: value > wanted,
    "ge": lambda value, wanted: value >= wanted,
    "in": lambda value, wanted: value in wanted,
    "between": lambda value, wanted: wanted[0] <= value <= wanted[1],
    "like": fits,
    "ilike": lambda value, wanted: fits(value, wanted, folds=True),
    "contains": lambda value, wanted: wanted in value,
}


def sent(condition: Condition) -> Condition:
    match condition:
        case {"and": several}:
            return {"and": [sent(each) for each in several]}
        case {"or": several}:
            return {"or": [sent(each) for each in several]}
        case {"not": single}:
            return {"not": sent(single)}
    value = condition["value"]
    return condition | {"value": [told(each) for each in value] if isinstance(value, list) else told(value)}


@st.composite
def leaves(draw: st.DrawFn) -> Condition:
    name = draw(st.sampled_from(COLUMNS))
    known = sorted({item[name] for item in ITEMS if item[name] is not None})
    value = st.sampled_from(known)
    if name == "name":
        value |= st.text("aAdDbc %_/\\'é", max_size=3)
    op = draw(
        st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "in", "between", "is_null", "like", "ilike", "contains"])
    )
    if op == "is_null":
        return {"column": name, "op": op, "value": draw(st.booleans())}
    if op in ("like", "ilike", "contains"):
        ends = st.text("aAdD_c1", max_size=2)
        middle = st.sampled_from(["", "a", "A", "d", "D", "da", "dA", "\\_", "0\\%", "/", "Z"])
        inner = draw(middle)
        pattern = draw(ends) + draw(st.sampled_from(["", "%"])) + inner + "%" + draw(ends)
        return {"column": "name", "op": op, "value": inner if op == "contains" else pattern}
    wanted = draw(
        st.lists(value, max_size=4) if op == "in" else st.tuples(value, value).map(list) if op == "between" else value
    )
    return {"column": name, "op": op, "value": wanted}


CONDITIONS = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.builds(lambda several: {"and": several}, st.lists(inner, max_size=3)),
        st.builds(lambda several: {"or": several}, st.lists(inner, max_size=3)),
        st.builds(lambda single: {"not": single}, inner),
    ),
    max_leaves=6,
)
asking = settings(
    max_examples=120,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@seed(SEED)
@asking
@given(condition=CONDITIONS)
@example({"column": "name", "op": "like", "value": "%A%"})
@example({"not": {"column": "amount", "op": "in", "value": []}})
@example(
    {"not": {"or": [{"column": "ok", "op": "eq", "value": True}, {"column": "day", "op": "is_null", "value": True}]}}
)
async def test_a_filter_chooses_the_rows_that_it_describes(desk: Desk, condition: Condition) -> None:
    expected = [item["id"] for item in ITEMS if holds(condition, item)]
    assert await ids(desk, filter=sent(condition)) == expected, f"seed {SEED}"


@st.composite
def orders(draw: st.DrawFn) -> list[tuple[str, bool]]:
    chosen = draw(st.lists(st.sampled_from(COLUMNS), unique=True, max_size=4))
    return [(name, draw(st.booleans())) for name in chosen]


@seed(SEED)
@settings(asking, max_examples=30)
@given(order=orders(), row_cap=st.integers(3, 50), condition=st.none() | CONDITIONS)
async def test_pages_hold_every_row_once_and_in_order(
    desk: Desk, order: list[tuple[str, bool]], row_cap: int, condition: Condition | None
) -> None:
    expected = [item for item in ITEMS if condition is None or holds(condition, item)]
    for name, descending in reversed(order):
        known = [item for item in expected if item[name] is not None]
        known.sort(key=itemgetter(name), reverse=descending)
        expected = known + [item for item in expected if item[name] is None]
    chosen = {} if condition is None else {"filter": sent(condition)}
    order_sent = [f"-{name}" if descending else name for name, descending in order]
    rows = await pages(desk, row_cap, table="items", columns=["id"], order=order_sent, **chosen)
    assert [row[0] for row in rows] == [item["id"] for item in expected], f"seed {SEED}"


@seed(SEED)
@settings(asking, max_examples=30)
@given(
    groups=st.lists(st.sampled_from(COLUMNS[1:]), unique=True, max_size=2),
    row_cap=st.integers(4, 50),
    condition=st.none() | CONDITIONS,
)
async def test_groups_are_counted_and_added_up(
    desk: Desk, groups: list[str], row_cap: int, condition: Condition | None
) -> None:
    found: dict[tuple[Any, ...], list[Item]] = {} if groups else {(): []}
    for item in ITEMS:
        if condition is None or holds(condition, item):
            found.setdefault(tuple(item[name] for name in groups), []).append(item)
    expected = []
    for members in found.values():
        amounts = [item["amount"] for item in members if item["amount"] is not None]
        names = [item["name"] for item in members if item["name"] is not None]
        expected.append((len(members), len(amounts), sum(amounts) if amounts else None,
                         sum(amounts) / len(amounts) if amounts else None,
                         min(names, default=None), max(names, default=None), len(set(names))))  # fmt: skip
    chosen = {} if condition is None else {"filter": sent(condition)}
    aggregates: list[dict[str, str]] = [{"op": "count"}]
    aggregates += [{"op": op, "column": "amount"} for op in ("count", "sum", "avg")]
    aggregates += [{"op": op, "column": "name"} for op in ("min", "max", "count_distinct")]
    rows = await pages(desk, row_cap, table="items", group_by=groups, aggregates=aggregates, **chosen)

    def place(row: Any) -> str:
        return repr(list(row))

    told_rows = [[*row[len(groups) :]] for row in rows]
    for row, wanted in zip(sorted(told_rows, key=place), sorted(map(list, expected), key=place), strict=True):
        assert row == pytest.approx(wanted) if row[3] is not None else row == wanted, f"seed {SEED}"


# ---- types -----------------------------------------------------------------------------------------------------------

DECLARED = {
    "postgresql": "small real, big bigint, fixed char(5), uid uuid, clock time, zoned timestamptz, raw bytea, "
    "mood mood, folded citext",
    "mysql": "small float, big bigint unsigned, fixed char(5), uid uuid, clock time(6), zoned timestamp(6) NULL, "
    "raw varbinary(9), mood enum('sad', 'glad', 'Bad'), folded varchar(9)",
    "sqlite": "small real, big bigint, fixed char(5), uid uuid, clock time, zoned timestamp, raw blob, mood text, "
    "folded varchar(9) COLLATE NOCASE",
}
BYTES = {"postgresql": "'\\x00ff'", "mysql": "x'00ff'", "sqlite": "x'00ff'"}
MOMENTS = ("2025-01-05 10:00:00", "2025-01-05 10:00:00.25", "2024-12-31 23:00:00")
TYPED = (
    ("0.1", "9007199254740993", "ab", "00000000-0000-4000-8000-00000000000a", "10:00:00", MOMENTS[0], "glad", "Ada"),
    ("1.2345678", "5", "a", "00000000-0000-4000-8000-00000000000b", "10:00:00.5", MOMENTS[1], "sad", "ada"),
    ("16777216", "6", "", "10000000-0000-4000-8000-00000000000a", "09:59:59", MOMENTS[2], "Bad", "b"),
)
IN_TYPED = "small, big, fixed, uid, clock, zoned, mood, folded, raw"


@pytest.fixture(scope="module")
async def typed(shop_url: str) -> str:
    observer = Observer.of(shop_url)
    declared = DECLARED[observer.backend]
    if observer.backend == "postgresql":
        await observer.run("CREATE TYPE mood AS ENUM ('sad', 'glad', 'Bad')")
        found = await observer.run("SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'")
        if found == [(1,)]:
            await observer.run("CREATE EXTENSION citext")
        else:
            declared = declared.replace("citext", "text")
    await observer.run(f"CREATE TABLE typed (id integer PRIMARY KEY, {declared})")
    for number, row in enumerate(TYPED, 1):
        cells = ", ".join(f"'{cell}'" for cell in row)
        await observer.run(f"INSERT INTO typed (id, {IN_TYPED}) VALUES ({number}, {cells}, {BYTES[observer.backend]})")
    await observer.run("INSERT INTO typed (id) VALUES (4)")
    return shop_url


@pytest.mark.parametrize("column", ["big", "fixed", "uid", "zoned", "mood", "folded"])
async def test_a_value_that_was_shown_finds_its_row(typed: str, desk: Desk, column: str) -> None:
    shown = (await desk.ask("select_rows", table="typed", columns=["id", column]))["rows"]
    for number, value in shown[:3]:
        chosen = {"column": column, "op": "eq", "value": value}
        rows = (await desk.ask("select_rows", table="typed", columns=["id"], filter=chosen))["rows"]
        assert rows == [[number]]


@pytest.mark.parametrize("column", ["small", "big", "fixed", "uid", "clock", "zoned", "raw", "mood", "folded"])
@pytest.mark.parametrize("sign", ["", "-"])
async def test_every_type_is_sorted_and_paged(typed: str, desk: Desk, column: str, sign: str) -> None:
    whole = await pages(desk, 1000, table="typed", columns=["id"], order=[sign + column])
    assert await pages(desk, 1, table="typed", columns=["id"], order=[sign + column]) == whole
    assert whole[-1] == [4]


async def test_labels_and_texts_are_sorted_by_code_point(typed: str, desk: Desk) -> None:
    assert await pages(desk, 9, table="typed", columns=["mood"], order=["mood"]) == [["Bad"], ["glad"], ["sad"], [None]]
    assert await pages(desk, 9, table="typed", columns=["folded"], order=["folded"]) == [
        ["Ada"],
        ["ada"],
        ["b"],
        [None],
    ]
    grouped = await pages(desk, 1, table="typed", group_by=["folded"], aggregates=[{"op": "count"}])
    assert grouped == [["Ada", 1], ["ada", 1], ["b", 1], [None, 1]]


async def test_a_moment_is_the_same_however_it_is_written(typed: str, desk: Desk) -> None:
    for value in ("2025-01-05T10:00:00", "2025-01-05 10:00", "2025-01-05T10:00:00.000Z", "2025-01-05T12:30:00+02:30"):
        chosen = {"column": "zoned", "op": "eq", "value": value}
        assert (await desk.ask("select_rows", table="typed", columns=["id"], filter=chosen))["rows"] == [[1]]
    half = {"column": "clock", "op": "between", "value": ["10:00", "10:00:00.500000"]}
    assert (await desk.ask("select_rows", table="typed", columns=["id"], filter=half))["rows"] == [[1], [2]]


async def test_sqlites_spellings_of_a_moment_are_one_group(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE events (id integer PRIMARY KEY, at datetime)")
        spellings = [
            "2025-01-05T10:00:00",
            "2025-01-05 10:00:00",
            "2025-01-05 10:00:00.000000",
            "2025-01-05 10:00:00.000001",
        ]
        connection.executemany("INSERT INTO events (at) VALUES (?)", [(each,) for each in spellings])
    connection.close()
    async with serving(url=f"sqlite:///{tmp_path / 'x.db'}", tools=["analysis"]) as desk:
        counts = await pages(desk, 1, table="events", group_by=["at"], aggregates=[{"op": "count"}])
        assert [row[1] for row in counts] == [3, 1]
        chosen = {"column": "at", "op": "le", "value": "2025-01-05T10:00:00"}
        assert len(await pages(desk, 2, table="events", filter=chosen, order=["-at"])) == 3


async def test_sqlites_cells_of_another_type_are_paged_like_any_other(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute(
            "CREATE TABLE odd (id integer PRIMARY KEY, price decimal(9,2), n integer, at datetime, plain)"
        )
        cells: list[Any] = [1.25, "abc", b"\xff", None, 10**9, "12 apples", -3]
        connection.executemany(
            "INSERT INTO odd (price, n, at, plain) VALUES (?, ?, ?, ?)", [(each,) * 4 for each in cells]
        )
    connection.close()
    async with serving(url=f"sqlite:///{tmp_path / 'x.db'}", tools=["analysis"]) as desk:
        for column in ("price", "n", "plain"):
            for sign in ("", "-"):
                rows = await pages(desk, 1, table="odd", columns=["id"], order=[sign + column])
                assert rows == await pages(desk, 99, table="odd", columns=["id"], order=[sign + column])
                assert sorted(rows) == [[number] for number in range(1, 8)]


async def test_names_may_be_anything(shop_url: str) -> None:
    observer = Observer.of(shop_url)
    quote = "`" if observer.backend == "mysql" else '"'
    odd = ["select", "a b", "100%", "a:b", "Ünï", "semi;--", "it's", 'dou"ble' if quote == "`" else "back`tick", "-x"]
    columns = ", ".join(f"{quote}{name}{quote} varchar(9)" for name in odd)
    table = f"{quote}order; DROP{quote}"
    await observer.run(f"CREATE TABLE {table} (id integer PRIMARY KEY, {columns})")
    try:
        await observer.run(f"INSERT INTO {table} (id) VALUES (1), (2)")
        async with writing(shop_url) as desk:
            for name in odd:
                chosen = [{"column": "id", "value": 1}, {"column": name, "op": "is_null"}]
                done = await desk.ask("update_rows", table='"order; DROP"', set={name: "'; --"}, filter=chosen)
                assert done["affected"] == 1
                found = await desk.ask(
                    "select_rows", table='"order; DROP"', columns=[name], filter={"column": name, "value": "'; --"}
                )
                assert (found["columns"], found["rows"]) == ([name], [["'; --"]])
            ordered = await pages(desk, 1, table='"order; DROP"', columns=["id"], order=odd)
            assert ordered == [[1], [2]]
            grouped = await pages(desk, 1, table='"order; DROP"', group_by=odd, aggregates=[{"op": "count"}])
            assert [row[-1] for row in grouped] == [1, 1]
    finally:
        await observer.run(f"DROP TABLE {table}")


# ---- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_pages_stay_right_while_rows_come_and_go(shop_url: str, stock: Observer, mode: str) -> None:
    await stock.run("INSERT INTO stock VALUES (4, 'pin', NULL), (5, 'cap', 20), (6, 'rod', NULL)")
    async with serving(mode, url=shop_url, tools=["analysis"]) as desk:
        asked: dict[str, Any] = {"table": "stock", "columns": ["id"], "order": ["-amount"], "row_cap": 2}
        reply = await desk.ask("select_rows", **asked)
        seen = reply["rows"]
        number = 100
        while "cursor" in reply:
            # Before what was read, and far behind it.
            await stock.run(f"INSERT INTO stock VALUES ({number}, 'new', 99), ({number + 1}, 'new', NULL)")
            await stock.run("DELETE FROM stock WHERE id = 3")
            number += 2
            assert number < 200
            reply = await desk.ask("select_rows", cursor=reply["cursor"], **asked)
            seen += reply["rows"]
            if number > 110:
                break
        old = [row[0] for row in seen if row[0] < 100]
        assert old == [3, 2, 5, 1, 4, 6]


async def test_pages_are_cut_by_size_and_go_on_where_they_ended(shop_url: str) -> None:
    async with serving(connections={"db": {"url": shop_url, "byte_budget": 1024}}, tools=["analysis"]) as small:
        reply = await small.ask("select_rows", table="items")
        assert (reply["truncated"], 0 < len(reply["rows"]) < 30) == ("max_bytes", True)
        assert [row[0] for row in await pages(small, 1000, table="items")] == [item["id"] for item in ITEMS]


async def test_a_cursor_is_good_for_its_own_call_alone(desk: Desk, shop_url: str) -> None:
    asked: dict[str, Any] = {"table": "items", "row_cap": 2, "filter": {"column": "id", "op": "gt", "value": 0}}
    cursor = (await desk.ask("select_rows", **asked))["cursor"]
    for change in ({"filter": {"column": "id", "op": "gt", "value": 1}}, {"order": ["name"]}, {"group_by": ["ok"]}):
        refused = await desk.refusal("select_rows", **(asked | change), cursor=cursor)
        assert (refused["code"], "another call" in refused["message"]) == ("BAD_PARAMETER", True)
    assert (await desk.ask("select_rows", **(asked | {"columns": ["id"], "row_cap": 3}), cursor=cursor))["rows"][0] == [
        3
    ]
    other = ("B" if cursor[0] == "A" else "A") + cursor[1:]
    assert (await desk.refusal("select_rows", **asked, cursor=other))["code"] == "EXPIRED"
    assert (await desk.refusal("select_rows", **asked, cursor="not a cursor"))["code"] == "BAD_PARAMETER"
    async with serving(url=shop_url, tools=["analysis"]) as restarted:
        assert (await restarted.refusal("select_rows", **asked, cursor=cursor))["code"] == "EXPIRED"


async def test_a_cursor_is_good_for_its_own_caller_alone(shop_url: str) -> None:
    wanted = Selection("items")
    async with Gateway.open(Settings.model_validate({"connections": {"db": {"url": shop_url}}})) as gateway:
        rows = Rows(gateway)
        ada, bob = Caller("session", "a"), Caller("session", "b")
        first = await rows.select(ada, "db", wanted, row_cap=1)
        assert len((await rows.select(ada, "db", wanted, row_cap=1, cursor=first.cursor)).page.rows) == 1
        with pytest.raises(Expired):
            await rows.select(bob, "db", wanted, row_cap=1, cursor=first.cursor)


async def test_without_a_key_there_is_no_cursor_and_a_reason(desk: Desk, shop_url: str) -> None:
    observer = Observer.of(shop_url)
    await observer.run("DROP TABLE IF EXISTS heap")
    await observer.run("CREATE TABLE heap (n integer, u integer NOT NULL)")
    await observer.run("INSERT INTO heap VALUES (1, 3), (1, 2), (2, 1)")
    reply = await desk.ask("select_rows", table="heap", row_cap=1)
    assert (reply["truncated"], "cursor" in reply, "primary key" in reply["hint"]) == ("max_rows", False, True)
    refused = await desk.refusal("select_rows", table="heap", row_cap=1, cursor="abcd")
    assert (refused["code"], "primary key" in refused["message"]) == ("BAD_PARAMETER", True)
    ordered = await desk.ask(
        "select_rows", table="heap", group_by=["n"], aggregates=[{"op": "count"}], order=["-count"], row_cap=1
    )
    assert (ordered["rows"], "aggregate" in ordered["hint"]) == ([[1, 2]], True)
    await observer.run("CREATE UNIQUE INDEX only_u ON heap (u)")
    assert await pages(desk, 1, table="heap", columns=["u"], order=["n"]) == [[2], [3], [1]]


# ---- what is refused -------------------------------------------------------------------------------------------------

SECRET = "zz-secret-zz"
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"filter": {"column": "nam", "value": 1}}, "UNKNOWN_COLUMN", "nam"),
    ({"columns": ["nope"]}, "UNKNOWN_COLUMN", "nope"),
    ({"order": ["nope"]}, "UNKNOWN_COLUMN", "nope"),
    ({"group_by": ["nope"]}, "UNKNOWN_COLUMN", "nope"),
    ({"table": "item"}, "UNKNOWN_TABLE", "item"),
    ({"filter": {"column": "amount", "value": SECRET}}, "BAD_PARAMETER", "amount"),
    ({"filter": {"column": "amount", "value": 1.5}}, "BAD_PARAMETER", "amount"),
    ({"filter": {"column": "amount", "value": True}}, "BAD_PARAMETER", "amount"),
    ({"filter": {"column": "amount", "value": 2**70}}, "BAD_PARAMETER", "amount"),
    ({"filter": {"column": "name", "value": 5}}, "BAD_PARAMETER", "name"),
    ({"filter": {"column": "day", "value": "5 May 2025"}}, "BAD_PARAMETER", "day"),
    ({"filter": {"column": "day", "value": "2025-02-30"}}, "BAD_PARAMETER", "day"),
    ({"filter": {"column": "day", "value": 20250230}}, "BAD_PARAMETER", "day"),
    ({"filter": {"column": "at", "value": "yesterday"}}, "BAD_PARAMETER", "at"),
    ({"filter": {"column": "price", "value": "NaN"}}, "BAD_PARAMETER", "price"),
    ({"filter": {"column": "ok", "value": "maybe"}}, "BAD_PARAMETER", "ok"),
    ({"filter": {"column": "name", "value": None}}, "BAD_PARAMETER", "is_null"),
    ({"filter": {"column": "name", "op": "in", "value": ["a", None]}}, "BAD_PARAMETER", "is_null"),
    ({"filter": {"column": "name", "op": "in", "value": "a"}}, "BAD_PARAMETER", "name"),
    ({"filter": {"column": "name", "op": "between", "value": ["a"]}}, "BAD_PARAMETER", "name"),
    ({"filter": {"column": "name", "op": "~", "value": "a"}}, "BAD_PARAMETER", "name"),
    ({"filter": {"column": "name", "op": "like", "value": "a\\"}}, "BAD_PARAMETER", "name"),
    ({"filter": {"column": "amount", "op": "like", "value": "1%"}}, "BAD_PARAMETER", "amount"),
    ({"filter": {"column": "name", "op": "eq"}}, "BAD_PARAMETER", "name"),
    ({"filter": {"and": [], "or": []}}, "BAD_PARAMETER", "filter"),
    ({"filter": {"sql": "1=1"}}, "BAD_PARAMETER", "filter"),
    ({"filter": {"column": "id", "op": "in", "value": list(range(2000))}}, "BAD_PARAMETER", "1,000"),
    ({"aggregates": [{"op": "sum", "column": "name"}]}, "BAD_PARAMETER", "name"),
    ({"aggregates": [{"op": "median", "column": "amount"}]}, "BAD_PARAMETER", "aggregates"),
    ({"aggregates": [{"op": "sum"}]}, "BAD_PARAMETER", "sum"),
    ({"aggregates": [{"op": "count"}, {"op": "count"}]}, "BAD_PARAMETER", "count"),
    ({"group_by": ["ok"], "columns": ["id"]}, "BAD_PARAMETER", "group_by"),
    ({"group_by": ["ok"], "order": ["id"]}, "BAD_PARAMETER", "id"),
    ({"order": ["name", "-name"]}, "BAD_PARAMETER", "name"),
    ({"columns": ["id", "ID"]}, "BAD_PARAMETER", "id"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "code", "named"), MISTAKES)
async def test_a_mistake_is_refused_by_name(desk: Desk, mistake: dict[str, Any], code: str, named: str) -> None:
    refused = await desk.refusal("select_rows", **({"table": "items"} | mistake))
    assert refused["code"] == code
    assert named in refused["message"]
    assert SECRET not in str(refused)


async def test_a_filter_nested_too_deeply_is_refused(desk: Desk) -> None:
    nested: dict[str, Any] = {"column": "id", "value": 1}
    for _ in range(30):
        nested = {"not": nested}
    assert (await desk.refusal("select_rows", table="items", filter=nested))["code"] == "BAD_PARAMETER"


async def test_what_has_no_order_is_still_shown_and_tested_for_null(shop_url: str, desk: Desk) -> None:
    observer = Observer.of(shop_url)
    await observer.run("DROP TABLE IF EXISTS papers")
    await observer.run("CREATE TABLE papers (id integer PRIMARY KEY, body json)")
    await observer.run("""INSERT INTO papers VALUES (1, '{"a": 1}'), (2, NULL)""")
    chosen = {"column": "body", "op": "is_null", "value": False}
    assert len((await desk.ask("select_rows", table="papers", filter=chosen))["rows"]) == 1
    for asked in ({"filter": {"column": "body", "value": {}}}, {"order": ["body"]}, {"group_by": ["body"]}):
        refused = await desk.refusal("select_rows", table="papers", **asked)
        assert (refused["code"], "body" in refused["message"]) == ("BAD_PARAMETER", True)
    async with writing(shop_url) as writer:
        new = {"body": {"b": [1, None]}}
        assert (await writer.ask("update_rows", table="papers", set=new, filter={"column": "id", "value": 2}))[
            "affected"
        ] == 1
        filled = await writer.ask(
            "select_rows", table="papers", filter={"column": "body", "op": "is_null", "value": False}
        )
        assert len(filled["rows"]) == 2


# ---- changes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_rows_are_updated_and_deleted(stock: Observer, shop_url: str, mode: str) -> None:
    async with writing(shop_url, mode) as desk:
        two = {"column": "id", "op": "in", "value": [1, 2]}
        assert await desk.ask("update_rows", table="stock", set={"amount": None, "name": "it's"}, filter=two) == {
            "connection": "db", "affected": 2, "elapsed_ms": pytest.approx(0, abs=5_000)
        }  # fmt: skip
        assert await stock.run("SELECT * FROM stock ORDER BY id") == [
            (1, "it's", None),
            (2, "it's", None),
            (3, "gear", 30),
        ]
        done = await desk.ask("delete_rows", table="stock", filter={"column": "amount", "op": "is_null"})
        assert (done["affected"], await stock.run("SELECT id FROM stock")) == (2, [(3,)])
        assert (await desk.ask("delete_rows", table="stock", filter={"or": []}))["affected"] == 0


EVERY_ROW: list[Any] = [
    {}, [], {"and": []}, {"not": {"or": []}}, {"not": {"column": "id", "op": "in", "value": []}},
    {"column": "name", "op": "is_null", "value": False}, {"column": "id", "op": "is_null", "value": False},
    {"not": {"column": "name", "op": "is_null"}},
    {"or": [{"column": "id", "value": 1}, {"and": []}]},
]  # fmt: skip


@pytest.mark.parametrize("everything", EVERY_ROW)
async def test_no_call_changes_every_row(stock: Observer, shop_url: str, everything: Any) -> None:
    async with writing(shop_url) as desk:
        for tool, more in (("update_rows", {"set": {"amount": 0}}), ("delete_rows", {})):
            for preview in (False, True):
                refused = await desk.refusal(tool, table="stock", filter=everything, preview=preview, **more)
                assert (refused["code"], "filter" in refused["message"]) == ("BAD_PARAMETER", True)
            missing = await desk.refusal(tool, table="stock", **more)
            assert (missing["code"], "filter" in missing["message"]) == ("BAD_PARAMETER", True)
    assert await stock.run("SELECT amount FROM stock ORDER BY id") == [(10,), (20,), (30,)]


@pytest.mark.parametrize(
    ("new", "code"),
    [
        ({}, "BAD_PARAMETER"),
        ({"nope": 1}, "UNKNOWN_COLUMN"),
        ({"amount": SECRET}, "BAD_PARAMETER"),
        ({"amount": [1]}, "BAD_PARAMETER"),
        ({"name": None}, "BAD_PARAMETER"),
        ({"amount": 1, "AMOUNT": 2}, "BAD_PARAMETER"),
        ({"id": 3}, "CONSTRAINT"),
    ],
)
async def test_a_new_value_that_does_not_fit_is_refused(
    stock: Observer, shop_url: str, new: dict[str, Any], code: str
) -> None:
    async with writing(shop_url) as desk:
        refused = await desk.refusal("update_rows", table="stock", set=new, filter={"column": "id", "value": 1})
        assert refused["code"] == code
        assert SECRET not in str(refused)
    assert await stock.run("SELECT amount FROM stock ORDER BY id") == [(10,), (20,), (30,)]


@pytest.mark.parametrize("mode", MODES)
async def test_a_change_is_looked_at_first_and_confirmed(stock: Observer, shop_url: str, mode: str) -> None:
    async with writing(shop_url, mode, confirm_rows=1) as desk:
        call: dict[str, Any] = {
            "table": "stock",
            "set": {"amount": 7},
            "filter": {"column": "id", "op": "gt", "value": 1},
        }
        refused = await desk.refusal("update_rows", **call)
        assert (refused["code"], "preview=true" in refused["suggestions"][0]) == ("CONFIRMATION_NEEDED", True)
        seen = await desk.ask("update_rows", **call, preview=True)
        assert (seen["affected"], seen["columns"]) == (2, ["id", "name", "amount"])
        assert (seen["before"], seen["after"]) == ([[2, "nut", 20], [3, "gear", 30]], [[2, "nut", 7], [3, "gear", 7]])
        assert await stock.run("SELECT amount FROM stock ORDER BY id") == [(10,), (20,), (30,)]
        other = call | {"set": {"amount": 8}}
        assert (await desk.refusal("update_rows", **other, confirm=seen["confirm"]))["code"] == "BAD_PARAMETER"
        assert (await desk.ask("update_rows", **call, confirm=seen["confirm"]))["affected"] == 2
        gone = await desk.ask("delete_rows", table="stock", filter={"column": "amount", "value": 7}, preview=True)
        assert (gone["affected"], gone["before"]) == (2, [[2, "nut", 7], [3, "gear", 7]])
        assert await stock.run("SELECT amount FROM stock ORDER BY id") == [(10,), (7,), (7,)]


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_with_forms_asks_its_user(stock: Observer, shop_url: str, mode: str) -> None:
    async def user(message: str, response_type: Any, params: Any, context: Any) -> Any:
        assert "2 rows" in message
        return ElicitResult(action="accept", content={next(iter(params.requested_schema["properties"])): True})

    connections = {"db": {"url": shop_url, "access": "read_write"}}
    settings = Settings.model_validate({"connections": connections, "tools": ["write"], "confirm_rows": 1})
    async with Client(build_server(settings), mode=mode, elicitation_handler=user) as client:
        chosen = {"column": "id", "op": "lt", "value": 3}
        result = await client.call_tool("delete_rows", {"table": "stock", "filter": chosen}, raise_on_error=False)
    assert not result.is_error
    assert await stock.run("SELECT id FROM stock") == [(3,)]


async def test_changes_and_reads_are_part_of_an_open_transaction(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        opened = (await desk.ask("begin_transaction"))["transaction_id"]
        one = {"column": "id", "value": 1}
        await desk.ask("update_rows", table="stock", set={"amount": 11}, filter=one, transaction_id=opened)
        seen = await desk.ask("delete_rows", table="stock", filter=one, preview=True, transaction_id=opened)
        assert seen["before"] == [[1, "bolt", 11]]
        inside = await desk.ask("select_rows", table="stock", filter=one, transaction_id=opened)
        assert inside["rows"] == [[1, "bolt", 11]]
        await desk.ask("rollback_transaction", transaction_id=opened)
        assert (await desk.ask("select_rows", table="stock", filter=one))["rows"] == [[1, "bolt", 10]]


async def test_nothing_is_changed_through_a_connection_that_only_reads(stock: Observer, shop_url: str) -> None:
    connections = {"db": {"url": shop_url}, "other": {"url": shop_url, "access": "read_write"}}
    async with serving(connections=connections, tools=["write"]) as desk:
        for tool, more in (("update_rows", {"set": {"amount": 0}}), ("delete_rows", {})):
            for preview in (False, True):
                one = {"column": "id", "value": 1}
                refused = await desk.refusal(tool, connection="db", table="stock", filter=one, preview=preview, **more)
                assert refused["code"] == "READ_ONLY"


async def test_history_shows_placeholders_and_no_values(stock: Observer, shop_url: str) -> None:
    async with writing(shop_url) as desk:
        chosen = {"column": "name", "op": "ne", "value": SECRET}
        await desk.ask("select_rows", table="stock", filter=chosen)
        await desk.ask("update_rows", table="stock", set={"name": SECRET}, filter={"column": "id", "value": 1})
        told_of = await desk.text("get_query_history")
        assert ":name_1" in told_of
        assert SECRET not in told_of


# ---- connections that hide and mask ----------------------------------------------------------------------------------


PEOPLE = (
    "CREATE TABLE people (id integer PRIMARY KEY, name varchar(40), email varchar(40) UNIQUE, room integer, "
    "limits integer, CHECK (limits < 10 OR email <> 'x'))"
)

SALARIES = (
    "CREATE TABLE salaries (id integer PRIMARY KEY, person_id integer, amount integer, "
    "FOREIGN KEY (person_id) REFERENCES people (id))"
)


@pytest.fixture
async def guarded(shop_url: str) -> AsyncGenerator[Observer]:
    observer = Observer.of(shop_url)
    drop = ["DROP VIEW IF EXISTS contacts", "DROP TABLE IF EXISTS salaries", "DROP TABLE IF EXISTS people"]
    for sql in [
        *drop,
        PEOPLE,
        SALARIES,
        "CREATE VIEW contacts AS SELECT id, email AS address, name FROM people",
        f"INSERT INTO people VALUES (1, 'Ada', '{SECRET}', 1, 1), (2, 'Bob', NULL, 2, 2), (3, 'Eve', 'e', 3, 3)",
        "INSERT INTO salaries VALUES (1, 1, 77777)",
    ]:
        await observer.run(sql)
    yield observer
    for sql in drop:
        await observer.run(sql)


async def test_masked_columns_are_concealed_and_cannot_be_asked_about(guarded: Observer, shop_url: str) -> None:
    async with writing(shop_url, deny=["salaries"], mask=["people.email"]) as desk:
        shown = await desk.ask("select_rows", table="people", columns=["id", "email"], row_cap=2)
        assert (shown["rows"], shown["masked"]) == ([[1, "•••"], [2, "•••"]], ["email"])
        assert len(await pages(desk, 1, table="people", order=["name"])) == 3
        through = await desk.ask("select_rows", table="contacts", order=["id"])
        assert [row[1] for row in through["rows"]] == ["•••"] * 3
        for table, name in (("people", "email"), ("contacts", "address")):
            for asked in (
                {"filter": {"not": {"column": name, "op": "is_null"}}},
                {"filter": {"or": [{"column": "id", "value": 1}, {"column": name, "op": "like", "value": "z%"}]}},
                {"order": [name]},
                {"group_by": [name]},
                {"aggregates": [{"op": "min", "column": name}]},
                {"aggregates": [{"op": "count", "column": name}]},
            ):
                refused = await desk.refusal("select_rows", table=table, **asked)
                assert (refused["code"], name in refused["message"]) == ("FORBIDDEN", True)
        hidden = await desk.refusal("select_rows", table="salaries")
        assert (hidden["code"], hidden.get("suggestions", [])) == ("UNKNOWN_TABLE", [])


async def test_only_what_is_allowed_is_read(guarded: Observer, shop_url: str) -> None:
    async with writing(shop_url, allow=["people"]) as desk:
        assert len(await pages(desk, 2, table="people", order=["-email"])) == 3
        for table in ("salaries", "items", "contacts"):
            assert (await desk.refusal("select_rows", table=table))["code"] == "UNKNOWN_TABLE"


async def test_changes_tell_nothing_that_is_masked_or_hidden(guarded: Observer, shop_url: str) -> None:
    async with writing(shop_url, deny=["salaries"], mask=["people.email"]) as desk:
        one = {"column": "id", "value": 1}
        seen = await desk.ask("update_rows", table="people", set={"room": 9}, filter=one, preview=True)
        assert (seen["before"], seen["after"]) == ([[1, "Ada", "•••", 1, 1]], [[1, "Ada", "•••", 9, 1]])
        assert (await desk.ask("update_rows", table="people", set={"room": 9}, filter=one))["affected"] == 1
        for tool, more in (
            ("update_rows", {"set": {"email": "y"}, "filter": one}),
            ("update_rows", {"set": {"room": 1}, "filter": {"column": "email", "value": SECRET}}),
            ("update_rows", {"set": {"limits": 11}, "filter": one}),
            ("delete_rows", {"filter": {"column": "email", "op": "like", "value": "z%"}}),
        ):
            assert (await desk.refusal(tool, table="people", **more))["code"] == "FORBIDDEN"
        view = await desk.refusal("update_rows", table="contacts", set={"name": "x"}, filter=one)
        assert view["code"] == "FORBIDDEN"
        assert (await desk.refusal("delete_rows", table="salaries", filter=one))["code"] == "UNKNOWN_TABLE"
        for preview in (False, True):
            kept = await desk.refusal("delete_rows", table="people", filter=one, preview=preview)
            assert (kept["code"], "salaries" in str(kept), SECRET in str(kept)) == ("CONSTRAINT", False, False)
        assert (await desk.ask("delete_rows", table="people", filter={"column": "id", "value": 3}))["affected"] == 1
    assert await guarded.run("SELECT id, email, room FROM people ORDER BY id") == [(1, SECRET, 9), (2, None, 2)]
