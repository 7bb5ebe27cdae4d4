"""What a schema consists of, as read from any database: small frozen records, no behaviour beyond look-up."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

Kind = Literal["table", "partitioned_table", "partition", "foreign_table", "virtual_table", "view", "materialized_view"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class TableName(NamedTuple):
    """A table's address; both parts as the database stores them, without quotes."""

    schema: str
    name: str


Place = tuple[bool, str, str]
"""Where a table stands in a list: the default schema first, then by schema and name."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One line of an overview. *rows* is the database's estimate; None where it has none.

    *visible* tells that the bare name resolves to this relation, so that SQL needs no schema prefix.
    """

    schema: str
    name: str
    kind: Kind = "table"
    visible: bool = True
    comment: str = ""
    rows: int | None = None
    columns: int | None = None

    @property
    def address(self) -> TableName:
        return TableName(self.schema, self.name)


@dataclass(frozen=True)
class Overview:
    """Every relation outside the system schemas, and the schema of names without a prefix."""

    relations: tuple[Relation, ...]
    default_schema: str | None = None

    @cached_property
    def by_address(self) -> dict[TableName, Relation]:
        return {relation.address: relation for relation in self.relations}

    @cached_property
    def by_folded_name(self) -> dict[str, list[Relation]]:
        """Relations under their case-folded name: an exact or a careless spelling is one look-up."""
        found: dict[str, list[Relation]] = {}
        for relation in self.relations:
            found.setdefault(relation.name.casefold(), []).append(relation)
        return found

    @cached_property
    def folded(self) -> list[tuple[Relation, str, str]]:
        """Relations in the order of a list, with name and comment case-folded, for a search."""
        listed = sorted(self.relations, key=lambda relation: self.place(relation.address))
        return [(relation, relation.name.casefold(), relation.comment.casefold()) for relation in listed]

    def place(self, address: TableName) -> Place:
        return address.schema != self.default_schema, address.schema, address.name

    @cached_property
    def schemas(self) -> tuple[str, ...]:
        """Schema names in alphabetical order, the default schema included even when it is empty."""
        names = {relation.schema for relation in self.relations}
        return tuple(sorted(names | ({self.default_schema} if self.default_schema else set())))


class ColumnEntry(NamedTuple):
    """A column as a search sees it."""

    schema: str
    table: str
    name: str
    type: str
    comment: str


class IndexEntry(NamedTuple):
    """An index as a search sees it; *columns* may hold expressions."""

    schema: str
    table: str
    name: str
    columns: tuple[str, ...]
    unique: bool


@dataclass(frozen=True, slots=True)
class Column:
    """*type* is the database's own text; *values* are those of an enum or set; *base* is what a domain stands for.

    *identity* is the word for a value that the database counts up ("identity", "serial", "auto_increment" …).
    """

    name: str
    type: str
    nullable: bool = True
    default: str | None = None
    identity: str = ""
    generated: str | None = None
    base: str = ""
    values: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """An index or a unique constraint; *columns* holds names and expressions as SQL text.

    *method* is empty where it is the database's usual one; *include* are columns carried along.
    """

    name: str
    columns: tuple[str, ...]
    unique: bool = False
    method: str = ""
    where: str = ""
    include: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A reference from *table* to *target*, seen from either side.

    *target_columns* is empty where the reference is to the primary key and the database does not say more;
    *on_delete* and *on_update* are empty where nothing happens but the check.
    """

    table: TableName
    columns: tuple[str, ...]
    target: TableName
    target_columns: tuple[str, ...]
    on_delete: str = ""
    on_update: str = ""


@dataclass(frozen=True)
class References:
    """Every foreign key of a database, by the tables at its ends.

    *repeated* are keys that partitions have from the table that they belong to: told of the partitions alone.
    """

    keys: tuple[ForeignKey, ...] = ()
    repeated: tuple[ForeignKey, ...] = ()

    @cached_property
    def _by_table(self) -> dict[TableName, list[ForeignKey]]:
        return _grouped((key.table, key) for key in (*self.keys, *self.repeated))

    @cached_property
    def _by_target(self) -> dict[TableName, list[ForeignKey]]:
        return _grouped((key.target, key) for key in self.keys)

    def of(self, table: "Table") -> "Table":
        """*table* with its foreign keys and with what refers to it."""
        keys, referrers = self._by_table.get(table.address, ()), self._by_target.get(table.address, ())
        if not keys and not referrers:
            return table
        return replace(table, foreign_keys=tuple(keys), referenced_by=tuple(referrers))


def _grouped(keys: Iterable[tuple[TableName, ForeignKey]]) -> dict[TableName, list[ForeignKey]]:
    found: dict[TableName, list[ForeignKey]] = {}
    for end, key in keys:
        found.setdefault(end, []).append(key)
    return found


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view in full; *foreign_keys* and *referenced_by* come from the database's `References`.

    *indexes* leaves out the one of the primary key; *checks* are expressions; *definition* is a view's query;
    *notes* are short facts of this database (partitioning, a rare storage engine, exclusion constraints …).
    """

    schema: str
    name: str
    kind: Kind = "table"
    comment: str = ""
    columns: tuple[Column, ...] = ()
    primary_key: tuple[str, ...] = ()
    indexes: tuple[Index, ...] = ()
    checks: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    referenced_by: tuple[ForeignKey, ...] = ()
    definition: str = ""
    notes: tuple[str, ...] = ()

    @property
    def address(self) -> TableName:
        return TableName(self.schema, self.name)


@dataclass(frozen=True)
class Snapshot:
    """All that a search looks through; cheap to keep, as it holds names and comments only."""

    overview: Overview
    columns: tuple[ColumnEntry, ...] = ()
    indexes: tuple[IndexEntry, ...] = ()

    @cached_property
    def folded_columns(self) -> dict[tuple[str, str], list[ColumnEntry]]:
        """Columns under their case-folded name and comment: few differ, as most are made after each other's model."""
        found: dict[tuple[str, str], list[ColumnEntry]] = {}
        for entry in self.columns:
            found.setdefault((entry.name.casefold(), entry.comment.casefold()), []).append(entry)
        return found

    @cached_property
    def folded_indexes(self) -> list[tuple[IndexEntry, str]]:
        return [(entry, entry.name.casefold()) for entry in self.indexes]

    def is_made_of(self, other: "Snapshot") -> bool:
        """Whether both are of the same readings."""
        return self.overview is other.overview and self.columns is other.columns and self.indexes is other.indexes


def in_order(tables: Iterable[Table], names: Iterable[TableName]) -> list[Table]:
    """*tables* in the order in which they were asked for; what was not found is left out."""
    found = {table.address: table for table in tables}
    return [found[name] for name in dict.fromkeys(names) if name in found]
