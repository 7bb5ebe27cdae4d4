"""Every catalog reads its database's awkward schemas whole; the default one reads any database."""

import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from manydb import lineage, transactions
from manydb.dialects.catalog import Catalog
from manydb.dialects.execution import driver
from manydb.dialects.mysql.catalog import MySQLCatalog
from manydb.dialects.mysql.describing import plain_type
from manydb.dialects.postgresql.catalog import PostgreSQLCatalog
from manydb.dialects.postgresql.describing import plain_expression, short_type
from manydb.dialects.schema import Column, ForeignKey, Index, Overview, Table, TableName
from manydb.dialects.sqlite import creation
from manydb.dialects.sqlite.catalog import SQLiteCatalog
from manydb.dialects.sqlite.opened import Opened
from tests.conftest import Databases
from tests.observers import leased

# SQLAlchemy warns of what its Inspector cannot read; other databases of a test server may hold anything.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")

CATALOGS: dict[str, Catalog] = {
    "postgresql": PostgreSQLCatalog(),
    "mysql": MySQLCatalog(),
    "sqlite": SQLiteCatalog(),
}

POSTGRESQL = """
CREATE SCHEMA sales;
CREATE TYPE order_status AS ENUM ('new', 'paid', 'it''s odd');
CREATE DOMAIN email AS varchar(120) CHECK (VALUE LIKE '%@%');
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email email NOT NULL UNIQUE,
    referrer bigint REFERENCES customers ON DELETE SET NULL,
    tags text[] NOT NULL DEFAULT '{}',
    full_name varchar(40) DEFAULT 'nobody',
    initials char(2),
    seen timestamp(3) with time zone DEFAULT now(),
    loud text GENERATED ALWAYS AS (upper(full_name)) STORED);
COMMENT ON TABLE customers IS 'People who buy';
COMMENT ON COLUMN customers.email IS 'where invoices go';
CREATE UNIQUE INDEX customers_lower ON customers (lower(full_name)) WHERE full_name IS NOT NULL;
CREATE INDEX customers_tags ON customers USING gin (tags);
CREATE INDEX customers_seen ON customers (seen DESC, full_name) INCLUDE (initials);
CREATE TABLE sales."Order" (
    id serial, "line no" int, customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
    status order_status NOT NULL DEFAULT 'new', size text CHECK (size IN ('small', 'large')),
    total numeric(12,2) CHECK (total >= 0), PRIMARY KEY (id, "line no"));
CREATE TABLE sales."a.b" ("select" int, "line no" int, "naïve" text,
    FOREIGN KEY ("select", "line no") REFERENCES sales."Order" (id, "line no") ON UPDATE CASCADE);
CREATE TABLE sales.customers (id int);
CREATE VIEW "Big Orders" AS SELECT id FROM sales."Order" WHERE total > 100;
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM sales."Order";
CREATE TABLE events (day date NOT NULL, note text) PARTITION BY RANGE (day);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE rooms (room int, during int4range, EXCLUDE USING gist (during WITH &&));
CREATE TABLE nothing ();
ALTER TABLE customers ADD COLUMN gone int;
ALTER TABLE customers DROP COLUMN gone;
ANALYZE customers
"""
MYSQL = """
CREATE TABLE customers (
    id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
    email varchar(120) NOT NULL UNIQUE COMMENT 'where invoices go',
    referrer bigint unsigned, full_name varchar(40) DEFAULT 'no''body', rank_ int(11) NOT NULL DEFAULT 7,
    kind enum('person','it''s odd') NOT NULL DEFAULT 'person', flags set('a','b'), extra json, story text,
    seen timestamp NOT NULL DEFAULT current_timestamp ON UPDATE current_timestamp,
    loud varchar(40) AS (upper(full_name)) STORED,
    CONSTRAINT fk_referrer FOREIGN KEY (referrer) REFERENCES customers (id) ON DELETE SET NULL,
    CONSTRAINT rank_positive CHECK (rank_ >= 0), FULLTEXT KEY words (story), KEY by_name (full_name(10), seen)
    ) COMMENT 'People who buy';
CREATE TABLE `Order Lines` (order_id int, `select` int, customer_id bigint unsigned NOT NULL, note text,
    PRIMARY KEY (order_id, `select`),
    CONSTRAINT fk_customer FOREIGN KEY (customer_id) REFERENCES customers (id) ON DELETE CASCADE);
CREATE TABLE `a.b` (order_id int, line int, `naïve` text, `per%cent` int,
    CONSTRAINT fk_line FOREIGN KEY (order_id, line) REFERENCES `Order Lines` (order_id, `select`) ON UPDATE CASCADE);
CREATE VIEW big_orders AS SELECT order_id FROM `Order Lines` WHERE `select` > 1;
CREATE TABLE old (id int) ENGINE=MyISAM;
CREATE TABLE events (day date) PARTITION BY HASH (year(day)) PARTITIONS 2
"""
SQLITE = """
CREATE TABLE customers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    email varchar(120) NOT NULL UNIQUE, -- where invoices go
    referrer integer REFERENCES Customers ON DELETE SET NULL, /* not a note */
    full_name text DEFAULT 'no, (body', -- called
    size text CHECK (size IN ('small', 'la)rge')),
    loud text GENERATED ALWAYS AS (upper(full_name)) VIRTUAL,
    CONSTRAINT named CHECK (length(email) > 3) -- the last
);
CREATE UNIQUE INDEX customers_lower ON customers (lower(full_name), email DESC) WHERE full_name IS NOT NULL;
CREATE TABLE "Order Lines" (order_id int, [select] int,
    customer_id int NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
    PRIMARY KEY (order_id, "select")) WITHOUT ROWID, STRICT;
CREATE TABLE "a.b" (order_id int, line int, "naïve" text,
    FOREIGN KEY (order_id, line) REFERENCES "Order Lines" (order_id, "select") ON UPDATE CASCADE);
CREATE VIEW big_orders AS SELECT order_id FROM "Order Lines" WHERE "select" > 1;
CREATE VIEW broken AS SELECT x FROM gone;
CREATE VIRTUAL TABLE pages USING fts5(title, body);
CREATE TABLE copied AS SELECT 1 AS one;
CREATE INDEX copied_one ON copied (one);
INSERT INTO copied VALUES (2), (3);
ANALYZE
"""
SCRIPTS = {"postgresql": POSTGRESQL, "mysql": MYSQL, "sqlite": SQLITE}


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[AsyncConnection]:
    is_file = url.startswith("sqlite")
    engine = create_async_engine(url, connect_args={"factory": Opened} if is_file else {})
    try:
        async with engine.connect() as conn:
            yield conn
    finally:
        await engine.dispose()


