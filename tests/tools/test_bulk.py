"""Many rows at once, as a client sends and fetches them: insert_rows and export_query."""

import asyncio
import base64
import csv
import io
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from fastmcp.exceptions import McpError
from mcp_types import ResourceLink, TextContent, TextResourceContents

from manydb import callers, exports
from manydb.errors import Expired, Forbidden, TooMany
from manydb.gateway import Gateway
from manydb.settings import Settings
from tests.conftest import Databases
from tests.observers import Observer, eventually
from tests.servers import WAYS
from tests.tools import MODES, Desk, serving

GROUPS = ["core", "write", "analysis"]
TABLE = (
    "CREATE TABLE goods (id bigint NOT NULL PRIMARY KEY, label varchar(40) NOT NULL, amount numeric(12,2), "
    "moment timestamp NULL, code varchar(20) UNIQUE, stock int DEFAULT 7)"
)
COLUMNS = ["id", "label", "amount", "moment"]


def goods(count: int, first: int = 1) -> list[list[Any]]:
    return [[n, f"label\t{n}\\ 'quoted'\n", f"{n}.25", "2026-01-05T10:00:00"] for n in range(first, first + count)]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=MODES)
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WAYS)
async def database_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    """An empty database of each backend in turn, by each of its drivers."""
    async with databases.temporary(request.param) as url:
        yield url


@pytest.fixture
async def desk(database_url: str) -> AsyncGenerator[Desk]:
    await Observer.of(database_url).run(TABLE)
    connection = {"url": database_url, "access": "read_write"}
    async with serving(tools=GROUPS, connections={"db": connection}) as desk:
        yield desk


# -- insert_rows -------------------------------------------------------------------------------------------------------


async def test_rows_go_in_exactly_and_last(database_url: str, era: str) -> None:
    await Observer.of(database_url).run(TABLE)
    async with serving(era, tools=GROUPS, connections={"db": {"url": database_url, "access": "read_write"}}) as desk:
        reply = await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=goods(2_500))
        assert reply["inserted"] == 2_500
        assert reply["elapsed_ms"] >= 0
        rows = await desk.rows("SELECT id, label, stock FROM goods WHERE id = 2500")
        assert rows == [[2500, "label\t2500\\ 'quoted'\n", 7]]
        assert await desk.rows("SELECT count(*) FROM goods") == [[2500]]


async def test_records_bring_their_columns_and_nulls(desk: Desk) -> None:
    records = [{"id": 1, "label": "a", "amount": None}, {"id": 2, "label": "ü €", "amount": "1.10"}]
    await desk.ask("insert_rows", table="goods", records=json.dumps(records))
    assert await desk.rows("SELECT id, label, amount IS NULL FROM goods ORDER BY id") in (
        [[1, "a", True], [2, "ü €", False]],
        [[1, "a", 1], [2, "ü €", 0]],
    )


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, "many"), (0, 2**63), (0, 1.5), (0, [1]), (2, "1.x"), (2, True), (2, {"$bytes": "AA=="}), (3, 7.5), (1, None)],
)
async def test_a_value_that_does_not_fit_is_named_by_row_and_column_and_nothing_lasts(
    desk: Desk, place: int, value: Any
) -> None:
    if place in (2, 3) and not isinstance(value, str | dict) and (await backend(desk)) != "PostgreSQL":
        pytest.skip("booleans are numbers there, and SQLite's moments may be")
    rows = goods(1_500)
    rows[1_234][place] = value
    error = await desk.refusal("insert_rows", table="goods", columns=COLUMNS, rows=rows)
    assert error["code"] == "BAD_PARAMETER"
    assert (error["row"], error["column"]) == (1_234, COLUMNS[place])
    assert error["message"].startswith(f"row 1234, column {COLUMNS[place]}: takes ")
    assert await desk.rows("SELECT count(*) FROM goods") == [[0]]


async def backend(desk: Desk) -> str:
    (line,) = (await desk.ask("list_connections"))["connections"]
    return str(line["backend"].split()[0])


