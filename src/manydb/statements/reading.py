"""One statement's text → Statement; the rules of a read applied to it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from manydb import slices
from manydb.dialects.catalog import OPERATOR
from manydb.dialects.grammar import (
    WRITES,
    Check,
    Form,
    Grammar,
    Kind,
    Refusal,
    Source,
    refuse_definitions,
    refuse_functions,
    refuse_wide_templates,
)
from manydb.errors import Forbidden, ManydbError, MultipleStatements, ReadOnly, SqlSyntax, TooLarge
from manydb.lexer import MAX_CHARACTERS, Token, tokenize
from manydb.statements import tables
from manydb.statements.placeholders import Placeholder, find
from manydb.statements.shapes import shape

_CACHED_CHARACTERS = 10_000  # longer texts are parsed anew, so that the cache stays within some megabytes
_CACHE_SIZE = 512
_SIGNS = frozenset("+-*/<>=~!@#%^&|`?")  # what an operator is made of

_FENCE = re.compile(r"\A```(?:[\w+-]*[ \t]*\r?\n)?(.*?)\s*```\Z", re.DOTALL)
_BLANKS = " \t\r\n\f\v"
_MAIN_WORDS = frozenset({"SELECT", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"})
_MODIFYING = {
    "INSERT": "INTO",
    "DELETE": "FROM",
    "MERGE": "INTO",
    "UPDATE": "SET",
}  # verb → a word it cannot do without
_SUBQUERY_WORDS = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})
_BEFORE_DEFINITION = frozenset({"AS", "WITH", "RECURSIVE", "TABLESAMPLE"})  # name(…) after these is no call
_ROUTINES = frozenset({"TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "PACKAGE"})

_KIND_REFUSALS: dict[Kind, tuple[type[ReadOnly | Forbidden], str, str]] = {
    "write": (ReadOnly, "writes or may write", "these tools only read: ask the user to make the change"),
    "ddl": (
        ReadOnly,
        "changes the schema or its rights",
        "these tools only read: ask the user to make the change",
    ),
    "transaction": (Forbidden, "controls a transaction; every read already has one of its own", "send the query alone"),
    "session": (Forbidden, "changes the session or its locks, which is shared", "send the query alone"),
}


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, and what its text alone tells.

    *sql* is exactly what is sent. *verb* is the word that does the work: DELETE in `WITH … DELETE`. *form* tells how a
    read is run; *explained* is the query inside an EXPLAIN. *tables* are (schema or None, name) in order of appearance,
    best effort, for error messages. *functions* are all names that are called, or may be. *refusal* is None for a read.
    *sweeping* tells that rows are updated or deleted without a condition.
    """

    sql: str
    kind: Kind
    verb: str
    form: Form
    grammar: Grammar = field(repr=False)
    tables: tuple[tuple[str | None, str], ...] = ()
    functions: tuple[str, ...] = ()
    placeholders: tuple[Placeholder, ...] = ()
    refusal: Refusal | None = None
    explained: str | None = None
    sweeping: bool = False


def parse(sql: str, grammar: Grammar) -> Statement:
    """Read one statement; equal texts are parsed once.

    Blanks around it, a Markdown fence, and a closing `;` with what follows it are dropped; nothing else is changed.
    Raises SqlSyntax (nothing there, or not readable exactly), MultipleStatements and TooLarge.
    """
    if len(sql) <= _CACHED_CHARACTERS:
        plain = shape(text := sql.strip(_BLANKS))
        known = _plain_read(plain, grammar) if plain else None
        return replace(known, sql=text) if known else _parse_cached(sql, grammar)
    with slices.uncollected():  # a token a word: tens of thousands
        return _parse(sql, grammar)


def require_read(statement: Statement) -> None:
    """Raise ReadOnly or Forbidden (SqlSyntax for text that hides what it means) unless *statement* is a read."""
    if statement.refusal:
        raise statement.refusal.as_error()


def require_safe(statement: Statement) -> None:
    """Raise Forbidden (SqlSyntax for text that hides what it means) for what may run with no access at all."""
    source = Source.of(tokenize(statement.sql, statement.grammar.lexicon))
    work = _work(source, statement.grammar)
    if hazard := work.refusal or _hazard(work, source, statement.grammar):
        raise hazard.as_error()


