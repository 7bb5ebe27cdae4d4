"""psycopg's pipelines: one round trip for a read, and nothing outside of its transaction whatever goes wrong in it."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sqlalchemy import make_url

from manydb import transactions
from manydb.dialects.execution import driver
from manydb.dialects.postgresql.libpq.pipeline import ServerError, pipeline
from manydb.dialects.rows import Rows
from manydb.errors import ManydbError, ReadOnly, SqlSyntax, StatementTimeout, Unreachable, Unsupported
from manydb.leases import Lease
from tests.conftest import Databases
from tests.observers import ENDLESS, Observer, eventually, leased, wired

LARGE = "SELECT n, repeat('x', 100) AS x FROM generate_series(1, 5000000) AS n"


@pytest.fixture(scope="module")
async def url(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("postgresql+psycopg") as url:
        observer = Observer.of(url)
        await observer.run("CREATE TABLE kept (n integer)")
        await observer.run("INSERT INTO kept VALUES (1)")
        yield url


@pytest.fixture
async def lease(url: str) -> AsyncGenerator[Lease]:
    async with leased(url) as lease:
        yield lease


async def read(lease: Lease, sql: str, *args: Any, limit: int = 100, timeout: float = 10) -> Rows:  # noqa: ASYNC109
    """*sql* as the gateway runs it where nothing else is to be done in the transaction."""
    return await transactions.read(
        lease, lambda connection: lease.dialect.fetch(connection, sql, args, limit), timeout=timeout, alone=True
    )


async def backend(lease: Lease) -> Any:
    return (await read(lease, "SELECT pg_backend_pid()")).rows[0][0]


# -- the transaction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["SELECT n FROM kept", "SELECT n FROM kept LIMIT 5", "SELECT 1"])
async def test_a_read_takes_one_round_trip(lease: Lease, sql: str) -> None:
    with tempfile.TemporaryFile("w+") as trace:
        async with lease.connect() as connection:
            raw = driver(connection)
            raw.pgconn.trace(trace.fileno())
            await lease.dialect.begin(connection, read_only=True, timeout=5, alone=True)
            rows = await lease.dialect.fetch(connection, sql, (), 10)
            raw.pgconn.untrace()
        trace.seek(0)
        told = trace.read()
    assert rows.rows == [(1,)]
    # Whoever waits for an answer says Sync before, and hears ReadyForQuery.
    assert (told.count("\tSync"), told.count("\tReadyForQuery"), told.count("\tQuery")) == (1, 1, 0)


async def test_what_opens_the_transaction_is_in_force_for_the_statement(lease: Lease) -> None:
    names = ["transaction_read_only", "statement_timeout", "TimeZone", "DateStyle", "IntervalStyle"]
    sql = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    assert (await read(lease, sql, timeout=7)).rows == [("on", "7s", "UTC", "ISO, MDY", "iso_8601")]


async def test_a_statement_does_not_run_where_its_transaction_cannot_be_opened(url: str) -> None:
    async with leased(url, "admin") as lease, lease.connect() as connection:
        for opening in (
            "BEGIN READ ONLY ISOLATION LEVEL none",
            "SET LOCAL statement_timeout = 'never'",
            "SELECT 1 / 0",
        ):
            with pytest.raises(ServerError):  # noqa: PT012 - which command fails is the case
                async with pipeline(driver(connection)) as line:
                    line.query("BEGIN READ ONLY")
                    line.query(opening)
                    line.query("COMMIT")
                    line.query("INSERT INTO kept VALUES (2)")
                    await line.send()
                    await line.skip(4)
            await connection.exec_driver_sql("ROLLBACK")
    assert await Observer.of(url).run("SELECT n FROM kept") == [(1,)]


async def test_a_read_cannot_be_made_a_write(url: str) -> None:
    async with leased(url, "admin") as lease:
        for sql in (
            "INSERT INTO kept VALUES (2)",
            "WITH gone AS (DELETE FROM kept RETURNING n) SELECT * FROM gone",
            "SELECT 1; INSERT INTO kept VALUES (2)",
            "SELECT n FROM kept; COMMIT; INSERT INTO kept VALUES (2)",
            "COMMIT; INSERT INTO kept VALUES (2)",
            "SET TRANSACTION READ WRITE",
            "SELECT 1\0; INSERT INTO kept VALUES (2)",
            "SELECT * FROM kept FOR UPDATE LIMIT 1",
            "SELECT n INTO made FROM kept LIMIT 1",
            "EXPLAIN ANALYZE DELETE FROM kept",
        ):
            with pytest.raises(ManydbError):
                await read(lease, sql)
        with pytest.raises(ReadOnly):
            await read(lease, "DELETE FROM kept")
        with pytest.raises(SqlSyntax):
            await read(lease, "SELECT 1; SELECT 2")
    assert await Observer.of(url).run("SELECT n FROM kept") == [(1,)]


async def test_what_was_to_be_opened_and_was_not_is_forgotten(lease: Lease) -> None:
    async with lease.connect() as connection:
        await lease.dialect.begin(connection, read_only=True, timeout=1, alone=True)
    async with lease.connect() as connection:
        await lease.dialect.begin(connection, read_only=False, timeout=9)
        rows = await lease.dialect.fetch(connection, "SHOW transaction_read_only", (), 1)
        assert rows.rows == [("off",)]


async def test_a_statement_ends_at_its_time_and_the_connection_lives_on(lease: Lease) -> None:
    before = await backend(lease)
    with pytest.raises(StatementTimeout):
        await read(lease, "SELECT pg_sleep(20)", timeout=0.2)
    with pytest.raises(StatementTimeout):
        await read(lease, ENDLESS, timeout=0.2)
    assert await backend(lease) == before


async def test_an_error_among_the_rows_is_an_error(lease: Lease) -> None:
    before = await backend(lease)
    for end in ("", " LIMIT 90"):
        with pytest.raises(ManydbError, match="division by zero"):
            await read(lease, f"SELECT 1 / (80 - n) FROM generate_series(1, 100) AS n{end}")
    assert await backend(lease) == before


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 31, 32, 33, 127, 128, 129, 1000, 3000])
@pytest.mark.parametrize("end", ["", " LIMIT {limit}", " LIMIT {more}", " LIMIT 3000"])
async def test_rows_are_read_to_the_limit_and_one_further(lease: Lease, limit: int, end: str) -> None:
    end = end.format(limit=limit, more=limit + 1)
    found = await read(lease, f"SELECT n, n::text FROM generate_series(1, 2000) AS n{end}", limit=limit)
    total = min(2000, int(end.split()[-1]) if end else 2000)
    assert found.rows == [(n, str(n)) for n in range(1, min(limit, total) + 1)]
    assert (found.more, found.full, found.columns) == (total > limit, False, ["n", "n"])


async def test_rows_past_the_limit_stay_in_the_server(lease: Lease) -> None:
    before = await backend(lease)
    async with asyncio.timeout(5):
        assert (await read(lease, LARGE, limit=1_000)).more
    assert await backend(lease) == before


async def test_a_text_that_promises_few_rows_and_breaks_its_word_costs_the_connection(lease: Lease) -> None:
    before = await backend(lease)
    for sql in (f"{LARGE} -- LIMIT 5", "SELECT generate_series(1, 50000000)"):
        async with asyncio.timeout(5):
            found = await read(lease, sql, limit=10)
        assert (len(found.rows), found.more) == (10, True)
    assert await backend(lease) != before


@pytest.mark.parametrize("end", ["", " LIMIT 400"])
async def test_long_rows_end_a_read_by_their_size(lease: Lease, end: str) -> None:
    sql = f"SELECT n, repeat('x', 1000000) FROM generate_series(1, 400) AS n{end}"
    found = await read(lease, sql, limit=400)
    assert (len(found.rows) in range(14, 20), found.more, found.full) == (True, True, True)
    assert [row[0] for row in found.rows] == list(range(1, len(found.rows) + 1))


async def test_many_long_rows_that_are_asked_for_cost_no_connection(lease: Lease) -> None:
    before = await backend(lease)
    sql = "SELECT n, repeat('x', 10000) FROM generate_series(1, 5000) AS n LIMIT 5000"
    found = await read(lease, sql, limit=5_000)
    assert (found.more, found.full) == (True, True)
    assert await backend(lease) == before


async def test_records_keep_the_types_of_their_fields_beside_what_only_the_server_prints(lease: Lease) -> None:
    for end in ("", " LIMIT 300"):
        sql = f"SELECT n, ROW(n, n::text, NULL), n::money, ARRAY[(n, 'a')] FROM generate_series(1, 300) AS n{end}"
        found = await read(lease, sql, limit=300)
        assert found.rows[299] == (300, [300, "300", None], "$300.00", [[300, "a"]])
        assert [row[1][0] for row in found.rows] == [row[0] for row in found.rows] == list(range(1, 301))
    found = await read(lease, "SELECT ROW(n) FROM generate_series(1, 1000) AS n", limit=500)
    assert (found.rows[499], found.more) == (([500],), True)


async def test_records_that_a_write_returns_keep_the_types_of_their_fields(url: str) -> None:
    async with leased(url, "read_write") as lease:
        found = await transactions.write(
            lease,
            lambda on: lease.dialect.execute(
                on, "UPDATE kept SET n = n RETURNING ROW(n, 'a'), 1.50, now() > now()", (), 9
            ),
            timeout=5,
        )
    assert (found.rows, found.affected) == ([([1, "a"], "1.50", False)], 1)


async def test_a_write_runs_to_its_end_whatever_is_kept_of_its_rows(url: str) -> None:
    async with leased(url, "read_write") as lease:
        sql = "INSERT INTO kept SELECT generate_series(1, 5000) RETURNING n"
        found = await transactions.write(
            lease, lambda on: lease.dialect.execute(on, sql, (), 10), timeout=5, commit=False
        )
    assert (len(found.rows), found.more, found.affected) == (10, True, 5000)


async def test_rows_are_moved_by_no_copy(lease: Lease) -> None:
    for sql in ("COPY kept TO STDOUT", "COPY kept FROM STDIN"):
        with pytest.raises((Unsupported, ReadOnly)):
            await read(lease, sql)
    assert (await read(lease, "SELECT n FROM kept")).rows == [(1,)]


# -- values ----------------------------------------------------------------------------------------------------------


async def test_every_type_of_the_server_reads_alike_with_either_driver(url: str) -> None:
    """Their samples are nulls and empty arrays where nothing else fits all of them: what counts is that none fails."""
    catalog = (
        "SELECT format_type(oid, NULL) FROM pg_type WHERE typtype IN ('b', 'r', 'm') AND typnamespace = 11 ORDER BY 1"
    )
    plain = url.replace("+psycopg", "+asyncpg")
    async with leased(url) as fast, leased(plain) as slow:
        for (kind,) in await Observer.of(url).run(catalog):
            sql = f"SELECT NULL::{kind}, 5"
            ours, theirs = await read(fast, sql), await read(slow, sql)
            assert ours.rows == theirs.rows, kind  # asyncpg has names of its own for some arrays
        for sql in SAMPLES:
            ours, theirs = await read(fast, sql), await read(slow, sql)
            assert (ours.types, list(map(list, ours.rows))) == (theirs.types, list(map(list, theirs.rows))), sql


SAMPLES = (
    "SELECT * FROM pg_type ORDER BY oid LIMIT 90",
    "SELECT * FROM pg_class ORDER BY oid LIMIT 90",
    "SELECT * FROM pg_proc WHERE oid < 1300 ORDER BY oid LIMIT 90",
    "SELECT * FROM pg_index ORDER BY indexrelid LIMIT 90",
    "SELECT * FROM pg_database WHERE datname = 'template0'",
    "SELECT timestamp 'infinity', timestamp '0044-03-15 BC', timestamp '2025-01-01 10:00', NULL::timestamp",
    "SELECT t FROM (VALUES (timestamptz '2025-01-01'), ('infinity'), ('0044-03-15 BC'), (NULL)) AS v (t)",
    "SELECT t FROM (VALUES (timestamptz '2025-01-01 10:00:00.5+02'), ('12025-01-01')) AS v (t)",
    "SELECT t FROM (VALUES (timestamp '2025-01-01 10:00:00.5'), ('12025-01-01')) AS v (t)",
    "SELECT x FROM (VALUES (0.1::real), ('NaN'), ('-Infinity'), (1e-30), (3.4028235e38), (NULL)) AS v (x)",
    "SELECT x FROM (VALUES (0.1::float8), ('NaN'), ('-Infinity'), (1e-300), (5e-324), (NULL)) AS v (x)",
    "SELECT x FROM (VALUES (1::bigint), (9223372036854775807), (-9223372036854775808), (NULL)) AS v (x)",
    r"SELECT x FROM (VALUES ('\x'::bytea), ('\xff00'), (NULL)) AS v (x)",
    "SELECT '1 2 3'::int2vector, '1 2'::oidvector, '1'::xid, '1'::cid, '1'::xid8, 'a'::\"char\", ''::\"char\"",
    "SELECT ARRAY['1 2'::int2vector], ARRAY['{1,2}'::text]::text[], '{}'::oid[], ARRAY[4294967295::oid]",
    "SELECT ARRAY[true, NULL], ARRAY['\\x00'::bytea], ARRAY[0.1::real], ARRAY['NaN'::float8], ARRAY[1::bigint]",
    "SELECT '{\"a\": 12345678901234567890}'::json, 'null'::jsonb, '[1.10]'::jsonb, ARRAY['{}'::json]",
    "SELECT interval '1 day', time '10:00', timetz '10:00+02', date 'infinity', ARRAY[timetz '10:00+02']",
)


@pytest.mark.parametrize("value", ["a\0b", "\0"])
async def test_text_with_nul_is_refused_and_not_cut(lease: Lease, value: str) -> None:
    with pytest.raises(ManydbError, match=r"placeholder \$1 takes a value of type text") as caught:
        await read(lease, "SELECT $1::text", value)
    assert caught.value.code == "BAD_PARAMETER"


async def test_arrays_of_boxes_are_bound_with_their_own_delimiter(lease: Lease) -> None:
    found = await read(lease, "SELECT $1::box[]", ["((1,2),(3,4))", "((0,0),(1,1))"])
    assert found.rows == [(["(3,4),(1,2)", "(1,1),(0,0)"],)]


# -- connections that end --------------------------------------------------------------------------------------------


async def test_a_connection_that_the_server_has_closed_is_found_before_anything_is_sent(url: str) -> None:
    observer = Observer.of(url)
    async with leased(url) as lease:
        assert (await read(lease, "SELECT 1")).rows == [(1,)]
        await observer.kill_sessions()
        await eventually(observer.is_left_alone)
        assert (await read(lease, "SELECT 1")).rows == [(1,)]


async def nothing_is_out(lease: Lease) -> bool:
    return not lease.returning


async def test_a_silent_connection_is_told_from_a_slow_statement(url: str) -> None:
    async with wired(url) as (wire, through), leased(through) as lease:
        assert (await read(lease, "SELECT pg_sleep(2.5) IS NULL")).rows == [(False,)]
        await eventually(lambda: nothing_is_out(lease))
        wire.mute()
        with pytest.raises(Unreachable):
            await read(lease, "SELECT 1")
        assert (await read(lease, "SELECT 1")).rows == [(1,)]


async def test_a_read_that_is_cut_off_costs_the_connection(lease: Lease) -> None:
    async with lease.connect() as connection:
        await lease.dialect.begin(connection, read_only=True, timeout=30, alone=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await lease.dialect.fetch(connection, "SELECT pg_sleep(20)", (), 1)
        assert driver(connection).closed
    assert (await read(lease, "SELECT 1")).rows == [(1,)]


async def test_a_server_that_says_nothing_is_given_up_however_short_the_time(url: str) -> None:
    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(stay_silent, "127.0.0.1", 0) as server:
        there = make_url(url).set(port=server.sockets[0].getsockname()[1])
        async with leased(there.render_as_string(hide_password=False), connect_timeout=0.3) as lease:
            with pytest.raises(Unreachable):
                await read(lease, "SELECT 1")
