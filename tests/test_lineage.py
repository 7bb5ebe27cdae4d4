"""What statements do with masked columns and denied tables, decided from their text alone.

ADVERSARIAL and HONEST are also run against real servers, by test_policy.py.
"""

from dataclasses import replace
from typing import NamedTuple

import pytest

from manydb import statements
from manydb.dialects import DIALECTS
from manydb.dialects.schema import Column, Kind, Overview, Relation, Table, TableName
from manydb.errors import Forbidden, ManydbError, UnknownTable
from manydb.lineage import Catalog, Routine, fold, mentioned
from manydb.policy import Guard, Policy, Verdict

GRAMMARS = {dialect.name: dialect.grammar for dialect in DIALECTS}
EVERYWHERE = ("postgresql", "mysql", "sqlite")
HOMES = {"postgresql": "public", "mysql": "shop", "sqlite": "main"}
POLICY = Policy.of(deny=["salaries", "secret_*"], mask=["customers.email"])

TABLES = {
    "customers": ("id", "name", "email", "country"),
    "orders": ("id", "customer_id", "total", "note"),
    "salaries": ("id", "person", "amount"),
    "secret_plans": ("id", "plan"),
}
VIEWS = {
    "cards": (("id", "name", "contact"), "SELECT id, name, email AS contact FROM customers"),
    "names": (("id", "name"), "SELECT id, name FROM customers"),
    "cards_again": (("id", "contact"), "SELECT id, contact FROM cards"),
    "domains": (("id", "domain"), "SELECT id, lower(email) AS domain FROM customers"),
    "known": (("id",), "SELECT id FROM customers WHERE email IS NOT NULL"),
    "payroll": (("person",), "SELECT person FROM salaries"),
    "payroll_again": (("person",), "SELECT person FROM payroll"),
    "big_orders": (("id", "total"), "SELECT id, total FROM orders WHERE total > 10"),
}


class Case(NamedTuple):
    sql: str
    backends: tuple[str, ...] = EVERYWHERE
    masked: tuple[int, ...] | None = None  # None: refused


def cases(*sqls: str, on: str = "psm") -> list[Case]:
    """Refused statements; *on* holds the initials of backends (m for MySQL and MariaDB)."""
    return [Case(sql, _backends(on)) for sql in sqls]


def shown(sql: str, *masked: int, on: str = "psm") -> Case:
    """A statement that runs, with the output positions that are concealed."""
    return Case(sql, _backends(on), masked)


def _backends(initials: str) -> tuple[str, ...]:
    return tuple(backend for backend in EVERYWHERE if backend[0] in initials)


