import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manydb import statements
from manydb.dialects.grammar import STANDARD, Grammar
from manydb.dialects.mysql.grammar import GRAMMAR as MYSQL
from manydb.dialects.postgresql.grammar import GRAMMAR as POSTGRESQL
from manydb.dialects.sqlite.grammar import GRAMMAR as SQLITE
from manydb.errors import (
    BadParameter,
    Forbidden,
    ManydbError,
    MultipleStatements,
    ReadOnly,
    SqlSyntax,
    TooLarge,
    Unsupported,
)
from manydb.lexer import tokenize
from manydb.statements import Statement, bind, check_functions, parse, reading, require_read, second_opinion
from manydb.statements.shapes import shape

GRAMMARS = {"postgresql": POSTGRESQL, "mysql": MYSQL, "sqlite": SQLITE}
CORPUS = Path(__file__).parent / "corpus"


def corpus(name: str, *, policy_only: bool = False) -> Iterator[Any]:
    """(grammar, sql) for each line of a corpus file."""
    for line in (CORPUS / f"{name}.jsonl").read_text().splitlines():
        case = json.loads(line)
        if not policy_only or case["by"] == ["policy"]:
            sql = case.get("sql") or "".join(text * times for text, times in case.get("sql_parts", ()))
            yield pytest.param(GRAMMARS[case["dialect"]], sql, id=case["id"])


def is_read(sql: str, grammar: Grammar) -> bool:
    try:
        require_read(parse(sql, grammar))
    except ManydbError:
        return False
    return True


@pytest.mark.parametrize(("grammar", "sql"), [*corpus("must_accept")])
def test_an_honest_statement_is_a_read_and_is_sent_as_written(grammar: Grammar, sql: str) -> None:
    statement = parse(sql, grammar)
    require_read(statement)
    assert statement.kind == "read"
    assert sql.strip().startswith(statement.sql)
    assert bind(statement, None, "format") == (statement.sql, ())


@pytest.mark.parametrize(("grammar", "sql"), [*corpus("must_reject", policy_only=True)])
def test_what_only_the_policy_can_stop_is_stopped(grammar: Grammar, sql: str) -> None:
    assert not is_read(sql, grammar)


def swap_case(sql: str, grammar: Grammar) -> str:
    """Keywords and bare names in the other case; what a lexer refuses stays as it is."""
    try:
        tokens = tokenize(sql, grammar.lexicon)
    except ManydbError:
        return sql
    for token in tokens:
        if token.kind == "word" and token.text.isascii():
            sql = sql[: token.start] + token.text.swapcase() + sql[token.end :]
    return sql


@pytest.mark.parametrize(("grammar", "sql"), [*corpus("must_accept"), *corpus("must_reject")])
def test_dressing_a_statement_up_does_not_change_the_answer(grammar: Grammar, sql: str) -> None:
    expected = is_read(sql, grammar)
    assert is_read("/* x */ " + sql, grammar) is expected
    assert is_read(" \n" + sql + "\n", grammar) is expected
    assert is_read(sql + "\n;", grammar) is expected
    assert is_read(sql + "\n; -- done", grammar) is expected
    assert is_read(f"```sql\n{sql}\n```", grammar) is expected
    assert is_read(swap_case(sql, grammar), grammar) is expected


@pytest.mark.parametrize(("grammar", "sql"), [*corpus("must_accept")])
def test_a_query_in_parentheses_is_still_a_query(grammar: Grammar, sql: str) -> None:
    statement = parse(sql, grammar)
    if statement.form == "query" and grammar is not SQLITE:
        assert is_read(f"(({statement.sql}\n))", grammar)


