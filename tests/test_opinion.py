"""The parser library's second opinion: it is asked once, in a thread, and can only refuse."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import expressions

from manydb import statements
from manydb.dialects.grammar import STANDARD, Grammar, Refusal
from manydb.dialects.mysql.grammar import GRAMMAR as MYSQL
from manydb.dialects.postgresql.grammar import GRAMMAR as POSTGRESQL
from manydb.dialects.sqlite.grammar import GRAMMAR as SQLITE
from manydb.errors import ManydbError, ReadOnly
from manydb.statements import Statement, opinion, parse, require_consent, second_opinion
from tests.observers import Observer
from tests.test_statements import corpus
from tests.tools import serving

GRAMMARS = (POSTGRESQL, MYSQL, SQLITE)
_BOUND_SECONDS = 10.0


def told(statement: Statement) -> str:
    """What the library is told about: the whole statement, or what it explains."""
    return statement.explained or statement.sql


@pytest.mark.parametrize(("grammar", "sql"), [*corpus("must_accept")])
async def test_it_has_nothing_against_an_honest_statement(grammar: Grammar, sql: str) -> None:
    statement = parse(sql, grammar)
    await require_consent(statement)
    assert second_opinion(statement) is None


@pytest.mark.parametrize(
    ("grammar", "sql"),
    [
        (POSTGRESQL, "SELECT * FROM t FOR UPDATE"),
        (POSTGRESQL, "EXPLAIN SELECT * FROM t FOR NO KEY UPDATE"),
        (POSTGRESQL, "SELECT 1INTO t"),
        (MYSQL, "SELECT 1 INTO @x"),
        (MYSQL, "SELECT 1 FROM t LOCK IN SHARE MODE"),
    ],
)
async def test_what_it_takes_for_more_than_a_read_is_refused(grammar: Grammar, sql: str) -> None:
    with pytest.raises(ReadOnly, match="not part of a read"):
        await require_consent(parse(sql, grammar))


@pytest.mark.parametrize(
    ("grammar", "sql"),
    [
        (POSTGRESQL, "SHOW search_path"),
        (STANDARD, "SELECT 1 FROM t FOR UPDATE"),
        (POSTGRESQL, "SELECT 'update', " + "(" * 190 + "1" + ")" * 190),
        (POSTGRESQL, "SELECT 'update', a" + "[1]" * 1_000 + " FROM t FOR UPDATE"),
        (MYSQL, "SELECT 'update' FROM a" + " JOIN b" * 1_000 + " FOR UPDATE"),
        (MYSQL, "SELECT (((update FROM insert into;-- "),
        (POSTGRESQL, f"SELECT '{'x' * 10_000}' FOR UPDATE"),
        (POSTGRESQL, "SELECT 1 FOR UPDATE; SELECT 2"),
    ],
)
async def test_where_it_cannot_tell_it_has_no_opinion_and_is_quick_about_it(grammar: Grammar, sql: str) -> None:
    statement = Statement(sql, "read", "SELECT", "query", grammar)
    started = time.process_time()
    await require_consent(statement, patience=_BOUND_SECONDS)
    assert second_opinion(statement) is None
    assert time.process_time() - started < 2


async def test_equal_texts_are_asked_about_once() -> None:
    first = Statement("SELECT 'insert', 1", "read", "SELECT", "query", POSTGRESQL)
    equal = Statement("SELECT 'insert', " + str(1), "read", "SELECT", "query", POSTGRESQL)
    answer = asked(first)
    await require_consent(equal)
    assert asked(equal) is answer
    assert answer is not None
    assert answer.done()


def asked(statement: Statement) -> Future[Refusal | None] | None:
    return opinion._answer(statement)


@contextmanager
def busy_library() -> Iterator[None]:
    """The library's thread has something else to do."""
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        ended.wait(_BOUND_SECONDS)

    opinion._thread().submit(work)
    assert begun.wait(_BOUND_SECONDS)
    try:
        yield
    finally:
        ended.set()


async def test_an_answer_that_is_late_refuses_nobody_but_those_who_come_after_it() -> None:
    statement = parse("SELECT 'late' FROM t FOR UPDATE", POSTGRESQL)
    with busy_library():
        await require_consent(statement, patience=0)
    with pytest.raises(ReadOnly):
        await require_consent(statement, patience=_BOUND_SECONDS)


async def test_reads_without_its_words_do_not_wait_for_it(sqlite_url: str) -> None:
    async with serving(url=sqlite_url) as desk:
        with busy_library():
            assert await desk.rows("SELECT 1 AS updated_at, 2 AS one LIMIT 1 OFFSET 0") == [[1, 2]]


async def test_its_warnings_which_quote_the_statement_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    statement = Statement("WITH a AS (CALL f('my secret')) SELECT 'insert'", "read", "SELECT", "query", POSTGRESQL)
    with caplog.at_level(logging.DEBUG):
        await require_consent(statement, patience=_BOUND_SECONDS)
    assert asked(statement) is not None
    assert "secret" not in caplog.text


# ---- the words without which it is not asked ------------------------------------------------------------------------


def test_it_knows_everything_that_it_could_object_to() -> None:
    assert [name for name in opinion._OBJECTIONS if not hasattr(expressions, name)] == []


