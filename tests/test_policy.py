"""What a policy permits, shows and hides; and on real servers, that what it lets through tells nothing of the rest."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import make_url

from manydb import policy as policies
from manydb import statements
from manydb.callers import PROCESS
from manydb.connections import Registration
from manydb.dialects import DIALECTS
from manydb.dialects.grammar import Grammar
from manydb.dialects.rows import Rows
from manydb.dialects.schema import (
    Column,
    ColumnEntry,
    ForeignKey,
    IndexEntry,
    Overview,
    Relation,
    Snapshot,
    Table,
    TableName,
)
from manydb.errors import BadParameter, Forbidden, ManydbError, ReadOnly, UnknownTable
from manydb.gateway import Gateway
from manydb.lineage import Catalog, Routine
from manydb.policy import CONCEALED, MASKED_NOTE, Guard, Hint, Policy, Verdict
from manydb.settings import Access, Settings
from tests.conftest import Databases
from tests.corpus_bench import BACKENDS, entered, lines, load, send, text_of
from tests.test_lineage import ADVERSARIAL, EVERYWHERE, HONEST, POLICY, VIEWS, Case, catalog, each, judge

GRAMMARS: dict[str, Grammar] = {dialect.name: dialect.grammar for dialect in DIALECTS}


# -- access ------------------------------------------------------------------------------------------------------------

STATEMENTS = {
    "SELECT 1": "read_only",
    "INSERT INTO orders VALUES (1)": "read_write",
    "DELETE FROM orders": "read_write",
    "CREATE TABLE t (id int)": "admin",
    "DROP TABLE orders": "admin",
    "VACUUM": "admin",
    "COMMIT": "nobody",
    "SET x = 1": "nobody",
}


@pytest.mark.parametrize(("sql", "needed"), STATEMENTS.items())
def test_an_access_permits_what_lower_ones_do_and_its_own(sql: str, needed: str) -> None:
    levels: list[Access] = ["read_only", "read_write", "admin"]
    statement = statements.parse(sql, GRAMMARS["postgresql"])
    permitted = [level for level in levels if Policy.of(level).permits(statement)]
    assert permitted == (levels[levels.index(needed) :] if needed in levels else [])


def test_a_refused_write_names_the_access_it_needs() -> None:
    statement = statements.parse("DELETE FROM orders", GRAMMARS["postgresql"])
    with pytest.raises(ReadOnly, match="DELETE needs access read_write; this connection has read_only"):
        policies.judge(Policy.of(), statement)


def test_a_statement_that_no_access_permits_is_forbidden() -> None:
    statement = statements.parse("COMMIT", GRAMMARS["postgresql"])
    with pytest.raises(Forbidden, match="COMMIT is not open to any access"):
        policies.judge(Policy.of("admin"), statement)


def test_hints_say_what_a_tool_may_do_under_the_policy() -> None:
    harmless, acting = Hint(True, False, True), Hint(False, True, False)
    assert [Policy.of(access).hint("read_only") for access in ("read_only", "read_write", "admin")] == [harmless] * 3
    assert [Policy.of(access).hint("read_write") for access in ("read_only", "read_write", "admin")] == [
        harmless,
        acting,
        acting,
    ]


def test_tools_beyond_the_access_are_not_offered() -> None:
    levels: tuple[Access, ...] = ("read_only", "read_write", "admin")
    assert [[Policy.of(access).offers(needed) for needed in levels] for access in levels] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


# -- patterns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deny", "schema", "table", "seen"),
    [
        ("salaries", "hr", "salaries", False),
        ("salaries", "public", "salaries", False),
        ("hr.salaries", "hr", "salaries", False),
        ("hr.salaries", "public", "salaries", True),
        ("hr.*", "hr", "anything", False),
        ("hr.*", "hrx", "anything", True),
        ("secret_*", "public", "secret_plans", False),
        ("secret_*", "public", "secrets", True),
        ("*_log", "public", "audit_log", False),
        ("SALARIES", "hr", "Salaries", False),
        ('"odd.name"', "public", "odd.name", False),
        ('hr."a*"', "hr", "abc", True),
        ('hr."a*"', "hr", "a*", False),
        ("a.b", "public", "a.b", True),
    ],
)
def test_a_deny_pattern_hides_what_it_fits(deny: str, schema: str, table: str, *, seen: bool) -> None:
    assert Policy.of(deny=[deny]).sees(schema, table) is seen


def test_with_an_allow_list_everything_else_is_hidden() -> None:
    policy = Policy.of(allow=["public.*", "hr.people"])
    assert [policy.sees(*name) for name in (("public", "x"), ("hr", "people"), ("hr", "salaries"))] == [
        True,
        True,
        False,
    ]


def test_deny_wins_over_allow() -> None:
    assert not Policy.of(allow=["hr.*"], deny=["hr.salaries"]).sees("hr", "salaries")


def test_an_allow_pattern_takes_case_as_the_database_does() -> None:
    assert Policy.of(allow=["Orders"]).sees("shop", "orders")
    assert not Policy.of(allow=["Orders"], case_sensitive=True).sees("shop", "orders")


@pytest.mark.parametrize("text", ["", " ", ".", "a.", ".a", "a..b", "a.b.c", '"a', 'a"b"', '"a"b', "a .b", '""'])
def test_a_malformed_table_pattern_is_a_bad_parameter(text: str) -> None:
    with pytest.raises(BadParameter, match=r"deny: .* is not a pattern"):
        Policy.of(deny=[text])


@pytest.mark.parametrize("text", ["email", "a.b.c.d", "customers.", "customers email"])
def test_a_malformed_mask_is_a_bad_parameter(text: str) -> None:
    with pytest.raises(BadParameter, match=r"mask: .* schema\.table\.column or table\.column"):
        Policy.of(mask=[text])


@pytest.mark.parametrize(
    ("mask", "masked"),
    [
        ("customers.email", {"email"}),
        ("shop.customers.email", {"email"}),
        ("hr.customers.email", set()),
        ("customers.*", {"id", "email", "phone"}),
        ("*.phone", {"phone"}),
        ("customers.EMAIL", {"email"}),
    ],
)
def test_a_mask_names_columns(mask: str, masked: set[str]) -> None:
    assert Policy.of(mask=[mask]).masked("shop", "customers", ["id", "email", "phone"]) == masked


def test_a_policy_without_lists_and_masks_needs_no_catalog() -> None:
    policy = Policy.of("admin")
    assert policy.is_open
    assert policies.judge(policy, statements.parse("SELECT 1", GRAMMARS["sqlite"])) == Verdict()


def test_a_policy_with_lists_refuses_where_the_schema_is_not_known() -> None:
    with pytest.raises(Forbidden, match="schema is not known"):
        policies.judge(Policy.of(deny=["x"]), statements.parse("SELECT 1", GRAMMARS["sqlite"]))


# -- what the schema tools show ----------------------------------------------------------------------------------------

CUSTOMERS, ORDERS, SALARIES = (TableName("public", name) for name in ("customers", "orders", "salaries"))


def test_hidden_tables_are_in_no_overview() -> None:
    overview = Overview(tuple(Relation(*name) for name in (CUSTOMERS, ORDERS, SALARIES)), "public")
    assert list(POLICY.visible(overview).by_address) == [CUSTOMERS, ORDERS]


def test_hidden_tables_are_in_no_search_and_masked_columns_say_so() -> None:
    overview = Overview((Relation(*CUSTOMERS), Relation(*SALARIES)), "public")
    columns = (
        ColumnEntry(*CUSTOMERS, "id", "integer", "the key"),
        ColumnEntry(*CUSTOMERS, "email", "text", "like ada@example.com"),
        ColumnEntry(*SALARIES, "amount", "integer", ""),
    )
    indexes = (IndexEntry(*CUSTOMERS, "c", ("email",), unique=True), IndexEntry(*SALARIES, "s", ("id",), unique=True))
    shown = POLICY.visible(Snapshot(overview, columns, indexes))
    assert [(column.name, column.comment) for column in shown.columns] == [("id", "the key"), ("email", MASKED_NOTE)]
    assert [index.name for index in shown.indexes] == ["c"]


def test_a_table_says_nothing_of_hidden_ones() -> None:
    keys = tuple(ForeignKey(ORDERS, ("id",), target, ("id",)) for target in (CUSTOMERS, SALARIES))
    backwards = tuple(ForeignKey(source, ("id",), ORDERS, ("id",)) for source in (CUSTOMERS, SALARIES))
    table = Table(
        *ORDERS, foreign_keys=keys, referenced_by=backwards, definition="SELECT … salaries", notes=("of salaries",)
    )
    shown = POLICY.visible(table)
    assert [key.target for key in shown.foreign_keys] == [CUSTOMERS]
    assert [key.table for key in shown.referenced_by] == [CUSTOMERS]
    assert (shown.definition, shown.notes) == ("", ())


def test_a_masked_column_stays_in_its_table_with_a_note() -> None:
    table = Table(*CUSTOMERS, columns=(Column("id", "integer"), Column("email", "text", comment="x")))
    assert [column.comment for column in POLICY.visible(table).columns] == ["", MASKED_NOTE]


def test_an_open_policy_shows_the_very_same_schema() -> None:
    table = Table(*CUSTOMERS)
    assert Policy.of().visible(table) is table


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_concealed_values_are_replaced_by_a_constant_and_null_too() -> None:
    verdict = Verdict(("id", "email", None), (1,))
    rows = verdict.conceal(["id", "EMAIL", "upper"], [(1, "a@b", "A"), (2, None, "B")])
    assert rows == [[1, CONCEALED, "A"], [2, CONCEALED, "B"]]


@pytest.mark.parametrize("columns", [["id"], ["email", "id"], ["id", "email", "x"]])
def test_a_result_of_other_columns_than_predicted_is_refused(columns: list[str]) -> None:
    with pytest.raises(Forbidden, match="not the ones"):
        Verdict(("id", "email"), (1,)).conceal(columns, [])


def test_rows_of_a_verdict_without_masks_are_untouched() -> None:
    rows = [(1, 2)]
    assert Verdict().conceal(["a", "b"], rows) == rows


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO orders SELECT id, id, id, email FROM customers",
        "UPDATE orders SET note = (SELECT max(email) FROM customers)",
        "UPDATE customers SET name = email",
        "DELETE FROM customers WHERE email LIKE 'zz%'",
        "INSERT INTO salaries VALUES (1, 'x', 1)",
        "UPDATE orders SET note = contact FROM cards",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE orders RENAME TO o",
        "VACUUM",
    ],
)
def test_a_change_that_has_to_do_with_hidden_data_is_refused(sql: str) -> None:
    policy = Policy.of("admin", deny=["salaries"], mask=["customers.email"])
    with pytest.raises(Forbidden):
        Guard.of(policy, catalog("postgresql")).judge(statements.parse(sql, GRAMMARS["postgresql"]))


def test_a_change_of_other_tables_is_open() -> None:
    policy = Policy.of("read_write", deny=["salaries"], mask=["customers.email"])
    statement = statements.parse("UPDATE orders SET note = 'x' WHERE id = 1", GRAMMARS["postgresql"])
    assert Guard.of(policy, catalog("postgresql")).judge(statement) == Verdict()


@pytest.mark.parametrize(
    "sql", ["SELECT id FROM orders", "SELECT 1", "WITH x AS (SELECT * FROM orders) SELECT total FROM x"]
)
def test_with_an_allow_list_listed_tables_are_open(sql: str) -> None:
    assert judge("postgresql", sql, Policy.of(allow=["orders"])) == Verdict()


@pytest.mark.parametrize(
    "sql", ["SELECT id FROM customers", "SELECT o.id FROM orders o, customers", "SELECT person FROM payroll"]
)
def test_with_an_allow_list_other_tables_are_closed(sql: str) -> None:
    with pytest.raises(Forbidden):
        judge("postgresql", sql, Policy.of(allow=["orders"]))


def test_with_an_allow_list_a_table_that_is_not_known_is_unknown() -> None:
    with pytest.raises(UnknownTable):
        judge("postgresql", "SELECT id FROM brand_new", Policy.of(allow=["orders"]))


def test_a_view_allowed_by_name_may_read_tables_that_are_not_listed() -> None:
    assert judge("postgresql", "SELECT name FROM names", Policy.of(allow=["names"])) == Verdict()


def test_a_view_allowed_by_a_pattern_may_not_read_tables_that_are_not_listed() -> None:
    with pytest.raises(Forbidden, match="customers, which names reads, is not open"):
        judge("postgresql", "SELECT name FROM names", Policy.of(allow=["name*"]))


def test_a_view_allowed_by_name_may_not_read_denied_tables() -> None:
    with pytest.raises(Forbidden):
        judge("postgresql", "SELECT person FROM payroll", Policy.of(allow=["payroll"], deny=["salaries"]))


def test_an_authorizer_gets_what_must_not_be_read() -> None:
    blocked = Guard.of(POLICY, catalog("sqlite")).blocked_reads()
    assert blocked.tables == {"salaries", "secret_plans"}
    assert blocked.columns == {("customers", "email")}


# -- real servers ------------------------------------------------------------------------------------------------------
#
# Two databases that differ in nothing but the masked values and the denied rows. Whatever the policy lets through must
# return the same from both: then it tells nothing of them, neither a value nor how many, how long or in which order.

TYPES = {"postgresql": "text", "mysql": "varchar(100)", "sqlite": "text"}
SECRETS = (
    ["zz-ada@hidden.example", "zz-grace@hidden.example", "zz-linus@hidden.example", "zz-ada@hidden.example"],
    ["yy-tom@other.example", None, "aa-ida@other.example", "zz-eve@other.example"],
)
PARENTS = {
    "postgresql": """SELECT cn.nspname, c.relname, pn.nspname, p.relname FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
    JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f')"""
}
ROUTINES = {
    "postgresql": """SELECT p.proname, coalesce(nullif(p.prosrc, ''), pg_get_function_sqlbody(p.oid), ''),
    coalesce((SELECT string_agg(o.oprname, ' ') FROM pg_operator o WHERE o.oprcode = p.oid), '')
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname NOT IN ('internal', 'c')
    AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)""",
    "mysql": """SELECT routine_name, coalesce(routine_definition, ''), '' FROM information_schema.routines
    WHERE routine_schema = database()""",
}