async def test_what_only_the_server_can_judge_is_named_as_well_and_never_quoted(desk: Desk) -> None:
    if await backend(desk) == "SQLite":
        pytest.skip("SQLite has no lengths")
    rows = goods(1_500)
    rows[1_400][1] = "zz-secret" * 9
    error = await desk.refusal("insert_rows", table="goods", columns=COLUMNS, rows=rows)
    assert error["row"] == 1_400
    assert "1400" in error["message"]
    assert "zz-secret" not in json.dumps(error)
    rows[1_400] = [1_401, "fine", "1.5", "2026-13-45T10:00:00"]
    error = await desk.refusal("insert_rows", table="goods", columns=COLUMNS, rows=rows)
    assert (error["code"], error["row"], error["column"]) == ("BAD_PARAMETER", 1_400, "moment")
    assert "2026-13" not in json.dumps(error)
    assert await desk.rows("SELECT count(*) FROM goods") == [[0]]


async def test_a_broken_constraint_undoes_all_and_quotes_nothing(desk: Desk) -> None:
    rows = [[n, "a", "zz-code" if n > 1_500 else None] for n in range(1_600)]
    error = await desk.refusal("insert_rows", table="goods", columns=["id", "label", "code"], rows=rows)
    assert error["code"] == "CONSTRAINT"
    assert "zz-code" not in json.dumps(error)
    assert await desk.rows("SELECT count(*) FROM goods") == [[0]]


async def test_columns_are_checked_before_rows(desk: Desk) -> None:
    error = await desk.refusal("insert_rows", table="goods", columns=["id", "lable"], rows=[[1, "a"]])
    assert error["code"] == "UNKNOWN_COLUMN"
    assert error["suggestions"] == ["label"]
    error = await desk.refusal("insert_rows", table="goods", columns=["id"], rows=[[1]])
    assert "label needs a value" in error["message"]
    error = await desk.refusal("insert_rows", table="goods", columns=["id", "label"], rows=[[1, "a"], [2]])
    assert error["message"] == "row 1 has 1 values for 2 columns"
    error = await desk.refusal("insert_rows", table="goods", records=[{"id": 1, "label": "a"}, {"id": 2}])
    assert error["row"] == 1
    error = await desk.refusal("insert_rows", table="goods", columns=["id"], rows=[1])
    assert error["message"] == "rows: should be a list of lists"
    error = await desk.refusal("insert_rows", table="good", columns=["id"], rows=[[1]])
    assert (error["code"], error["suggestions"]) == ("UNKNOWN_TABLE", ["goods"])


@pytest.mark.parametrize("count", [1, 1_200])
async def test_rows_that_meet_others_are_skipped_and_nothing_else_is(desk: Desk, count: int) -> None:
    await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=goods(count))
    rows = goods(2 * count)
    reply = await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=rows, on_conflict="skip")
    assert (reply["inserted"], reply["skipped"]) == (count, count)
    reply = await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=goods(1), on_conflict="skip")
    assert (reply["inserted"], reply["skipped"]) == (0, 1)
    rows[0][2] = "12345678901234567890"
    if await backend(desk) != "SQLite":
        error = await desk.refusal("insert_rows", table="goods", columns=COLUMNS, rows=rows, on_conflict="skip")
        assert error["code"] == "BAD_PARAMETER"


@pytest.mark.parametrize("count", [1, 300])
async def test_rows_that_meet_others_update_what_is_given(desk: Desk, count: int) -> None:
    await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=goods(count))
    rows = [[n, f"new {n}"] for n in range(1, 2 * count + 1)]
    reply = await desk.ask("insert_rows", table="goods", columns=["id", "label"], rows=rows, on_conflict="update")
    if "inserted" in reply:
        assert (reply["inserted"], reply["updated"]) == (count, count)
    else:
        assert reply["inserted_or_updated"] == 2 * count
    assert await desk.rows("SELECT label, amount FROM goods WHERE id = 1") in ([["new 1", "1.25"]], [["new 1", 1.25]])
    assert await desk.rows("SELECT count(*) FROM goods WHERE label LIKE 'new%'") == [[2 * count]]