@pytest.mark.parametrize(("grammar", "sql"), [*corpus("must_accept"), *corpus("must_reject")])
def test_what_it_is_not_asked_about_it_would_have_nothing_against(grammar: Grammar, sql: str) -> None:
    try:
        statement = parse(sql, grammar)
    except ManydbError:
        return
    if opinion._WORDS.search(told(statement).upper()) is None:
        assert opinion._opinion(told(statement), grammar) is None


_WRITES = (
    "INSERT INTO t SELECT 1", "UPDATE t SET a = 1", "DELETE FROM t",
    "MERGE INTO t USING s ON 1 WHEN MATCHED THEN DELETE",
    "CREATE TABLE t AS SELECT 1", "DROP TABLE t", "ALTER TABLE t ADD a int", "TRUNCATE TABLE t", "SET a = 1", "USE t",
    "BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "COPY t FROM 'x'", "GRANT SELECT ON t TO u", "ATTACH 'x' AS t",
    "DETACH t", "KILL 1", "LOAD DATA INPATH 'x' INTO TABLE t", "SELECT 1 INTO t", "SELECT 1 FROM t FOR KEY SHARE",
    "REPLACE INTO t VALUES (1)", "LOCK TABLE t", "VACUUM", "ANALYZE", "CALL f()", "DECLARE c CURSOR FOR SELECT 1",
)  # fmt: skip
_WORDS = sorted({
    *" ".join(_WRITES).split(), "WITH", "AS", "(", ")", ",", "1", "END", "CASE", "OFFSET", "NO", "--", "/*", "*/", "'",
    '"', "`", "1INTO", "0xfSET", "\u017fet", "\u0131nto", "t.update", "@", "#", "{#", "#}", "$$", "OF",
    "NOWAIT", "RETURNING", "updated", "OVERWRITE", "IGNORE", "DIRECTORY", "UNSET", "REPLACE", "TEMP",
})  # fmt: skip


@given(st.sampled_from(GRAMMARS), st.sampled_from(["SELECT", "WITH a AS (", "("]), st.lists(st.sampled_from(_WORDS)))
@settings(max_examples=300, deadline=None)
def test_no_text_without_its_words_makes_it_object(grammar: Grammar, beginning: str, words: list[str]) -> None:
    sql = " ".join([beginning, *words])
    if opinion._WORDS.search(sql.upper()) is None:
        assert opinion._opinion(sql, grammar) is None


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: str(grammar.parser))
@pytest.mark.parametrize("frame", ["{}", "WITH a AS ({}) SELECT 1", "SELECT * FROM ({}) q"])
def test_whatever_it_objects_to_holds_one_of_its_words(grammar: Grammar, frame: str) -> None:
    objected = 0
    for write in _WRITES:
        sql = frame.format(write)
        if opinion._opinion(sql, grammar):
            objected += 1
            assert opinion._WORDS.search(sql.upper()), sql
    assert objected > 1


# ---- through the client ---------------------------------------------------------------------------------------------


async def test_a_client_is_refused_what_only_the_library_objects_to(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: Callable[[Statement], None] = statements.require_read
    monkeypatch.setattr(statements, "require_read", lambda _statement: None)
    async with serving(url=sqlite_url) as desk:
        for _ in range(2):
            error = await desk.refusal("execute_query", sql="SELECT 1 AS one INTO t")
            assert error["code"] == "READ_ONLY"
            assert "INTO" in error["message"]
    monkeypatch.setattr(statements, "require_read", checked)


_OPERATORS = (
    "CREATE TABLE log (note text)",
    "CREATE FUNCTION touch(a int, b text) RETURNS int LANGUAGE sql AS $$ INSERT INTO log VALUES (b); SELECT a $$",
    "CREATE FUNCTION measure(a int, b text) RETURNS int LANGUAGE sql STABLE AS $$ SELECT a + length(b) $$",
    "CREATE OPERATOR @+ (LEFTARG = int, RIGHTARG = text, FUNCTION = touch)",
    "CREATE OPERATOR @# (LEFTARG = int, RIGHTARG = text, FUNCTION = measure)",
    "CREATE SCHEMA other",
    "CREATE OPERATOR other.~~ (LEFTARG = int, RIGHTARG = text, FUNCTION = touch)",
)


async def test_operators_of_volatile_functions_are_refused_by_the_text_and_others_are_not(postgresql_url: str) -> None:
    observer = Observer.of(postgresql_url)
    for sql in _OPERATORS:
        await observer.run(sql)
    async with serving(url=postgresql_url) as desk:
        for sql, operator in (
            ("SELECT 1 @+ 'x'", "@+"),
            ("SELECT 1 OPERATOR(public.@+) 'x'", "@+"),
            ("SELECT 1 LIKE 'x'", "LIKE"),
            ("SELECT 1 WHERE 'a' NOT LIKE 'x'", "LIKE"),  # fails closed for all operators of a name
        ):
            for tool in ("execute_query", "explain_query"):
                error = await desk.refusal(tool, sql=sql)
                assert (error["code"], f"operator {operator} " in error["message"]) == ("FORBIDDEN", True)
                assert not {"sqlstate", "errno"} & error.keys(), "the statement reached the database"
        assert await desk.rows("SELECT 1 @# 'abc' AS found") == [[4]]
        assert await desk.rows("SELECT 1 WHERE 1 = 1 AND 2 > 1 AND 'a' ILIKE 'A' AND 1 IN (1, 2)") == [[1]]
        assert await desk.rows("SELECT ARRAY[1, 2] @> ARRAY[1] AS held") == [[True]]
    assert await observer.run("SELECT count(*) FROM log") == [(0,)]
