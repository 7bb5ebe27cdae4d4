"""A policy's verdict on a statement, before it runs; and what of its rows to conceal, after it ran."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from manydb import lineage
from manydb.dialects.grammar import unquote
from manydb.errors import Forbidden
from manydb.lexer import Token, tokenize
from manydb.policy.access import Policy
from manydb.statements import Placeholder, Statement

CONCEALED = "•••"
"""What stands for every value of a masked column, NULL too: even that there is none is not told."""

_PLAIN_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A statement may run; *masked* are the positions to conceal in its rows.

    *columns* are the names that its result is predicted to have (None where only the database knows), empty where
    nothing is masked.
    """

    columns: tuple[str | None, ...] = ()
    masked: tuple[int, ...] = ()

    def conceal(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
        """*rows* without the values of masked columns. Raises Forbidden if the result is not the predicted one."""
        if not self.masked:
            return list(rows)
        expected = [None if name is None else lineage.fold(name) for name in self.columns]
        found = [lineage.fold(name) for name in columns]
        if len(found) != len(expected) or any(a not in (None, b) for a, b in zip(expected, found, strict=True)):
            raise Forbidden(
                "the columns that came back are not the ones that were to be masked",
                suggestions=["name the columns instead of *, or try again: the schema may have changed"],
            )
        masked = frozenset(self.masked)
        return [[CONCEALED if index in masked else cell for index, cell in enumerate(row)] for row in rows]


OPEN = Verdict()


@dataclass(frozen=True, slots=True)
class BlockedReads:
    """What an authorizer may refuse to read (*tables*) or read as NULL (*columns*: table, column), names folded."""

    tables: frozenset[str]
    columns: frozenset[tuple[str, str]]


# Relations that quote values of any table, or hold raw pages of it: of all databases, since their names are their own.
_TELLTALE_RELATIONS = re.compile(
    r"pg_stats(_ext(_exprs)?)? | pg_statistic(_ext_data)? | pg_stat_(activity|statements(_info)?)"
    r"| pg_prepared_statements | column_stat(istic)?s | innodb_ft_\w+ | innodb_locks | optimizer_trace"
    r"| events_statements_\w+ | sqlite_stat[34] | sqlite_dbpage | sqlite_stmt",
    re.VERBOSE,
)
_TELLTALE_FUNCTIONS = re.compile(
    r"get_raw_page | heap_page_\w+ | tuple_data_\w+ | (bt|gin|gist|brin|hash)_\w*(page|items|data)\w* | page_header"
    r"| pg_mcv_list_items | pg_stat_get_(backend_)?activity | pg_stat_statements | fsm_page_contents"
    r"| pgstat\w+_sample | analyse",
    re.VERBOSE,
)
# Relations and commands that list the names of tables, hidden ones too.
_LISTING = re.compile(
    r"information_schema | pg_\w+ | sqlite_(master|schema|temp_\w+|sequence|stat\d) | dbstat | pragma_\w+"
    r"| table_list | index_list | index_x?info | foreign_key_list",
    re.VERBOSE,
)
_DEFINING_FUNCTIONS = re.compile(
    r"pg_get_\w*def(_columns)? | pg_get_(expr|partkeydef) | pg_describe_object | \w+_to_xmlschema", re.VERBOSE
)
_LISTING_SHOWS = frozenset({"TABLES", "TABLE", "TRIGGERS", "EVENTS", "OPEN", "FUNCTION", "PROCEDURE", "PACKAGE"})
_INNOCENT_FORMS = frozenset({"COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS", "CREATE"})


@dataclass(frozen=True)
class Guard:
    """A policy's verdicts in one database: worth keeping as long as *catalog* is."""

    policy: Policy
    catalog: lineage.Catalog
    restrictions: lineage.Restrictions

    @classmethod
    def of(cls, policy: Policy, catalog: lineage.Catalog) -> Self:
        return cls(policy, catalog, lineage.Restrictions.of(catalog, policy))

    def judge(self, statement: Statement) -> Verdict:
        """What of the rows to conceal. Raises ReadOnly, Forbidden, and UnknownTable where a table must be resolved."""
        self.policy.require(statement)
        text = _Text.of(statement)
        self._refuse_telltales(text)
        if self.policy.hides:
            self._refuse_listings(statement, text)
        if self.restrictions.routines & text.called or any(
            each in statement.sql for each in self.restrictions.operators
        ):
            raise lineage.unproved("a function that the statement calls may read it", "leave the call out")
        if statement.kind != "read":
            self._judge_change(statement, text)
            return OPEN
        if statement.form not in ("query", "explain"):
            self._judge_command(text)
            return OPEN
        if not self.policy.allow and not text.names & self.restrictions.names:
            return OPEN
        return self._traced(statement)

    def blocked_reads(self) -> BlockedReads:
        """For an authorizer that is asked before each column is read (SQLite's): a wall behind this one."""
        masks = self.restrictions.masks
        # Names are folded and schemas left out: the authorizer of a file knows one schema.
        return BlockedReads(
            frozenset(lineage.fold(address.name) for address in self.restrictions.denied | self.restrictions.opaque),
            frozenset((lineage.fold(address.name), column) for address in masks for column in masks[address]),
        )

    def _traced(self, statement: Statement) -> Verdict:
        sql = _without_placeholders(statement)
        found = lineage.trace(sql, statement.grammar, self.catalog, self.restrictions, self.policy)
        if statement.form == "explain" or not found.masked:
            return OPEN  # a plan holds no values of columns that are only shown
        return Verdict(found.columns, tuple(sorted(found.masked)))

    def _refuse_telltales(self, text: "_Text") -> None:
        for name in sorted(text.names):
            if _TELLTALE_RELATIONS.fullmatch(name) and not self.catalog.find(None, name):
                raise lineage.unproved(f"{name} quotes values of any table", f"leave {name} out")
        for name in sorted(text.called):
            if _TELLTALE_FUNCTIONS.fullmatch(name):
                raise lineage.unproved(f"{name}() shows what tables hold", "leave the call out")

    def _refuse_listings(self, statement: Statement, text: "_Text") -> None:
        listed = [
            name
            for name in sorted(text.names - text.called)
            if _LISTING.fullmatch(name) and not self.catalog.find(None, name)
        ]
        listed += [
            f"{name}()"
            for name in sorted(text.called)
            if _DEFINING_FUNCTIONS.fullmatch(name) or name.startswith("pragma_")
        ]
        if statement.form == "show" and text.commands & _LISTING_SHOWS and not text.commands & _INNOCENT_FORMS:
            listed.append("SHOW " + min(text.commands & _LISTING_SHOWS))
        if listed:
            raise lineage.unproved(f"{listed[0]} lists it", "list_tables and get_table_schema show what may be seen")

    def _judge_command(self, text: "_Text") -> None:
        """SHOW, DESCRIBE, PRAGMA of one table: it must not be a hidden one. They show no values."""
        for address in self.restrictions.denied | self.restrictions.hidden:
            if lineage.fold(address.name) in text.names:
                raise Forbidden(
                    f"{address.name} is not open to this connection", suggestions=["list_tables shows what is"]
                )

    def _judge_change(self, statement: Statement, text: "_Text") -> None:
        """A write may touch nothing restricted at all: it could copy what is masked to where it is not."""
        if statement.verb not in _PLAIN_WRITES:
            raise lineage.unproved(
                f"{statement.verb} could move or rename it", "use a connection without lists and masks"
            )
        named = {lineage.fold(name) for _, name in statement.tables}
        strangers = [name for name in named if not self.catalog.find(None, name)] if self.policy.allow else []
        if touched := sorted(text.names & self.restrictions.names) or strangers:
            raise lineage.unproved(
                f"{touched[0]} has to do with it", "writes may name only tables without hidden or masked data"
            )


@dataclass(frozen=True, slots=True)
class _Text:
    """What a statement's exact tokens say. *names* are folded, and hold strings too; *called* stand before a `(`."""

    names: frozenset[str]
    called: frozenset[str]
    commands: frozenset[str]

    @classmethod
    def of(cls, statement: Statement) -> Self:
        tokens = [each for each in tokenize(statement.sql, statement.grammar.lexicon) if each.kind != "comment"]
        before = [None, *tokens]
        spoken = [each for each, last in zip(tokens, before, strict=False) if _may_name(each, last)]
        called = [before for before, after in pairwise(tokens) if after.text == "(" and before.kind in ("word", "name")]
        return cls(
            frozenset(lineage.fold(_bare(each)) for each in spoken),
            frozenset(lineage.fold(_bare(each)) for each in called) | frozenset(map(lineage.fold, statement.functions)),
            frozenset(each.text.upper() for each in tokens[:4] if each.kind == "word"),
        )


def _may_name(token: Token, before: Token | None) -> bool:
    if token.kind == "word" and token.text.upper() in lineage.RESERVED:
        return before is not None and before.text == "."
    return token.kind in ("word", "name", "string")


def _bare(token: Token) -> str:
    return token.text[1:-1] if token.kind == "string" and token.text[:1] in "'\"" else unquote(token.text)


def _without_placeholders(statement: Statement) -> str:
    """The query of *statement* with NULL for each placeholder: one in ORDER BY may turn out to be a position."""
    sql = statement.sql
    offset = len(sql) - len(statement.explained) if statement.explained else 0
    for each in sorted(statement.placeholders, key=_start, reverse=True):
        if each.certain and each.start >= offset:
            value = "(NULL)" if each.in_list == "bare" else "NULL"
            sql = f"{sql[: each.start]}{value}{sql[each.end :]}"
    return sql[offset:]


def _start(placeholder: Placeholder) -> int:
    return placeholder.start