@pytest.fixture(scope="module", params=CATALOGS)
async def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def awkward(databases: Databases, backend: str) -> AsyncGenerator[AsyncConnection]:
    async with databases.temporary(backend) as url, connected(url) as conn:
        for statement in SCRIPTS[backend].replace("%", "%%" if backend == "mysql" else "%").split(";\n"):
            await conn.exec_driver_sql(statement.strip())
        await conn.commit()
        yield conn


@pytest.fixture(scope="module")
async def postgresql(databases: Databases) -> AsyncGenerator[AsyncConnection]:
    async with awkward(databases, "postgresql") as conn:
        yield conn


@pytest.fixture(scope="module")
async def mysql(databases: Databases) -> AsyncGenerator[AsyncConnection]:
    async with awkward(databases, "mysql") as conn:
        yield conn


@pytest.fixture(scope="module")
async def sqlite(databases: Databases) -> AsyncGenerator[AsyncConnection]:
    async with awkward(databases, "sqlite") as conn:
        yield conn


@pytest.fixture(scope="module")
async def any_awkward(databases: Databases, backend: str) -> AsyncGenerator[AsyncConnection]:
    async with awkward(databases, backend) as conn:
        yield conn


async def described(conn: AsyncConnection, *names: str, schema: str = "") -> list[Table]:
    catalog = CATALOGS[conn.dialect.name]
    overview = await catalog.overview(conn)
    home = schema or str(overview.default_schema)
    return await in_full(catalog, conn, [TableName(home, name) for name in names])


