"""A parser library's opinion of a statement. It may only refuse: where it cannot parse, it has none."""

from functools import lru_cache
from typing import TYPE_CHECKING

from manydb.dialects.grammar import Grammar, Refusal
from manydb.errors import ReadOnly

if TYPE_CHECKING:
    from manydb.statements.reading import Statement

_LONGEST = 10_000  # characters; the time to parse grows with the text, on the event loop
_REFUSED_NODES = (
    "Insert", "Update", "Delete", "Merge", "Create", "Drop", "Alter", "TruncateTable", "Into", "Lock", "Set", "Use",
    "Transaction", "Commit", "Rollback", "Copy", "Grant", "Attach", "Detach", "Kill", "LoadData",
)  # fmt: skip


def second_opinion(statement: "Statement") -> Refusal | None:
    """What the parser library holds against *statement*; None if nothing, or if it cannot tell."""
    sql = statement.explained or statement.sql
    if statement.form not in ("query", "explain") or len(sql) >= _LONGEST or statement.grammar.parser is None:
        return None
    return _opinion(sql, statement.grammar)


@lru_cache(maxsize=512)
def _opinion(sql: str, grammar: Grammar) -> Refusal | None:
    import sqlglot  # noqa: PLC0415 - 150 ms, only where it is asked for
    from sqlglot import expressions  # noqa: PLC0415

    refused = tuple(getattr(expressions, name) for name in _REFUSED_NODES if hasattr(expressions, name))
    try:
        trees = [tree for tree in sqlglot.parse(sql, dialect=grammar.parser) if tree is not None]
        if len(trees) != 1:
            return None
        node = trees[0].find(*refused)
    except Exception:  # noqa: BLE001 - it raises many things, RecursionError too, on SQL that databases take; then it has no opinion
        return None
    if node is None:
        return None
    message = f"the statement seems to hold {type(node).__name__.upper()}, which is not part of a read"
    return Refusal(ReadOnly, message, "write it as a plain SELECT")
