"""The history goes up and down on every database, and the shop holds the same rows in all of them."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, Table, and_, func, inspect, pool, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from manydb.demo import shop
from manydb.errors import ConstraintViolated, SettingsError
from tests.conftest import Databases

CHECKOUT = Path(__file__).parents[2]
VIEW = "customer_revenue"

COUNTS = shop.Counts(categories=14, products=100, customers=300, orders=4000, order_items=9843, payments=4133)
# SHA-256 of the rows of scale 1, as `digest` computes it: whoever changes the data on purpose changes this line too.
DIGEST = "030be9e8573ae41e748adc9d0dba4de326d35d4b115aa65d17173ef0cd83a437"

# A check's failure, or a value that the enum does not have, in the words of each database.
REFUSED = r"(?i)constraint|invalid input value for enum|data truncated"

# SQLite keeps decimals as floats; two places survive that, and SQLAlchemy rounds to them.
pytestmark = pytest.mark.filterwarnings("ignore:Dialect .* does .not. support Decimal objects natively")


@asynccontextmanager
async def connect(url: str) -> AsyncGenerator[AsyncConnection]:
    engine = create_async_engine(url, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def migrate(url: str, direction: Callable[[Config, str], None], revision: str) -> None:
    """Run `alembic upgrade|downgrade *revision*` in this process."""

    def run(connection: Connection) -> None:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(CHECKOUT / "migrations"))
        direction(config, revision)

    async with connect(url) as connection:
        await connection.run_sync(run)


def alembic(*arguments: str, cwd: Path, url: str | None) -> None:
    """Run the real command of the checkout's alembic.ini, without manydb on the path; nothing may go to stdout."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MANYDB_DEMO_URL"}}
    if url:
        environment["MANYDB_DEMO_URL"] = url
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(CHECKOUT / "alembic.ini"), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


async def names(url: str) -> set[str]:
    """Tables, views and types of their own in the database, without Alembic's version table."""

    def look(connection: Connection) -> set[str]:
        inspector = inspect(connection)
        enums = [enum["name"] for enum in getattr(inspector, "get_enums", list)()]
        return {*inspector.get_table_names(), *inspector.get_view_names(), *enums}

    async with connect(url) as connection:
        return await connection.run_sync(look) - {"alembic_version"}


async def tables(connection: AsyncConnection) -> dict[str, Table]:
    metadata = MetaData()
    await connection.run_sync(lambda sync: metadata.reflect(sync, only=shop.TABLES))
    return dict(metadata.tables)


async def digest(connection: AsyncConnection) -> str:
    """SHA-256 over all rows, ordered by primary key, columns by name; true is 1."""
    sha = hashlib.sha256()
    for name, table in sorted((await tables(connection)).items()):
        columns = sorted(table.columns, key=lambda column: column.name)
        for row in await connection.execute(select(*columns).order_by(*table.primary_key)):
            plain = [int(value) if isinstance(value, bool) else value for value in row]
            sha.update(f"{name}{plain!r}".encode())
    return sha.hexdigest()


async def counts(connection: AsyncConnection) -> shop.Counts:
    found = {
        name: await connection.scalar(select(func.count()).select_from(table))
        for name, table in (await tables(connection)).items()
    }
    return shop.Counts(**{name: number or 0 for name, number in found.items()})


@pytest.fixture(scope="module", params=["postgresql", "mysql", "sqlite"])
async def shop_url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """A shop at scale 1 for the tests of this module that leave it as it is."""
    url = await databases.create(request.param)
    assert await shop.build(url) == COUNTS
    return url


@pytest.fixture
async def connection(shop_url: str) -> AsyncGenerator[AsyncConnection]:
    """A connection to the shop; what a test changes is rolled back."""
    async with connect(shop_url) as connection:
        yield connection


# ---- the history ---------------------------------------------------------------------------------------------------


async def test_the_history_goes_up_and_down_and_up_again(database_url: str) -> None:
    await migrate(database_url, command.upgrade, "head")
    assert await names(database_url) >= {*shop.TABLES, VIEW}
    await migrate(database_url, command.downgrade, "base")
    assert await names(database_url) == set()
    await migrate(database_url, command.upgrade, "head")
    assert await names(database_url) >= {*shop.TABLES, VIEW}


async def test_every_revision_can_be_undone_and_redone_by_itself(database_url: str) -> None:
    steps = [set[str]()]
    for _ in range(5):
        await migrate(database_url, command.upgrade, "+1")
        await migrate(database_url, command.downgrade, "-1")
        assert await names(database_url) == steps[-1]
        await migrate(database_url, command.upgrade, "+1")
        steps.append(await names(database_url))
    assert VIEW in steps[-1] - steps[-2]