ADVERSARIAL = [
    # expressions
    *cases(
        "SELECT lower(email) FROM customers",
        "SELECT c.email || '' FROM customers c",
        "SELECT (email) FROM customers",
        "SELECT CAST(email AS char(200)) FROM customers",
        "SELECT coalesce(email, 'x') AS email FROM customers",
        "SELECT CASE WHEN email LIKE 'zz%' THEN 1 ELSE 0 END FROM customers",
        "SELECT count(email) FROM customers",
        "SELECT count(DISTINCT email) FROM customers",
        "SELECT max(email) FROM customers",
        "SELECT email = 'zz-ada@hidden.example' FROM customers",
        "SELECT email IS NULL FROM customers",
        "SELECT length(EMAIL) FROM CUSTOMERS",
        "SELECT id FROM orders o WHERE (SELECT email FROM customers c WHERE c.id = o.customer_id) LIKE 'zz%'",
    ),
    # probing
    *cases(
        "SELECT id FROM customers WHERE email LIKE 'zz-a%'",
        "SELECT id FROM customers c WHERE c.email > 'zz'",
        "SELECT count(*) FROM customers WHERE email IS NOT NULL",
        "SELECT id FROM customers ORDER BY email",
        "SELECT id, email FROM customers ORDER BY 2",
        "SELECT id, email AS e FROM customers ORDER BY e",
        "SELECT id, email FROM customers ORDER BY customers.email DESC",
        "SELECT email FROM customers GROUP BY email",
        "SELECT count(*) FROM customers GROUP BY email",
        "SELECT email, count(*) FROM customers GROUP BY 1",
        "SELECT country FROM customers GROUP BY country HAVING max(email) > 'zz'",
        "SELECT DISTINCT email FROM customers",
        "SELECT DISTINCT * FROM customers",
        "SELECT id, row_number() OVER (ORDER BY email) FROM customers",
        "SELECT id, count(*) OVER (PARTITION BY email) FROM customers",
        "SELECT id, count(*) OVER w FROM customers WINDOW w AS (PARTITION BY email)",
        "SELECT o.id FROM orders o JOIN customers c ON c.email = o.note",
        "SELECT a.id FROM customers a JOIN customers b ON a.email < b.email",
        "SELECT id FROM orders WHERE note IN (SELECT email FROM customers)",
        "SELECT id FROM orders WHERE EXISTS (SELECT 1 FROM customers WHERE email = note)",
        "SELECT id FROM orders o WHERE EXISTS (SELECT 1 FROM customers c WHERE c.id = o.customer_id AND c.email > 'm')",
        "SELECT (SELECT email FROM customers WHERE id = 1) AS x",
        "SELECT email FROM customers UNION ALL SELECT note FROM orders",
        "SELECT note FROM orders UNION SELECT email FROM customers",
        "SELECT note FROM orders EXCEPT SELECT email FROM customers",
        "SELECT e FROM (SELECT email AS e FROM customers) x WHERE e LIKE 'zz%'",
        "WITH x AS (SELECT email AS e FROM customers) SELECT id FROM orders, x WHERE x.e > 'm'",
        "WITH x(a, b) AS (SELECT id, email FROM customers) SELECT b FROM x",
        "WITH y AS (SELECT contact FROM x), x AS (SELECT email AS contact FROM customers) SELECT lower(contact) FROM y",
        "SELECT id FROM cards WHERE contact LIKE 'zz%'",
        "SELECT upper(contact) FROM cards_again",
        "SELECT domain FROM domains",
        "SELECT id FROM domains",
        "SELECT id FROM known",
        "SELECT c.id FROM customers c NATURAL JOIN cards d",
        "SELECT * FROM customers NATURAL JOIN orders",
        "SELECT * FROM customers c JOIN orders o USING (id)",
    ),
    # labels, which databases take in places where the standard does not
    *cases(
        "SELECT email AS e, (SELECT count(*) FROM orders WHERE note > e) FROM customers",
        "SELECT email AS e FROM customers c JOIN orders o ON e > 'm'",
        "SELECT id, email AS name FROM customers WHERE name LIKE 'zz%'",
        "SELECT x.e FROM (SELECT email AS e FROM customers ORDER BY e) x",
    ),
    *cases(
        "(SELECT id, email FROM customers) ORDER BY email",
        "(SELECT id, email FROM customers) ORDER BY 2",
        "(SELECT id FROM customers) ORDER BY customers.email",
        "((SELECT id, email AS e FROM customers)) ORDER BY e LIMIT 1",
        on="pm",
    ),
    # the engines' own ways
    *cases(
        "SELECT id, email FROM customers HAVING email LIKE 'zz%'",
        "SELECT id, email AS e FROM customers HAVING e > 'm'",
        on="m",
    ),
    *cases(
        "SELECT email FROM customers PROCEDURE ANALYSE()",
        "SELECT JSON_ARRAYAGG(email) FROM customers",
        "SELECT GROUP_CONCAT(email) FROM customers",
        "SELECT id FROM customers WHERE `email` REGEXP '^zz'",
        "SELECT j.v FROM customers c, JSON_TABLE(JSON_ARRAY(c.email), '$[*]' COLUMNS (v VARCHAR(100) PATH '$')) j",
        "SELECT id FROM customers c JOIN (SELECT 'zz' AS email) d USING (email)",
        "SELECT id, email AS e FROM customers HAVING EXISTS (SELECT 1 WHERE e LIKE 'zz%')",
        "SELECT id, ema\u0130l AS e FROM customers HAVING e > 'm'",
        "SELECT email AS e, (SELECT e > 'm') FROM customers, JSON_TABLE('[1]', '$[*]' COLUMNS (v INT PATH '$')) j",
        on="m",
    ),
    *cases(
        "SELECT c FROM customers c",
        "SELECT customers FROM customers",
        "SELECT c::text FROM customers c",
        "SELECT row_to_json(c) FROM customers c",
        "SELECT to_jsonb(customers) FROM customers",
        "SELECT c.row_to_json FROM customers c",
        "SELECT (c).email FROM customers c",
        "SELECT (c.*)::text FROM customers c",
        "SELECT row(c.*) FROM customers c",
        "SELECT count(c.*) FROM customers c WHERE c.* IS NOT NULL",
        "SELECT array_agg(c) FROM customers c",
        "SELECT json_agg(x) FROM (SELECT * FROM customers) x",
        "SELECT j.* FROM customers c, LATERAL to_jsonb(c) j",
        "SELECT l.e FROM customers c, LATERAL (SELECT c.email || '' AS e) l",
        "SELECT u FROM customers c, unnest(ARRAY[c.email]) u",
        "SELECT ARRAY(SELECT email FROM customers)",
        "SELECT DISTINCT ON (email) id FROM customers",
        "SELECT b FROM customers AS c(a, n, b, d)",
        "SELECT email::text FROM customers",
        "SELECT id FROM customers TABLESAMPLE system (100) WHERE email > 'm'",
        "SELECT string_agg(email, ',') FROM customers",
        "SELECT (SELECT c.email) FROM customers c",
        "SELECT most_common_vals FROM pg_stats WHERE tablename = 'customers'",
        "SELECT histogram_bounds::text FROM pg_catalog.pg_stats",
        "SELECT * FROM pg_statistic",
        "SELECT query_to_xml('SELECT email FROM customers', true, true, '')",
        "SELECT table_to_xml('customers', true, true, '')",
        "SELECT * FROM peek()",
        "SELECT id FROM orders WHERE note = ANY (SELECT email FROM customers)",
        "SELECT 1 FROM orders ORDER BY (SELECT max(email) FROM customers)",
        on="p",
    ),
    *cases(
        "SELECT group_concat(email) FROM customers",
        "SELECT c.'email' || '' FROM customers c",
        "SELECT [email] || '' FROM [customers]",
        "SELECT lower(email) FROM 'customers'",
        "SELECT json_group_array(email) FROM customers",
        "SELECT value FROM customers c, json_each(json_array(c.email))",
        "SELECT id, email FROM customers ORDER BY +2",
        "SELECT id, email FROM customers ORDER BY 2 COLLATE NOCASE",
        "SELECT id FROM customers WHERE email GLOB 'zz*'",
        "SELECT id, email AS e FROM customers WHERE e LIKE 'zz%'",
        "SELECT email AS e FROM json_each('[1]') j, customers c JOIN orders o ON e > 'm'",
        "SELECT email AS e, (SELECT e > 'm') FROM customers, json_each('[1]')",
        """SELECT x."email:1" || '' FROM (SELECT id AS email, email FROM customers) x""",
        "SELECT data FROM sqlite_dbpage",
        "SELECT sample FROM sqlite_stat4",
        on="s",
    ),
    # tables that are denied
    *cases(
        "SELECT * FROM salaries",
        "SELECT person FROM Salaries s",
        "SELECT plan FROM secret_plans",
        "SELECT id FROM orders WHERE id IN (SELECT id FROM salaries)",
        "WITH x AS (SELECT * FROM salaries) SELECT count(*) FROM x",
        "SELECT count(*) FROM orders, salaries",
        "SELECT 1 FROM orders o LEFT JOIN secret_plans p ON p.id = o.id",
        "SELECT person FROM payroll",
        "SELECT * FROM payroll_again",
        "SELECT (SELECT max(amount) FROM salaries) FROM orders",
        "EXPLAIN SELECT * FROM salaries",
    ),
    *cases('SELECT * FROM "salaries"', "SELECT * FROM ONLY public.salaries", "TABLE salaries", on="p"),
    *cases("SELECT tablename FROM pg_tables", "SELECT pg_get_viewdef('payroll'::regclass)", on="p"),
    *cases("SELECT table_name FROM information_schema.tables", on="pm"),
    *cases(
        "SELECT * FROM `salaries`",
        "SHOW CREATE TABLE salaries",
        "SHOW COLUMNS FROM secret_plans",
        "SHOW TABLES",
        "DESC salaries",
        on="m",
    ),
    *cases(
        "SELECT * FROM [salaries]",
        "SELECT * FROM main.'salaries'",
        "PRAGMA table_info(salaries)",
        "PRAGMA table_list",
        "SELECT name FROM sqlite_master",
        "SELECT * FROM pragma_table_info('salaries')",
        on="s",
    ),
    # a masked column that is only shown
    shown("SELECT email FROM customers", 0),
    shown("SELECT id, email, name FROM customers ORDER BY id", 1),
    shown("SELECT c.email AS contact FROM customers c", 0),
    shown("SELECT * FROM customers", 2),
    shown("SELECT c.*, c.email FROM customers c", 2, 4),
    shown("SELECT o.id, c.* FROM orders o JOIN customers c ON c.id = o.customer_id", 3),
    shown("SELECT * FROM orders o, customers c WHERE c.id = o.customer_id", 6),
    shown("SELECT x.e FROM (SELECT email AS e, id FROM customers) x WHERE x.id = 1", 0),
    shown("SELECT * FROM (SELECT * FROM customers) x LIMIT 2", 2),
    shown("WITH x AS (SELECT * FROM customers) SELECT email, id FROM x", 0),
    shown("WITH x AS (SELECT email AS a FROM customers), y AS (SELECT a AS b FROM x) SELECT b FROM y", 0),
    shown("SELECT contact FROM cards", 0),
    shown("SELECT * FROM cards_again", 1),
    shown("SELECT id, email AS id FROM customers", 1),
    shown("TABLE customers", 2, on="p"),
    shown("SELECT CUSTOMERS.EMAIL FROM customers", 0, on="ps"),
    shown("SELECT email FROM customers ORDER BY id", 0),
]