def check_functions(statement: Statement, volatile: frozenset[str]) -> None:
    """Raise Forbidden if a function that the catalog calls *volatile* is called, except those that only compute.

    Functions stand in *volatile* with their names, operators as `operator @+`, and the words that stand for an
    operator as `operator LIKE`.
    """
    for name in statement.functions:
        if name in volatile and not statement.grammar.harmless_functions.fullmatch(name):
            raise Forbidden(
                f"{name}() is declared as a function that may act, not only compute",
                suggestions=[
                    "leave the call out, or have it declared STABLE, IMMUTABLE or READS SQL DATA if it only reads"
                ],
            )
    acting = _operators_of(volatile)
    found = next((name for name in _operators(statement) if name in acting), None) if acting else None
    if found:
        raise Forbidden(
            f"the operator {found} may be a function that is declared as one that may act, not only compute",
            suggestions=["leave the operator out, or have its function declared STABLE or IMMUTABLE if it only reads"],
        )


@lru_cache(maxsize=64)  # the catalog names hundreds of functions, and hardly ever an operator
def _operators_of(volatile: frozenset[str]) -> frozenset[str]:
    return frozenset(name.removeprefix(OPERATOR) for name in volatile if name.startswith(OPERATOR))


def _operators(statement: Statement) -> Iterator[str]:
    """All that may be an operator in *statement*, and its bare words in upper case."""
    tokens = tokenize(statement.sql, statement.grammar.lexicon)
    yield from (token.text.upper() for token in tokens if token.kind == "word")
    signs = [token for token in tokens if token.kind == "operator" and token.text in _SIGNS]
    # A mark that looks like a placeholder is sent as one, or as a sign.
    marks = {placeholder.start for placeholder in statement.placeholders}
    yield from _runs(signs)
    yield from _runs([token for token in signs if token.start not in marks])


def _runs(signs: Iterable[Token]) -> Iterator[str]:
    """The operators that *signs* make: those that touch are one, but plus and minus at its end may be their own."""
    runs: list[str] = []
    end = -1
    for token in signs:
        if token.start == end:
            runs[-1] += token.text
        else:
            runs.append(token.text)
        end = token.end
    for run in dict.fromkeys(runs):
        body = run.rstrip("+-")
        yield from (run, body, *run[len(body) :])
        if body == "!=":
            yield "<>"


def _parse(sql: str, grammar: Grammar) -> Statement:
    if len(sql) > MAX_CHARACTERS:
        raise TooLarge(f"the statement has {len(sql):,} characters; the most is {MAX_CHARACTERS:,}")
    text = _unfenced(sql)
    text, tokens = _single(text, tokenize(text, grammar.lexicon))
    source = Source.of(tokens)
    if not source.tokens:
        raise SqlSyntax("there is no statement", suggestions=["send one SQL statement"])
    functions = _functions(source, grammar)
    work = _work(source, grammar)
    return Statement(
        sql=text,
        kind=work.kind,
        verb=work.verb,
        form=work.form,
        grammar=grammar,
        tables=tables.named(source, grammar),
        functions=functions,
        placeholders=find(source, grammar),
        refusal=work.refusal or _refusal(work, source, grammar, functions),
        explained=text[source.tokens[work.query].start :] if work.query is not None else None,
        sweeping=work.kind == "write" and _is_sweeping(source),
    )


_parse_cached = lru_cache(maxsize=_CACHE_SIZE)(_parse)


@lru_cache(maxsize=_CACHE_SIZE)
def _plain_read(sql: str, grammar: Grammar) -> Statement | None:
    """What all texts of the shape *sql* are; None where that is anything but a query that may run."""
    try:
        found = _parse(sql, grammar)
    except ManydbError:  # each is told of its own text
        return None
    is_plain = found.kind == "read" and found.form == "query" and found.refusal is None and found.sql == sql
    if not is_plain or found.placeholders or found.explained is not None:
        return None
    # What these functions are asked for is read off the numbers behind them, wherever they stand.
    asked = grammar.expanding_functions | grammar.template_functions
    names = {grammar.name(token) for token in tokenize(sql, grammar.lexicon) if token.kind == "word"}
    return found if asked.isdisjoint(names) else None


def _unfenced(sql: str) -> str:
    text = sql.strip(_BLANKS)
    fenced = _FENCE.match(text) if text.startswith("```") else None
    return fenced.group(1).strip(_BLANKS) if fenced else text


