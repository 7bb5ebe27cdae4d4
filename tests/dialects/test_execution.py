"""Real values of the real servers: what comes out of a statement, and what goes into it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from manydb.dialects import execution as other
from manydb.dialects.mysql import execution as mysql
from manydb.dialects.postgresql import PostgreSQL
from manydb.dialects.rows import Rows
from manydb.dialects.sqlite import execution as sqlite
from manydb.dialects.sqlite.opened import Opened
from manydb.errors import BadParameter
from tests.conftest import Databases
from tests.servers import WAYS

CORPUS = Path(__file__).parent.parent / "corpus"
LINES = [json.loads(line) for line in (CORPUS / "values.jsonl").read_text().splitlines()]
postgresql = PostgreSQL()  # whose two drivers have modules of their own
MODULES: dict[str, ModuleType | PostgreSQL] = {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}

ARGUMENTS: dict[str, dict[str, Any]] = {"postgresql": {"statement_cache_size": 0}, "sqlite": {"factory": Opened}}


@dataclass(frozen=True)
class Database:
    """An engine and the begin of a read-only transaction, as the dialect sends it."""

    name: str
    engine: AsyncEngine
    maria: bool = False

    @asynccontextmanager
    async def open(self, *, read_only: bool = True) -> AsyncGenerator[AsyncConnection]:
        begin = {"postgresql": "BEGIN READ ONLY", "mysql": "START TRANSACTION READ ONLY", "sqlite": "BEGIN"}[self.name]
        async with self.engine.connect() as connection:
            await send(connection, begin if read_only else "BEGIN")
            try:
                yield connection
            finally:
                if not connection.invalidated:
                    await send(connection, "ROLLBACK")

    async def fetch(self, sql: str, *args: Any, limit: int = 100, read_only: bool = True) -> Rows:
        async with self.open(read_only=read_only) as connection:
            rows: Rows = await MODULES[self.name].fetch(connection, sql, args, limit)
        return rows

    async def value(self, sql: str, *args: Any) -> Any:
        """The first value of the first row, as a client reads it from JSON."""
        return json.loads(orjson.dumps((await self.fetch(sql, *args)).rows[0][0]))


async def send(connection: AsyncConnection, sql: str) -> None:
    raw: Any = (await connection.get_raw_connection()).driver_connection
    await (raw.query if hasattr(raw, "query") and not hasattr(raw, "fetch") else raw.execute)(sql)


async def load(engine: AsyncEngine, name: str) -> None:
    script = (CORPUS / f"values_{name}.sql").read_text()
    async with engine.connect() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                await send(connection, statement)


@pytest.fixture(scope="session")
async def opened(databases: Databases) -> AsyncGenerator[Callable[[str], Awaitable[Database]]]:
    """A function from a way to a database to it, loaded with the corpus tables."""
    found: dict[str, Database] = {}

    async def database(way: str) -> Database:
        if way not in found:
            name = way.partition("+")[0]
            engine = create_async_engine(
                await databases.create(way), isolation_level="AUTOCOMMIT", connect_args=ARGUMENTS.get(way, {})
            )
            await load(engine, name)
            found[way] = Database(name, engine, maria=getattr(engine.dialect, "is_mariadb", False))
        return found[way]

    yield database
    for made in found.values():
        await made.engine.dispose()


@pytest.fixture(params=[way for way in WAYS if way.startswith("postgresql")])
async def pg(request: pytest.FixtureRequest, opened: Callable[[str], Awaitable[Database]]) -> Database:
    return await opened(request.param)


@pytest.fixture(params=[way for way in WAYS if way.startswith("mysql")])
async def my(request: pytest.FixtureRequest, opened: Callable[[str], Awaitable[Database]]) -> Database:
    return await opened(request.param)


@pytest.fixture
async def lite(opened: Callable[[str], Awaitable[Database]]) -> Database:
    return await opened("sqlite")


@pytest.fixture(params=WAYS)
async def database(request: pytest.FixtureRequest, opened: Callable[[str], Awaitable[Database]]) -> Database:
    """Each database in turn."""
    return await opened(request.param)


# ---- every database -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "line"),
    [
        pytest.param(way, line, id=f"{way}-{line['id']}")
        for way in WAYS
        for line in LINES
        if line["dialect"] == way.partition("+")[0]
    ],
)
async def test_values_reach_json_in_their_canonical_form(
    way: str, line: dict[str, Any], opened: Callable[[str], Awaitable[Database]]
) -> None:
    database = await opened(way)
    if line.get("engine") not in {None, "mariadb" if database.maria else "mysql8"}:
        pytest.skip(f"for {line['engine']} only")
    sql = line["sql"].replace("SELECT i6 FROM types1 WHERE id = 1", "SELECT CAST('2001:db8::1' AS INET6)")
    rows = await database.fetch(sql)
    found = json.loads(orjson.dumps(rows.rows[0] if line.get("whole_row") else rows.rows[0][0]))
    if line.get("compare") == "number":
        assert found == line["expected_json"]
    else:
        assert json.dumps(found) == json.dumps(line["expected_json"])


async def test_rows_past_the_limit_are_reported(database: Database) -> None:
    sql = "SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3"
    assert (await database.fetch(sql, limit=2)).more
    assert not (await database.fetch(sql, limit=3)).more
    assert [list(row) for row in (await database.fetch(sql, limit=3)).rows] == [[1], [2], [3]]
    nothing = await database.fetch(sql, limit=0)
    assert (nothing.rows, nothing.more, nothing.columns) == ([], True, ["n"])


async def test_duplicate_column_names_survive(database: Database) -> None:
    rows = await database.fetch("SELECT 1 AS a, 'x' AS a, NULL AS b")
    assert rows.columns == ["a", "a", "b"]
    assert [list(row) for row in rows.rows] == [[1, "x", None]]
    assert len(rows.types) == 3


async def test_statements_without_a_result_give_no_columns(database: Database) -> None:
    rows = await database.fetch("CREATE TEMPORARY TABLE unused (a integer)", read_only=False)
    assert (rows.columns, rows.types, rows.rows, rows.more) == ([], [], [], False)


async def test_an_empty_result_has_its_columns(database: Database) -> None:
    rows = await database.fetch("SELECT 1 AS a, 'x' AS b FROM (SELECT 1 AS c) AS t WHERE 1 = 0")
    assert (rows.columns, rows.rows, rows.more) == (["a", "b"], [], False)


async def test_nulls_do_not_hide_large_numbers(database: Database) -> None:
    rows = await database.fetch("SELECT 9007199254740993 AS n UNION ALL SELECT NULL UNION ALL SELECT 1", limit=5)
    assert sorted((row[0] for row in rows.rows), key=str) == [1, "9007199254740993", None]


async def test_cells_of_four_megabytes_arrive_whole(database: Database) -> None:
    sql = {"postgresql": "SELECT repeat('x', 4000000)", "mysql": "SELECT repeat('x', 4000000)"}.get(
        database.name, "SELECT printf('%.*c', 4000000, 'x')"
    )
    assert await database.value(sql) == "x" * 4_000_000


async def test_many_columns_are_no_problem(database: Database) -> None:
    count = 1_600 if database.name == "postgresql" else 2_000  # PostgreSQL's limit is 1,664, MySQL's 4,096
    rows = await database.fetch("SELECT " + ", ".join(f"{n} AS c{n}" for n in range(count)))
    assert list(rows.rows[0]) == list(range(count))


async def test_a_large_result_with_a_small_limit_does_not_stop_the_connection(database: Database) -> None:
    series = {
        "postgresql": "SELECT n FROM generate_series(1, 200000) AS n",
        "mysql": "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 500) "
        "SELECT a.n FROM s AS a, s AS b",
        "sqlite": "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 200000) SELECT n FROM s",
    }[database.name]
    async with asyncio.timeout(10), database.open() as connection:
        fetch = MODULES[database.name].fetch
        first = await fetch(connection, series, (), 3)
        assert (len(first.rows), first.more, connection.invalidated) == (3, True, False)
        again = await fetch(connection, "SELECT 5", (), 100)
        assert [list(row) for row in again.rows] == [[5]]
        assert len((await fetch(connection, series, (), 150_000)).rows) == 150_000


ROOM = {
    "id": "550e8400-e29b-41d4-a716-446655440000",
    "day": "2025-01-31",
    "price": "12345.60",
    "seats": 9007199254740993,
    "photo": {"$bytes": "AP8="},
    "tags": ["a", 'b"c'],
}


async def test_parameters_are_stored_as_what_they_mean(database: Database) -> None:
    marks = {"postgresql": ["$1", "$2", "$3", "$4", "$5", "$6"], "mysql": ["%s"] * 6}.get(database.name, ["?"] * 6)
    table = "other.rooms" if database.name == "postgresql" else "rooms"
    async with database.open(read_only=False) as connection:
        fetch = MODULES[database.name].fetch
        await fetch(
            connection, f"INSERT INTO {table} ({', '.join(ROOM)}) VALUES ({', '.join(marks)})", (*ROOM.values(),), 1
        )
        stored = await fetch(
            connection, f"SELECT {', '.join(ROOM)} FROM {table} WHERE id = {marks[0]}", (ROOM["id"],), 1
        )
    identity, day, price, seats, photo, tags = stored.rows[0]
    assert (identity, day, seats, photo) == (ROOM["id"], ROOM["day"], "9007199254740993", ROOM["photo"])
    assert float(price) == 12345.6
    assert tags == (ROOM["tags"] if database.name == "postgresql" else '["a","b\\"c"]')


async def test_null_and_plain_parameters_come_back(database: Database) -> None:
    sql = {"postgresql": "SELECT $1::text, $2::bigint, $3::float8, $4::text", "mysql": "SELECT %s, %s, %s, %s"}
    text = 'it\'s \\ 100% "ok" - 日本 🎉\n'
    rows = await database.fetch(sql.get(database.name, "SELECT ?, ?, ?, ?"), None, -5, 1.5, text)
    assert list(rows.rows[0]) == [None, -5, 1.5, text]


@pytest.mark.parametrize("value", ["\ud800", {"$bytes": "not base64"}, float("nan")])
async def test_values_that_cannot_be_bound_are_named_by_position_only(database: Database, value: Any) -> None:
    sql = {"postgresql": "SELECT $1::text || $2::text", "mysql": "SELECT %s, %s"}.get(database.name, "SELECT ?, ?")
    with pytest.raises(BadParameter, match=r"placeholder .?2 ") as caught:
        await database.fetch(sql, "a", value)
    assert "not base64" not in str(caught.value)


@pytest.mark.parametrize("count", [1, 3])
async def test_a_wrong_number_of_parameters_is_refused(database: Database, count: int) -> None:
    sql = {"postgresql": "SELECT $1::int + $2::int", "mysql": "SELECT %s + %s"}.get(database.name, "SELECT ? + ?")
    with pytest.raises(BadParameter, match=str(count)):
        await database.fetch(sql, *range(count))


async def test_any_dialect_has_a_default(database: Database) -> None:
    async with database.open() as connection:
        rows = await other.fetch(
            connection, "SELECT 9007199254740993 AS a, 'x' AS a, NULL AS b UNION ALL SELECT 1, 'y', NULL", (), 1
        )
    assert rows.columns == ["a", "a", "b"]
    assert [list(row) for row in rows.rows] == [["9007199254740993", "x", None]]
    assert rows.types == ["int", "str", "NoneType"]
    assert rows.more


# ---- PostgreSQL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("ARRAY[[1,2],[3,4]]", [[1, 2], [3, 4]]),
        ("'[5:6][1:1]={{1},{2}}'::int[]", [[1], [2]]),
        ("'{}'::int[]", []),
        ("ARRAY['a','NULL',NULL,'b,c','d\"e','','{x}','\\']", ["a", "NULL", None, "b,c", 'd"e', "", "{x}", "\\"]),
        ("ARRAY[9007199254740993,NULL,1]", ["9007199254740993", None, 1]),
        ("ARRAY[1.5,'NaN','-Infinity']::float8[]", [1.5, "NaN", "-Infinity"]),
        ("ARRAY[0.1]::float4[]", [0.1]),
        ("ARRAY[1.10,NULL]::numeric[]", ["1.10", None]),
        ("ARRAY[true,NULL]", [True, None]),
        ("ARRAY[timestamp '2025-01-01 10:00', 'infinity']", ["2025-01-01T10:00:00", "infinity"]),
        ("ARRAY[timestamptz '0044-03-15 12:00+00 BC']", ["0044-03-15T12:00:00+00:00 BC"]),
        ("ARRAY['1 day'::interval]", ["P1D"]),
        ("ARRAY['{\"a\":[1]}','null']::jsonb[]", [{"a": [1]}, {"$json": "null"}]),
        ("ARRAY[int4range(1,3)]", ["[1,3)"]),
        ("ARRAY['{[1,3)}'::int4multirange]", ["{[1,3)}"]),
        ("ARRAY[inet '10.0.0.1']", ["10.0.0.1"]),
        ("ARRAY[box '((1,2),(3,4))', box '((0,0),(1,1))']", ["(3,4),(1,2)", "(1,1),(0,0)"]),
        ("ARRAY[B'101']", ["101"]),
        ("ARRAY['12.50'::money]", ["$12.50"]),
        ("ARRAY['550e8400-e29b-41d4-a716-446655440000'::uuid]", ["550e8400-e29b-41d4-a716-446655440000"]),
        ("ARRAY['ok','sad']::other.mood[]", ["ok", "sad"]),
        ("ARRAY[9007199254740993,1]::other.large[]", ["9007199254740993", 1]),
        ("ARRAY['a=>1'::hstore]", [{"a": "1"}]),
        ("ARRAY[(1,'x'),(2,NULL)]", [[1, "x"], [2, None]]),
        ("(SELECT most_common_vals FROM pg_stats WHERE most_common_vals IS NOT NULL LIMIT 1) IS NULL", None),
    ],
)
async def test_arrays_of_everything(pg: Database, sql: str, expected: Any) -> None:
    found = await pg.value(f"SELECT {sql}")
    assert found == expected or expected is None


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("numrange(NULL, 5.5, '(]')", "(,5.5]"),
        ("daterange('2025-01-01', '2025-02-01')", "[2025-01-01,2025-02-01)"),
        ("'empty'::int8range", "empty"),
        ("'{[1,3),[5,7)}'::int4multirange", "{[1,3),[5,7)}"),
        ("tstzmultirange(tstzrange('2025-01-01', NULL))", '{["2025-01-01 00:00:00+00",)}'),
        ("'[10:00,11:00)'::other.timerange", "[10:00:00,11:00:00)"),
        ("interval '1 year 2 mons 3 days 04:05:06.789'", "P1Y2M3DT4H5M6.789S"),
        ("timetz '10:00:00-05:30'", "10:00:00-05:30"),
        ("date '0044-03-15 BC'", "0044-03-15 BC"),
        ("0.1::float4", 0.1),
        ("1e-7::numeric", "0.0000001"),
        ("'(0,1)'::tid", "(0,1)"),
        ("point(1.5,2)", "(1.5,2)"),
        ("'abc'::char(5)", "abc  "),
        ("'18446744073709551615'::xid8", "18446744073709551615"),
        ("'ok'::other.mood", "ok"),
        ("5::other.positive", 5),
        ('\'"a\\"b"=>"c\\\\d", ""=>NULL\'::hstore', {'a"b': "c\\d", "": None}),
        ("ROW(NULL)::other.alone", {"only_one": None}),
        ("ROW('')::other.alone", {"only_one": ""}),
        ("NULL::other.pair", None),
    ],
)
async def test_types_of_postgresql(pg: Database, sql: str, expected: Any) -> None:
    assert await pg.value(f"SELECT {sql}") == expected


PAIR = (
    "ROW(9007199254740993, 'a\"b\\c, (d)', '\\x00ff', 'ok', '{1,NULL}', '{\"k\": [1.5]}', "
    "'[2025-01-01 10:00+00,)', 'k=>\"q r\"', 5)::other.pair"
)
PAIR_JSON = {
    "a": "9007199254740993",
    "b": 'a"b\\c, (d)',
    "c": {"$bytes": "AP8="},
    "d": "ok",
    "e": [1, None],
    "f": {"k": [1.5]},
    "g": '["2025-01-01 10:00:00+00",)',
    "h": {"k": "q r"},
    "i": 5,
}


async def test_composites_are_objects_however_deep(pg: Database) -> None:
    assert await pg.value(f"SELECT {PAIR}") == PAIR_JSON
    assert await pg.value(f"SELECT ARRAY[{PAIR}, NULL]") == [PAIR_JSON, None]
    nested = await pg.value(f"SELECT ROW({PAIR}, ARRAY[{PAIR}])::other.nest")
    assert nested == {"inner_pair": PAIR_JSON, "pairs": [PAIR_JSON]}


async def test_a_whole_row_is_an_object_even_after_its_table_was_altered(pg: Database) -> None:
    async with pg.open(read_only=False) as connection:
        await send(connection, "CREATE TEMPORARY TABLE changing AS SELECT 1 AS a")
        first = await postgresql.fetch(connection, "SELECT changing FROM changing", (), 1)
        await send(
            connection, "ALTER TABLE changing ADD COLUMN b money DEFAULT 12.5, ADD COLUMN c tsvector DEFAULT 'x y'"
        )
        second = await postgresql.fetch(connection, "SELECT changing FROM changing", (), 1)
    assert first.rows == [({"a": 1},)]
    assert second.rows == [({"a": 1, "b": "$12.50", "c": "'x' 'y'"},)]


async def test_anonymous_records_are_arrays(pg: Database) -> None:
    record = await pg.value(
        "SELECT ROW(1, 'a', NULL, 2.50, date '0044-03-15 BC', timestamp 'infinity', timestamptz '2025-01-01 10:00+00',"
        " ARRAY[1,2], ROW(1),"
        " '{\"a\":1}'::jsonb, 0.1::float4, 9007199254740993, time '24:00', timetz '10:00+02:30',"
        " interval '-1 day 1 hour', -0.00010::numeric,"
        " 12345678.9, 'NaN'::numeric, inet '10.1.2.3/8', cidr '10.0.0.0/8', B'00101',"
        " '16/B374D848'::pg_lsn, true, '\\x00'::bytea, 'ok'::other.mood)"
    )
    assert record == [
        *[1, "a", None, "2.50", "0044-03-15 BC", "infinity", "2025-01-01T10:00:00+00:00", [1, 2], [1]],
        *[{"a": 1}, 0.1, "9007199254740993", "24:00:00", "10:00:00+02:30", "P-1DT1H", "-0.00010"],
        *["12345678.9", "NaN", "10.1.2.3/8", "10.0.0.0/8", "00101", "16/B374D848", True, {"$bytes": "AA=="}, "ok"],
    ]


async def test_types_only_the_server_prints_do_not_fail_a_record(pg: Database) -> None:
    assert await pg.value("SELECT ROW(1, 12.5::money, 'a b'::tsvector)") == [
        1,
        {"$bytes": "AAAAAAAABOI="},
        {"$bytes": "AAAAAmEAAABiAAAA"},
    ]


async def test_zero_columns_keep_their_rows(pg: Database) -> None:
    rows = await pg.fetch("SELECT FROM generate_series(1, 3)")
    assert ([list(row) for row in rows.rows], rows.columns, rows.types) == ([[], [], []], [], [])


async def test_types_have_the_names_people_write(pg: Database) -> None:
    rows = await pg.fetch(
        "SELECT 1, 1::bigint, true, 1.5::float8, now(), 'a'::varchar, ARRAY[1], ARRAY['a'], 'ok'::other.mood,"
        " ARRAY['ok']::other.mood[], 1.5"
    )
    assert rows.types == [
        *["integer", "bigint", "boolean", "double precision", "timestamptz", "varchar", "integer[]", "text[]"],
        *["other.mood", "other.mood[]", "numeric"],
    ]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("date", "2025-01-31", "2025-01-31"),
        ("date", "infinity", "infinity"),
        ("timestamp", "2025-01-05T10:00:00", "2025-01-05T10:00:00"),
        ("timestamp", "2025-01-05T10:00:00+02:00", "2025-01-05T08:00:00"),
        ("timestamptz", "2025-01-05T10:00:00Z", "2025-01-05T10:00:00+00:00"),
        ("time", "24:00:00", "24:00:00"),
        ("interval", "P1Y2M", "P1Y2M"),
        ("uuid", "550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000"),
        ("numeric", "1.10", "1.10"),
        ("numeric", 5, "5"),
        ("numeric", "NaN", "NaN"),
        ("int", "5", 5),
        ("bigint", "9007199254740993", "9007199254740993"),
        ("smallint", 5.0, 5),
        ("boolean", "true", True),
        ("boolean", 0, False),
        ("float8", "1.5", 1.5),
        ("float8", "NaN", "NaN"),
        ("real", 0.1, 0.1),
        ("text", 5, "5"),
        ("text", {"a": 1}, '{"a":1}'),
        ("bytea", "\\x00ff", {"$bytes": "AP8="}),
        ("bytea", {"$bytes": "AP8="}, {"$bytes": "AP8="}),
        ("bytea", "AP8=", {"$bytes": "AP8="}),
        ("jsonb", {"a": [1, None]}, {"a": [1, None]}),
        ("jsonb", '{"a": 1}', {"a": 1}),
        ("jsonb", "plain words", "plain words"),
        ("jsonb", {"$json": "12345678901234567890"}, {"$json": "12345678901234567890"}),
        ("inet", "10.0.0.1", "10.0.0.1"),
        ("other.mood", "ok", "ok"),
        ("other.positive", "5", 5),
        ("int4range", "[1,3)", "[1,3)"),
        ("int[]", [1, None, "3"], [1, None, 3]),
        ("int[]", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ("int[]", "{1,2}", [1, 2]),
        ("int[]", "[1, 2]", [1, 2]),
        ("text[]", ["a", 'b"c', None, "", "NULL", "{x,y}"], ["a", 'b"c', None, "", "NULL", "{x,y}"]),
        ("date[]", ["2025-01-31", None], ["2025-01-31", None]),
        ("uuid[]", ["550e8400-e29b-41d4-a716-446655440000"], ["550e8400-e29b-41d4-a716-446655440000"]),
        ("numeric[]", ["1.10", 2], ["1.10", "2"]),
        ("bytea[]", [{"$bytes": "AP8="}], [{"$bytes": "AP8="}]),
        ("jsonb[]", [{"a": [1]}, [2]], [{"a": [1]}, [2]]),
        ("other.mood[]", ["ok"], ["ok"]),
        ("hstore", {"a": "1", 'b"': None}, {"a": "1", 'b"': None}),
        ("other.pair", PAIR_JSON, PAIR_JSON),
        ("other.alone", ["x"], {"only_one": "x"}),
    ],
)
async def test_parameters_take_the_type_the_statement_expects(
    pg: Database, kind: str, value: Any, expected: Any
) -> None:
    assert await pg.value(f"SELECT $1::{kind}", value) == expected
    assert await pg.value(f"SELECT $1::{kind}", None) is None


@pytest.mark.parametrize(
    ("kind", "value", "named"),
    [
        ("date", "secret-31", "date"),
        ("int", "secret", "integer"),
        ("int", 2**31, "integer"),
        ("int", True, "integer"),
        ("boolean", "secret", "boolean"),
        ("uuid", "secret", "uuid"),
        ("numeric", "secret", "numeric"),
        ("bytea", "secret!", "bytea"),
        ("other.mood", "secret", "other.mood"),
        ("int[]", [1, "secret"], "integer\\[\\]"),
        ("date[]", ["secret"], "date\\[\\]"),
        ("other.pair", {"secret": 1}, "other.pair"),
    ],
)
async def test_a_value_that_does_not_fit_is_refused_without_repeating_it(
    pg: Database, kind: str, value: Any, named: str
) -> None:
    with pytest.raises(BadParameter, match=rf"placeholder \$2 takes a value of type {named}") as caught:
        await pg.fetch(f"SELECT $1::text, $2::{kind}", "a", value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_an_error_in_the_statement_is_not_blamed_on_a_parameter(pg: Database) -> None:
    with pytest.raises(Exception, match="division by zero") as caught:
        await pg.fetch("SELECT 1 / ($1::int - 1)", 1)
    assert not isinstance(caught.value, BadParameter)


async def test_dates_are_iso_8601_whatever_the_database_prefers(databases: Databases) -> None:
    async with databases.temporary("postgresql") as url:
        settings = {"datestyle": "SQL, DMY", "intervalstyle": "postgres_verbose", "timezone": "Asia/Kolkata"}
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT", connect_args={"server_settings": settings})
        database = Database("postgresql", engine)
        for _ in range(2):  # a setting made inside a transaction is gone after it
            rows = await database.fetch("SELECT timestamptz '2025-01-05 10:00+00', interval '1 day', date '2025-01-31'")
            assert rows.rows == [("2025-01-05T10:00:00+00:00", "P1D", "2025-01-31")]
        await engine.dispose()


# ---- MySQL and MariaDB ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "kind", "expected"),
    [
        ("SELECT d FROM zerodates WHERE id = 2", "date", "2025-00-00"),
        ("SELECT dt FROM zerodates WHERE id = 2", "datetime", "2025-01-00T00:00:00"),
        ("SELECT ts FROM types1 WHERE id = 1", "timestamp", "2025-01-05T10:00:00"),
        ("SELECT bl FROM types1 WHERE id = 1", "blob", {"$bytes": "AP8="}),
        ("SELECT tx FROM types1 WHERE id = 1", "text", "Zoë"),
        ("SELECT b8 FROM types1 WHERE id = 1", "bit(8)", "00000101"),
        ("SELECT e FROM types1 WHERE id = 1", "enum", "y"),
        ("SELECT s FROM types1 WHERE id = 1", "set", "a,c"),
        ("SELECT y FROM types1 WHERE id = 1", "year", 2025),
        ("SELECT CAST(1.10 AS DECIMAL(10,2))", "decimal(10,2)", "1.10"),
        ("SELECT CAST(18446744073709551615 AS UNSIGNED)", "bigint unsigned", "18446744073709551615"),
        ("SELECT x'00ff'", "varbinary", {"$bytes": "AP8="}),
        ("SELECT CAST('-12:30:00.5' AS TIME(1))", "time", "-12:30:00.5"),
        ("SELECT g FROM types1 WHERE id = 1", "geometry", {"$bytes": "AAAAAAEBAAAAAAAAAAAA8D8AAAAAAAAAQA=="}),
    ],
)
async def test_types_of_mysql(my: Database, sql: str, kind: str, expected: Any) -> None:
    rows = await my.fetch(sql)
    assert (rows.types, json.loads(orjson.dumps(rows.rows[0][0]))) == ([kind], expected)


async def test_instants_are_bound_in_utc(my: Database) -> None:
    assert await my.value("SELECT CAST(%s AS DATETIME)", "2025-01-05T10:00:00+02:00") == "2025-01-05T08:00:00"
    assert await my.value("SELECT CAST(%s AS DATETIME)", "2025-01-05T10:00:00Z") == "2025-01-05T10:00:00"


async def test_literals_cannot_be_left(my: Database) -> None:
    for text in ("' OR 1=1 -- ", "\\' OR 1=1 -- ", '"', "%s", "\\", "\0", "x\x1a"):
        assert await my.value("SELECT %s", text) == text
    async with my.open() as connection:
        await send(connection, "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'")
        rows = await mysql.fetch(connection, "SELECT %s", ("\\' OR 1=1 -- ",), 1)
        assert rows.rows == [("\\' OR 1=1 -- ",)]


async def test_a_result_that_the_server_does_not_stop_costs_the_connection(my: Database) -> None:
    sql = f"WITH RECURSIVE n (i) AS ({COUNT} < 1000) SELECT a.i FROM n a, n b, n c LIMIT 100000000"
    async with asyncio.timeout(10), my.open() as connection:
        rows = await mysql.fetch(connection, sql, (), 2)
        assert (len(rows.rows), rows.more, connection.invalidated) == (2, True, True)
    assert await my.value("SELECT 5") == 5


COUNT = "SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i"


async def test_rows_that_come_in_many_packets_come_in_order(my: Database) -> None:
    """More bytes than a buffer holds, more packets than a byte counts, cells whose lengths are written in each way."""
    for width in (0, 250, 251, 70_000):
        sql = f"WITH RECURSIVE n (i) AS ({COUNT} < 900) SELECT i, repeat('x', {width}), NULL FROM n ORDER BY i"
        rows = await my.fetch(sql, limit=1_000)
        assert (rows.rows, rows.more) == ([(n, "x" * width, None) for n in range(1, len(rows.rows) + 1)], rows.full)
        assert len(rows.rows) == 900 or (rows.full and len(rows.rows) > 200)


async def test_a_cell_that_fills_packets_of_its_own_arrives_whole(my: Database) -> None:
    async with my.open() as connection:
        packet = await mysql.fetch(connection, "SELECT @@max_allowed_packet", (), 1)
        size = min(int(packet.rows[0][0]), 16_777_216) - 1
        for length in (size, size - 3, size - 8):
            rows = await mysql.fetch(connection, f"SELECT repeat('x', {length}), 7", (), 1)
            assert (len(rows.rows[0][0]), rows.rows[0][1]) == (length, 7)


async def test_an_error_among_the_rows_leaves_the_connection_as_it_was(my: Database) -> None:
    failing = (
        f"WITH RECURSIVE n (i) AS ({COUNT} < 500) SELECT i, IF(i < 400, 1, (SELECT 1 FROM n m WHERE m.i > n.i)) FROM n"
    )
    async with my.open() as connection:
        for _ in range(2):
            with pytest.raises(Exception, match="more than 1 row") as caught:
                await mysql.fetch(connection, failing, (), 1_000)
            assert caught.value.args[0] == 1242
            assert (await mysql.fetch(connection, "SELECT 5", (), 1)).rows == [(5,)]
        assert not connection.invalidated


async def test_a_procedure_answers_with_its_first_result_and_leaves_nothing(my: Database) -> None:
    async with my.open(read_only=False) as connection:
        await send(connection, "DROP PROCEDURE IF EXISTS several")
        await send(
            connection,
            "CREATE PROCEDURE several(n int) BEGIN SELECT n; WHILE n > 0 DO SELECT n, n; SET n = n - 1; END WHILE; END",
        )
        for count in (0, 2, 1_500):
            assert (await mysql.fetch(connection, f"CALL several({count})", (), 5, to_end=True)).rows == [(count,)]
            assert (await mysql.fetch(connection, "SELECT 5", (), 1)).rows == [(5,)]


async def test_a_read_that_is_cut_off_costs_the_connection(my: Database) -> None:
    async with my.open() as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await mysql.fetch(connection, "SELECT SLEEP(20)", (), 1)
        assert connection.invalidated


async def test_a_slow_reader_makes_the_server_wait(my: Database) -> None:
    """What was sent stays out of our memory until somebody asks for it."""
    sql = f"WITH RECURSIVE n (i) AS ({COUNT} < 1000) SELECT repeat('x', 1000) FROM n a, n b LIMIT 100000"
    async with my.open() as connection, aclosing(mysql.stream(connection, sql, ())) as slices:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        seen = 0
        async for rows in slices:
            seen += len(rows.rows)
            for _ in range(100):  # time for the server, and for the loop to take what it sends
                assert await my.value("SELECT 1") == 1
            assert (raw._proto.length if hasattr(raw, "_proto") else len(raw._reader._buffer)) < 2_000_000
            if seen > 1_000:
                break


# ---- SQLite ---------------------------------------------------------------------------------------------------------


async def test_text_that_is_not_utf_8_becomes_bytes_and_the_rest_stays_text(lite: Database) -> None:
    rows = await lite.fetch("SELECT CAST(x'ff00' AS TEXT), 'é', x'61', 9007199254740993, 1.5, NULL")
    assert rows.rows == [({"$bytes": "/wA="}, "é", {"$bytes": "YQ=="}, "9007199254740993", 1.5, None)]
    assert await lite.value("SELECT 'é'") == "é"


async def test_a_statement_that_wrote_is_not_run_twice_for_its_text(lite: Database) -> None:
    async with lite.open(read_only=False) as connection:
        with pytest.raises(Exception, match="Could not decode"):
            await sqlite.fetch(
                connection, "INSERT INTO rooms (id, day) VALUES (CAST(x'ff' AS TEXT), 'd') RETURNING id", (), 1
            )
        rows = await sqlite.fetch(connection, "SELECT count(*) FROM rooms", (), 1)
        assert rows.rows == [(1,)]


async def test_columns_may_mix_types(lite: Database) -> None:
    rows = await lite.fetch("VALUES (1), (1.5), ('x'), (x'00'), (NULL), (9e999)")
    assert [row[0] for row in rows.rows] == [1, 1.5, "x", {"$bytes": "AA=="}, None, "Infinity"]
    assert rows.types == ["integer"]
    numbers = await lite.fetch(
        "SELECT 9007199254740993 UNION ALL SELECT 1.5 UNION ALL SELECT -9e999 UNION ALL SELECT NULL"
    )
    assert [row[0] for row in numbers.rows] == ["9007199254740993", 1.5, "-Infinity", None]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1),
        ({"$bytes": "AP8="}, {"$bytes": "AP8="}),
        ([1, "a"], '[1,"a"]'),
        (2**63 - 1, str(2**63 - 1)),
        (float("inf"), "Infinity"),
    ],
)
async def test_parameters_of_sqlite(lite: Database, value: Any, expected: Any) -> None:
    assert await lite.value("SELECT ?", value) == expected


async def test_integers_beyond_64_bits_are_refused(lite: Database) -> None:
    with pytest.raises(BadParameter, match="placeholder 1 takes"):
        await lite.fetch("SELECT ?", 2**63)