async def test_an_update_needs_a_key_and_rows_that_differ_in_it(desk: Desk) -> None:
    error = await desk.refusal("insert_rows", table="goods", columns=["label"], rows=[["a"]], on_conflict="update")
    assert "id needs a value" in error["message"]
    rows = [[1, "a"], [2, "b"], [1, "c"]]
    error = await desk.refusal("insert_rows", table="goods", columns=["id", "label"], rows=rows, on_conflict="update")
    assert error["message"] == "rows 0 and 2 have the same key (id)"
    rows = [[1, "a", "x"]]
    columns = ["id", "label", "code"]
    await desk.ask("insert_rows", table="goods", columns=columns, rows=rows)
    call = {"table": "goods", "columns": columns, "rows": [[2, "b", "x"]], "on_conflict": "update"}
    if await backend(desk) == "MariaDB":
        assert (await desk.refusal("insert_rows", **call))["code"] == "UNSUPPORTED"
    else:
        await desk.ask("insert_rows", **call, key=["code"])
        assert await desk.rows("SELECT id, label FROM goods") == [[2, "b"]]
        assert (await desk.refusal("insert_rows", **call, key=["label"]))["code"] == "BAD_PARAMETER"


async def test_overwriting_many_rows_is_confirmed_and_inserting_them_is_not(desk: Desk) -> None:
    call: dict[str, Any] = {"table": "goods", "columns": COLUMNS, "rows": goods(1_100), "on_conflict": "update"}
    if await backend(desk) != "SQLite":  # which does not tell new rows from others
        assert (await desk.ask("insert_rows", **call))["inserted"] == 1_100
    else:
        await desk.ask("insert_rows", **{**call, "on_conflict": "error"})
    assert (await desk.refusal("insert_rows", **call))["code"] == "CONFIRMATION_NEEDED"
    seen = await desk.ask("insert_rows", **call, preview=True)
    assert seen.get("updated", seen.get("inserted_or_updated")) == 1_100
    other = {**call, "rows": goods(1_099)}
    assert (await desk.refusal("insert_rows", **other, confirm=seen["confirm"]))["code"] == "BAD_PARAMETER"
    await desk.ask("insert_rows", **call, confirm=seen["confirm"])


async def test_where_all_writes_are_confirmed_inserts_are_too(database_url: str) -> None:
    await Observer.of(database_url).run(TABLE)
    connections = {"db": {"url": database_url, "access": "read_write"}}
    async with serving(tools=GROUPS, connections=connections, confirm_writes="always") as desk:
        call: dict[str, Any] = {"table": "goods", "columns": COLUMNS, "rows": goods(3)}
        assert (await desk.refusal("insert_rows", **call))["code"] == "CONFIRMATION_NEEDED"
        seen = await desk.ask("insert_rows", **call, preview=True)
        assert await desk.rows("SELECT count(*) FROM goods") == [[0]]
        assert (await desk.ask("insert_rows", **call, confirm=seen["confirm"]))["inserted"] == 3


async def test_batches_last_by_themselves_and_the_reply_says_which(desk: Desk) -> None:
    rows = goods(5_000)
    rows[2_100][0] = 1
    reply = await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=rows, mode="batches", batch_rows=1_000)
    assert reply["inserted"] == 4_000
    assert reply["lasted"] == ["0-1999", "3000-4999"]
    (failed,) = reply["failed"]
    assert (failed["rows"], failed["code"]) == ("2000-2999", "CONSTRAINT")
    assert await desk.rows("SELECT count(*) FROM goods") == [[4_000]]
    again = await desk.refusal("insert_rows", table="goods", columns=COLUMNS, rows=goods(9), mode="batches")
    assert again["code"] == "CONSTRAINT"


async def test_inside_a_transaction_a_failed_insert_leaves_what_was_before(desk: Desk) -> None:
    opened = (await desk.ask("begin_transaction", connection="db"))["transaction_id"]
    call: dict[str, Any] = {"table": "goods", "columns": COLUMNS, "transaction_id": opened}
    await desk.ask("insert_rows", **call, rows=goods(1_500))
    rows = [*goods(1_200, first=2_000), *goods(1)]
    assert (await desk.refusal("insert_rows", **call, rows=rows))["code"] == "CONSTRAINT"
    await desk.ask("insert_rows", **call, rows=goods(10, first=5_000))
    await desk.ask("commit_transaction", transaction_id=opened)
    assert await desk.rows("SELECT count(*) FROM goods") == [[1_510]]