@pytest.mark.parametrize(
    ("grammar", "sql"),
    [
        (POSTGRESQL, "SELECT t.into, t.update FROM t"),
        (POSTGRESQL, "SELECT count(*) AS delete, update FROM t"),
        (POSTGRESQL, "SELECT * FROM f() AS (update int, b text)"),
        (POSTGRESQL, "SELECT substring('abc' FROM 1 FOR 2), (home).city FROM t"),
        (POSTGRESQL, "WITH RECURSIVE s AS (SELECT 1 n) SEARCH DEPTH FIRST BY n SET o SELECT * FROM s"),
        (POSTGRESQL, "SELECT 1 AS into, substring(a FROM 1 FOR key) FROM t"),
        (POSTGRESQL, "SELECT lock IN (1, 2) FROM t"),
        (POSTGRESQL, "EXPLAIN (ANALYZE, BUFFERS) (SELECT 1)"),
        (POSTGRESQL, "SELECT E'a'\n'\\'; DELETE FROM t; --'"),
        (POSTGRESQL, "SELECT lpad(repeat('x', 3), 10), lpad(5000000::text, 12), format('%s', 5000000)"),
        (POSTGRESQL, "SELECT repeat('#', (total * 100 / 1000000)::int) FROM t"),
        (MYSQL, "SELECT insert('abc', 1, 1, 'x'), replace('a', 'b', 'c'), truncate(1.5, 0), last_insert_id()"),
        (MYSQL, "SELECT * FROM t FOR SYSTEM_TIME AS OF '2025-01-01'"),
        (MYSQL, "SELECT * FROM t USE INDEX FOR JOIN (i)"),
        (MYSQL, "ANALYZE FORMAT=JSON SELECT 1"),
        (MYSQL, "SHOW FULL TABLES FROM shop"),
        (MYSQL, "SHOW GLOBAL VARIABLES LIKE 'version%'"),
        (SQLITE, "SELECT replace('a', 'b', 'c'), printf('%d', 5000000)"),
        (SQLITE, "SELECT * FROM pragma_table_info('t')"),
        (STANDARD, "WITH a AS (SELECT 1) SELECT * FROM a"),
    ],
)
def test_words_that_look_dangerous_but_are_not_pass(grammar: Grammar, sql: str) -> None:
    assert is_read(sql, grammar)
    assert second_opinion(parse(sql, grammar)) is None


@pytest.mark.parametrize(
    ("grammar", "sql"),
    [
        (POSTGRESQL, "SELECT ('/etc/passwd'::text).pg_read_file"),
        (POSTGRESQL, "SELECT (ARRAY['/etc/passwd'])[1] . /**/ pg_read_file"),
        (POSTGRESQL, "SELECT $1.pg_sleep"),
        (POSTGRESQL, "SELECT a[1:pg_sleep(1)] FROM t"),
        (POSTGRESQL, "WITH a AS (WITH b AS (SELECT 1) DELETE FROM x RETURNING 1) SELECT 1"),
        (POSTGRESQL, "WITH a AS (SELECT 1) UPDATE x SET y = 1"),
        (POSTGRESQL, "SELECT repeat('x', 1000 * 1000 * 1000)"),
        (POSTGRESQL, "SELECT repeat(repeat(repeat('x', 1000), 1000), 1000)"),
        (POSTGRESQL, "SELECT array_fill(0, ARRAY[10000, 10000])"),
        (POSTGRESQL, "SELECT format('%*s', 1000000000, 'x')"),
        (POSTGRESQL, "SHOW pg_sleep(1)"),
        (POSTGRESQL, "SELECT 1 FOR\nNO KEY UPDATE"),
        (MYSQL, "SELECT 1e1INTO @a"),
        (MYSQL, "SELECT \\NINTO @a"),
        (MYSQL, "SELECT $$ ' $$ INTO OUTFILE '/x' -- '"),
        (POSTGRESQL, "SELECT 1 AS as INTO evil"),
        (POSTGRESQL, "SELECT t.as INTO evil FROM t"),
        (MYSQL, "SELECT .5INTO OUTFILE '/x'"),
        (MYSQL, "SELECT 7 %sleep(1)"),
        (MYSQL, "SELECT `sleep` /**/ (1)"),
        (MYSQL, "SHOW TABLES WHERE sleep(1)"),
        (MYSQL, "SHOW FULL PROCESSLIST"),
        (MYSQL, "ANALYZE TABLE t"),
        (MYSQL, "EXPLAIN FORMAT=JSON DELETE FROM t"),
        (MYSQL, "SELECT * FROM `mysql` . user"),
        (MYSQL, "SELECT /*+ SET_VAR(sql_mode='ANSI_QUOTES') */ 1"),
        (SQLITE, "PRAGMA main.journal_mode = WAL"),
        (SQLITE, "SELECT [load_extension]('x')"),
        (SQLITE, "SELECT printf('%.*c', 900000000, 'x')"),
        (SQLITE, "SELECT printf('%900000000d', 1)"),
        (SQLITE, "SELECT * FROM pragma_wal_checkpoint"),
        (STANDARD, "SHOW TABLES"),
        (STANDARD, "TABLE t"),
    ],
)
def test_disguised_actions_are_refused(grammar: Grammar, sql: str) -> None:
    assert not is_read(sql, grammar)


