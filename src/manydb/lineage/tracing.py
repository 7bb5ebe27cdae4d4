"""Where the masked columns of a query go: shown as they are, or used.

A masked column that is only shown, `SELECT email`, through any number of sub-queries, common table expressions and
views, is an Output whose values can be replaced once they are fetched. Anything else that is done with it would tell
something about its values, and is refused. Names are resolved generously: what may be a masked column is one.

Imports the parser library: import this module where it is needed, not before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from manydb.dialects.grammar import Grammar
from manydb.dialects.schema import Relation, TableName
from manydb.errors import Forbidden, UnknownTable
from manydb.lineage import columns, scopes, trees
from manydb.lineage.catalog import Catalog, Restrictions, Rules
from manydb.lineage.names import fold, mentioned
from manydb.lineage.scopes import Output, Outputs, Scope, Source
from manydb.lineage.trees import unproved

_DEEPEST_VIEW = 20
_SYSTEM_SCHEMAS = frozenset({"information_schema", "pg_catalog"})
_SYSTEM_PREFIXES = ("pg_", "sqlite_", "pragma_")
_SHOWING = frozenset({"with_", "from_", "joins", "laterals", "expressions"})
_TABLE_PARTS = frozenset({"this", "alias", "db", "catalog", "joins", "laterals", "only", "indexed", "ordinality"})


@dataclass(frozen=True, slots=True)
class Tracer:
    """Follows the columns of queries in one catalog. *views* are the ones being looked through, outermost first."""

    catalog: Catalog
    restrictions: Restrictions
    rules: Rules
    grammar: Grammar
    views: tuple[TableName, ...] = ()

    def trace(self, sql: str) -> Outputs:
        """The outputs of the query *sql*. Raises Forbidden, UnknownTable."""
        tree = trees.parse(sql, self.grammar, self.restrictions.words)
        try:
            return self._query(tree, Scope({}))
        except RecursionError as exc:
            raise unproved("this statement is nested too deeply to be analysed") from exc

    # -- queries -----------------------------------------------------------------------------------------------------

    def _query(self, node: exp.Expr, outer: Scope) -> Outputs:
        match node:
            case exp.Select():
                return self._select(node, outer)
            case exp.SetOperation():
                return self._set_operation(node, outer)
            case exp.Subquery() if isinstance(node.this, exp.Query | exp.Values):
                scope = self._with(node, outer)
                outputs = self._query(node.this, scope)
                self._use_tail(node, scope, outputs, leaving=frozenset({"this", "alias", "with_", "joins"}))
                return outputs
            case exp.Values():
                self._use_all(node.expressions, outer)
                self._use_rest(node, outer, (), leaving=frozenset({"expressions", "alias"}))
                width = len(node.expressions[0].expressions) if node.expressions else 0
                return (Output(None),) * width
        raise unproved(f"{node.key.upper()} is not analysed here", "write it as a SELECT")

    def _select(self, node: exp.Select, outer: Scope) -> Outputs:
        scope = self._with(node, outer)
        self._sources(node, scope)
        # Labels first: databases let sub-queries, conditions and joins use the labels of what is shown beside them.
        outputs = tuple(output for each in node.expressions for output in columns.projected(each, scope))
        scope.labels = scopes.labels(outputs)
        self._refuse_unsure(node, outputs)
        self._use_all(columns.computed(node.expressions), scope)
        self._use_all(scope.conditions, scope)
        self._use_rest(node, scope, outputs, leaving=_SHOWING)
        return outputs

    def _refuse_unsure(self, node: exp.Select, outputs: Outputs) -> None:
        masked = next((output.mask for output in outputs if output.mask), "")
        if masked and any(output.many for output in outputs):
            raise scopes.used(masked, "beside a * of unknown width", "name the columns instead of *")
        if masked and node.args.get("distinct"):
            raise scopes.used(masked, "under DISTINCT")

    def _set_operation(self, node: exp.SetOperation, outer: Scope) -> Outputs:
        scope = self._with(node, outer)
        sides = self._query(node.this, scope), self._query(node.expression, scope)
        for side in sides:
            for output in side:
                if output.mask:
                    raise scopes.used(output.mask, f"in {node.key.upper()}")
        self._use_tail(node, scope, sides[0], leaving=frozenset({"this", "expression", "with_"}))
        return sides[0]

    def _use_rest(self, node: exp.Expr, scope: Scope, outputs: Outputs, *, leaving: frozenset[str]) -> None:
        """No clause of *node* but those in *leaving* may use a masked column, nor mean one by position."""
        for name, clause in node.args.items():
            if name not in leaving:
                for part in scopes.nodes(clause):
                    if name in ("order", "group"):
                        scopes.refuse_positions(part, outputs)
                    self._use(part, scope)

    def _use_tail(self, node: exp.Expr, scope: Scope, outputs: Outputs, *, leaving: frozenset[str]) -> None:
        """`_use_rest` for the clauses behind a bracket or a UNION: they may name what is shown, and nothing else.

        A database may look such names up inside the bracket, where we cannot tell what they mean.
        """
        scope.labels = scopes.labels(outputs)
        for column in (each for part in scopes.nodes(node.args.get("order")) for each in part.find_all(exp.Column)):
            if column.table or fold(column.name) not in scope.labels:
                raise unproved(f"{column.sql()} sorts a query in brackets", "sort inside the brackets")
        self._use_rest(node, scope, outputs, leaving=leaving)

    def _with(self, node: exp.Expr, outer: Scope) -> Scope:
        """A scope for *node*, with its common table expressions."""
        clause = node.args.get("with_")
        if clause is None:
            return Scope(outer.expressions, outer)
        defined: dict[str, Outputs | None] = dict(outer.expressions)
        names = [fold(each.alias) for each in clause.expressions]
        for index, each in enumerate(clause.expressions):
            known = defined | dict.fromkeys(names[index + 1 :])
            body = each.this
            if clause.args.get("recursive") and isinstance(body, exp.SetOperation):
                first = self._query(body.this, Scope(known | {names[index]: None}, outer))
                known[names[index]] = scopes.renamed(first, each.args.get("alias"))
            elif clause.args.get("recursive"):
                known[names[index]] = None
            defined[names[index]] = scopes.renamed(self._query(body, Scope(known, outer)), each.args.get("alias"))
        return Scope(defined, outer)

    # -- what is used ------------------------------------------------------------------------------------------------

    def _use_all(self, nodes: Iterable[exp.Expr], scope: Scope) -> None:
        for node in nodes:
            self._use(node, scope)

    def _use(self, node: exp.Expr, scope: Scope) -> None:
        """No masked column may occur in *node*, nor a query that shows one. Raises Forbidden."""
        if isinstance(node, exp.Exists) and isinstance(node.this, exp.Query):
            self._query(node.this, scope)  # whether there are rows, whatever is in them
        elif isinstance(node, exp.Query | exp.Values):
            self._use_query(node, scope)
        elif isinstance(node, exp.Column):
            columns.refuse_masked_column(node, scope)
        elif isinstance(node, exp.Table):
            raise unproved("a table stands where a value is expected")
        else:
            columns.refuse_masked_word(node, scope)
            self._use_all(node.iter_expressions(), scope)

    def _use_query(self, node: exp.Expr, scope: Scope) -> None:
        for output in self._query(node, scope):
            if output.mask:
                raise scopes.used(output.mask, "in a sub-query whose result is used")

    # -- sources -----------------------------------------------------------------------------------------------------

    def _sources(self, node: exp.Select, scope: Scope) -> None:
        if (clause := node.args.get("from_")) is not None:
            self._source(clause.this, scope)
        for lateral in node.args.get("laterals") or ():
            self._source(lateral, scope)
        self._joins(node, scope)
        has_merged_columns = any(
            join.args.get("using") or join.args.get("method")
            for join in node.find_all(exp.Join)
            if join.parent_select is node
        )
        if has_merged_columns and any(isinstance(each, exp.Star) for each in node.expressions) and (mask := scope.mask):
            raise scopes.used(mask, "in * over USING or NATURAL", "name the columns")

    def _joins(self, node: exp.Expr, scope: Scope) -> None:
        for join in node.args.get("joins") or ():
            self._source(join.this, scope)
            if join.args.get("method") and (mask := scope.mask):
                raise scopes.used(mask, f"by {join.args['method']} JOIN", "write JOIN … ON with the columns to compare")
            for name, clause in join.args.items():
                if name != "this":
                    scope.conditions += scopes.nodes(clause)

    def _source(self, node: exp.Expr, scope: Scope) -> None:
        """Add what *node*, an item of FROM, brings to *scope*."""
        match node:
            case exp.Table() if isinstance(node.this, exp.Identifier):
                outputs = self._named(node, scope)
                scope.sources.append(
                    Source(fold(node.alias or node.name), scopes.renamed(outputs, node.args.get("alias")))
                )
                self._parts(node, scope)
            case exp.Subquery() if isinstance(node.this, exp.Table | exp.Subquery) and not scopes.is_query(node.this):
                self._bracketed(node, scope)
            case exp.Subquery() | exp.Values():
                outputs = self._query(node, scope)
                scope.sources.append(
                    Source(fold(node.alias), scopes.renamed(scopes.closed(outputs), node.args.get("alias")))
                )
                self._joins(node, scope) if isinstance(node, exp.Subquery) else None
            case exp.Lateral() if isinstance(node.this, exp.Subquery):
                outputs = self._query(node.this, scope)
                scope.sources.append(
                    Source(fold(node.alias), scopes.renamed(scopes.closed(outputs), node.args.get("alias")))
                )
            case _:
                self._function(node, scope)

    def _parts(self, node: exp.Table, scope: Scope) -> None:
        """What is attached to a table: joins inside brackets, and clauses that only sample or hint."""
        if node.args.get("pivots"):
            raise unproved("PIVOT is not analysed", "write it with CASE")
        self._joins(node, scope)
        for name, clause in node.args.items():
            if name not in _TABLE_PARTS:
                for part in scopes.nodes(clause):
                    self._use(part, scope)

    def _bracketed(self, node: exp.Subquery, scope: Scope) -> None:
        """`(a JOIN b ON …)`: its tables are sources of the query around it, unless it has an alias of its own."""
        before = len(scope.sources)
        self._source(node.this, scope)
        self._joins(node, scope)
        if node.alias:
            inner = scope.sources[before:]
            if mask := next((source.mask for source in inner if source.mask), ""):
                raise scopes.used(mask, "in a join with an alias", "leave the alias of the join out")
            scope.sources[before:] = [Source(fold(node.alias), None)]

    def _function(self, node: exp.Expr, scope: Scope) -> None:
        """A function in FROM: it may return anything, of what it is given."""
        called = node.this if isinstance(node, exp.Table | exp.Lateral) else node
        name = fold(str(called.name)) if isinstance(called, exp.Anonymous) else ""
        if name in self.restrictions.names:
            raise unproved(f"{name} is called as a function", f"write FROM {name}")
        for key, clause in node.args.items():
            if key not in ("alias", "joins"):
                for part in scopes.nodes(clause):
                    self._use_rows_from(part, scope)
        scope.sources.append(Source(fold(node.alias_or_name or name), None))
        self._joins(node, scope)

    def _use_rows_from(self, part: exp.Expr, scope: Scope) -> None:
        if isinstance(part, exp.Table) and not isinstance(part.this, exp.Identifier):
            self._use_all(part.iter_expressions(), scope)
        else:
            self._use(part, scope)

    # -- tables and views --------------------------------------------------------------------------------------------

    def _named(self, node: exp.Table, scope: Scope) -> Outputs | None:
        """The columns of what a name in FROM means; None where anything may be in it."""
        name, schema = node.name, node.db
        if not schema and fold(name) in scope.expressions:
            outputs = scope.expressions[fold(name)]
            if outputs is None:
                raise unproved(
                    f"{name} is used before it is defined", f"define {name} first, with WITH RECURSIVE if needed"
                )
            return scopes.closed(outputs)
        found = self.catalog.find(schema, name, self.views[-1].schema if self.views else None)
        if not found:
            if fold(schema) in _SYSTEM_SCHEMAS or fold(name).startswith(_SYSTEM_PREFIXES):
                return None
            raise UnknownTable(f"no table or view {f'{schema}.' if schema else ''}{name} that this connection may read")
        restricted = [relation for relation in found if self._is_restricted(relation.address)]
        if len(found) > 1 and restricted:
            raise unproved(f"{name} may mean several tables", f"write the schema: {found[0].schema}.{name}")
        return self._columns((restricted or found)[0])

    def _is_restricted(self, address: TableName) -> bool:
        rules = self.restrictions
        return address in rules.denied | rules.hidden | rules.indirect | rules.masks.keys()

    def _columns(self, relation: Relation) -> Outputs:
        address = relation.address
        if address in self.restrictions.denied or (address in self.restrictions.hidden and not self._is_vouched()):
            through = f", which {self.views[0].name} reads," if self.views else ""
            raise Forbidden(
                f"{address.name}{through} is not open to this connection",
                suggestions=["list_tables shows what is"],
            )
        if address in self.restrictions.opaque:
            raise unproved(
                f"{address.name} holds some of it in another form", f"leave {address.name} out of the statement"
            )
        own = self.restrictions.masks.get(address, frozenset())
        names = self.catalog.columns.get(address, ())
        if own - set(map(fold, names)):
            missing = min(own - set(map(fold, names)))
            raise unproved(f"{address.name} has no column {missing} that could be masked", "have the mask corrected")
        if address in self.restrictions.indirect:
            return self._view(relation, names, own)
        return tuple(Output(name, _mask(address, name) if fold(name) in own else "") for name in names)

    def _is_vouched(self) -> bool:
        return bool(self.views) and self.rules.vouches(*self.views[0])

    def _view(self, relation: Relation, names: Sequence[str], own: frozenset[str]) -> Outputs:
        address = relation.address
        if address in self.views or len(self.views) >= _DEEPEST_VIEW:
            raise unproved(f"the views behind {address.name} are too many to follow")
        definition = self.catalog.definitions[address]
        if any(mentioned(definition, self.restrictions.routines)):
            raise unproved(f"the view {address.name} calls a function that may read it")
        inside = replace(self, views=(*self.views, address))
        try:
            outputs = inside.trace(definition)
        except UnknownTable as exc:
            raise unproved(f"the view {address.name} reads a table that is not known") from exc
        except Forbidden as exc:
            if self.views:
                raise
            raise Forbidden(f"the view {address.name}: {exc.message}", suggestions=exc.suggestions) from exc
        if len(outputs) != len(names) or any(output.many for output in outputs):
            raise unproved(f"the columns of {address.name} are not as they were", "try again")
        return tuple(
            Output(name, output.mask or (_mask(address, name) if fold(name) in own else ""))
            for name, output in zip(names, outputs, strict=True)
        )


def _mask(address: TableName, column: str) -> str:
    return f"{address.name}.{column}"