def script(backend: str, world: int) -> str:
    """The tables of test_lineage, filled; *world* chooses the masked values and the denied rows."""
    text = TYPES[backend]
    emails = ["NULL" if email is None else f"'{email}'" for email in SECRETS[world]]
    people = zip(["Ada", "Grace", "Linus", "Ada"], emails, ["GB", "US", "FI", "GB"], strict=True)
    customers = ", ".join(
        f"({n}, '{name}', {email}, '{country}')" for n, (name, email, country) in enumerate(people, 1)
    )
    salaries = ", ".join(f"({n}, 'zz-person-{world}-{n}', {world * 70_000 + n})" for n in range(1, 3 + world))
    statements_ = [
        f"CREATE TABLE customers (id int PRIMARY KEY, name {text}, email {text}, country {text})",
        f"CREATE TABLE orders (id int PRIMARY KEY, customer_id int, total int, note {text})",
        f"CREATE TABLE salaries (id int PRIMARY KEY, person {text}, amount int)",
        f"CREATE TABLE secret_plans (id int PRIMARY KEY, plan {text})",
        f"INSERT INTO customers VALUES {customers}",
        "INSERT INTO orders VALUES (1, 1, 5, 'gift'), (2, 1, 50, 'zz-ada@hidden.example')",
        "INSERT INTO orders VALUES (3, 2, 20, 'm'), (4, 9, 7, 'x')",
        f"INSERT INTO salaries VALUES {salaries}",
        f"INSERT INTO secret_plans VALUES (1, 'zz-plan-{world}')",
        *(f"CREATE VIEW {name} AS {definition}" for name, (_, definition) in VIEWS.items()),
    ]
    if backend == "postgresql":
        statements_.append(
            "CREATE FUNCTION peek() RETURNS SETOF text LANGUAGE sql STABLE AS 'SELECT email FROM customers'"
        )
    return ";\n".join([*statements_, "ANALYZE" if backend != "mysql" else "SELECT 1"])