@pytest.mark.parametrize(
    ("sql", "error", "words"),
    [
        ("DELETE FROM t", ReadOnly, "DELETE"),
        ("WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", ReadOnly, "DELETE"),
        ("DROP TABLE t", ReadOnly, "DROP"),
        ("COMMIT", Forbidden, "COMMIT"),
        ("SET x = 1", Forbidden, "SET"),
        ("SELECT pg_sleep(5)", Forbidden, "pg_sleep"),
        ("VACUUM", Forbidden, "VACUUM"),
    ],
)
def test_a_refusal_names_the_construct_and_what_would_be_right(sql: str, error: type[ManydbError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        require_read(parse(sql, POSTGRESQL))
    assert caught.value.suggestions


@pytest.mark.parametrize(
    ("sql", "kind", "verb", "form"),
    [
        ("select 1", "read", "SELECT", "query"),
        ("(VALUES (1))", "read", "VALUES", "query"),
        ("WITH a AS (SELECT 1) SELECT 1", "read", "SELECT", "query"),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", "write", "INSERT", "other"),
        ("EXPLAIN ANALYZE SELECT 1", "read", "EXPLAIN", "explain"),
        ("SHOW search_path", "read", "SHOW", "show"),
        ("CREATE TABLE t (a int)", "ddl", "CREATE", "other"),
        ("ROLLBACK", "transaction", "ROLLBACK", "other"),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END;", "ddl", "CREATE", "other"),
    ],
)
def test_a_statement_says_what_it_is(sql: str, kind: str, verb: str, form: str) -> None:
    statement = parse(sql, POSTGRESQL)
    assert (statement.kind, statement.verb, statement.form) == (kind, verb, form)


def test_the_query_inside_an_explain_is_given() -> None:
    assert parse("EXPLAIN (COSTS off) SELECT 1 -- x", POSTGRESQL).explained == "SELECT 1 -- x"
    assert parse("SELECT 1", POSTGRESQL).explained is None


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("  SELECT 1 ;; ", "SELECT 1"),
        ("SELECT 1; -- done; really", "SELECT 1"),
        ("SELECT 1 -- ;", "SELECT 1 -- ;"),
        ("```sql\nSELECT 1;\n```", "SELECT 1"),
        ("```\nSELECT 1\n```\n", "SELECT 1"),
        ("SELECT  'a;b'", "SELECT  'a;b'"),
    ],
)
def test_wrapping_is_dropped_and_nothing_else(written: str, sent: str) -> None:
    assert parse(written, POSTGRESQL).sql == sent


@pytest.mark.parametrize("sql", ["", " ; ;", "-- nothing", "```sql\n```"])
def test_no_statement_is_a_syntax_error(sql: str) -> None:
    with pytest.raises(SqlSyntax):
        parse(sql, POSTGRESQL)


def test_two_statements_and_long_ones_are_refused() -> None:
    with pytest.raises(MultipleStatements):
        parse("SELECT 1; SELECT 2", POSTGRESQL)
    with pytest.raises(TooLarge):
        parse("SELECT " + "1" * 100_000, POSTGRESQL)


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ('SELECT * FROM a, s."B" x JOIN c USING (id)', [(None, "a"), ("s", "B"), (None, "c")]),
        ("WITH a AS (SELECT 1), b(x) AS (SELECT * FROM t) SELECT * FROM a, b", [(None, "t")]),
        ("SELECT extract(year FROM d) FROM t WHERE a IS DISTINCT FROM b", [(None, "t")]),
        ("SELECT * FROM generate_series(1, 2) g, (SELECT * FROM t) q", [(None, "t")]),
        ("INSERT INTO s.t (a) VALUES (1)", [("s", "t")]),
    ],
)
def test_the_tables_named_are_found(sql: str, tables: list[tuple[str | None, str]]) -> None:
    assert list(parse(sql, POSTGRESQL).tables) == tables


