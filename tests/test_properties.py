"""Properties: what holds for every statement and every value, on examples that nobody would have thought of."""

import datetime as dt
import json
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manydb.dialects.grammar import Grammar
from manydb.dialects.mysql.grammar import GRAMMAR as MYSQL
from manydb.dialects.postgresql.grammar import GRAMMAR as POSTGRESQL
from manydb.dialects.sqlite.grammar import GRAMMAR as SQLITE
from manydb.errors import ManydbError
from manydb.lexer import tokenize
from manydb.statements import bind, parse, require_read
from tests.conftest import Databases
from tests.corpus_bench import BACKENDS, lines, text_of
from tests.fuzz.hostile import Hostile
from tests.tools import MODES, Desk, serving

GRAMMARS = {"postgresql": POSTGRESQL, "mysql": MYSQL, "sqlite": SQLITE}
SAFE = 2**53 - 1

# One asyncio loop serves the examples of a test, and the databases behind it are slower than hypothesis likes.
quick = settings(max_examples=100, deadline=None)
asking = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


# ---- statements -----------------------------------------------------------------------------------------------------


@st.composite
def hostile(draw: st.DrawFn) -> tuple[Grammar, str]:
    """(grammar, a statement that would like to be something else)"""
    backend = draw(st.sampled_from(BACKENDS))
    return GRAMMARS[backend], Hostile(backend, "/folder", draw(st.randoms(use_true_random=False))).statement()


@st.composite
def odd(draw: st.DrawFn) -> tuple[Grammar, str]:
    """(grammar, any text at all)"""
    marks = st.sampled_from(
        [*"'\"`\\$@:;#-/*!()[]{}?%.", "SELECT ", "WITH", "/*", "*/", "--", "$$", "E'", "\n", "\ud800"]
    )
    return GRAMMARS[draw(st.sampled_from(BACKENDS))], "".join(draw(st.lists(marks | st.text(max_size=3), max_size=30)))


def verdict(sql: str, grammar: Grammar) -> tuple[str, str]:
    """(what the statement is, the kind of its refusal or "read")"""
    try:
        statement = parse(sql, grammar)
        require_read(statement)
    except ManydbError as refusal:
        return "", type(refusal).__name__
    return statement.form, "read"


@quick
@given(hostile() | odd(), st.none() | st.dictionaries(st.text("ab"), st.integers()) | st.lists(st.integers()))
def test_no_statement_raises_anything_but_our_errors(
    case: tuple[Grammar, str], params: dict[str, int] | list[int] | None
) -> None:
    grammar, sql = case
    try:
        statement = parse(sql, grammar)
        text, arguments = bind(statement, params, "qmark")
    except ManydbError:
        return
    assert text == statement.sql or arguments


@quick
@given(
    hostile(),
    st.lists(st.sampled_from([" ", "\n", "\t", "/* x */", "-- x\n", "/* ; ' */"]), max_size=4).map("".join),
    st.sampled_from(["", ";", " ; ", ";\n-- done", "\n/* done */;;"]),
)
def test_blanks_comments_and_a_semicolon_around_it_do_not_change_what_a_read_is(
    case: tuple[Grammar, str], before: str, after: str
) -> None:
    grammar, sql = case
    if sql.lstrip().startswith("```") or verdict(sql, grammar)[1] != "read":
        return
    assert verdict(f"{before}{sql}\n{after}", grammar) == verdict(sql, grammar)


@quick
@given(hostile(), st.sampled_from([str.upper, str.lower, str.swapcase]))
def test_keywords_mean_the_same_in_capitals_and_in_small_letters(
    case: tuple[Grammar, str], change: Callable[[str], str]
) -> None:
    grammar, sql = case
    assert verdict(recased(sql, grammar, change), grammar) == verdict(sql, grammar)


def recased(sql: str, grammar: Grammar, change: Callable[[str], str]) -> str:
    """*sql* with its bare ASCII words changed; a text that cannot be read stays as it is."""
    try:
        tokens = tokenize(sql, grammar.lexicon)
    except ManydbError:
        return sql
    for token in tokens:
        if token.kind == "word" and token.text.isascii() and token.text != "\\N":
            sql = sql[: token.start] + change(token.text) + sql[token.end :]
    return sql


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_honest_statement_stays_a_read_when_a_harmless_word_is_quoted_text(backend: str) -> None:
    for line in lines("must_accept", backend):
        sql = text_of(line).rstrip().rstrip(";")
        assert verdict(f"{sql} -- 'DELETE FROM accounts; ", GRAMMARS[backend])[1] == "read", line["id"]