def test_alembic_works_from_a_checkout(database_url: str, tmp_path: Path) -> None:
    alembic("upgrade", "head", cwd=CHECKOUT, url=database_url)
    alembic("downgrade", "base", cwd=tmp_path, url=database_url)


def test_without_a_url_alembic_writes_an_embedded_file_in_the_current_directory(tmp_path: Path) -> None:
    alembic("upgrade", "head", cwd=tmp_path, url=None)
    assert [path.name for path in tmp_path.iterdir()] == ["manydb-demo.db"]


async def test_rows_survive_the_changed_column_both_ways(database_url: str) -> None:
    await shop.build(database_url)
    await migrate(database_url, command.downgrade, "0003")
    async with connect(database_url) as connection:
        assert await connection.scalar(text("SELECT COUNT(*) FROM customers WHERE phone = ''"))
    await migrate(database_url, command.upgrade, "head")
    async with connect(database_url) as connection:
        assert await digest(connection) == DIGEST


async def test_constraints_are_named_by_one_convention(connection: AsyncConnection) -> None:
    found = await tables(connection)
    foreign_keys = {
        key.name: (key.table.name, *key.column_keys, key.referred_table.name)
        for table in found.values()
        for key in table.foreign_key_constraints
    }
    assert len(foreign_keys) == 6
    assert all(name == "_".join(("fk", *parts)) for name, parts in foreign_keys.items())


async def test_the_changed_column_keeps_the_checks_and_keys_of_its_table(connection: AsyncConnection) -> None:
    def look(sync: Connection) -> tuple[Any, ...]:
        inspector = inspect(sync)
        (phone,) = (column for column in inspector.get_columns("customers") if column["name"] == "phone")
        return (
            [check["name"] for check in inspector.get_check_constraints("customers")],
            [unique["name"] for unique in inspector.get_unique_constraints("customers")],
            (str(phone["type"]), phone["nullable"]),
        )

    assert await connection.run_sync(look) == (["ck_customers_tier"], ["uq_customers_email"], ("VARCHAR(32)", True))


async def test_tables_and_columns_are_commented_where_the_database_has_comments(connection: AsyncConnection) -> None:
    customers = (await tables(connection))["customers"]
    comments = (customers.comment, customers.c.phone.comment)
    written = ("Everybody who ever registered", "International form; NULL where the customer gave none")
    assert comments == (written if connection.dialect.supports_comments else (None, None))


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("categories", "VAT rate", -1),
        ("products", "price", 0),
        ("products", "weight_kg", 0),
        ("customers", "tier", "platinum"),
        ("orders", "status", "lost"),
        ("orders", "shipping", -1),
        ("orders", "total", -1),
        ("order_items", "quantity", 0),
        ("order_items", "unit_price", 0),
        ("payments", "method", "cash"),
        ("payments", "amount", 0),
    ],
)
async def test_checks_hold(connection: AsyncConnection, table: str, column: str, value: Any) -> None:
    target = (await tables(connection))[table]
    with pytest.raises(DBAPIError, match=REFUSED):
        await connection.execute(update(target).values({column: text(repr(value))}))


async def test_nothing_ships_before_it_is_ordered(connection: AsyncConnection) -> None:
    with pytest.raises(DBAPIError, match=REFUSED):
        await connection.execute(text("UPDATE orders SET shipped_at = '2020-01-01 00:00:00' WHERE id = 1"))


# ---- the rows ------------------------------------------------------------------------------------------------------


async def test_every_database_holds_the_same_rows(connection: AsyncConnection) -> None:
    assert await counts(connection) == COUNTS
    assert await digest(connection) == DIGEST


async def test_a_second_build_changes_nothing(shop_url: str, connection: AsyncConnection) -> None:
    assert await shop.build(shop_url) == COUNTS
    assert await digest(connection) == DIGEST


async def test_another_scale_on_a_filled_database_is_refused(shop_url: str, connection: AsyncConnection) -> None:
    with pytest.raises(SettingsError, match=r"--scale 2: .* 300 customers, that is scale 1"):
        await shop.build(shop_url, scale=2)
    assert await counts(connection) == COUNTS


async def test_a_build_that_fails_leaves_no_rows(database_url: str) -> None:
    await migrate(database_url, command.upgrade, "head")
    async with connect(database_url) as connection:
        # Payments come last: by then everything else is inserted.
        await connection.execute(text("CREATE UNIQUE INDEX obstacle ON payments (method)"))
        await connection.commit()
    with pytest.raises(ConstraintViolated):
        await shop.build(database_url)
    async with connect(database_url) as connection:
        assert not any(asdict(await counts(connection)).values())


async def test_scale_multiplies_customers_and_orders(sqlite_url: str) -> None:
    built = await shop.build(sqlite_url, scale=2)
    assert (built.customers, built.orders) == (600, 8_000)
    assert built.order_items > 18_000
    assert built.products == COUNTS.products