def _single(text: str, tokens: list[Token]) -> tuple[str, list[Token]]:
    """The text and tokens without the closing `;`. Raises MultipleStatements if a statement follows it."""
    if ";" not in text:
        return text, tokens
    ends = [index for index, token in enumerate(tokens) if token.text == ";"]
    backwards = range(len(tokens) - 1, -1, -1)
    last = next((index for index in backwards if tokens[index].kind != "comment" and tokens[index].text != ";"), -1)
    if ends and ends[0] < last and not _is_routine(tokens[: last + 1], ends[0]):
        raise MultipleStatements("the text holds more than one statement", suggestions=["send one statement a call"])
    end = next((index for index in ends if index > last), None)
    return (text, tokens) if end is None else (text[: tokens[end].start].rstrip(_BLANKS), tokens[:end])


def _is_routine(tokens: list[Token], first: int) -> bool:
    """CREATE TRIGGER … BEGIN …; … END holds semicolons and is one statement; it is never a read."""
    words = [token.text.upper() for token in tokens[:first] if token.kind == "word"]
    return words[:1] == ["CREATE"] and not _ROUTINES.isdisjoint(words) and tokens[-1].text.upper() == "END"


@dataclass(frozen=True, slots=True)
class _Work:
    """What a statement does: the word that does it, and how it would be run as a read."""

    verb: str
    kind: Kind
    form: Form = "other"
    query: int | None = None  # the first token of an explained query
    refusal: Refusal | None = None


def _work(source: Source, grammar: Grammar) -> _Work:
    first = source.keys[0]
    reader = grammar.commands.get(first)
    if reader is None:
        return _query_work(source, grammar, 0, "query")
    command = reader(source)
    if isinstance(command, Refusal):
        return _Work(first, grammar.kinds.get(first, "other"), refusal=command)
    if command.query is None:
        return _Work(first, "read", command.form)
    # An explained query counts as what it explains: EXPLAIN ANALYZE runs it.
    inner = _query_work(source, grammar, command.query, command.form)
    return replace(inner, verb=first if inner.kind == "read" else inner.verb, query=command.query)


def _query_work(source: Source, grammar: Grammar, start: int, form: Form) -> _Work:
    main = _main(source, start)
    verb = source.key(main) if main is not None else source.keys[start]
    kind = grammar.kinds.get(verb, "other")
    if kind != "read":
        return _Work(verb or source.tokens[start].text, kind)
    if source.keys[start] not in grammar.query_words:
        return _Work(verb, "other")
    modifying = next(_modifying_expressions(source), None)
    return _Work(modifying, "write") if modifying else _Work(verb, "read", form)


def _main(source: Source, index: int) -> int | None:
    """The token that begins the statement proper: behind opening brackets and a WITH clause; None if there is none."""
    while True:
        while source.key(index) == "(":
            index += 1
        if source.key(index) != "WITH":
            return index
        index = _after_with(source, index)
        if source.key(index) != "(":
            return index if source.key(index) in _MAIN_WORDS else None


def _after_with(source: Source, index: int) -> int:
    """Where the statement after the WITH clause at *index* begins: at its verb, or at a bracket around it."""
    index += 1
    while index < len(source.keys):
        key, before = source.keys[index], source.keys[index - 1]
        if key == "(" and before != ")":
            index = source.closing[index]
        elif key in ("(", ")") or (key in _MAIN_WORDS and before not in ("WITH", "RECURSIVE", ",")):
            return index
        index += 1
    return index


def _modifying_expressions(source: Source) -> Iterator[str]:
    """The verbs of data-modifying common table expressions: `AS (DELETE FROM …)`, also behind a WITH of their own."""
    for index in [before + 1 for before in source.at("AS", "MATERIALIZED") if source.key(before + 1) == "("]:
        main = _main(source, index + 1)
        verb = source.key(main) if main is not None else ""
        if (
            main is not None
            and verb in _MODIFYING
            and _MODIFYING[verb] in source.keys[main + 1 : source.closing[index]]
        ):
            yield verb


def _functions(source: Source, grammar: Grammar) -> tuple[str, ...]:
    """The names that stand before a `(`, and the fields of values, which may be functions of them."""
    called = {index - 1 for index in source.at("(") if source.key(index - 2) not in _BEFORE_DEFINITION}
    if grammar.fields_call_functions:
        called |= _fields_of_values(source, grammar)
    return _names(source, grammar, called)


