"""The tables that a statement names, best effort: error messages teach with them, nothing is decided by them."""

from collections.abc import Iterator

from manydb.dialects.grammar import Grammar, Source, unquote

_BEFORE_TABLE = frozenset({"FROM", "JOIN", "STRAIGHT_JOIN", "INTO", "UPDATE", "TABLE", "DESCRIBE", "DESC", "EXPLAIN"})
_SKIPPED = frozenset({"ONLY", "LATERAL", "(", "IF", "NOT", "EXISTS"})
_NOT_A_TABLE = frozenset({
    "SELECT", "WITH", "VALUES", "SET", "FROM", "ANALYZE", "VERBOSE", "FORMAT", "QUERY", "EXTENDED",
    "PARTITIONS", "LOW_PRIORITY", "IGNORE", "STATUS",
})  # fmt: skip
_ENDS_LIST = frozenset({
    "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "FETCH", "WINDOW", "UNION", "INTERSECT", "EXCEPT",
    "ON", "USING", "FROM", "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "NATURAL", "STRAIGHT_JOIN", "FOR", "SET",
    "RETURNING", "SELECT", ")",
})  # fmt: skip


def named(source: Source, grammar: Grammar) -> tuple[tuple[str | None, str], ...]:
    """(schema or None, name) for each table, without duplicates and without common table expressions."""
    expressions = set(_common_table_expressions(source, grammar))
    found: dict[tuple[str | None, str], None] = {}
    for index in source.at(*_BEFORE_TABLE):
        if not source.is_member(index) and not _is_other_from(source, index):
            for table in _list(source, index + 1, several=source.keys[index] == "FROM"):
                if table[0] is not None or table[1].lower() not in expressions:
                    found[table] = None
    return tuple(found)


def _common_table_expressions(source: Source, grammar: Grammar) -> Iterator[str]:
    opening = {end: start for start, end in source.closing.items()}
    for index in source.at("AS"):
        if source.key(index + 1) in ("(", "MATERIALIZED", "NOT"):
            before = index - 1
            if source.key(before) == ")":
                before = opening[before] - 1
            if before > 0 and source.key(before - 1) in ("WITH", "RECURSIVE", ","):
                yield grammar.name(source.tokens[before]).lower()


def _is_other_from(source: Source, index: int) -> bool:
    """IS DISTINCT FROM; and the FROM of extract(year FROM x), substring, trim, overlay."""
    if source.key(index) == "DESC":
        return index > 0
    if source.key(index) != "FROM":
        return False
    if source.key(index - 1) == "DISTINCT":
        return True
    depth = 0
    for before in range(index - 1, max(index - 40, -1), -1):
        key = source.key(before)
        depth += (key == ")") - (key == "(")
        if depth < 0:
            return source.key(before + 1) not in ("SELECT", "WITH", "DELETE", "(")
        if depth == 0 and key in ("SELECT", "DELETE"):
            return False
    return False


def _list(source: Source, index: int, *, several: bool) -> Iterator[tuple[str | None, str]]:
    """The table at *index*, and after FROM those behind commas."""
    while index < len(source.keys):
        while source.key(index) in _SKIPPED:
            index += 1
        parts: list[str] = []
        while index < len(source.tokens) and source.tokens[index].kind in ("word", "name"):
            parts.append(unquote(source.tokens[index].text))
            index += 1
            if source.key(index) != ".":
                break
            index += 1
        is_keyword = len(parts) == 1 and source.key(index - 1) in _NOT_A_TABLE
        is_call = several and source.key(index) == "("
        if parts and not is_keyword and not is_call:
            yield (parts[-2] if len(parts) > 1 else None, parts[-1])
        while (
            several and index < len(source.keys) and source.keys[index] != "," and source.keys[index] not in _ENDS_LIST
        ):
            index = source.closing.get(index, index) + 1
        if not several or source.key(index) != ",":
            return
        index += 1
