"""What the names in a query may mean: outputs, sources and scopes; and the refusals that they lead to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlglot import exp

from manydb.errors import Forbidden
from manydb.lineage.names import fold


@dataclass(frozen=True, slots=True)
class Output:
    """A column of a query's or relation's rows. *name* is None where only the database knows it.

    *mask* is the masked column whose values it shows, "" for none. *many* stands for a `*` of unknown width.
    """

    name: str | None
    mask: str = ""
    many: bool = False


Outputs = tuple[Output, ...]
Expressions = Mapping[str, Outputs | None]
"""Common table expressions by folded name; None for one that is defined further on."""


@dataclass(frozen=True, slots=True)
class Source:
    """What stands in FROM under *alias* (folded). *columns* is None where anything but masked columns may be in it."""

    alias: str
    columns: Outputs | None

    @property
    def mask(self) -> str:
        return next((each.mask for each in self.columns or () if each.mask), "")


@dataclass(slots=True)
class Scope:
    """The sources that a query's expressions may name, its own first; and the labels of its outputs."""

    expressions: Expressions
    outer: "Scope | None" = None
    sources: list[Source] = field(default_factory=list)
    labels: Mapping[str, str] = field(default_factory=dict)  # folded label → mask
    conditions: list[exp.Expr] = field(default_factory=list)  # of joins: read last, for they may use labels

    def levels(self) -> Iterator["Scope"]:
        level: Scope | None = self
        while level is not None:
            yield level
            level = level.outer

    def label_mask(self, name: str) -> str:
        """The masked column that is shown under the label *name*, here or in a query around."""
        return next((mask for level in self.levels() if (mask := level.labels.get(name))), "")

    @property
    def mask(self) -> str:
        """A masked column that some source in reach has."""
        return next((source.mask for level in self.levels() for source in level.sources if source.mask), "")


def used(mask: str, how: str, *suggestions: str) -> Forbidden:
    return Forbidden(
        f"{mask} is masked and may only be selected as it is, not used {how}",
        suggestions=[*suggestions, f"leave {mask} out of the statement"],
    )


def labels(outputs: Outputs) -> dict[str, str]:
    """Folded label → mask; of two columns with one label, the masked one counts."""
    labels = {fold(output.name): "" for output in outputs if output.name}
    return labels | {fold(output.name): output.mask for output in outputs if output.name and output.mask}


def nodes(clause: Any) -> Iterator[exp.Expr]:
    for part in clause if isinstance(clause, list) else [clause]:
        if isinstance(part, exp.Expr):
            yield part


def is_query(node: exp.Expr) -> bool:
    while isinstance(node, exp.Subquery):
        node = node.this
    return isinstance(node, exp.Query | exp.Values) and not isinstance(node, exp.Table)


def closed(columns: Outputs | None) -> Outputs | None:
    """Columns that are all known, or None: nothing masked stands beside a * of unknown width."""
    return None if columns is None or any(column.many for column in columns) else columns


def renamed(columns: Outputs | None, alias: exp.Expr | None) -> Any:
    """*columns* under the names that `AS alias (a, b)` gives them; refused where one is masked."""
    names = [each.name for each in alias.args.get("columns") or ()] if isinstance(alias, exp.TableAlias) else []
    if not names or columns is None:
        return columns
    if masked := next((column.mask for column in columns if column.mask), ""):
        raise used(masked, "under a list of new names", "name the column in the SELECT: email AS contact")
    return tuple(
        replace(column, name=names[index]) if index < len(names) else column for index, column in enumerate(columns)
    )


def refuse_whole_row(level: Scope, name: str, alias: str, node: exp.Column) -> None:
    """A table's alias used as a value is its whole row, masked columns and all."""
    if alias:
        return
    for source in level.sources:
        if source.alias == name and source.mask:
            raise used(source.mask, f"in the whole row {node.name}", "name the columns")


def refuse_positions(clause: exp.Expr, outputs: Outputs) -> None:
    """ORDER BY 2 and GROUP BY 2 use the second output; other constants may be read as positions too."""
    masked = next((output.mask for output in outputs if output.mask), "")
    if not masked:
        return
    for item in [each for parts in clause.args.values() for each in nodes(parts)]:
        key = item.this if isinstance(item, exp.Ordered) else item
        if isinstance(key, exp.Literal) and not key.is_string and key.name.isdigit():
            position = int(key.name)
            if 0 < position <= len(outputs) and not outputs[position - 1].mask:
                continue
            raise used(masked, f"in {clause.key.upper()} BY {position}", "sort and group by name")
        if not any(True for _ in key.find_all(exp.Column)):
            raise used(masked, f"in {clause.key.upper()} BY a constant", "sort and group by name")
    if clause.args.get("all"):
        raise used(masked, f"in {clause.key.upper()} BY ALL", "sort and group by name")


_CLAUSES = (
    (exp.Where, "WHERE"), (exp.Having, "HAVING"), (exp.Group, "GROUP BY"), (exp.Window, "a window"),
    (exp.Order, "ORDER BY"), (exp.Join, "JOIN"), (exp.Distinct, "DISTINCT"), (exp.Limit, "LIMIT"),
    (exp.Offset, "OFFSET"),
)  # fmt: skip


def clause(node: exp.Expr) -> str:
    """The clause that *node* stands in, in words."""
    parent = node.parent
    while parent is not None and not isinstance(parent, exp.Query):
        for kind, words in _CLAUSES:
            if isinstance(parent, kind):
                return words
        parent = parent.parent
    return "an expression"