@dataclass
class World:
    """A database behind a policy, as the gateway would run its statements."""

    gateway: Gateway
    registration: Registration
    guards: dict[Policy, Guard] = field(default_factory=dict)

    async def ask(self, sql: str, policy: Policy = POLICY) -> tuple[list[str], list[Any]]:
        """Columns and rows as they would be returned. Raises ManydbError."""
        dialect = self.registration.dialect
        statement = statements.parse(sql, dialect.grammar)
        statements.require_read(statement)
        verdict = (await self.guard(policy)).judge(statement)

        async def fetch(on: Any) -> Rows:
            return await dialect.fetch(on, statement.sql, (), 1_000)

        rows = await self.gateway.read(self.registration, fetch, timeout=5)
        return rows.columns, verdict.conceal(rows.columns, rows.rows)

    async def guard(self, policy: Policy) -> Guard:
        if policy not in self.guards:
            self.guards[policy] = Guard.of(policy, await self._catalog())
        return self.guards[policy]

    async def _catalog(self) -> Catalog:
        dialect, backend = self.registration.dialect, self.registration.dialect.name

        async def read(on: Any) -> Catalog:
            overview = await dialect.catalog.overview(on)
            schema = (
                self.registration.target.url.database if backend == "mysql" else None
            )  # the server has other databases too
            relations = tuple(each for each in overview.relations if schema in (None, each.schema))
            tables = await dialect.catalog.describe(on, [relation.address for relation in relations])
            parents = await on.exec_driver_sql(PARENTS[backend]) if backend in PARENTS else ()
            routines = await on.exec_driver_sql(ROUTINES[backend]) if backend in ROUTINES else ()
            return Catalog.of(
                Overview(relations, overview.default_schema),
                tables,
                parents={TableName(*row[:2]): TableName(*row[2:]) for row in parents},
                routines=[Routine(name, text, tuple(symbols.split())) for name, text, symbols in routines],
            )

        return await self.gateway.read(self.registration, read, timeout=30)