# ---- values, there and back -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """Values of one kind: what is *sent*, the canonical form that comes *back*, and each database's word for the type.

    A database without a word has no such type.
    """

    values: st.SearchStrategy[Any]
    types: dict[str, str]
    sent: Callable[[Any], Any] = lambda value: value
    back: Callable[[Any], Any] = lambda value: value


def integer(value: int) -> int | str:
    return value if -SAFE <= value <= SAFE else str(value)


def clock(value: dt.datetime) -> str:
    """With as many decimals as it has."""
    return value.isoformat().rstrip("0") if value.microsecond else value.isoformat()


def base64(value: bytes) -> dict[str, str]:
    return {"$bytes": b64encode(value).decode()}


# NUL is no character of PostgreSQL's text.
letters = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
moments = st.datetimes(dt.datetime(1000, 1, 1), dt.datetime(9999, 12, 31))  # noqa: DTZ001 - a time without a zone
KINDS = {
    "integers": Kind(
        st.integers(-(2**63), 2**63 - 1), {"postgresql": "bigint", "mysql": "signed", "sqlite": "integer"}, back=integer
    ),
    "decimals": Kind(
        st.decimals(-(10**19), 10**19, places=6, allow_nan=False),
        {"postgresql": "numeric(30,6)", "mysql": "decimal(30,6)"},
        sent=lambda value: f"{value:f}",
        back=lambda value: f"{value or abs(value):f}",  # no database keeps the sign of a decimal zero
    ),
    "reals": Kind(
        st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
        {"postgresql": "float8", "mysql": "double", "sqlite": "real"},
    ),
    "text": Kind(letters, {"postgresql": "text", "mysql": "char", "sqlite": "text"}),
    "bytes": Kind(
        st.binary(max_size=200), {"postgresql": "bytea", "mysql": "binary", "sqlite": "blob"}, base64, base64
    ),
    "dates": Kind(
        st.dates(dt.date(1000, 1, 1)),
        {"postgresql": "date", "mysql": "date", "sqlite": "text"},
        dt.date.isoformat,
        dt.date.isoformat,
    ),
    "timestamps": Kind(moments, {"postgresql": "timestamp"}, dt.datetime.isoformat, clock),
    "timestamps of a fixed precision": Kind(
        moments,
        {"mysql": "datetime(6)"},
        dt.datetime.isoformat,
        lambda value: value.isoformat(timespec="microseconds"),
    ),
    "instants": Kind(
        moments,
        {"postgresql": "timestamptz"},
        lambda value: f"{value.isoformat()}Z",
        lambda value: f"{clock(value)}+00:00",
    ),
    "booleans": Kind(st.booleans(), {"postgresql": "boolean"}),
    "arrays of integers": Kind(
        st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=8),
        {"postgresql": "bigint[]"},
        back=lambda value: [None if item is None else integer(item) for item in value],
    ),
    "arrays of text": Kind(st.lists(st.none() | letters, max_size=8), {"postgresql": "text[]"}),
    "uuids": Kind(st.uuids(version=4), {"postgresql": "uuid", "mysql": "uuid", "sqlite": "text"}, str, str),
}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | letters,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(letters, inner, max_size=5),
    max_leaves=20,
)


def strictly(text: str) -> Any:
    """JSON as RFC 8259 has it; Python's reader takes NaN and Infinity too."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module", params=BACKENDS)
async def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def desk(databases: Databases, backend: str) -> AsyncGenerator[Desk]:
    roomy = {"byte_budget": 20_000_000, "cell_chars": 10_000_000}
    async with databases.temporary(backend) as url, serving(url=url, **roomy) as desk:
        yield desk


async def only_row(desk: Desk, sql: str, **arguments: Any) -> list[Any]:
    reply = strictly(await desk.text("execute_query", sql=sql, **arguments))
    (row,) = reply["rows"]
    return list(row)


