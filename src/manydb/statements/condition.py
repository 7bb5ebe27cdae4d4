"""Which rows an UPDATE or DELETE is about: its own condition, as a query of the same text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manydb.dialects.grammar import Source
from manydb.lexer import tokenize
from manydb.statements.reading import Statement

_ENDS = frozenset({"WHERE", "RETURNING", "ORDER", "LIMIT"})
_MODIFIERS = frozenset({"LOW_PRIORITY", "QUICK", "IGNORE", "FROM", "ONLY"})
_SEVERAL = frozenset({"FROM", "USING", "JOIN", ",", "OR", "PARTITION", "("})


@dataclass(frozen=True, slots=True)
class Condition:
    """*table* is written as in the statement, its alias included; *where* is the rest that chooses rows, or ""."""

    table: str
    where: str
    first: int
    """Placeholders of the statement before the condition."""

    @property
    def sql(self) -> str:
        """The rows before the statement changes them."""
        return f"SELECT * FROM {self.table} {self.where}".rstrip()

    def params(self, given: Any, wanted: Statement) -> Any:
        """Those of the statement's params that the condition, read as *wanted*, has placeholders for."""
        if isinstance(given, Mapping):
            names = {placeholder.name for placeholder in wanted.placeholders}
            return {name: value for name, value in given.items() if name in names} or None
        if isinstance(given, Sequence) and wanted.placeholders:
            return list(given[self.first : self.first + len(wanted.placeholders)])
        return None


def condition(statement: Statement) -> Condition | None:
    """Of an UPDATE or DELETE of one table; None for every other statement, and where it cannot be told apart."""
    source = Source.of(tokenize(statement.sql, statement.grammar.lexicon))
    verb = source.key(0)
    if verb not in ("UPDATE", "DELETE") or statement.kind != "write":
        return None
    if any(placeholder.style == "numbered" for placeholder in statement.placeholders):
        return None  # its numbers would begin in the middle
    start = 1
    while source.key(start) in _MODIFIERS and not source.is_member(start):
        start += 1
    end = _outside(source, start, frozenset({"SET"}) if verb == "UPDATE" else _ENDS)
    chosen = _outside(source, end, _ENDS)
    after = _outside(source, chosen, frozenset({"RETURNING"}))
    between = {*source.keys[start:end], *(source.keys[index] for index in _top(source, end, chosen))}
    if (
        end == start
        or not _SEVERAL.isdisjoint(between - ({","} if verb == "UPDATE" else set()))
        or ("," in source.keys[start:end])
    ):
        return None
    table = statement.sql[source.tokens[start].start : source.tokens[end - 1].end]
    where = statement.sql[source.tokens[chosen].start : source.tokens[after - 1].end] if chosen < after else ""
    at = source.tokens[chosen].start if chosen < len(source.tokens) else len(statement.sql)
    return Condition(table, where, sum(placeholder.start < at for placeholder in statement.placeholders))


def _top(source: Source, index: int, end: int) -> list[int]:
    """The tokens from *index* to *end* that stand in no brackets."""
    found = []
    while index < end:
        if index not in source.closing:
            found.append(index)
        index = source.closing.get(index, index) + 1
    return found


def _outside(source: Source, index: int, keys: frozenset[str]) -> int:
    """Where the first of *keys* outside brackets stands, from *index* on; else the end."""
    last = len(source.keys)
    return next((each for each in _top(source, index, last) if source.keys[each] in keys), last)


def names(statement: Statement) -> frozenset[str]:
    """Every name in the text, folded: those of its tables are among them."""
    tokens = tokenize(statement.sql, statement.grammar.lexicon)
    grammar = statement.grammar
    return frozenset(grammar.name(token).lower() for token in tokens if token.kind in ("word", "name"))
