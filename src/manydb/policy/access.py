"""What a connection may do and see: levels of access, and lists of what is allowed, denied and masked."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, overload

from manydb.dialects.grammar import Kind
from manydb.dialects.schema import ForeignKey, Overview, Snapshot, Table, TableName
from manydb.errors import Forbidden, ReadOnly
from manydb.policy.patterns import Pattern
from manydb.settings import Access
from manydb.statements import Statement

MASKED_NOTE = "masked: its values are never shown"

_LEVELS: tuple[Access, ...] = ("read_only", "read_write", "admin")
_NEEDED: dict[Kind, Access] = {"read": "read_only", "write": "read_write", "ddl": "admin"}
_MAINTENANCE = frozenset({"VACUUM", "ANALYZE", "ANALYSE", "OPTIMIZE", "CHECK", "REPAIR", "REINDEX", "CHECKPOINT"})


@dataclass(frozen=True, slots=True)
class Hint:
    """What a tool may do at most: the facts from which MCP annotations derive."""

    read_only: bool
    destructive: bool
    idempotent: bool


@dataclass(frozen=True)
class Policy:
    """Use `Policy.of`. *case_sensitive*: does the database tell `Orders` from `orders`?"""

    access: Access = "read_only"
    allow: tuple[Pattern, ...] = ()
    deny: tuple[Pattern, ...] = ()
    mask: tuple[Pattern, ...] = ()
    case_sensitive: bool = False

    @classmethod
    def of(
        cls,
        access: Access = "read_only",
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        mask: Iterable[str] = (),
        case_sensitive: bool = False,
    ) -> Self:
        """Read the patterns. Raises BadParameter for a malformed one."""
        return cls(
            access,
            tuple(Pattern.of(text, key="allow", least=1, most=2) for text in allow),
            tuple(Pattern.of(text, key="deny", least=1, most=2) for text in deny),
            tuple(Pattern.of(text, key="mask", least=2, most=3) for text in mask),
            case_sensitive,
        )

    # -- access ------------------------------------------------------------------------------------------------------

    def offers(self, needed: Access) -> bool:
        """May a tool that needs *needed* be used, and so be shown?"""
        return _LEVELS.index(needed) <= _LEVELS.index(self.access)

    def hint(self, needed: Access) -> Hint:
        """What a tool that needs *needed* may do. Where the policy does not offer it, nothing: it is refused."""
        writes = needed != "read_only" and self.offers(needed)
        return Hint(read_only=not writes, destructive=writes, idempotent=not writes)

    def permits(self, statement: Statement) -> bool:
        """Is a statement of this kind open to the access? Transactions and the session are nobody's."""
        if statement.verb in _MAINTENANCE and statement.kind in ("other", "write", "ddl"):
            return self.offers("admin")
        needed = _NEEDED.get(statement.kind)
        return needed is not None and self.offers(needed)

    def require(self, statement: Statement) -> None:
        """Raise ReadOnly or Forbidden unless `permits`."""
        if not self.permits(statement):
            needed = "admin" if statement.verb in _MAINTENANCE else _NEEDED.get(statement.kind)
            if needed is None:
                raise Forbidden(f"{statement.verb} is not open to any access", suggestions=["send the statement alone"])
            message = f"{statement.verb} needs access {needed}; this connection has {self.access}"
            raise (ReadOnly if self.access == "read_only" else Forbidden)(message)

    # -- visibility --------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Nothing is hidden and nothing masked."""
        return not (self.allow or self.deny or self.mask)

    @property
    def hides(self) -> bool:
        """Are there tables that may not be seen?"""
        return bool(self.allow or self.deny)

    def sees(self, schema: str, table: str) -> bool:
        """May the table be seen, by its name as the database stores it?"""
        if self.denies(schema, table):
            return False
        return not self.allow or any(each.fits((schema, table), folds=not self.case_sensitive) for each in self.allow)

    def denies(self, schema: str, table: str) -> bool:
        return any(each.fits((schema, table), folds=True) for each in self.deny)

    def vouches(self, schema: str, table: str) -> bool:
        """Is the table allowed by its very name?"""
        return any(each.exact and each.fits((schema, table), folds=not self.case_sensitive) for each in self.allow)

    def masked(self, schema: str, table: str, columns: Iterable[str]) -> frozenset[str]:
        """The masked ones of a table's *columns*."""
        mine = [each for each in self.mask if each.fits((schema, table), folds=True)]
        return frozenset(name for name in columns if any(each.fits((schema, table, name), folds=True) for each in mine))

    def amiss(self, columns: Mapping[TableName, Sequence[str]]) -> Iterator[tuple[TableName, str]]:
        """Columns that are masked by name where no such column is known, with the tables that the mask is about."""
        for each in self.mask:
            tables = {address: names for address, names in columns.items() if each.fits(address, folds=True)}
            if each.exact and not any(self._is_masked_by(each, address, names) for address, names in tables.items()):
                yield from ((address, each.parts[2]) for address in tables)

    @staticmethod
    def _is_masked_by(pattern: Pattern, address: TableName, names: Sequence[str]) -> bool:
        return any(pattern.fits((*address, name), folds=True) for name in names)

    @overload
    def visible(self, schema: Overview) -> Overview: ...
    @overload
    def visible(self, schema: Snapshot) -> Snapshot: ...
    @overload
    def visible(self, schema: Table) -> Table: ...
    def visible(self, schema: Overview | Snapshot | Table) -> Overview | Snapshot | Table:
        """*schema* without what is hidden. Masked columns stay, with a note in place of the comment."""
        if self.is_open:
            return schema
        match schema:
            case Overview():
                relations = tuple(each for each in schema.relations if self.sees(*each.address))
                return replace(schema, relations=relations)
            case Snapshot():
                return self._snapshot(schema)
            case Table():
                return self._table(schema)

    def _snapshot(self, snapshot: Snapshot) -> Snapshot:
        columns = (each for each in snapshot.columns if self.sees(each.schema, each.table))
        return Snapshot(
            self.visible(snapshot.overview),
            tuple(
                each._replace(comment=MASKED_NOTE)
                if self.masked(each.schema, each.table, [each.name]) & {each.name}
                else each
                for each in columns
            ),
            tuple(each for each in snapshot.indexes if self.sees(each.schema, each.table)),
        )

    def _table(self, table: Table) -> Table:
        masked = self.masked(*table.address, [column.name for column in table.columns])
        shown = replace(
            table,
            columns=tuple(
                replace(column, comment=MASKED_NOTE) if column.name in masked else column for column in table.columns
            ),
            foreign_keys=tuple(filter(self._sees_both, table.foreign_keys)),
            referenced_by=tuple(filter(self._sees_both, table.referenced_by)),
        )
        # A view's query and what a table was made with may name what is hidden.
        return replace(shown, definition="", notes=()) if self.hides else shown

    def _sees_both(self, key: ForeignKey) -> bool:
        return self.sees(*key.table) and self.sees(*key.target)