RANDOM_STATEMENTS = 400

Open = Callable[[str], Awaitable[tuple[World, ...]]]


async def opened(stack: AsyncExitStack, url: str) -> World:
    settings = Settings.load(connections={"shop": url})
    gateway = await stack.enter_async_context(Gateway.open(settings))
    return World(gateway, gateway.connections.get(PROCESS, None))


@pytest.fixture(scope="module")
async def worlds(databases: Databases) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:
        made: dict[str, tuple[World, ...]] = {}

        async def get(backend: str) -> tuple[World, ...]:
            if backend not in made:
                urls = [await stack.enter_async_context(databases.temporary(backend)) for _ in SECRETS]
                for number, url in enumerate(urls):
                    async with entered(make_url(url)) as connection:
                        await send(connection, script(backend, number))
                made[backend] = tuple([await opened(stack, url) for url in urls])
            return made[backend]

        yield get


async def answers(worlds: tuple[World, ...], sql: str) -> list[tuple[list[str], list[str]]]:
    """The statement's answer in each world, rows in an order of our own."""
    found = [await world.ask(sql) for world in worlds]
    return [(columns, sorted(map(repr, rows))) for columns, rows in found]


@pytest.mark.parametrize(("backend", "case"), each([case for case in ADVERSARIAL if case.masked is None]))
async def test_a_refused_statement_is_refused_with_the_catalog_of_a_real_database(
    worlds: Open, backend: str, case: Case
) -> None:
    for world in await worlds(backend):
        with pytest.raises(ManydbError) as caught:
            await world.ask(case.sql)
        assert caught.value.code in {"FORBIDDEN", "SYNTAX"}
        assert not {"sqlstate", "errno"} & caught.value.details.keys(), "the statement reached the database"