async def in_full(catalog: Catalog, conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
    references = await catalog.references(conn)
    return [references.of(table) for table in await catalog.describe(conn, names)]


def columns_of(table: Table) -> dict[str, Column]:
    return {column.name: column for column in table.columns}


def kinds(overview: Overview) -> dict[str, str]:
    return {f"{relation.schema}.{relation.name}": relation.kind for relation in overview.relations}


# -- every database ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catalog", ["own", "default"])
async def test_an_empty_database_has_no_relations(databases: Databases, backend: str, catalog: str) -> None:
    reader = CATALOGS[backend] if catalog == "own" else Catalog()
    async with databases.temporary(backend) as url, connected(url) as conn:
        overview = await reader.overview(conn)
        name = TableName(str(overview.default_schema), "nothing")
        own = [relation for relation in overview.relations if relation.schema == overview.default_schema]
        assert (own, await reader.describe(conn, [name])) == ([], [])
        assert not [entry for entry in await reader.columns(conn) if entry.schema == overview.default_schema]
        assert not [entry for entry in await reader.indexes(conn) if entry.schema == overview.default_schema]


async def test_tables_come_in_the_order_asked_for_and_unknown_ones_are_left_out(any_awkward: AsyncConnection) -> None:
    tables = await described(any_awkward, "Big Orders", "big_orders", "missing", "customers", "customers")
    assert [table.name.lower().replace(" ", "_") for table in tables] == ["big_orders", "customers"]


async def test_asking_for_no_table_reads_none(any_awkward: AsyncConnection) -> None:
    assert await described(any_awkward) == []


async def test_outlines_tell_lineage_all_that_descriptions_do(any_awkward: AsyncConnection) -> None:
    catalog = CATALOGS[any_awkward.dialect.name]
    overview = await catalog.overview(any_awkward)
    # A server may have databases of others, which come and go.
    own = [each for each in overview.relations if each.schema in {overview.default_schema, "sales"}]
    overview = Overview(tuple(own), overview.default_schema)
    outlines = await catalog.outlines(any_awkward, overview)
    described = await catalog.describe(any_awkward, list(overview.by_address))
    known, told = (
        lineage.Catalog.of(
            overview, [each for each in tables if each.address in overview.by_address], parents={}, routines=()
        )
        for tables in (outlines, described)
    )
    assert known.columns == told.columns
    assert known.definitions == told.definitions
    assert known.generated == told.generated
    assert known.generated
    assert known.definitions


async def test_reading_works_in_a_read_only_transaction(databases: Databases, backend: str) -> None:
    begin = {
        "postgresql": "SET TRANSACTION READ ONLY",
        "mysql": "START TRANSACTION READ ONLY",
        "sqlite": "PRAGMA query_only=1",
    }
    async with awkward(databases, backend) as conn:
        await conn.exec_driver_sql(begin[backend])
        assert (await described(conn, "customers"))[0].comment in {"People who buy", ""}


async def test_the_default_catalog_agrees_on_what_it_knows(any_awkward: AsyncConnection) -> None:
    names = ["customers", "Order Lines", "a.b", "big_orders", "Big Orders"]
    own = await described(any_awkward, *names)
    default = await in_full(Catalog(), any_awkward, [table.address for table in own])
    assert len(own) > 1
    for mine, table in zip(own, default, strict=True):
        assert (table.address, table.kind, table.primary_key) == (mine.address, mine.kind, mine.primary_key)
        assert [column.name for column in table.columns] == [column.name for column in mine.columns]
        assert len(table.foreign_keys) == len(mine.foreign_keys)
        if any_awkward.dialect.name != "sqlite":  # where SQLAlchemy keeps the case in which a reference was written
            assert set(table.foreign_keys) == set(mine.foreign_keys)
            assert set(table.referenced_by) == set(mine.referenced_by)
            assert [column.comment for column in table.columns] == [column.comment for column in mine.columns]


async def test_the_default_catalog_lists_what_the_own_one_lists(databases: Databases, backend: str) -> None:
    async with awkward(databases, backend) as conn:
        if backend == "sqlite":
            await conn.exec_driver_sql(
                "DROP VIEW broken"
            )  # the Inspector cannot read the columns of anything beside it
        own, default = CATALOGS[backend], Catalog()
        overview = await own.overview(conn)
        schemas = {"sales", overview.default_schema}  # a server may have databases of others, which come and go
        listed = {relation.address for relation in overview.relations if relation.schema in schemas}
        assert listed <= set((await default.overview(conn)).by_address)
        assert (await default.overview(conn)).default_schema == overview.default_schema
        columns = {entry[:3] for entry in await own.columns(conn) if entry.schema in schemas}
        assert columns <= {entry[:3] for entry in await default.columns(conn)}
        indexes = {entry.name for entry in await default.indexes(conn) if entry.schema in schemas}
        assert indexes
        assert indexes <= {entry.name for entry in await own.indexes(conn)}


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


async def test_postgresql_lists_every_kind_of_relation_of_every_user_schema(postgresql: AsyncConnection) -> None:
    overview = await PostgreSQLCatalog().overview(postgresql)
    assert kinds(overview) == {
        "public.customers": "table",
        "sales.Order": "table",
        "sales.a.b": "table",
        "sales.customers": "table",
        "public.Big Orders": "view",
        "public.totals": "materialized_view",
        "public.events": "partitioned_table",
        "public.events_2026": "partition",
        "public.rooms": "table",
        "public.nothing": "table",
    }
    customers = overview.by_address[TableName("public", "customers")]
    assert (customers.comment, customers.rows, customers.columns, customers.visible) == ("People who buy", 0, 8, True)
    assert not overview.by_address[TableName("sales", "customers")].visible
    assert overview.by_address[TableName("public", "nothing")].columns == 0


async def test_postgresql_columns_are_told_in_everyday_words(postgresql: AsyncConnection) -> None:
    (table,) = await described(postgresql, "customers")
    columns = columns_of(table)
    assert columns["id"] == Column("id", "bigint", nullable=False, identity="identity")
    assert columns["email"].type == "email"
    assert columns["email"].base.startswith("varchar(120) CHECK (VALUE")
    assert columns["email"].comment == "where invoices go"
    assert columns["tags"] == Column("tags", "text[]", nullable=False, default="'{}'")
    assert columns["full_name"] == Column("full_name", "varchar(40)", default="'nobody'")
    assert columns["initials"].type == "char(2)"
    assert columns["seen"] == Column("seen", "timestamptz(3)", default="now()")
    assert columns["loud"].generated is not None
    assert columns["loud"].default is None
    assert "gone" not in columns


async def test_postgresql_indexes_say_what_is_unusual(postgresql: AsyncConnection) -> None:
    (table,) = await described(postgresql, "customers")
    assert table.primary_key == ("id",)
    indexes = {index.name: index for index in table.indexes}
    lower = indexes.pop("customers_lower")
    assert set(indexes.values()) == {
        Index("customers_email_key", ("email",), unique=True),
        Index("customers_tags", ("tags",), method="gin"),
        Index("customers_seen", ("seen desc", "full_name"), include=("initials",)),
    }
    assert (lower.unique, lower.where) == (True, "full_name IS NOT NULL")
    assert lower.columns[0].startswith("lower(")


async def test_postgresql_references_are_told_from_both_sides(postgresql: AsyncConnection) -> None:
    (order,) = await described(postgresql, "Order", schema="sales")
    (customers,) = await described(postgresql, "customers")
    to_customers = ForeignKey(
        TableName("sales", "Order"), ("customer_id",), TableName("public", "customers"), ("id",), on_delete="cascade"
    )
    to_itself = ForeignKey(customers.address, ("referrer",), customers.address, ("id",), on_delete="set null")
    composite = ForeignKey(
        TableName("sales", "a.b"), ("select", "line no"), order.address, ("id", "line no"), on_update="cascade"
    )
    assert order.foreign_keys == (to_customers,)
    assert order.referenced_by == (composite,)
    assert order.primary_key == ("id", "line no")
    assert customers.foreign_keys == (to_itself,)
    assert set(customers.referenced_by) == {to_itself, to_customers}


async def test_postgresql_enums_serials_and_checks_are_plain(postgresql: AsyncConnection) -> None:
    (order,) = await described(postgresql, "Order", schema="sales")
    columns = columns_of(order)
    assert columns["status"] == Column(
        "status", "order_status", nullable=False, default="'new'", values=("new", "paid", "it's odd")
    )
    assert columns["id"] == Column("id", "integer", nullable=False, identity="serial")
    assert set(order.checks) == {"size IN ('small', 'large')", "total >= 0::numeric"}


async def test_postgresql_views_partitions_and_exclusions_are_told(postgresql: AsyncConnection) -> None:
    names = ("Big Orders", "totals", "events", "events_2026", "rooms", "nothing")
    view, totals, events, part, rooms, nothing = await described(postgresql, *names)
    assert 'FROM sales."Order"' in view.definition
    assert not view.definition.endswith(";")
    assert totals.kind == "materialized_view"
    assert events.notes == ("partition by RANGE (day)",)
    assert part.notes[0].startswith("partition of events FOR VALUES FROM ('2026-01-01')")
    assert rooms.notes == ("exclude USING gist (during WITH &&)",)
    assert (nothing.columns, nothing.primary_key, nothing.indexes) == ((), (), ())


async def test_postgresql_search_entries_cover_columns_and_indexes(postgresql: AsyncConnection) -> None:
    columns = await PostgreSQLCatalog().columns(postgresql)
    assert ("sales", "a.b", "naïve", "text", "") in columns
    assert ("public", "customers", "email", "email", "where invoices go") in columns
    indexes = await PostgreSQLCatalog().indexes(postgresql)
    assert ("public", "customers", "customers_tags", ("tags",), False) in indexes
    assert not [index for index in indexes if index.name.endswith("_pkey")]


@pytest.mark.parametrize(
    ("told", "plain"),
    [
        ("'new'::character varying", "'new'"),
        ("'a''b'::text", "'a''b'"),
        ("'::text'::text", "'::text'"),
        ("'a'::order_status", "'a'::order_status"),
        ("'{}'::text[]", "'{}'::text[]"),
        ("'a'::int || '::text'", "'a'::int || '::text'"),
        ("\"Name\"::text = 'x'::text", "\"Name\"::text = 'x'"),
        ("size = ANY (ARRAY['a'::text, 'b, c'::text])", "size IN ('a', 'b, c')"),
        ("(c)::text = ANY (ARRAY['a'::text])", "(c)::text IN ('a')"),
        ("c::text = ANY (ARRAY['a'::character varying, 'b'::character varying]::text[])", "c IN ('a', 'b')"),
    ],
)
def test_postgresql_expressions_lose_only_the_casts_of_literals(told: str, plain: str) -> None:
    assert plain_expression(told) == plain


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("character varying", "varchar"),
        ("character(3)", "char(3)"),
        ("character varying(40)[]", "varchar(40)[]"),
        ("timestamp without time zone", "timestamp"),
        ("time(2) with time zone", "timetz(2)"),
        ("double precision", "double precision"),
    ],
)
def test_postgresql_types_have_their_short_names(long: str, short: str) -> None:
    assert short_type(long) == short