async def test_a_read_only_connection_takes_no_rows(database_url: str) -> None:
    await Observer.of(database_url).run(TABLE)
    connections = {"db": {"url": database_url}, "rw": {"url": database_url, "access": "read_write"}}
    async with serving(tools=GROUPS, connections=connections) as desk:
        error = await desk.refusal("insert_rows", connection="db", table="goods", columns=COLUMNS, rows=goods(1))
        assert error["code"] == "READ_ONLY"


async def test_restricted_connections_take_rows_that_tell_nothing(database_url: str) -> None:
    observer = Observer.of(database_url)
    await observer.run(TABLE)
    await observer.run("CREATE TABLE salaries (id int PRIMARY KEY)")
    rules = {"deny": ["salaries"], "mask": ["goods.code", "goods.amount"]}
    async with serving(
        tools=GROUPS, connections={"db": {"url": database_url, "access": "read_write", **rules}}
    ) as desk:
        assert (await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=goods(2)))["inserted"] == 2
        error = await desk.refusal("insert_rows", table="goods", columns=["id", "label", "code"], rows=[[9, "a", "x"]])
        assert error["code"] == "FORBIDDEN"
        error = await desk.refusal("insert_rows", table="salaries", columns=["id"], rows=[[1]])
        assert error["code"] == "UNKNOWN_TABLE"


