"""What must be known of a database before lineage can be proved in it, and what a set of rules restricts there."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, Self

from manydb.dialects.schema import Overview, Relation, Table, TableName
from manydb.lineage.names import fold, mentioned

_VIEWS = frozenset({"view", "materialized_view"})
_DYNAMIC = re.compile(r"\b(execute|prepare|dblink\w*|query_to_xml\w*|cursor)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Routine:
    """A function or procedure of the database's users. *text* is empty where it cannot be read.

    *operators* are the symbols that call it.
    """

    name: str
    text: str
    operators: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Catalog:
    """One reading of a database's schema. Columns are in the order of `SELECT *`.

    *definitions* holds the query of each view, and what a virtual table was made with; *generated* the expressions of
    generated columns; *parents* leads from a partition or inheriting table to what it belongs to. All are asked for,
    because a gap in them would be a way around a mask.
    """

    overview: Overview
    columns: Mapping[TableName, tuple[str, ...]]
    definitions: Mapping[TableName, str]
    generated: Mapping[tuple[TableName, str], str]
    parents: Mapping[TableName, TableName]
    routines: tuple[Routine, ...]

    @classmethod
    def of(
        cls,
        overview: Overview,
        tables: Iterable[Table],
        *,
        parents: Mapping[TableName, TableName],
        routines: Iterable[Routine],
    ) -> Self:
        """A catalog of *tables*, each described in full."""
        tables = tuple(tables)
        return cls(
            overview=overview,
            columns={table.address: tuple(column.name for column in table.columns) for table in tables},
            definitions={table.address: text for table in tables if (text := _definition(table))},
            generated={
                (table.address, column.name): column.generated
                for table in tables
                for column in table.columns
                if column.generated
            },
            parents=dict(parents),
            routines=tuple(routines),
        )

    @cached_property
    def _by_name(self) -> dict[str, list[Relation]]:
        found: dict[str, list[Relation]] = {}
        for relation in self.overview.relations:
            found.setdefault(fold(relation.name), []).append(relation)
        return found

    def find(self, schema: str | None, name: str, home: str | None = None) -> list[Relation]:
        """The relations that a name may mean; *home* is the schema of the view in which it stands."""
        named = self._by_name.get(fold(name), [])
        if schema:
            return [relation for relation in named if fold(relation.schema) == fold(schema)]
        return [relation for relation in named if relation.visible or relation.schema == home] or named

    def family(self, address: TableName) -> frozenset[TableName]:
        """What *address* is part of, and what is part of it: their rows are its rows."""
        above = frozenset(self._ancestors(address))
        below = {child for child in self.parents if address in self._ancestors(child)}
        return above | below

    def _ancestors(self, address: TableName) -> list[TableName]:
        found: list[TableName] = []
        while (parent := self.parents.get(address)) is not None and parent not in found:
            found.append(parent)
            address = parent
        return found


def _definition(table: Table) -> str:
    return table.definition or ("\n".join(table.notes) if table.kind == "virtual_table" else "")


class Rules(Protocol):
    """What a connection may see. Asked with names as the database stores them."""

    def sees(self, schema: str, table: str) -> bool: ...
    def denies(self, schema: str, table: str) -> bool:
        """Is it forbidden by name, and not only left out of what is allowed?"""
        ...

    def vouches(self, schema: str, table: str) -> bool:
        """Is it allowed by its very name? Such a view may read what is not listed."""
        ...

    def masked(self, schema: str, table: str, columns: Iterable[str]) -> frozenset[str]:
        """The masked ones of *columns*."""
        ...

    def amiss(self, columns: Mapping[TableName, Sequence[str]]) -> Iterable[tuple[TableName, str]]:
        """Columns that are masked by name where no such column is known: the mask is misspelt, or they are new."""
        ...


@dataclass(frozen=True)
class Restrictions:
    """What the rules come to in one catalog.

    *opaque* are relations that hold restricted rows in a form that nobody can look through. *names* are folded: a
    statement without any of them, in whatever place, touches nothing restricted, unless the *routines* it calls do.
    """

    denied: frozenset[TableName]
    hidden: frozenset[TableName]
    masks: Mapping[TableName, frozenset[str]]
    opaque: frozenset[TableName]
    indirect: frozenset[TableName]
    routines: frozenset[str]
    operators: frozenset[str]
    names: frozenset[str] = field(repr=False)

    @cached_property
    def words(self) -> frozenset[str]:
        """The names of restricted relations and of masked columns."""
        return self.names.union(*self.masks.values())

    @classmethod
    def of(cls, catalog: Catalog, rules: Rules) -> Self:
        denied = _denied(catalog, rules)
        hidden = frozenset(each.address for each in catalog.overview.relations if not rules.sees(*each.address))
        masks = _masks(catalog, rules)
        names = {fold(address.name) for address in denied | hidden | masks.keys()}
        indirect, routines = _closed(catalog, names)
        return cls(
            denied=denied,
            hidden=hidden,
            masks=masks,
            opaque=frozenset(each for each in indirect if not _is_readable_view(catalog, each)),
            indirect=indirect,
            routines=frozenset(fold(routine.name) for routine in routines),
            operators=frozenset(symbol for routine in routines for symbol in routine.operators),
            names=frozenset(names),
        )


def _denied(catalog: Catalog, rules: Rules) -> frozenset[TableName]:
    named = {each.address for each in catalog.overview.relations if rules.denies(*each.address)}
    return frozenset(named.union(*(catalog.family(address) for address in named)))


def _masks(catalog: Catalog, rules: Rules) -> dict[TableName, frozenset[str]]:
    """Folded names of masked columns by table: those that the rules name there or in its family, and what they make."""
    named: dict[TableName, set[str]] = {}
    columns = {relation.address: catalog.columns.get(relation.address, ()) for relation in catalog.overview.relations}
    found = [(address, name) for address in columns for name in rules.masked(*address, columns[address])]
    for address, name in [*found, *rules.amiss(columns)]:
        for member in (address, *catalog.family(address)):
            named.setdefault(member, set()).add(fold(name))
    return {address: _with_generated(catalog, address, frozenset(masked)) for address, masked in named.items()}


def _with_generated(catalog: Catalog, address: TableName, masked: frozenset[str]) -> frozenset[str]:
    made = {fold(column): text for (table, column), text in catalog.generated.items() if table == address}
    while more := {column for column, text in made.items() if column not in masked and any(mentioned(text, masked))}:
        masked |= more
    return masked


def _closed(catalog: Catalog, names: set[str]) -> tuple[frozenset[TableName], list[Routine]]:
    """The relations and routines that are made of what *names* mean; their own names are added to *names*."""
    found: set[TableName] = set()
    candidates = list(_candidates(catalog))
    routines = [each for each in catalog.routines if not each.text or _DYNAMIC.search(each.text)] if names else []
    grew = True
    while grew:
        fresh = {address for address, made_of in candidates if address not in found and _reads(made_of, names)}
        calling = [each for each in catalog.routines if each not in routines and any(mentioned(each.text, names))]
        # What a view or another routine calls is as telling as what it reads.
        names |= {fold(each.name) for each in fresh} | {fold(each.name) for each in routines + calling}
        found |= fresh
        routines += calling
        grew = bool(fresh or calling)
    return frozenset(found), routines


def _candidates(catalog: Catalog) -> Iterator[tuple[TableName, tuple[str, str]]]:
    """Relations that may be made of others, with what tells of which: a text, and the name of a virtual table."""
    virtual = [fold(relation.name) for relation in catalog.overview.relations if relation.kind == "virtual_table"]
    for relation in catalog.overview.relations:
        if relation.kind in _VIEWS or relation.kind == "virtual_table":
            yield relation.address, (catalog.definitions.get(relation.address, ""), "")
        else:
            # A virtual table keeps its rows in tables that are named after it.
            for owner in virtual:
                if fold(relation.name).startswith(f"{owner}_"):
                    yield relation.address, ("", owner)


def _reads(made_of: tuple[str, str], names: set[str]) -> bool:
    text, owner = made_of
    if owner:
        return owner in names
    return bool(names) and (not text or any(mentioned(text, names)))


def _is_readable_view(catalog: Catalog, address: TableName) -> bool:
    return catalog.overview.by_address[address].kind in _VIEWS and bool(catalog.definitions.get(address))