async def test_postgresql_tells_the_same_through_psycopg(postgresql: AsyncConnection) -> None:
    catalog = PostgreSQLCatalog()
    overview = await catalog.overview(postgresql)
    names = list(overview.by_address)
    through_asyncpg = await catalog.describe(postgresql, names)
    async with leased(psycopg_url(postgresql)) as lease:
        told = await transactions.read(lease, lambda on: catalog.describe(on, names), timeout=10, alone=True)
    assert told == through_asyncpg
    assert len(told) == len(names)


@pytest.mark.parametrize(("table", "trips"), [("a.b", 1), ("customers", 2)])
async def test_postgresql_takes_one_round_trip_and_one_more_for_types_of_users(
    postgresql: AsyncConnection, table: str, trips: int
) -> None:
    name = TableName("sales" if table == "a.b" else "public", table)
    with tempfile.TemporaryFile("w+") as trace:
        async with leased(psycopg_url(postgresql)) as lease, lease.connect() as connection:
            raw = driver(connection)
            raw.pgconn.trace(trace.fileno())
            await lease.dialect.begin(connection, read_only=True, timeout=5, alone=True)
            (found,) = await PostgreSQLCatalog().describe(connection, [name])
            raw.pgconn.untrace()
        trace.seek(0)
        told = trace.read()
    assert found.address == name
    assert (told.count("\tSync"), told.count("\tReadyForQuery"), told.count("\tQuery")) == (trips, trips, 0)


