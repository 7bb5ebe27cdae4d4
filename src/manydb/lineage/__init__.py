"""What of the restricted data a statement touches, proved from its text and a catalog, or refused.

The rule, in the order in which it is applied:

1. A statement whose exact tokens hold no name (or string: SQLite takes those for names) of a masked, denied or hidden
   relation, nor of a view, virtual table or function made of one, touches none of them, and passes as it is, whatever
   else is in it. What names things indirectly is refused by its own name: statistics that quote values, raw pages.
2. Otherwise two lexers have to agree on the statement and a parser has to take it. Every relation is resolved through
   common table expressions, sub-queries and views, and every column that may be a masked one counts as one.
3. A masked column that is only shown is an output to be masked. Used in any other way, also by position, as part of a
   whole row, or in a view that does so, it is refused; so is whatever cannot be resolved beside it.

A name is taken generously where that can only refuse (case, accents and what lies beyond 63 bytes do not count), and
where a masked column's position matters, names and number of the columns that came back must be the predicted ones.

names.py     fold: when two spellings may mean one thing
catalog.py   Catalog: what is known of a database; Restrictions: what a policy comes to in it
trees.py     text → tree, with two lexers in agreement
scopes.py    Output, Source, Scope: what names may mean, and the refusals
columns.py   a column, star or other name in a scope: what it shows, whether it may be used
tracing.py   tree → outputs: through queries, sources and views
"""

from dataclasses import dataclass

from manydb.dialects.grammar import Grammar
from manydb.errors import Forbidden
from manydb.lineage.catalog import Catalog, Restrictions, Routine, Rules
from manydb.lineage.names import RESERVED, fold, mentioned
from manydb.lineage.trees import unproved

__all__ = [
    "RESERVED",
    "Catalog",
    "Lineage",
    "Restrictions",
    "Routine",
    "Rules",
    "fold",
    "mentioned",
    "trace",
    "unproved",
]


@dataclass(frozen=True, slots=True)
class Lineage:
    """The outputs of a query: their names (None where only the database knows), and by position those to be masked."""

    columns: tuple[str | None, ...]
    masked: dict[int, str]


def trace(sql: str, grammar: Grammar, catalog: Catalog, restrictions: Restrictions, rules: Rules) -> Lineage:
    """The lineage of the query *sql*, which holds no placeholders.

    Raises Forbidden for what touches restricted data in any way but showing masked columns, or may do so, and
    UnknownTable for a table that is not in the catalog.
    """
    from manydb.lineage import tracing  # noqa: PLC0415 - imports the parser library

    outputs = tracing.Tracer(catalog, restrictions, rules, grammar).trace(sql)
    masked = {index: output.mask for index, output in enumerate(outputs) if output.mask}
    if masked and any(output.many for output in outputs):
        raise Forbidden("masked columns stand beside a * of unknown width", suggestions=["name the columns"])
    return Lineage(tuple(output.name for output in outputs), masked)