HONEST = [
    shown(sql)
    for sql in (
        "SELECT 1",
        "SELECT id, name FROM customers",
        "SELECT count(*) FROM customers",
        "SELECT c.name, o.total FROM customers c JOIN orders o ON o.customer_id = c.id ORDER BY o.total DESC",
        "SELECT country, count(*) AS n FROM customers GROUP BY country HAVING count(*) > 0 ORDER BY n DESC, 1",
        "SELECT name FROM customers WHERE id IN (SELECT customer_id FROM orders WHERE total > 10)",
        "SELECT upper(name) AS email FROM customers",
        "SELECT 'email' AS email, 'customers' AS customers",
        "SELECT id AS salaries FROM orders",
        "SELECT note FROM orders WHERE note = 'salaries' OR note = 'customers.email'",
        "SELECT id FROM orders -- not from salaries\n",
        "SELECT /* customers.email */ id FROM orders",
        "WITH salaries AS (SELECT id FROM orders) SELECT * FROM salaries",
        "WITH customers AS (SELECT 'A' AS email) SELECT lower(email) FROM customers",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
        "SELECT id FROM names ORDER BY name",
        "SELECT lower(name) FROM names",
        "SELECT * FROM names",
        "SELECT * FROM big_orders",
        "SELECT sum(total) FROM big_orders",
        "SELECT id FROM cards WHERE name LIKE 'A%'",
        "SELECT count(*) FROM cards",
        "SELECT EXISTS (SELECT * FROM customers WHERE country = 'GB') AS found",
        "SELECT name, row_number() OVER (PARTITION BY country ORDER BY name) AS place FROM customers",
        "SELECT name, sum(id) OVER w FROM customers WINDOW w AS (PARTITION BY country)",
        "SELECT CASE WHEN country = 'GB' THEN name ELSE '-' END FROM customers",
        "SELECT c.name, (SELECT count(*) FROM orders o WHERE o.customer_id = c.id) AS orders FROM customers c",
        "SELECT name FROM customers UNION SELECT note FROM orders",
        "SELECT name FROM customers UNION ALL SELECT name FROM names ORDER BY 1",
        "SELECT DISTINCT country FROM customers",
        "SELECT a.name FROM customers a JOIN customers b ON a.country = b.country AND a.id < b.id",
        "SELECT o.* FROM orders o JOIN customers c ON c.id = o.customer_id",
        "SELECT o.* FROM customers c LEFT JOIN orders o ON o.customer_id = c.id WHERE o.id IS NULL",
        "SELECT x.name FROM (SELECT * FROM customers) x ORDER BY x.name",
        "WITH x AS (SELECT * FROM customers) SELECT name FROM x WHERE country = 'GB'",
        "SELECT coalesce(name, 'nobody') FROM customers WHERE country BETWEEN 'A' AND 'Z'",
        "SELECT max(o.total) - min(o.total) FROM orders o",
        "SELECT (SELECT max(total) FROM orders) AS most, name FROM customers LIMIT 1 OFFSET 1",
        "SELECT email FROM (SELECT note AS email FROM orders) o WHERE email > 'a'",
        "SELECT c.name FROM customers c CROSS JOIN (SELECT 1 AS email) d WHERE d.email = 1",
        "SELECT count(*) FROM (SELECT email FROM customers) x",
        "EXPLAIN SELECT name FROM customers",
    )
] + [
    shown("SELECT name FROM customers c WHERE c.id = ANY (ARRAY[1, 2])", on="p"),
    shown("SELECT c.name, g FROM customers c, generate_series(1, 2) g", on="p"),
    shown("SELECT c.name, u.n FROM customers c, unnest(ARRAY[1, 2]) AS u(n)", on="p"),
    shown(
        "SELECT c.name, l.n FROM customers c, LATERAL (SELECT count(*) AS n FROM orders o WHERE o.id = c.id) l",
        on="p",
    ),
    shown("SELECT name::text, id::numeric(10, 2) FROM customers", on="p"),
    shown("SELECT DISTINCT ON (country) country, name FROM customers ORDER BY country, name", on="p"),
    shown("SELECT count(*) FILTER (WHERE country = 'GB') FROM customers", on="p"),
    shown("SELECT country, grouping(country) FROM customers GROUP BY ROLLUP (country)", on="p"),
    shown("SELECT name FROM public.customers", on="p"),
    shown("SELECT public.customers.name FROM public.customers", on="p"),
    shown("SELECT to_char(now(), 'YYYY') > '2000', name ILIKE 'a%' FROM customers", on="p"),
    shown("SELECT relname FROM (SELECT 'x' AS relname) q", on="p"),
    shown("SHOW server_version", on="p"),
    shown("SELECT o.id FROM orders o WHERE (o.id, o.total) IN (SELECT id, total FROM big_orders)", on="psm"),
    shown('SELECT `name` FROM `customers` WHERE `country` = "GB"', on="m"),
    shown("SELECT GROUP_CONCAT(name ORDER BY name SEPARATOR ';') FROM customers", on="m"),
    shown("SELECT IF(country = 'GB', name, NULL) FROM customers", on="m"),
    shown("SELECT name FROM customers WHERE name REGEXP '^A'", on="m"),
    shown("SELECT country, count(*) FROM customers GROUP BY country WITH ROLLUP", on="m"),
    shown("SHOW COLUMNS FROM customers", on="m"),
    shown("SHOW VARIABLES LIKE 'version'", on="m"),
    shown("DESCRIBE orders", on="m"),
    shown("SELECT group_concat(name, ';') FROM customers", on="s"),
    shown("SELECT [name] FROM [customers]", on="s"),
    shown("SELECT c.name, j.value FROM customers c, json_each('[1, 2]') j", on="s"),
    shown("SELECT strftime('%Y', 'now') > '2000', name FROM main.customers", on="s"),
    shown("SELECT name FROM customers WHERE name GLOB 'A*' COLLATE NOCASE", on="s"),
    shown("PRAGMA table_info(orders)", on="s"),
    shown("PRAGMA user_version", on="s"),
]


