"""Columns, stars and other names in a scope: what each may mean there, what it shows, and whether that may be used."""

from collections.abc import Iterable, Iterator, Sequence

from sqlglot import exp

from manydb.lineage import scopes
from manydb.lineage.names import fold
from manydb.lineage.scopes import Output, Scope, Source
from manydb.lineage.trees import unproved


def computed(shown: Iterable[exp.Expr]) -> list[exp.Expr]:
    """The items of a SELECT list that do something with their columns: not those that only show one."""
    return [item for each in shown if not _is_bare(item := _unlabelled(each))]


def projected(node: exp.Expr, scope: Scope) -> Iterator[Output]:
    """What *node*, an item of the SELECT list, shows; the columns that it uses are another matter."""
    label = node.alias or None if isinstance(node, exp.Alias) else None
    shown = _unlabelled(node)
    if not _is_bare(shown):
        yield Output(label)
    elif isinstance(shown, exp.Column) and not isinstance(shown.this, exp.Star):
        found = _meant(shown, scope)
        yield Output(label or shown.name, found.mask if found else "")
    else:
        yield from _star(shown, scope)


def _star(node: exp.Expr, scope: Scope) -> Iterator[Output]:
    star = node if isinstance(node, exp.Star) else node.this
    if any(star.args.values()):
        raise unproved("this form of * is not analysed", "name the columns")
    alias = fold(node.text("table"))
    sources = [source for source in scope.sources if not alias or source.alias == alias]
    if alias and not sources:
        # The composite value of an outer query's row, or a name that nobody knows.
        if scope.mask:
            raise scopes.used(scope.mask, f"in {alias}.*", "name the columns")
        yield Output(None, many=True)
    for source in sources:
        yield from source.columns if source.columns is not None else (Output(None, many=True),)


def refuse_masked_column(node: exp.Column, scope: Scope) -> None:
    """Raises Forbidden where *node*, which is used, may be a masked column."""
    if isinstance(node.this, exp.Star):
        _refuse_star(node, scope)
    elif (found := _meant(node, scope)) and found.mask:
        raise scopes.used(found.mask, f"in {scopes.clause(node)}")


def refuse_masked_word(node: exp.Expr, scope: Scope) -> None:
    """Raises Forbidden where *node* alone, whatever is in it, may stand for a masked column."""
    if isinstance(node, exp.Star) and scope.mask and not isinstance(node.parent, exp.Count):
        raise scopes.used(scope.mask, "in *", "name the columns")
    if isinstance(node, exp.Identifier):
        _refuse_name(node, scope)


def _refuse_star(node: exp.Column, scope: Scope) -> None:
    for level in scope.levels():
        for source in level.sources:
            if source.mask and source.alias == fold(node.table):
                raise scopes.used(source.mask, f"in {node.table}.*", "count(*) counts the rows")


def _refuse_name(node: exp.Identifier, scope: Scope) -> None:
    """A name outside a column: of a window, a label, a composite's field. Not of what is masked."""
    name = fold(str(node.this))
    for level in scope.levels():
        for source in level.sources:
            for output in source.columns or ():
                if output.mask and output.name is not None and fold(output.name) == name:
                    raise scopes.used(output.mask, f"in {scopes.clause(node)}")


def _meant(node: exp.Column, scope: Scope) -> Output | None:
    """The output that a column's name means; None for one that is surely not masked. Raises Forbidden if unsure."""
    name, alias = fold(node.name), fold(node.table)
    if not alias and (mask := scope.label_mask(name)):
        return Output(node.name, mask)
    is_open = False
    for level in scope.levels():
        sources = [source for source in level.sources if not alias or source.alias == alias]
        named = [each for source in sources for each in source.columns or () if fold(each.name or "") == name]
        if named:
            return next((each for each in named if each.mask), named[0])
        scopes.refuse_whole_row(level, name, alias, node)
        if alias and sources:
            _require_unmasked(sources, node)
            return None
        is_open = is_open or any(source.columns is None for source in sources)
    is_label = not alias and any(name in level.labels for level in scope.levels())
    if scope.mask and not is_open and not is_label:
        suggestion = f"name the table of {node.name}; text goes in single quotes"
        raise unproved(f"it is not known what {node.sql()} means beside {scope.mask}", suggestion)
    return None


def _require_unmasked(sources: Sequence[Source], node: exp.Column) -> None:
    for source in sources:
        if source.mask:
            # alias.function is function(alias) in PostgreSQL, and names that no one lists may mean any column.
            raise unproved(f"{node.sql()} is no column that is known beside {source.mask}")


def _unlabelled(node: exp.Expr) -> exp.Expr:
    """An item of the SELECT list without its label."""
    shown: exp.Expr = node.this if isinstance(node, exp.Alias) else node
    return shown


def _is_bare(node: exp.Expr) -> bool:
    """A column or a star, with nothing done to it."""
    return isinstance(node, exp.Column | exp.Star)