def test_functions_are_looked_up_as_the_database_names_them() -> None:
    statement = parse('SELECT App.Hit(1), "Odd"(2), (x).touch, t.column FROM t', POSTGRESQL)
    assert statement.functions == ("hit", "Odd", "touch")
    with pytest.raises(Forbidden, match="hit"):
        check_functions(statement, frozenset({"hit"}))
    check_functions(parse("SELECT * FROM t TABLESAMPLE system (5)", POSTGRESQL), frozenset({"system"}))
    check_functions(parse("SELECT random(), app.double_it(1)", POSTGRESQL), frozenset({"random", "hit"}))


ACTING = frozenset({"hit", "operator @+", "operator =", "operator IN", "operator <>", "operator ~~", "operator LIKE"})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 @+ 'x'",
        "SELECT 1 @+'x', 1 @+-1",
        "SELECT 1 OPERATOR(public.@+) 'x'",
        "SELECT 1 OPERATOR ( app . @+ ) 'x'",
        "SELECT 1 FROM t WHERE a=-1",
        "SELECT 1 FROM t WHERE a != 2",
        "SELECT 1 FROM t WHERE a=?",
        "SELECT 1 FROM t WHERE a=%s",
        "SELECT 1 FROM t WHERE a@+/* x */1",
        "SELECT 1 FROM t WHERE a@+--x",
        "SELECT 1 FROM t WHERE a in (1, 2)",
        "SELECT 1 FROM t WHERE a NOT LIKE 'x'",
        "EXPLAIN SELECT 1 @+ 'x'",
    ],
)
def test_an_operator_of_a_function_that_acts_is_refused_however_it_is_written(sql: str) -> None:
    statement = parse(sql, POSTGRESQL)
    require_read(statement)
    check_functions(statement, frozenset({"hit"}))
    with pytest.raises(Forbidden, match="the operator"):
        check_functions(statement, ACTING)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a @> b, a <@ b, a @@ b, a || '@+' FROM t -- @+",
        "SELECT 1 FROM t WHERE a <= 2 AND b >= 3 AND c ~ 'x' AND d ~~* 'x'",
        'SELECT "in", t."like" AS "IN" FROM t',
        "SELECT 1 @ +2, 1 + 2 - 3 * 4 / 5",
    ],
)
def test_other_operators_pass_although_they_are_made_of_the_same_signs(sql: str) -> None:
    check_functions(parse(sql, POSTGRESQL), ACTING)


NUMBERED, PERCENT, QMARK = "numeric_dollar", "format", "qmark"