def each(found: list[Case]) -> list[object]:
    return [pytest.param(backend, case, id=f"{backend}: {case.sql}") for case in found for backend in case.backends]


def catalog(backend: str) -> Catalog:
    """The tables and views above, as that database would describe them."""
    home = HOMES[backend]
    tables = [table(home, name, columns) for name, columns in TABLES.items()]
    tables += [table(home, name, columns, "view", definition) for name, (columns, definition) in VIEWS.items()]
    routines = [Routine("peek", "SELECT email FROM customers"), Routine("double_it", "SELECT n * 2")]
    return of(home, tables, routines)


def table(home: str, name: str, columns: tuple[str, ...], kind: Kind = "table", definition: str = "") -> Table:
    return Table(home, name, kind, columns=tuple(Column(each, "text") for each in columns), definition=definition)


def of(home: str, tables: list[Table], routines: list[Routine] | None = None) -> Catalog:
    overview = Overview(tuple(Relation(each.schema, each.name, each.kind) for each in tables), home)
    return Catalog.of(overview, tables, parents={}, routines=routines or [])


def judge(backend: str, sql: str, policy: Policy = POLICY, known: Catalog | None = None) -> Verdict:
    statement = statements.parse(sql, GRAMMARS[backend])
    statements.require_read(statement)
    return Guard.of(policy, known or catalog(backend)).judge(statement)