async def test_progress_is_told_while_rows_go_in(desk: Desk) -> None:
    told: list[tuple[float, float | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    await desk.client.call_tool(
        "insert_rows", {"table": "goods", "columns": COLUMNS, "rows": goods(3_000)}, progress_handler=hear
    )
    done = [progress for progress, _ in told]
    assert done == sorted(done)
    assert (done[-1], {total for _, total in told}) == (3_000, {3_000})


RICH: dict[str, tuple[str, list[Any]]] = {
    "postgresql": (
        ("CREATE TABLE rich (id int PRIMARY KEY, b bytea, j jsonb, a int[], u uuid, flag boolean, r double precision, "
        "z timestamptz, t timestamp, d date, m text, e numeric, n text[])"),
        [
            1, {"$bytes": "AP9cCg=="}, {"a": ["x\ty\\", None]}, [1, None, 3], "0b8c7d9e-3c1a-4d6f-8a55-0123456789ab",
            True, 0.1, "2026-01-05T10:00:00+00:00", "infinity", "0044-03-15 BC", "\\N", "NaN", ["a,b", '"', "\\"],
        ],
    ),
    "mysql": (
        ("CREATE TABLE rich (id int PRIMARY KEY, b blob, j longtext, u int unsigned, f tinyint(1), r double, "
        "t datetime, d date, m text, e decimal(20,4), bits bit(4))"),
        [
            1, {"$bytes": "AP9cJw=="}, "{}", 4294967295, 1, 0.1, "2026-01-05T10:00:00", "2026-01-05",
            "\\N'\u0000\u001a", "1.1000", "0101",
        ],
    ),
    "sqlite": (
        "CREATE TABLE rich (id int PRIMARY KEY, b blob, j json, f boolean, r real, t datetime, m text, x)",
        [1, {"$bytes": "AP9cCg=="}, '{"a":1}', 1, 0.1, "2026-01-05T10:00:00", "\\N\u0000", "any"],
    ),
}  # fmt: skip


async def test_every_value_that_comes_out_goes_in_again(database_url: str) -> None:
    observer = Observer.of(database_url)
    create, row = RICH[observer.backend]
    await observer.run(create)
    async with serving(tools=GROUPS, connections={"db": {"url": database_url, "access": "read_write"}}) as desk:
        columns = (await desk.ask("execute_query", sql="SELECT * FROM rich"))["columns"]
        empty = [2, *[None] * (len(row) - 1)]
        await desk.ask("insert_rows", table="rich", columns=columns, rows=[row, empty])
        assert await desk.rows("SELECT * FROM rich ORDER BY id") == [row, empty]
        again = [[3, *row[1:]], [1, *row[1:]]]
        reply = await desk.ask("insert_rows", table="rich", columns=columns, rows=again, on_conflict="skip")
        assert (reply["inserted"], reply["skipped"]) == (1, 1)
        assert (await desk.rows("SELECT * FROM rich WHERE id = 3"))[0][1:] == row[1:]


# -- export_query ------------------------------------------------------------------------------------------------------


def body(result: Any) -> dict[str, Any]:
    """The JSON object of a success, which a link may follow."""
    block = result.content[0]
    assert isinstance(block, TextContent)
    found: dict[str, Any] = json.loads(block.text)
    return found


@pytest.fixture
async def filled(database_url: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    await Observer.of(database_url).run(TABLE)
    connection = {"url": database_url, "access": "read_write"}
    async with serving(tools=GROUPS, connections={"db": connection}, export_directories=[str(tmp_path)]) as desk:
        await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=goods(5_000))
        yield desk


async def test_an_export_is_a_resource_that_its_owner_reads(database_url: str, era: str) -> None:
    await Observer.of(database_url).run(TABLE)
    async with serving(era, tools=GROUPS, connections={"db": {"url": database_url, "access": "read_write"}}) as desk:
        await desk.ask("insert_rows", table="goods", columns=COLUMNS, rows=goods(5_000))
        result = await desk.client.call_tool("export_query", {"sql": "SELECT id, label FROM goods ORDER BY id"})
        reply, link = body(result), result.content[1]
        assert isinstance(link, ResourceLink)
        assert str(link.uri) == reply["uri"]
        (content,) = await desk.client.read_resource(reply["uri"])
        assert isinstance(content, TextResourceContents)
        rows = list(csv.reader(io.StringIO(content.text)))
        assert rows[0] == ["id", "label"]
        assert rows[-1] == ["5000", "label\t5000\\ 'quoted'\n"]
        assert (len(rows), reply["row_count"], reply["bytes"]) == (5_001, 5_000, len(content.text.encode()))


async def test_files_hold_what_a_reply_would(filled: Desk, tmp_path: Path) -> None:
    sql = "SELECT id, label, amount, moment, code, id FROM goods ORDER BY id"
    expected = await filled.rows(sql, row_cap=5)
    for name in ("csv", "jsonl", "parquet"):
        reply = await filled.ask("export_query", sql=sql, format=name, path=f"goods.{name}")
        assert reply["row_count"] == 5_000
        assert reply["path"] == str(tmp_path / f"goods.{name}")
        assert reply["bytes"] == (tmp_path / f"goods.{name}").stat().st_size
    lines = (tmp_path / "goods.jsonl").read_text().splitlines()
    names = ["id", "label", "amount", "moment", "code", "id_2"]
    assert [json.loads(line) for line in lines[:5]] == [dict(zip(names, row, strict=True)) for row in expected]
    assert len(lines) == 5_000
    table = pyarrow.parquet.read_table(tmp_path / "goods.parquet")
    assert (table.num_rows, table.column_names) == (5_000, names)
    assert table.column("id").to_pylist() == [*range(1, 5_001)]
    assert table.column("label").to_pylist()[0] == expected[0][1]
    assert (names_in(tmp_path)) == ["goods.csv", "goods.jsonl", "goods.parquet"]
    assert (tmp_path / "goods.csv").stat().st_mode & 0o777 == 0o600


async def test_an_empty_result_is_a_file_with_its_columns(filled: Desk, tmp_path: Path) -> None:
    for name in ("csv", "jsonl", "parquet"):
        reply = await filled.ask(
            "export_query", sql="SELECT id FROM goods WHERE id < 0", format=name, path=f"none.{name}"
        )
        assert reply["row_count"] == 0
    assert (tmp_path / "none.csv").read_text() == "id\n"
    assert (tmp_path / "none.jsonl").read_text() == ""
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet").column_names == ["id"]


async def test_parameters_and_transactions_are_as_for_any_query(filled: Desk, tmp_path: Path) -> None:
    opened = (await filled.ask("begin_transaction", connection="db"))["transaction_id"]
    await filled.ask("insert_rows", table="goods", columns=COLUMNS, rows=goods(1, first=9_000), transaction_id=opened)
    reply = await filled.ask(
        "export_query",
        sql="SELECT id FROM goods WHERE id > :least",
        params={"least": 4_990},
        path="some.csv",
        transaction_id=opened,
    )
    assert reply["row_count"] == 11
    assert (await filled.refusal("export_query", sql="DELETE FROM goods", path="x.csv"))["code"] == "READ_ONLY"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("there.csv", "BAD_PARAMETER"),
        ("link.csv", "BAD_PARAMETER"),
        ("no/such.csv", "BAD_PARAMETER"),
        ("../out.csv", "BAD_PARAMETER"),
        ("away/out.csv", "FORBIDDEN"),
        ("there.csv/x.csv", "FORBIDDEN"),
        ("/etc/out.csv", "FORBIDDEN"),
        ("~/out.csv", "BAD_PARAMETER"),
    ],
)
async def test_a_path_never_overwrites_and_never_leaves_its_directory(
    file_url: str, tmp_path: Path, path: str, code: str
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "there.csv").write_text("mine")
    (root / "link.csv").symlink_to(outside / "new.csv")
    (root / "away").symlink_to(outside)
    async with serving(tools=GROUPS, url=file_url, export_directories=[str(root)]) as desk:
        assert (await desk.refusal("export_query", sql="SELECT 1", path=path))["code"] == code
        assert (root / "there.csv").read_text() == "mine"
        assert names_in(outside) == []
        assert (names_in(root)) == ["away", "link.csv", "there.csv"]
        inner = root / "inner"
        inner.mkdir()
        await desk.ask("export_query", sql="SELECT 1 AS one", path=str(inner / "new.csv"))
        assert (inner / "new.csv").read_text() == "one\n1\n"