@pytest.mark.parametrize(
    ("grammar", "style", "sql", "params", "text", "arguments"),
    [
        (POSTGRESQL, NUMBERED, "SELECT :a, :b, :a", {"a": 1, "b": 2}, "SELECT $1, $2, $1", (1, 2)),
        (MYSQL, PERCENT, "SELECT :a, :b, :a", {"a": 1, "b": 2}, "SELECT %s, %s, %s", (1, 2, 1)),
        (SQLITE, QMARK, "SELECT :a, @b, $a", {"a": 1, "b": 2}, "SELECT ?, ?, ?", (1, 2, 1)),
        (
            POSTGRESQL,
            NUMBERED,
            "SELECT :v::int, '{\"a\":1}'::json",
            {"v": 1},
            "SELECT $1::int, '{\"a\":1}'::json",
            (1,),
        ),
        (POSTGRESQL, NUMBERED, "SELECT x[:2], :n -- note: :x", {"n": 1}, "SELECT x[:2], $1 -- note: :x", (1,)),
        (POSTGRESQL, NUMBERED, "SELECT x[1:n], x[1: :n]", {"n": 1}, "SELECT x[1:n], x[1: $1]", (1,)),
        (
            POSTGRESQL,
            NUMBERED,
            r"SELECT 'a\:b', $$ :b $$, E'\':b', :b",
            {"b": 1},
            r"SELECT 'a\:b', $$ :b $$, E'\':b', $1",
            (1,),
        ),
        (POSTGRESQL, NUMBERED, "SELECT 1 WHERE a = $1 AND b = $2", [1, 2], "SELECT 1 WHERE a = $1 AND b = $2", (1, 2)),
        (POSTGRESQL, NUMBERED, "SELECT a ? 'k' FROM t WHERE b = ?", [1], "SELECT a ? 'k' FROM t WHERE b = $1", (1,)),
        (POSTGRESQL, NUMBERED, "SELECT %s, 7 %s", [1], "SELECT $1, 7 %s", (1,)),
        (
            MYSQL,
            PERCENT,
            "SELECT 7 % 4 WHERE a LIKE 'x%' AND b = ?",
            [1],
            "SELECT 7 %% 4 WHERE a LIKE 'x%%' AND b = %s",
            (1,),
        ),
        (MYSQL, "pyformat", "SELECT '%s', %s", [1], "SELECT '%%s', %s", (1,)),
        (MYSQL, PERCENT, "SELECT 7 % 4", None, "SELECT 7 % 4", ()),
        (SQLITE, QMARK, "SELECT ?2, ?1", [1, 2], "SELECT ?, ?", (2, 1)),
        (
            POSTGRESQL,
            NUMBERED,
            "SELECT 1 IN (:i), 2 IN :i, :i",
            {"i": [1, 2]},
            "SELECT 1 IN ($1, $2), 2 IN ($1, $2), $3",
            (1, 2, [1, 2]),
        ),
        (MYSQL, PERCENT, "SELECT 1 NOT IN (?)", [[1, 2]], "SELECT 1 NOT IN (%s, %s)", (1, 2)),
        (SQLITE, QMARK, "SELECT 1 IN :i", {"i": (1, 2)}, "SELECT 1 IN (?, ?)", (1, 2)),
        (POSTGRESQL, NUMBERED, "SELECT 1 = ANY(:i)", {"i": [1, 2]}, "SELECT 1 = ANY($1)", ([1, 2],)),
        (POSTGRESQL, NUMBERED, "SELECT 1", {}, "SELECT 1", ()),
        (SQLITE, QMARK, "SELECT 1 LIMIT:n", {"n": 1}, "SELECT 1 LIMIT ?", (1,)),
    ],
)
def test_params_go_where_the_statement_wants_them(
    grammar: Grammar, style: str, sql: str, params: Any, text: str, arguments: tuple[Any, ...]
) -> None:
    assert bind(parse(sql, grammar), params, style) == (text, arguments)


@pytest.mark.parametrize(
    ("grammar", "sql", "params", "words"),
    [
        (POSTGRESQL, "SELECT :id", None, ":id"),
        (POSTGRESQL, "SELECT $1", [], r"\$1"),
        (MYSQL, "SELECT ?", None, r"\?"),
        (POSTGRESQL, "SELECT :a, :b", {"a": 1}, ":b"),
        (POSTGRESQL, "SELECT :a", {"a": 1, "c": 2}, "c"),
        (POSTGRESQL, "SELECT ':a'", {"a": 1}, "not used"),
        (POSTGRESQL, "SELECT $1, $2", [1], "2"),
        (MYSQL, "SELECT ?, ?", [1], "2"),
        (MYSQL, "SELECT :a", [1], ":a"),
        (POSTGRESQL, "SELECT 1 IN (:i)", {"i": []}, "empty"),
    ],
)
def test_params_that_do_not_fit_are_explained(grammar: Grammar, sql: str, params: Any, words: str) -> None:
    with pytest.raises(BadParameter, match=words):
        bind(parse(sql, grammar), params, QMARK)


def test_an_unknown_style_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        bind(parse("SELECT :a", STANDARD), {"a": 1}, "named")


@given(st.lists(st.sampled_from(["':x'", ":x", "-- :x\n", '":x"', "/* :x */", "'%'"]), min_size=1))
def test_the_database_reads_the_bound_text_with_as_many_values(pieces: list[str]) -> None:
    sql = "SELECT " + ", ".join(
        ["1", *[f"{piece} 2" if piece[0] in "-/" else piece for piece in pieces if piece != '":x"']]
    )
    statement = parse(sql, SQLITE)
    expected = pieces.count(":x")
    text, arguments = bind(statement, {"x": 5} if expected else None, QMARK)
    assert len(arguments) == expected
    connection = sqlite3.connect(":memory:")
    try:
        assert connection.execute(text, arguments).fetchone().count(5) == expected
    finally:
        connection.close()


def test_equal_texts_are_parsed_once() -> None:
    assert parse("SELECT 42", POSTGRESQL) is parse("SELECT 42", POSTGRESQL)
    assert statements.parse("SELECT 42", MYSQL) is not parse("SELECT 42", POSTGRESQL)