@pytest.mark.parametrize(("backend", "case"), each([case for case in ADVERSARIAL if case.masked is None]))
def test_what_would_tell_of_hidden_data_is_refused(backend: str, case: Case) -> None:
    with pytest.raises(ManydbError) as caught:
        judge(backend, case.sql)
    assert caught.value.code in {"FORBIDDEN", "SYNTAX"}


@pytest.mark.parametrize(("backend", "case"), each([case for case in ADVERSARIAL if case.masked is not None]))
def test_a_masked_column_that_is_only_shown_is_concealed(backend: str, case: Case) -> None:
    assert judge(backend, case.sql).masked == case.masked


@pytest.mark.parametrize(("backend", "case"), each(HONEST))
def test_honest_statements_pass_as_they_are(backend: str, case: Case) -> None:
    assert judge(backend, case.sql) == Verdict()


# -- catalogs --------------------------------------------------------------------------------------------------------


def test_a_generated_column_of_a_masked_one_is_masked_too() -> None:
    handle = Column("handle", "text", generated="split_part(email, '@', 1)")
    columns = (Column("id", "integer"), Column("email", "text"), handle)
    known = of("public", [Table("public", "customers", columns=columns)])
    assert judge("postgresql", "SELECT handle, id FROM customers", known=known).masked == (0,)