def psycopg_url(connection: AsyncConnection) -> str:
    return connection.engine.url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


async def test_postgresql_tells_tables_of_one_name_apart(postgresql: AsyncConnection) -> None:
    names = [TableName("sales", "customers"), TableName("public", "totals")]
    tables = await PostgreSQLCatalog().describe(postgresql, names)
    # public.customers bears one of the names in one of the schemas, and was not asked for.
    assert [table.address for table in tables] == names
    assert [column.name for column in tables[0].columns] == ["id"]


# -- MySQL and MariaDB -------------------------------------------------------------------------------------------------


async def own_schema(conn: AsyncConnection) -> str:
    return str((await MySQLCatalog().overview(conn)).default_schema)


async def test_mysql_lists_tables_and_views(mysql: AsyncConnection) -> None:
    overview = await MySQLCatalog().overview(mysql)
    schema = overview.default_schema
    own = {relation.name: relation for relation in overview.relations if relation.schema == schema}
    assert {name: relation.kind for name, relation in own.items()} == {
        "customers": "table",
        "Order Lines": "table",
        "a.b": "table",
        "big_orders": "view",
        "old": "table",
        "events": "table",
    }
    assert (own["customers"].comment, own["customers"].columns) == ("People who buy", 11)
    assert (own["big_orders"].comment, own["big_orders"].rows) == ("", None)
    assert all(relation.visible for relation in own.values())
    assert not {"mysql", "sys", "information_schema", "performance_schema"} & set(overview.schemas)