def _names(source: Source, grammar: Grammar, places: Iterable[int]) -> tuple[str, ...]:
    tokens = (source.tokens[index] for index in sorted(places) if 0 <= index < len(source.tokens))
    return tuple(dict.fromkeys(grammar.name(token) for token in tokens if token.kind in ("word", "name")))


def _fields_of_values(source: Source, grammar: Grammar) -> set[int]:
    """Where f stands in `(x).f`, `a[1].f`, `$1.f`, and in `x.f` with x for what a function in FROM returned."""
    found: set[int] = set()
    values = _function_aliases(source, grammar)
    for dot in source.at("."):
        owner = source.tokens[max(dot - 1, 0)]
        is_value = owner.kind == "parameter" or source.key(dot - 1) in (")", "]") or dot - 1 in found
        if is_value or (owner.kind in ("word", "name") and grammar.name(owner) in values):
            found.add(dot + 1)
    return found


def _function_aliases(source: Source, grammar: Grammar) -> set[str]:
    """Names that may stand for what a function in FROM returned: its own, and what follows its brackets."""
    places: set[int] = set()
    for opening in source.at("("):
        after = source.closing[opening] + 1
        if source.key(opening + 1) not in _SUBQUERY_WORDS:
            after += 2 * (source.key(after) == "WITH" and source.key(after + 1) == "ORDINALITY")
            places |= {opening - 1, after + (source.key(after) == "AS")}
    return set(_names(source, grammar, places))


def _refusal(work: _Work, source: Source, grammar: Grammar, functions: tuple[str, ...]) -> Refusal | None:
    if work.kind in _KIND_REFUSALS:
        error, does, suggestion = _KIND_REFUSALS[work.kind]
        return Refusal(error, f"{work.verb} {does}", suggestion)
    if work.kind == "other":
        # A word that begins no statement anywhere is a slip of the pen.
        unreadable = Forbidden if work.verb in grammar.kinds else SqlSyntax
        return Refusal(unreadable, f"{work.verb} is not a read", f"a read begins with {grammar.beginnings}")
    refusal = _first((*grammar.always, *grammar.checks), source)
    if grammar.fields_call_functions:
        # Of a table's row, too: these names are few, and no column is called like one.
        functions += _names(source, grammar, (dot + 1 for dot in source.at(".")))
    return refusal or refuse_functions(source, grammar, functions) or refuse_wide_templates(source, grammar)


def _hazard(work: _Work, source: Source, grammar: Grammar) -> Refusal | None:
    """What no access permits, in a statement that may write."""
    functions = _functions(source, grammar)
    if work.verb == "VACUUM":
        return Refusal(Forbidden, "VACUUM runs in no transaction, and statements here do", "ANALYZE")
    if work.kind == "write" and work.verb not in WRITES:
        suggestion = "insert_rows and export_query move many rows; routines are called by an application"
        return Refusal(Forbidden, f"{work.verb} is not open to any access", suggestion)
    if grammar.fields_call_functions:
        functions += _names(source, grammar, (dot + 1 for dot in source.at(".")))
    return (
        (refuse_definitions(source, grammar, work.verb) if work.kind == "ddl" else None)
        or _first(grammar.always, source)
        or refuse_functions(source, grammar, functions, writes=True)
        or refuse_wide_templates(source, grammar)
    )


def _first(checks: Iterable[Check], source: Source) -> Refusal | None:
    return next((refusal for check in checks if (refusal := check(source))), None)


def _is_sweeping(source: Source) -> bool:
    """UPDATE or DELETE anywhere without a WHERE of its own: between the verb and the end of the brackets around it."""
    ends = sorted((closing, opening) for opening, closing in source.closing.items())
    for index in source.at("UPDATE", "DELETE"):
        if source.is_member(index) or source.key(index - 1) in ("FOR", "ON", "DO", "KEY", "THEN", "BEFORE", "AFTER"):
            continue  # FOR UPDATE; ON UPDATE, ON DUPLICATE KEY UPDATE, DO UPDATE, WHEN MATCHED THEN UPDATE
        end = next((closing for closing, opening in ends if opening < index < closing), len(source.keys))
        if not _has_where(source, index + 1, end):
            return True
    return False


def _has_where(source: Source, index: int, end: int) -> bool:
    while index < end:
        if source.keys[index] == "WHERE":
            return True
        index = source.closing.get(index, index) + 1
    return False