def family() -> Catalog:
    """A partitioned table with one partition."""
    tables = [
        table("public", "visits", ("id", "ip"), "partitioned_table"),
        table("public", "visits_2025", ("id", "ip"), "partition"),
        table("public", "visits_2026", ("id", "ip"), "partition"),
    ]
    parents = {TableName("public", f"visits_{year}"): TableName("public", "visits") for year in (2025, 2026)}
    return replace(of("public", tables), parents=parents)


def test_a_partition_is_masked_as_its_table_is() -> None:
    policy = Policy.of(mask=["visits.ip"])
    assert judge("postgresql", "SELECT ip FROM visits_2025", policy, family()).masked == (0,)
    with pytest.raises(Forbidden):
        judge("postgresql", "SELECT id FROM visits_2025 WHERE ip > '1'", policy, family())


def test_a_table_is_masked_as_its_partition_is() -> None:
    policy = Policy.of(mask=["visits_2025.ip"])
    assert judge("postgresql", "SELECT ip FROM visits", policy, family()).masked == (0,)
    assert judge("postgresql", "SELECT ip FROM visits_2026", policy, family()).masked == ()


def test_a_table_with_a_denied_partition_is_denied() -> None:
    policy = Policy.of(deny=["visits_2025"])
    with pytest.raises(Forbidden, match="visits is not open"):
        judge("postgresql", "SELECT id FROM visits", policy, family())
    assert judge("postgresql", "SELECT id FROM visits_2026", policy, family()) == Verdict()