async def test_mysql_columns_are_told_in_everyday_words(mysql: AsyncConnection) -> None:
    (table,) = await described(mysql, "customers")
    columns = columns_of(table)
    assert columns["id"] == Column("id", "bigint unsigned", nullable=False, identity="auto_increment")
    assert columns["email"].comment == "where invoices go"
    assert columns["referrer"] == Column("referrer", "bigint unsigned")
    assert columns["full_name"].default is not None
    assert columns["full_name"].default.startswith("'no")
    assert columns["rank_"] == Column("rank_", "int", nullable=False, default="7")
    assert columns["kind"] == Column("kind", "enum", nullable=False, default="'person'", values=("person", "it's odd"))
    assert columns["flags"] == Column("flags", "set", values=("a", "b"))
    assert columns["extra"] == Column("extra", "json")
    assert (columns["seen"].default or "").lower().startswith("current_timestamp")
    assert "on update current_timestamp" in (columns["seen"].default or "")
    assert (columns["loud"].generated or "").replace("`", "") in {"ucase(full_name)", "upper(full_name)"}
    assert [check.replace("`", "").strip("()") for check in table.checks] == ["rank_ >= 0"]


async def test_mysql_indexes_say_what_is_unusual(mysql: AsyncConnection) -> None:
    (table,) = await described(mysql, "customers")
    assert table.primary_key == ("id",)
    assert set(table.indexes) == {
        Index("email", ("email",), unique=True),
        Index("fk_referrer", ("referrer",)),
        Index("words", ("story",), method="fulltext"),
        Index("by_name", ("full_name(10)", "seen")),
    }


async def test_mysql_references_are_told_from_both_sides(mysql: AsyncConnection) -> None:
    customers, lines = await described(mysql, "customers", "Order Lines")
    to_itself = ForeignKey(customers.address, ("referrer",), customers.address, ("id",), on_delete="set null")
    to_customers = ForeignKey(lines.address, ("customer_id",), customers.address, ("id",), on_delete="cascade")
    composite = ForeignKey(
        TableName(lines.schema, "a.b"),
        ("order_id", "line"),
        lines.address,
        ("order_id", "select"),
        on_update="cascade",
    )
    assert customers.foreign_keys == (to_itself,)
    assert set(customers.referenced_by) == {to_itself, to_customers}
    assert lines.primary_key == ("order_id", "select")
    assert (lines.foreign_keys, lines.referenced_by) == ((to_customers,), (composite,))