# -- texts of one shape ----------------------------------------------------------------------------------------------

# What is looked at, and what must not be: pieces in any order, most of which make no sense.
PIECES = [
    "SELECT", "a", "FROM t", "WHERE", "AND", "(", ")", ",", ".", "*", "LIMIT 5", " ", "\n", "--", "-", "#", "/*", "*/",
    ";", "= ", "=", "<", ">", "<>", "=>", ">=", "==", "!=", "'", "''", "'''", "'a'", "'a -- b'", "'a' 'b'", "E'a'",
    "N'a'", "U&'a'", '"', "`", "[", "]", "$1", "$a$", ":n", "?", "%s", "@v", "1", "10000000000", "1.5", "1e9", "0x1F",
    ".5", "1.", "1a", "_1", "repeat('x', ", "to_char(1, ", "printf(", "count(", "pg_sleep(", "sleep(", "INTO OUTFILE ",
    "FOR UPDATE", "\\", "ä", "é'",
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "sql"), [*corpus("must_accept"), *corpus("must_reject")])
def test_a_statement_of_a_known_shape_is_read_as_if_it_were_the_first(grammar: Grammar, sql: str) -> None:
    for text in (sql, f"SELECT a FROM t WHERE b = 7 AND c <> 'x' OR EXISTS ({sql})", f"{sql} WHERE a = '2026-01-01'"):
        assert outcome(parse, text, grammar) == outcome(reading._parse, text, grammar)


@settings(max_examples=1_000)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from([*GRAMMARS.values(), STANDARD]))
def test_no_text_is_read_otherwise_for_its_shape(pieces: list[str], grammar: Grammar) -> None:
    for text in ("".join(pieces), f"SELECT a FROM t WHERE b = {''.join(pieces)}", "SELECT a = 1 " + " ".join(pieces)):
        assert outcome(parse, text, grammar) == outcome(reading._parse, text, grammar)


def outcome(read: Callable[[str, Grammar], Statement], sql: str, grammar: Grammar) -> Any:
    try:
        return read(sql, grammar)
    except ManydbError as error:
        return error.as_dict()


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
def test_texts_that_differ_in_what_they_compare_with_have_one_shape(grammar: Grammar) -> None:
    texts = ["SELECT a FROM t WHERE b = 1 AND c>='2026-01-01'", "SELECT a FROM t WHERE b = 2.5 AND c>=''"]
    assert shape(texts[0]) == shape(texts[1])
    for text in texts:
        assert parse(text, grammar).sql == text
        assert parse(text, grammar).tables == ((None, "t"),)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t",
        "SELECT a FROM t WHERE b IN (1, 2)",
        "SELECT f(x => 1)",
        "SELECT a FROM t WHERE b = 1; DROP TABLE t",
        "SELECT a FROM t WHERE b = 1 -- c",
        "SELECT a FROM t WHERE b = 'it''s'",
        "SELECT a FROM t WHERE b = 'x\\'",
        "SELECT ' = 'a' FROM t",
        "SELECT a FROM t WHERE b = 1 AND c = ?",
        'SELECT a FROM "t = 1"',
    ],
)
def test_what_is_not_that_plain_has_no_shape(sql: str) -> None:
    assert shape(sql) is None


@pytest.mark.parametrize(
    ("grammar", "call"),
    [
        (POSTGRESQL, "repeat(a, b = %s)"),
        (POSTGRESQL, "format(a, b = 5 * %s)"),
        (POSTGRESQL, "t.repeat, x FROM f() AS repeat(a, b = %s)"),
        (MYSQL, "rpad(a, b >= %s, c)"),
        (SQLITE, "zeroblob(a <> %s)"),
        (SQLITE, "printf(a, b < %s)"),
        (STANDARD, "1e5space(a = %s)"),
    ],
)
def test_what_a_function_is_asked_for_counts_in_every_text(grammar: Grammar, call: str) -> None:
    for number in ("1", "900000", "10000000000"):
        sql = f"SELECT a FROM t WHERE a = 1 AND b < {call % number}"
        assert outcome(parse, sql, grammar) == outcome(reading._parse, sql, grammar)
    with pytest.raises(Forbidden):
        require_read(parse(sql, grammar))