@pytest.mark.parametrize(("backend", "case"), each([case for case in ADVERSARIAL if case.masked is not None]))
async def test_a_masked_column_comes_back_as_a_constant(worlds: Open, backend: str, case: Case) -> None:
    pair = await worlds(backend)
    first, second = await answers(pair, case.sql)
    assert first == second
    _, rows = await pair[0].ask(case.sql)
    assert {row[position] for row in rows for position in case.masked or ()} == {CONCEALED}
    assert "hidden.example" not in repr([[cell for cell in row if cell != "zz-ada@hidden.example"] for row in rows])


@pytest.mark.parametrize(("backend", "case"), each(HONEST))
async def test_an_honest_statement_returns_the_same_whatever_is_hidden(worlds: Open, backend: str, case: Case) -> None:
    pair = await worlds(backend)
    first, second = await answers(pair, case.sql)
    if not case.sql.startswith(("EXPLAIN", "SHOW", "DESC", "PRAGMA")):  # they tell of the server, or the statistics
        assert first == second
    assert await pair[0].ask(case.sql, Policy.of()) == await pair[0].ask(case.sql)


# -- random statements -------------------------------------------------------------------------------------------------

# In each pair, what is mostly honest comes first, so that enough is let through.
# A LIMIT stands behind an order without ties, for a database may break those as it likes.
EXPRESSIONS = (
    [
        "a.id",
        "a.name",
        "a.*",
        "*",
        "name",
        "a.id AS email",
        "count(*)",
        "max(a.name)",
        "a.email",
        "a.email AS e",
        "1 AS email",
    ],
    [
        "email",
        "country",
        "lower(a.email)",
        "email AS name",
        "max(email)",
        "a",
        "a.email || ''",
        "(SELECT a.email)",
        "(SELECT e)",
        "(SELECT max(q.email) FROM customers q)",
        "(SELECT count(*) FROM orders q WHERE q.note = a.email)",
        "row_number() OVER (ORDER BY email, a.id)",
    ],
)
SOURCES = (
    [
        "customers a",
        "(SELECT * FROM customers) a",
        "(SELECT id, email, name FROM customers) a",
        "names a",
        "cards a",
        "(SELECT id, email AS name FROM customers) a",
        "(SELECT id, name, 1 AS email FROM customers) a",
        "w a",
        "(SELECT c.*, o.note FROM customers c JOIN orders o ON o.id = c.id) a",
    ],
    [
        "orders a",
        "cards_again a",
        "domains a",
        "salaries a",
        "(SELECT id, name FROM customers ORDER BY email LIMIT 1) a",
        "(SELECT DISTINCT name, email FROM customers) a",
        "(SELECT id, name FROM customers WHERE email > 'm') a",
        "payroll a",
    ],
)
CONDITIONS = (
    [
        "a.id > 1",
        "a.name > 'B'",
        "name LIKE 'A%'",
        "a.id IN (SELECT id FROM names)",
        "EXISTS (SELECT email FROM customers)",
    ],
    [
        "email > 'm'",
        "e > 'm'",
        "a.email IS NULL",
        "a.contact > 'm'",
        "name IN (SELECT contact FROM cards)",
        "a.name > a.email",
        "EXISTS (SELECT 1 FROM orders q WHERE q.note = a.email)",
        "EXISTS (SELECT 1 FROM orders q WHERE q.note = name)",
        "a.id IN (SELECT id FROM customers WHERE email > 'm')",
        "a.id = (SELECT min(id) FROM customers WHERE email = a.name)",
    ],
)
ENDINGS = (
    ["", "", "", "ORDER BY 1", "ORDER BY a.id", "ORDER BY a.id LIMIT 1"],
    [
        "ORDER BY 2",
        "ORDER BY email",
        "ORDER BY name, a.id LIMIT 1",
        "ORDER BY e, a.id LIMIT 1",
        "GROUP BY 1",
        "GROUP BY name",
        "GROUP BY email",
        "GROUP BY a.id HAVING max(e) > 'm'",
    ],
)
BEGINNINGS = (
    ["", "WITH w AS (SELECT * FROM customers) ", "WITH w AS (SELECT id, email AS name FROM customers) "],
    [
        "WITH w(id, name) AS (SELECT id, email FROM customers) ",
        "WITH w AS (SELECT id, lower(email) AS name FROM customers) ",
    ],
)