@pytest.mark.parametrize("kind", KINDS)
@asking
@given(data=st.data())
async def test_a_value_comes_back_as_it_was_sent(desk: Desk, backend: str, kind: str, data: st.DataObject) -> None:
    values = KINDS[kind]
    if backend not in values.types:
        return
    value = data.draw(values.values)
    sql = f"SELECT CAST(:value AS {values.types[backend]}) AS value, :value IS NULL AS missing"
    if backend == "postgresql":  # where one placeholder has one type
        sql = f"SELECT CAST(:value AS {values.types[backend]}) AS value"
    assert (await only_row(desk, sql, params={"value": values.sent(value)}))[0] == values.back(value)


@asking
@given(value=JSON)
async def test_every_reply_is_strict_json(desk: Desk, value: Any) -> None:
    result = await desk.client.call_tool(
        "execute_query", {"sql": "SELECT :v AS v", "params": {"v": value}}, raise_on_error=False
    )
    (block,) = result.content
    assert strictly(block.text)  # type: ignore[union-attr]  # a text block


# ---- sizes and shapes, through the client of both eras --------------------------------------------------------------

MOST_COLUMNS = {"postgresql": 1_664, "mysql": 2_000, "sqlite": 2_000}
FOUR_MEGABYTES = {
    "postgresql": "repeat('é23', 1000000)",
    "mysql": "repeat('é23', 1000000)",
    "sqlite": "hex(zeroblob(1000000)) || hex(zeroblob(1000000))",
}
BYTES = {"postgresql": "'\\xff41'::bytea", "mysql": "x'ff41'", "sqlite": "x'ff41'"}


@pytest.fixture(scope="module", params=MODES)
async def any_desk(request: pytest.FixtureRequest, databases: Databases, backend: str) -> AsyncGenerator[Desk]:
    roomy = {"byte_budget": 60_000_000, "cell_chars": 10_000_000}
    async with databases.temporary(backend) as url, serving(request.param, url=url, **roomy) as desk:
        yield desk


async def test_cells_of_four_megabytes_arrive_whole(any_desk: Desk, backend: str) -> None:
    cells = await only_row(any_desk, f"SELECT {FOUR_MEGABYTES[backend]} AS a, {FOUR_MEGABYTES[backend]} AS b")
    assert [len(str(cell).encode()) for cell in cells] == [4_000_000, 4_000_000]


async def test_as_many_columns_as_a_database_has(any_desk: Desk, backend: str) -> None:
    count = MOST_COLUMNS[backend]
    reply = strictly(
        await any_desk.text("execute_query", sql=f"SELECT {', '.join(f'{n} AS c{n}' for n in range(count))}")
    )
    assert reply["columns"] == [f"c{n}" for n in range(count)]
    assert reply["rows"] == [list(range(count))]


async def test_one_column_too_many_is_a_lesson(any_desk: Desk, backend: str) -> None:
    if backend == "mysql":
        return  # has no limit where no table is read
    refusal = await any_desk.refusal("execute_query", sql=f"SELECT {', '.join('1' for _ in range(5_000))}")
    assert refusal["code"] in {"SYNTAX", "TOO_LARGE"}
    assert refusal["retry"] == "fix_sql"


async def test_columns_of_one_name_keep_their_values_apart(any_desk: Desk) -> None:
    reply = strictly(await any_desk.text("execute_query", sql="SELECT 1 AS a, 2 AS a, 3 AS b, 4 AS a"))
    assert (reply["columns"], reply["rows"]) == (["a", "a", "b", "a"], [[1, 2, 3, 4]])


async def test_bytes_that_are_no_text_are_shown_as_bytes(any_desk: Desk, backend: str) -> None:
    assert await only_row(any_desk, f"SELECT {BYTES[backend]} AS b") == [{"$bytes": "/0E="}]
    if backend == "sqlite":  # where a text may hold any bytes
        assert await only_row(any_desk, "SELECT CAST(x'ff41' AS text) AS t") == [{"$bytes": "/0E="}]


async def test_rows_without_columns_are_counted(any_desk: Desk, backend: str) -> None:
    if backend == "postgresql":  # the others have none
        reply = strictly(await any_desk.text("execute_query", sql="SELECT FROM generate_series(1, 3)"))
        assert (reply["rows"], reply["row_count"]) == ([[], [], []], 3)
        assert reply.get("columns", []) == []
