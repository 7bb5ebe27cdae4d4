import re
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manydb import lexer
from manydb.dialects.mysql.grammar import GRAMMAR as MYSQL
from manydb.dialects.postgresql.grammar import GRAMMAR as POSTGRESQL
from manydb.dialects.sqlite.grammar import GRAMMAR as SQLITE
from manydb.errors import SqlSyntax, TooLarge
from manydb.lexer import Lexicon, tokenize

STANDARD = Lexicon()
LEXICONS = [STANDARD, POSTGRESQL.lexicon, MYSQL.lexicon, SQLITE.lexicon]
BLANKS = re.compile(r"[ \t\n\r\f]*")

# Pieces that begin, end or escape something somewhere.
PIECES = [
    "'",
    '"',
    "`",
    "\\",
    "--",
    "/*",
    "*/",
    "#",
    "$$",
    "$a$",
    "E'",
    'U&"',
    "/*!",
    "\n",
    "\r",
    " ",
    ";",
    "x",
    "1",
    "[",
    "]",
    "é",
]
HOSTILE_TEXT = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=60)


def kinds(sql: str, lexicon: Lexicon) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in tokenize(sql, lexicon)]


@given(HOSTILE_TEXT, st.sampled_from(LEXICONS))
def test_any_text_gives_tokens_or_our_own_errors(sql: str, lexicon: Lexicon) -> None:
    try:
        tokens = tokenize(sql, lexicon)
    except (SqlSyntax, TooLarge):
        return
    assert all(sql[token.start : token.end] == token.text for token in tokens)
    edges = [0, *(edge for token in tokens for edge in (token.start, token.end)), len(sql)]
    gaps = [sql[start:end] for start, end in list(pairwise(edges))[::2]]
    assert all(BLANKS.fullmatch(gap) for gap in gaps)
    assert "".join(gap + text for gap, text in zip(gaps, [*(token.text for token in tokens), ""], strict=True)) == sql


@pytest.mark.parametrize(
    ("sql", "lexicon", "last"),
    [
        (r"'a\'' x", MYSQL.lexicon, "x"),
        (r"'a\' x", POSTGRESQL.lexicon, "x"),
        (r"E'a\'' x", POSTGRESQL.lexicon, "x"),
        ("E'a' -- note\n '\\'; y' x", POSTGRESQL.lexicon, "x"),
        ("'a'\n'\\' x", POSTGRESQL.lexicon, "x"),
        ("be'a\\' x", POSTGRESQL.lexicon, "x"),
        ("$$ ' $$ x", POSTGRESQL.lexicon, "x"),
        ("$a$ $$ $b$ $a$ x", POSTGRESQL.lexicon, "x"),
        ("a$$b$$", POSTGRESQL.lexicon, "a$$b$$"),
        ("/* /* */ ' */ x", POSTGRESQL.lexicon, "x"),
        ("/* /* */ x", MYSQL.lexicon, "x"),
        ("-- ' \r x", POSTGRESQL.lexicon, "x"),
        ("1 -- \r x", SQLITE.lexicon, "-- \r x"),
        ("1 # '\n x", MYSQL.lexicon, "x"),
        ("1--x", MYSQL.lexicon, "x"),
        ("1--x", POSTGRESQL.lexicon, "--x"),
        ("[a'] x", SQLITE.lexicon, "x"),
        ("`a``'` x", MYSQL.lexicon, "x"),
        ('"a\\"" x', MYSQL.lexicon, "x"),
    ],
)
def test_quotes_and_comments_end_where_the_database_ends_them(sql: str, lexicon: Lexicon, last: str) -> None:
    assert tokenize(sql, lexicon)[-1].text == last


def test_words_numbers_and_operators_are_told_apart() -> None:
    assert kinds("a::int:=$1 1e1INTO .5x", POSTGRESQL.lexicon) == [
        ("word", "a"), ("operator", "::"), ("word", "int"), ("operator", ":="), ("parameter", "$1"),
        ("number", "1e1"), ("word", "INTO"), ("number", ".5"), ("word", "x"),
    ]  # fmt: skip


def test_comments_that_the_server_executes_are_code() -> None:
    assert kinds("/*!50000 1 */", MYSQL.lexicon)[0] == ("code", "/*!")
    assert kinds("/*M! 1 */", MYSQL.lexicon)[0] == ("code", "/*M!")


@pytest.mark.parametrize("lexicon", LEXICONS)
@pytest.mark.parametrize(
    "sql",
    ["SELECT 'a", 'SELECT "a', "SELECT /* a", "SELECT (1", "SELECT 1)", "a\0b", "a\ud83d", "a\x01b", "a\x0bb"]
    + [f"SELECT 1{char}" for char in "\u00a0\u1680\u2003\u200b\u2028\u202e\u3000\ufeff\x85\x7f"],
)  # fmt: skip
def test_what_cannot_be_read_exactly_is_refused(sql: str, lexicon: Lexicon) -> None:
    if sql == 'SELECT "a':
        sql = f"SELECT {lexicon.name_quotes[0]}a"
    with pytest.raises(SqlSyntax):
        tokenize(sql, lexicon)


@pytest.mark.parametrize("lexicon", LEXICONS)
def test_odd_characters_inside_quotes_and_comments_are_the_writers_business(lexicon: Lexicon) -> None:
    assert tokenize("SELECT '\u00a0\u200b😀' /* \u3000 */ AS größe", lexicon)[-1].text == "größe"


def test_texts_too_long_or_too_deep_are_refused() -> None:
    with pytest.raises(TooLarge):
        tokenize("x" * (lexer.MAX_CHARACTERS + 1), STANDARD)
    with pytest.raises(TooLarge):
        tokenize("(" * 201 + ")" * 201, STANDARD)
    assert len(tokenize("(" * 200 + ")" * 200, STANDARD)) == 400


@pytest.mark.parametrize("lexicon", LEXICONS)
def test_every_repetition_in_the_pattern_is_possessive(lexicon: Lexicon) -> None:
    # A repetition that never gives back what it took cannot backtrack: the time is linear by construction.
    outside_classes = re.sub(r"\[[^\]]*\]", "", re.sub(r"\\.", "", lexicon.pattern.pattern))
    assert set(re.findall(r"[*+]\+?", outside_classes)) <= {"*+", "++"}


@pytest.mark.parametrize("lexicon", LEXICONS)
@pytest.mark.parametrize("piece", ["'", "''", "/*", "/* */", "$$", "E'x'\n", "--", "-", "\\", "1.", "x ", "E'\\'"])
def test_hostile_repetitions_give_at_most_one_token_a_character(piece: str, lexicon: Lexicon) -> None:
    sql = (piece * lexer.MAX_CHARACTERS)[: lexer.MAX_CHARACTERS]
    with suppress(SqlSyntax):
        assert len(tokenize(sql, lexicon)) <= len(sql)