def virtual() -> Catalog:
    """Full-text tables: over the rows of customers, and one with rows of its own; each keeps its data in others."""
    tables = [
        table("main", "customers", ("id", "email")),
        Table("main", "search", "virtual_table", notes=("USING fts5(email, content='customers')",)),
        table("main", "search_data", ("id", "block")),
        Table("main", "docs", "virtual_table", notes=("USING fts5(title, body)",)),
        table("main", "docs_content", ("id", "c0")),
    ]
    return of("main", tables)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT email FROM search",
        "SELECT rowid FROM search WHERE search MATCH 'zz'",
        "SELECT * FROM search('zz')",
        "SELECT block FROM search_data",
    ],
)
def test_a_virtual_table_over_a_masked_one_is_refused(sql: str) -> None:
    with pytest.raises(Forbidden):
        judge("sqlite", sql, known=virtual())


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM docs WHERE docs MATCH 'x'", "SELECT * FROM docs('x')", "SELECT c0 FROM docs_content"]
)
def test_a_virtual_table_of_its_own_is_open(sql: str) -> None:
    assert judge("sqlite", sql, known=virtual()) == Verdict()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT rowid FROM docs WHERE docs MATCH 'x'",
        "SELECT * FROM docs('x')",
        "SELECT snippet(docs, 1, '', '', '', 9) FROM docs",
    ],
)
def test_a_masked_column_of_a_virtual_table_is_not_searched(sql: str) -> None:
    tables = [
        Table(
            "main",
            "docs",
            "virtual_table",
            columns=(Column("title", ""), Column("body", "")),
            notes=("USING fts5(title, body)",),
        )
    ]
    with pytest.raises(Forbidden):
        judge("sqlite", sql, Policy.of(mask=["docs.body"]), of("main", tables))


def test_a_view_without_a_known_query_is_refused() -> None:
    known = replace(catalog("postgresql"), definitions={})
    with pytest.raises(Forbidden):
        judge("postgresql", "SELECT id FROM big_orders", known=known)


def test_a_view_that_calls_a_reading_function_is_refused() -> None:
    views = [table("public", "seen", ("p",), "view", "SELECT peek() AS p FROM orders")]
    tables = [table("public", name, columns) for name, columns in TABLES.items()]
    known = of("public", tables + views, [Routine("peek", "SELECT max(email) FROM customers")])
    with pytest.raises(Forbidden, match="calls a function"):
        judge("postgresql", "SELECT p FROM seen", known=known)


@pytest.mark.parametrize("text", ["", "BEGIN EXECUTE q; END", "SELECT helper()"])
def test_a_function_that_may_read_anything_is_refused(text: str) -> None:
    helper = Routine("helper", "SELECT 1 FROM customers")
    known = replace(catalog("postgresql"), routines=(Routine("f", text), helper))
    with pytest.raises(Forbidden, match="a function"):
        judge("postgresql", "SELECT f() FROM orders", known=known)


def test_an_operator_is_refused_as_its_function_is() -> None:
    known = replace(catalog("postgresql"), routines=(Routine("probe", "SELECT email > a FROM customers", ("@+",)),))
    with pytest.raises(Forbidden, match="a function"):
        judge("postgresql", "SELECT id @+ 'x' FROM orders", known=known)
    assert judge("postgresql", "SELECT id + 1 FROM orders", known=known) == Verdict()


def test_functions_that_only_compute_are_open() -> None:
    assert judge("postgresql", "SELECT double_it(2)") == Verdict()


def test_a_mask_on_a_column_that_is_not_there_closes_the_table() -> None:
    with pytest.raises(Forbidden, match="no column phone"):
        judge("postgresql", "SELECT * FROM customers", Policy.of(mask=["customers.phone"]))


def test_a_mask_says_nothing_of_tables_of_that_name_without_the_column() -> None:
    tables = [table("public", "customers", ("id", "email")), table("old", "customers", ("id", "name"))]
    assert judge("postgresql", "SELECT * FROM old.customers", known=of("public", tables)) == Verdict()


def test_the_schema_of_a_table_is_part_of_its_name() -> None:
    tables = [table("public", "customers", ("id", "email")), table("hr", "customers", ("id", "email"))]
    known = of("public", tables)
    policy = Policy.of(mask=["hr.customers.email"])
    assert judge("postgresql", "SELECT email FROM hr.customers", policy, known).masked == (0,)
    assert judge("postgresql", "SELECT lower(email) FROM public.customers", policy, known) == Verdict()