def made_up(chance: random.Random) -> str:
    """A statement that may be anything: honest, hostile or nonsense."""

    def one(pair: tuple[list[str], list[str]]) -> str:
        return chance.choice(pair[chance.random() < 0.2])

    source = one(SOURCES)
    sql = f"SELECT {', '.join(one(EXPRESSIONS) for _ in range(chance.randint(1, 3)))} FROM {source}"
    if chance.random() < 0.2:
        joined = f"{one(SOURCES)[:-2]} b"
        sql += chance.choice([f" JOIN {joined} ON a.id = b.id", f", {joined}", f" JOIN {joined} USING (id)"])
    if chance.random() < 0.3:
        sql += f" WHERE {one(CONDITIONS)}"
    ending = one(ENDINGS)
    if " b" in sql:
        ending = ending.partition(" LIMIT")[0]
    if chance.random() < 0.1 and "LIMIT" not in ending:
        sql = sql.replace("SELECT", "SELECT DISTINCT", 1)
    sql = f"{sql} {ending}".rstrip()
    if chance.random() < 0.15:
        sql = chance.choice(
            [
                f"SELECT * FROM ({sql}) s",
                f"SELECT s.name FROM ({sql}) s",
                f"{sql} UNION ALL {sql}",
                f"({sql}) ORDER BY email",
            ]
        )
    return one(BEGINNINGS) + sql if "w " in sql else sql