async def test_mysql_views_and_rare_storage_are_told(mysql: AsyncConnection) -> None:
    view, old, events = await described(mysql, "big_orders", "old", "events")
    assert view.kind == "view"
    assert view.definition.startswith("select `Order Lines`.`order_id`")
    assert old.notes == ("engine MyISAM",)
    assert events.notes == ("partitioned",)


async def test_mysql_search_entries_cover_columns_and_indexes(mysql: AsyncConnection) -> None:
    schema = await own_schema(mysql)
    columns = await MySQLCatalog().columns(mysql)
    assert (schema, "customers", "email", "varchar(120)", "where invoices go") in columns
    assert (schema, "a.b", "per%cent", "int", "") in columns
    assert (schema, "customers", "by_name", ("full_name(10)", "seen"), False) in await MySQLCatalog().indexes(mysql)


@pytest.mark.parametrize(
    ("told", "plain"),
    [
        ("int(11)", "int"),
        ("bigint(20) unsigned", "bigint unsigned"),
        ("tinyint(1)", "tinyint(1)"),
        ("tinyint(4)", "tinyint"),
        ("int(5) unsigned zerofill", "int(5) unsigned zerofill"),
        ("decimal(12,2)", "decimal(12,2)"),
    ],
)
def test_mysql_integers_lose_their_display_width(told: str, plain: str) -> None:
    assert plain_type(told) == plain


async def test_mysql_is_asked_once_whatever_limit_its_session_has(mysql: AsyncConnection) -> None:
    name = TableName(await own_schema(mysql), "customers")

    async def questions() -> int:
        row: Any = (await mysql.exec_driver_sql("SHOW SESSION STATUS LIKE 'Questions'")).one()
        return int(row[1])

    (whole,) = await MySQLCatalog().describe(mysql, [name])
    await mysql.exec_driver_sql("SET SESSION sql_select_limit = 1")
    try:
        before = await questions()
        (limited,) = await MySQLCatalog().describe(mysql, [name])
        # The last one asks for the count.
        assert await questions() - before == 2
    finally:
        await mysql.exec_driver_sql("SET SESSION sql_select_limit = DEFAULT")
    assert limited == whole


async def test_mysql_takes_a_name_for_nothing_but_a_name(mysql: AsyncConnection) -> None:
    schema = await own_schema(mysql)
    names = ["it's", "back\\slash", "a :name and :schema", "100%s", 'double"']
    for name in names:
        await mysql.exec_driver_sql(f"CREATE TABLE `{name.replace('%', '%%')}` (id int)")
    try:
        tables = await MySQLCatalog().describe(mysql, [TableName(schema, name) for name in names])
    finally:
        for name in names:
            await mysql.exec_driver_sql(f"DROP TABLE `{name.replace('%', '%%')}`")
    assert [table.name for table in tables] == names


# -- SQLite ------------------------------------------------------------------------------------------------------------


async def test_sqlite_lists_broken_views_and_hides_shadow_tables(sqlite: AsyncConnection) -> None:
    overview = await SQLiteCatalog().overview(sqlite)
    assert kinds(overview) == {
        "main.customers": "table",
        "main.Order Lines": "table",
        "main.a.b": "table",
        "main.big_orders": "view",
        "main.broken": "view",
        "main.pages": "virtual_table",
        "main.copied": "table",
    }
    assert overview.by_address[TableName("main", "copied")].rows == 3
    assert overview.by_address[TableName("main", "customers")].columns == 6
    assert overview.by_address[TableName("main", "broken")].columns is None


