"""SQLite's statements: which are reads, and which pragmas and functions a read may use.

The pragmas are those that the connection's authorizer lets through; here they get an answer that teaches.
"""

from manydb.dialects.grammar import KINDS, Command, Grammar, Refusal, Source, functions, unquote
from manydb.errors import Forbidden, ReadOnly, SqlSyntax
from manydb.lexer import Lexicon

_QUERY_WORDS = frozenset({"SELECT", "WITH", "VALUES"})  # a statement may not begin with a bracket here

READING_PRAGMAS = frozenset({
    "application_id", "collation_list", "compile_options", "data_version", "database_list", "encoding",
    "foreign_keys", "freelist_count", "function_list", "journal_mode", "module_list", "page_count", "page_size",
    "pragma_list", "query_only", "read_uncommitted", "schema_version", "table_list", "user_version",
})  # fmt: skip
DESCRIBING_PRAGMAS = frozenset({
    "table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list",
})  # fmt: skip
_PRAGMA_SUGGESTION = f"read with {', '.join(sorted(DESCRIBING_PRAGMAS))} (table or index), user_version, table_list …"

_FUNCTION_RULES = (
    functions(r"load_extension | fts3_tokenizer", "loads code into the database"),
    functions(r"readfile | writefile | edit | fsdir | lsdir | zipfile", "reaches the files of the server"),
)


def _explain(source: Source) -> Command | Refusal:
    index = 3 if (source.key(1), source.key(2)) == ("QUERY", "PLAN") else 1
    if source.key(index) in _QUERY_WORDS:
        return Command("explain", index)
    return Refusal(ReadOnly, "EXPLAIN here takes a query only", "EXPLAIN QUERY PLAN SELECT …")


def _pragma(source: Source) -> Command | Refusal:
    index = 3 if source.key(2) == "." else 1
    if index >= len(source.tokens) or source.tokens[index].kind not in ("word", "name"):
        return Refusal(SqlSyntax, "PRAGMA needs a name", _PRAGMA_SUGGESTION)
    name, rest = unquote(source.tokens[index].text).lower(), source.tokens[index + 1 :]
    if not rest and name in READING_PRAGMAS | DESCRIBING_PRAGMAS:
        return Command("pragma")
    if name in DESCRIBING_PRAGMAS and (source.key(index + 1) == "=" or source.closing.get(index + 1) == index + 3):
        return Command("pragma")
    changes = "is set" if rest else "acts or is not known to only read"
    return Refusal(Forbidden, f"PRAGMA {name} {changes}", _PRAGMA_SUGGESTION)


_MARKS = frozenset("$@:#")


def _pragma_tables(source: Source) -> Refusal | None:
    for token in source.tokens:
        if token.kind not in ("word", "name") or "pragma_" not in token.text.lower():
            continue
        name = unquote(token.text).lower()
        if name.startswith("pragma_") and name.removeprefix("pragma_") not in READING_PRAGMAS | DESCRIBING_PRAGMAS:
            return Refusal(Forbidden, f"{name} is not among the pragmas that reads may use", _PRAGMA_SUGGESTION)
    return None


def _long_parameters(source: Source) -> Refusal | None:
    """`$name(…)` and `$a::b` are one parameter here, whatever stands in the brackets."""
    if _MARKS.isdisjoint(source.places):
        return None
    for index, token in enumerate(source.tokens[1:-1], start=1):
        touches = source.tokens[index - 1].end == token.start and source.tokens[index + 1].start == token.end
        if source.keys[index - 1] in _MARKS and touches and source.keys[index + 1] in ("(", "::"):
            return Refusal(
                SqlSyntax, "a placeholder is followed by ( or ::", "put a space after the placeholder's name"
            )
    return None


GRAMMAR = Grammar(
    lexicon=Lexicon(name_quotes='"`', bracket_names=True),
    query_words=_QUERY_WORDS,
    commands={"EXPLAIN": _explain, "PRAGMA": _pragma},
    kinds={**KINDS, "TABLE": "other", "(": "other", "VACUUM": "other", "ANALYZE": "other"},
    always=(_pragma_tables, _long_parameters),
    definable=frozenset({"TABLE", "VIEW", "INDEX", "TRIGGER"}),
    function_rules=_FUNCTION_RULES,
    expanding_functions=frozenset({"zeroblob", "randomblob"}),
    template_functions=frozenset({"printf", "format"}),
    placeholder_marks=":@$",
    parser="sqlite",
)