@pytest.mark.parametrize("backend", EVERYWHERE)
async def test_random_statements_tell_nothing_of_what_is_hidden(worlds: Open, backend: str) -> None:
    """Both worlds answer alike, or fail alike: an error, too, must not depend on a hidden value."""
    pair, chance = await worlds(backend), random.Random(20)
    outcomes = {"answered": 0, "masked": 0, "refused": 0}
    for _ in range(RANDOM_STATEMENTS):
        sql = made_up(chance)
        found = [await outcome(world, sql, POLICY) for world in pair]
        assert found[0] == found[1], sql
        outcomes[
            "refused" if isinstance(found[0], str) else "masked" if CONCEALED in repr(found[0]) else "answered"
        ] += 1
    assert min(outcomes.values()) >= RANDOM_STATEMENTS / 20, outcomes


async def test_without_the_policy_random_statements_would_tell(worlds: Open) -> None:
    """The two worlds are told apart by what the policy stops: the test above can fail."""
    pair, chance = await worlds("sqlite"), random.Random(20)
    told = 0
    for _ in range(RANDOM_STATEMENTS):
        sql = made_up(chance)
        found = [await outcome(world, sql, Policy.of()) for world in pair]
        told += found[0] != found[1]
    assert told >= RANDOM_STATEMENTS / 5


async def outcome(world: World, sql: str, policy: Policy) -> object:
    try:
        columns, rows = await world.ask(sql, policy)
    except ManydbError as exc:
        return exc.code
    return columns, sorted(map(repr, rows))


# -- the acceptance corpus ---------------------------------------------------------------------------------------------

# Lines that are refused: each uses customers, in words that the parser library does not know, or by a NATURAL JOIN.
REFUSED: dict[str, set[str]] = {"postgresql": set(), "mysql": {"my-a-097"}, "sqlite": {"sl-a-037"}}


@pytest.fixture(scope="module")
async def corpora(databases: Databases) -> AsyncIterator[Callable[[str], Awaitable[World]]]:
    async with AsyncExitStack() as stack:
        made: dict[str, World] = {}

        async def get(backend: str) -> World:
            if backend not in made:
                url = make_url(await stack.enter_async_context(databases.temporary(backend)))
                await load(url)
                made[backend] = await opened(stack, url.render_as_string(hide_password=False))
            return made[backend]

        yield get


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_acceptance_corpus_passes_under_a_mask_that_it_does_not_use(
    corpora: Callable[[str], Awaitable[World]], backend: str
) -> None:
    world = await corpora(backend)
    guard = await world.guard(Policy.of(mask=["customers.select", "accounts.owner", "bookings.room", "audit_log.msg"]))
    refused = {}
    for line in lines("must_accept", backend):
        try:
            guard.judge(statements.parse(text_of(line), world.registration.dialect.grammar))
        except ManydbError as exc:
            refused[line["id"]] = exc.message
    assert refused.keys() == REFUSED[backend], refused