async def test_what_fails_or_is_too_large_leaves_no_file(file_url: str, tmp_path: Path) -> None:
    settings = {"url": file_url, "export_directories": [str(tmp_path)], "max_export_bytes": 2_000}
    async with serving(tools=GROUPS, **settings) as desk:
        error = await desk.refusal("export_query", sql="SELECT * FROM numbers", path="n.csv")
        assert error["code"] == "TOO_LARGE"
        late = "SELECT n, CASE WHEN n > 300 THEN abs(-9223372036854775808) END FROM numbers"
        await desk.refusal("export_query", sql=late, path="n.csv")
        await desk.refusal("export_query", sql="SELECT * FROM nothing", path="n.csv")
        assert names_in(tmp_path) == []


async def test_a_cancelled_export_stops_in_the_database_and_leaves_no_file(database_url: str, tmp_path: Path) -> None:
    observer = Observer.of(database_url)
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
        "SELECT a.i, b.i, c.i FROM n a, n b, n c, n d"
    )
    heard = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.set()

    async with serving(tools=GROUPS, url=database_url, export_directories=[str(tmp_path)]) as desk:
        arguments = {"sql": endless, "path": "endless.csv", "timeout_seconds": 60}
        call = asyncio.create_task(desk.client.call_tool("export_query", arguments, progress_handler=hear))
        async with asyncio.timeout(10):
            await heard.wait()
        assert len(names_in(tmp_path)) == 1
        call.cancel()
        await asyncio.wait({call})

        async def is_gone() -> bool:
            return names_in(tmp_path) == []

        await eventually(is_gone)
        await eventually(observer.is_quiet)


async def test_masks_hold_in_files_and_denied_tables_stay_denied(database_url: str, tmp_path: Path) -> None:
    observer = Observer.of(database_url)
    await observer.run(TABLE)
    await observer.run("INSERT INTO goods (id, label, code) VALUES (1, 'a', 'zz-secret'), (2, 'b', NULL)")
    await observer.run("CREATE TABLE salaries (id int)")
    rules = {"deny": ["salaries"], "mask": ["goods.code"]}
    settings = {"connections": {"db": {"url": database_url, **rules}}, "export_directories": [str(tmp_path)]}
    async with serving(tools=GROUPS, **settings) as desk:
        for name in ("csv", "jsonl", "parquet"):
            reply = await desk.ask("export_query", sql="SELECT id, code FROM goods", format=name, path=f"g.{name}")
            assert reply["masked"] == ["code"]
            assert b"zz-secret" not in (tmp_path / f"g.{name}").read_bytes()
        error = await desk.refusal("export_query", sql="SELECT * FROM salaries", path="s.csv")
        assert error["code"] in ("FORBIDDEN", "UNKNOWN_TABLE")