async def test_a_scale_below_one_is_refused(sqlite_url: str) -> None:
    with pytest.raises(SettingsError, match="--scale 0"):
        await shop.build(sqlite_url, scale=0)


async def test_every_row_has_its_parent(connection: AsyncConnection) -> None:
    for table in (await tables(connection)).values():
        for key in table.foreign_key_constraints:
            parent = key.referred_table.alias()
            match = and_(*(element.parent == parent.c[element.column.name] for element in key.elements))
            filled = and_(*(column.is_not(None) for column in key.columns))
            orphans = select(func.count()).select_from(table).where(filled, ~select(parent).where(match).exists())
            assert await connection.scalar(orphans) == 0, key.name


async def test_totals_are_the_items_and_the_shipping_fee(connection: AsyncConnection) -> None:
    wrong = text("""
        SELECT COUNT(*) FROM orders o
        JOIN (SELECT order_id, SUM(quantity * unit_price) AS goods FROM order_items GROUP BY order_id) i
          ON i.order_id = o.id
        WHERE ABS(o.total - o.shipping - i.goods) > 0.001
    """)
    assert await connection.scalar(wrong) == 0


async def test_settled_orders_are_paid_in_full(connection: AsyncConnection) -> None:
    wrong = text("""
        SELECT COUNT(*) FROM orders o
        LEFT JOIN (SELECT order_id, SUM(amount) AS paid FROM payments WHERE amount > 0 GROUP BY order_id) p
          ON p.order_id = o.id
        WHERE ABS(COALESCE(p.paid, 0) - CASE WHEN o.status IN ('new', 'cancelled') THEN 0 ELSE o.total END) > 0.001
    """)
    assert await connection.scalar(wrong) == 0


async def test_the_view_counts_every_customer_and_every_sale(connection: AsyncConnection) -> None:
    sold = text("SELECT COUNT(*) FROM orders WHERE status NOT IN ('returned', 'cancelled')")
    seen = text(f"SELECT COUNT(*), SUM(order_count) FROM {VIEW}")
    assert tuple((await connection.execute(seen)).one()) == (COUNTS.customers, await connection.scalar(sold))


async def test_the_rows_have_gaps_and_letters_of_many_alphabets(connection: AsyncConnection) -> None:
    found = await connection.execute(text("SELECT COUNT(*), COUNT(phone), COUNT(company) FROM customers"))
    everybody, with_phone, with_company = found.one()
    assert 0 < with_company < with_phone < everybody
    assert await connection.scalar(text("SELECT COUNT(*) FROM customers WHERE city = '東京'"))
    assert await connection.scalar(text("SELECT COUNT(*) FROM orders WHERE note LIKE '%🎁%'"))


async def test_the_next_id_follows_the_last(connection: AsyncConnection) -> None:
    customers = (await tables(connection))["customers"]
    newcomer = (await connection.execute(select(customers).where(customers.c.id == 1))).one()._asdict()
    del newcomer["id"]
    result = await connection.execute(customers.insert().values(newcomer | {"email": "new@example.com"}))
    assert result.inserted_primary_key is not None
    assert result.inserted_primary_key[0] == COUNTS.customers + 1


# ---- where it is built ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg"),
        ("mysql://u:p@h/d", "mysql+aiomysql"),
        ("mariadb://u:p@h/d", "mariadb+aiomysql"),
        ("sqlite:///d.db", "sqlite+aiosqlite"),
    ],
)
def test_a_bare_url_gets_the_async_driver(given: str, driver: str) -> None:
    rest = given.partition(":")[2]
    assert shop.with_driver(given).render_as_string(hide_password=False) == f"{driver}:{rest}"


async def test_a_database_with_another_history_is_refused(database_url: str) -> None:
    async with connect(database_url) as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('f00d')"))
        await connection.commit()
    with pytest.raises(SettingsError, match=r"cannot be built in this database: .*f00d"):
        await shop.build(database_url)
    assert await names(database_url) == set()


async def test_building_writes_nothing_to_stdout(sqlite_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    await shop.build(sqlite_url)
    assert capfd.readouterr().out == ""


def test_an_installed_package_brings_its_history_along(tmp_path: Path) -> None:
    # A percent sign in the path, because Alembic's options take it for an interpolation.
    site = tmp_path / "100% site"
    shutil.copytree(CHECKOUT / "src" / "manydb", site / "manydb")
    shutil.copytree(CHECKOUT / "migrations", site / "manydb" / "demo" / "migrations")
    program = """
import asyncio
from manydb.demo import shop
print(shop.__file__, asyncio.run(shop.build("sqlite:///shop.db")).orders)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split("\n")[0] == f"{site / 'manydb' / 'demo' / 'shop.py'} {COUNTS.orders}", done.stderr