def test_a_bare_name_that_may_mean_a_restricted_table_is_refused() -> None:
    tables = [table("public", "customers", ("id", "email")), table("hr", "customers", ("id", "email"))]
    with pytest.raises(Forbidden, match="several tables"):
        judge("postgresql", "SELECT id FROM customers", Policy.of(mask=["hr.customers.email"]), of("public", tables))


def test_a_table_that_is_not_known_beside_a_masked_one_is_an_unknown_table() -> None:
    with pytest.raises(UnknownTable, match="no table or view nowhere"):
        judge("postgresql", "SELECT name FROM customers, nowhere")


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_statement_too_long_to_analyse_is_refused() -> None:
    with pytest.raises(Forbidden, match="20,000 characters"):
        judge("postgresql", f"SELECT name FROM customers WHERE id IN ({', '.join(['1'] * 9_000)})")


def test_a_long_statement_about_other_tables_is_not_analysed() -> None:
    assert judge("postgresql", f"SELECT id FROM orders WHERE id IN ({', '.join(['1'] * 9_000)})") == Verdict()


def test_a_deeply_nested_statement_is_refused_and_not_an_accident() -> None:
    with pytest.raises(Forbidden):
        judge("postgresql", f"SELECT name FROM customers WHERE id = {'(' * 190}1{')' * 190}")


@pytest.mark.parametrize(
    "sql", ["SELECT name, 1 {# FROM customers #} FROM orders, customers", "SELECT name {{ x }} FROM customers"]
)
def test_what_the_lexers_read_differently_is_refused(sql: str) -> None:
    with pytest.raises(Forbidden):
        judge("sqlite", sql)


def test_placeholders_count_as_constants() -> None:
    assert (
        judge("postgresql", "SELECT name FROM customers WHERE id = :id AND country IN :countries LIMIT :n") == Verdict()
    )
    assert judge("sqlite", "SELECT id, email FROM customers WHERE id = ? ORDER BY id").masked == (1,)


def test_a_placeholder_may_turn_out_to_be_a_position() -> None:
    with pytest.raises(Forbidden, match="constant"):
        judge("mysql", "SELECT id, email FROM customers ORDER BY :position")


def test_a_plan_conceals_nothing_and_tells_nothing() -> None:
    assert judge("postgresql", "EXPLAIN SELECT email FROM customers") == Verdict()
    with pytest.raises(Forbidden):
        judge("postgresql", "EXPLAIN ANALYZE SELECT 1 FROM customers WHERE email > 'm'")


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Email", "EMAIL"),
        ("ema\u0130l", "email"),
        ("ema\u0131l", "email"),
        ("\u00e9mail", "email"),
        ("\u212aey", "key"),
        ("x" * 63 + "tail", "x" * 63),
    ],
)
def test_spellings_that_some_database_takes_for_one_fold_to_one(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("email", "e_mail"), ("email", "emails"), ("a b", "ab")])
def test_different_names_stay_different(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 FROM Customers",
        'SELECT 1 FROM "customers"',
        "'customers'",
        "/* customers */",
        "\u0441 customers",
        "x.customers.y",
    ],
)
def test_a_name_is_mentioned_wherever_it_stands(text: str) -> None:
    assert list(mentioned(text, ["customers"])) == ["customers"]


@pytest.mark.parametrize("name", ["my table", "d\u00e9j\u00e0 vu", "a`b", 'a"b', "a-b"])
def test_a_name_that_needs_quotes_is_mentioned_in_any_of_them(name: str) -> None:
    quoted = [f"`{name.replace('`', '``')}`", '"{}"'.format(name.replace('"', '""')), f"[{name}]"]
    assert [list(mentioned(f"SELECT * FROM {text}", [fold(name)])) for text in quoted] == [[fold(name)]] * 3


def test_a_part_of_another_word_is_no_mention() -> None:
    assert list(mentioned("SELECT customer_id FROM old_customers", ["customers", "customer"])) == []