async def test_bytes_and_large_numbers_keep_their_types_in_parquet(database_url: str, tmp_path: Path) -> None:
    observer = Observer.of(database_url)
    kind = {"postgresql": "bytea", "mysql": "blob", "sqlite": "blob"}[observer.backend]
    await observer.run(f"CREATE TABLE raw (id bigint, b {kind})")
    connection = {"url": database_url, "access": "read_write"}
    async with serving(tools=GROUPS, connections={"db": connection}, export_directories=[str(tmp_path)]) as desk:
        data = {"$bytes": base64.b64encode(b"\0\xff\n").decode()}
        rows = [[2**60 + 1, data], [None, None]]
        await desk.ask("insert_rows", table="raw", columns=["id", "b"], rows=rows)
        await desk.ask(
            "export_query", sql="SELECT * FROM raw ORDER BY id IS NULL", format="parquet", path="raw.parquet"
        )
    table = pyarrow.parquet.read_table(tmp_path / "raw.parquet")
    assert table.to_pydict() == {"id": [2**60 + 1, None], "b": [b"\0\xff\n", None]}


async def test_a_large_export_is_read_in_parts_that_begin_with_a_row(
    filled: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manydb.exports.shelf.PART_BYTES", 20_000)
    # All columns: a part ends where a slice does, and some drivers' slices hold whatever of 64 kB has arrived.
    reply = body(await filled.client.call_tool("export_query", {"sql": "SELECT * FROM goods", "format": "jsonl"}))
    count = int(reply["parts"].rpartition("/")[2]) + 1
    assert count > 1
    with pytest.raises(McpError, match="read in parts"):
        await filled.client.read_resource(reply["uri"])
    ids: list[int] = []
    for part in range(count):
        (content,) = await filled.client.read_resource(f"{reply['uri']}/{part}")
        assert isinstance(content, TextResourceContents)
        ids += [json.loads(line)["id"] for line in content.text.splitlines()]
    assert sorted(ids) == [*range(1, 5_001)]
    with pytest.raises(McpError, match="BAD_PARAMETER"):
        await filled.client.read_resource(f"{reply['uri']}/{count}")


def test_every_format_is_offered() -> None:
    assert exports.WRITERS.keys() == exports.MIME_TYPES.keys()


# -- who holds exports -------------------------------------------------------------------------------------------------


@pytest.fixture
async def gateway(file_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Gateway]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = Settings.model_validate({"connections": {"db": {"url": file_url}}, "max_exports": 2})
    async with Gateway.open(settings) as gateway:
        yield gateway


def modes_of(folder: Path) -> list[int]:
    return [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())]


async def test_exports_belong_to_their_caller_and_go_when_their_time_is_up(gateway: Gateway, tmp_path: Path) -> None:
    made = exports.Exports(gateway)
    clock: Callable[[], float] = made._kept.clock
    ada, bob = callers.Caller("session", "ada"), callers.Caller("session", "bob")

    async def export(caller: callers.Caller) -> str:
        handle, _ = await made.export(caller, None, "SELECT * FROM numbers", None, "csv", lambda _: None)
        assert handle is not None
        return handle

    first, second = await export(ada), await export(bob)
    (name,) = names_in(tmp_path)
    folder = tmp_path / name
    assert modes_of(folder) == [0o700, 0o600, 0o600]
    with pytest.raises(Expired):
        await made.read(bob, first)
    await export(ada)
    with pytest.raises(TooMany):
        await export(ada)
    await gateway.release(ada)
    assert len(names_in(folder)) == 1
    assert (await made.read(bob, second))[1].startswith(b"n,label\n1,label 1\n")
    made._kept.clock = lambda: clock() + gateway.settings.export_ttl + 1
    await gateway.sweep()
    assert names_in(folder) == []
    await export(bob)
    await made.aclose()
    assert names_in(tmp_path) == []


async def test_over_http_no_path_is_written(file_url: str, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"connections": {"db": {"url": file_url}}, "export_directories": [str(tmp_path)]}
    )
    async with Gateway.open(settings, local=False) as gateway:
        made = exports.Exports(gateway)
        with pytest.raises(Forbidden):
            await made.export(callers.NOBODY, None, "SELECT 1", None, "csv", lambda _: None, path="x.csv")
    assert names_in(tmp_path) == []