async def test_sqlite_columns_checks_and_comments_come_from_the_statement(sqlite: AsyncConnection) -> None:
    (table,) = await described(sqlite, "customers")
    columns = columns_of(table)
    assert columns["id"] == Column("id", "INTEGER", identity="autoincrement")
    assert columns["email"] == Column("email", "varchar(120)", nullable=False, comment="where invoices go")
    assert columns["referrer"].comment == ""
    assert (columns["full_name"].default, columns["full_name"].comment) == ("'no, (body'", "called")
    assert columns["loud"].generated == "upper(full_name)"
    assert table.checks == ("size IN ('small', 'la)rge')", "length(email) > 3")
    assert set(table.indexes) == {
        Index("", ("email",), unique=True),
        Index("customers_lower", ("lower(full_name)", "email DESC"), unique=True, where="full_name IS NOT NULL"),
    }


async def test_sqlite_references_are_told_from_both_sides(sqlite: AsyncConnection) -> None:
    customers, lines = await described(sqlite, "customers", "Order Lines")
    to_itself = ForeignKey(customers.address, ("referrer",), customers.address, (), on_delete="set null")
    to_customers = ForeignKey(lines.address, ("customer_id",), customers.address, ("id",), on_delete="cascade")
    assert customers.foreign_keys == (to_itself,)
    assert set(customers.referenced_by) == {to_itself, to_customers}
    assert lines.primary_key == ("order_id", "select")
    assert [key.columns for key in lines.referenced_by] == [("order_id", "line")]
    assert lines.notes == ("without rowid", "strict")


async def test_sqlite_views_and_virtual_tables_are_told(sqlite: AsyncConnection) -> None:
    view, broken, pages = await described(sqlite, "big_orders", "broken", "pages")
    assert view.definition.startswith("SELECT order_id")
    assert (broken.columns, broken.definition) == ((), "SELECT x FROM gone")
    assert [column.name for column in pages.columns] == ["title", "body"]
    assert pages.notes == ("USING fts5(title, body)",)


async def test_sqlite_search_entries_survive_a_broken_view(sqlite: AsyncConnection) -> None:
    columns = await SQLiteCatalog().columns(sqlite)
    assert ("main", "customers", "email", "varchar(120)", "where invoices go") in columns
    assert ("main", "a.b", "naïve", "TEXT", "") in [
        (*entry[:3], entry.type.upper(), entry.comment) for entry in columns
    ]
    indexes = await SQLiteCatalog().indexes(sqlite)
    assert [index.name for index in indexes] == ["customers_lower", "copied_one"]


async def test_sqlite_tells_a_table_in_one_statement(sqlite: AsyncConnection) -> None:
    ran: list[str] = []
    opened = driver(sqlite)._conn
    opened.set_trace_callback(ran.append)
    try:
        (table,) = await SQLiteCatalog().describe(sqlite, [TableName("main", "customers")])
    finally:
        opened.set_trace_callback(None)
    # SQLite tells of the pragmas inside of it, as comments.
    assert len([each for each in ran if not each.startswith("--")]) == 1
    assert table.name == "customers"


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("CREATE TABLE t (a INTEGER PRIMARY KEY, b text) WITHOUT ROWID, STRICT", ("without rowid", "strict")),
        ('CREATE TABLE "t)" (a int REFERENCES u (a), b DEFAULT (1 + (2)))', ()),
        ("CREATE TABLE t (a int) without\n rowid", ("without rowid",)),
        ('CREATE TABLE t ("check" int, "as" int) STRICT', ("strict",)),
    ],
)
def test_sqlite_statements_tell_their_options(sql: str, told: tuple[str, ...]) -> None:
    found = creation.read(sql)
    assert (found.options, found.checks, found.generated, found.comments) == (told, (), {}, {})


@pytest.mark.parametrize(
    ("sql", "texts"),
    [
        ("CREATE TABLE t(a, b)", ["a", "b"]),
        ("CREATE TABLE [t(] (a -- x, (\n, 'b,c' text)", ["a", "'b,c' text"]),
        ("CREATE TABLE t(a CHECK (a IN (1, 2)), b /* , */ int)", ["a CHECK (a IN (1, 2))", "b         int"]),
        ("CREATE TABLE t AS SELECT 1", []),
    ],
)
def test_sqlite_statements_are_cut_at_their_own_commas(sql: str, texts: Sequence[str]) -> None:
    found, _ = creation.parts(sql)
    assert [part.text for part in found] == texts
