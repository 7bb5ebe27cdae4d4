"""What databases hold, as a connection's policy lets it be seen; read when it is needed and believed for a while."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import names
from manydb.connections import Registration
from manydb.dialects.schema import Overview, Snapshot, Table, TableName
from manydb.errors import UnknownTable
from manydb.leases import Target
from manydb.lineage import Catalog, Routine
from manydb.policy import Guard, Policy
from manydb.schemas import SchemaCache

T = TypeVar("T")


class Read(Protocol):
    """Does work in a read-only transaction; what opens it may be sent together with work that is *alone* in it."""

    def __call__(
        self, registration: Registration, work: Callable[[AsyncConnection], Awaitable[Any]], *, alone: bool = False
    ) -> Awaitable[Any]: ...


_GUARD_SECONDS = 5.0
"""How long a connection with hidden or masked data believes what it knows of views and functions."""
_MOST_DESCRIBED = 2_000
"""Descriptions that are remembered, of all databases together; one takes some kilobytes."""
_MOST_VIEWS = 200
"""Policies whose view of a schema is remembered."""


class Catalogs:
    """The catalogs of all connections, believed for *ttl* seconds. *read* does work in a read-only transaction."""

    def __init__(self, ttl: float, read: Read) -> None:
        self._cache = SchemaCache(ttl)
        self._acting = SchemaCache(ttl)
        self._tables = SchemaCache(ttl, most=_MOST_DESCRIBED)
        self._snapshots: dict[tuple[Target, Policy], tuple[Snapshot, Snapshot]] = {}
        self._read = read

    def clock(self) -> float:
        """The time that `invalidate` knows."""
        return self._cache.clock()

    def invalidate(self, target: Target, *, before: float | None = None) -> bool:
        """Forget what was read of *target*; with *before*, only what tells of tables, and was begun until then.

        Whether there was any of that. A table that is missed makes no function doubtful, which everybody's next
        statement would have to wait for.
        """
        for seen in [seen for seen in self._snapshots if seen[0] == target]:
            del self._snapshots[seen]
        if before is None:
            self._acting.invalidate(target)
        # Both, whatever the first of them says.
        return any([self._cache.invalidate(target, before=before), self._tables.invalidate(target, before=before)])

    async def aclose(self) -> None:
        self._snapshots.clear()
        for cache in (self._cache, self._acting, self._tables):
            await cache.aclose()

    # -- for people and models ---------------------------------------------------------------------------------------

    async def overview(self, registration: Registration) -> Overview:
        """Every table and view of the database, as the schema cache has it."""
        overview = await self._schema(registration, "overview", registration.dialect.catalog.overview)
        return registration.policy.visible(overview)

    async def snapshot(self, registration: Registration) -> Snapshot:
        """All that a search looks through; the same object as long as it is believed, with what a search made of it."""
        catalog, policy = registration.dialect.catalog, registration.policy
        # One after the other: on as many connections at once, a cold schema would take the database from everybody.
        read = Snapshot(
            await self._schema(registration, "overview", catalog.overview),
            await self._schema(registration, "columns", catalog.columns),
            await self._schema(registration, "indexes", catalog.indexes),
        )
        key = (registration.target, policy)
        known, seen = self._snapshots.get(key, (None, None))
        if known is None or seen is None or not known.is_made_of(read):
            if len(self._snapshots) >= _MOST_VIEWS:
                self._snapshots.pop(next(iter(self._snapshots)))
            seen = policy.visible(read)
            self._snapshots[key] = read, seen
        return seen

    async def fresh_if_empty(
        self, registration: Registration, find: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """What *find* finds in the schema; where that is nothing, once more with the schema read anew.

        What a caller looks for in vain may be younger than what we remember.
        """
        asked = self.clock()
        found = await find()
        if found["total"] == 0 and self.invalidate(registration.target, before=asked):
            found = await find()
        return found

    async def describe(self, registration: Registration, tables: Sequence[str]) -> list[Table]:
        """The named tables, read anew, but not their references. Raises UnknownTable with the nearest names."""
        addresses = await self._addresses(registration, tables)
        described = await self._describe(registration, addresses)
        return [registration.policy.visible(table) for table in described]

    async def described(self, registration: Registration, tables: Sequence[str]) -> list[Table]:
        """The named tables in full, as the schema cache has them. Raises UnknownTable with the nearest names."""
        asked = self.clock()
        addresses = await self._addresses(registration, tables)
        found = await self._remembered(registration, addresses)
        if len(found) < len(set(addresses)) and self.invalidate(registration.target, before=asked):
            # One was dropped since its name was read; what took its name elsewhere may be meant.
            addresses = await self._addresses(registration, tables)
            found = await self._remembered(registration, addresses)
        references = await self._schema(registration, "references", registration.dialect.catalog.references)
        every = [found[address] for address in dict.fromkeys(addresses) if address in found]
        return [registration.policy.visible(references.of(table)) for table in every]

    async def _remembered(
        self, registration: Registration, addresses: Sequence[TableName]
    ) -> Mapping[TableName, Table]:
        async def read(missing: Sequence[TableName]) -> Mapping[TableName, Table]:
            described = await self._describe(registration, missing)
            return {table.address: table for table in described}

        return await self._tables.get_each(registration.target, addresses, read)

    async def _describe(self, registration: Registration, addresses: Sequence[TableName]) -> list[Table]:
        catalog = registration.dialect.catalog
        described: list[Table] = await self._read(
            registration, lambda on: catalog.describe(on, addresses), alone=catalog.describes_alone
        )
        return described

    async def _addresses(self, registration: Registration, tables: Sequence[str]) -> list[TableName]:
        asked = self.clock()
        try:
            return await self._resolve(registration, tables)
        except UnknownTable:
            # It may be younger than what we remember.
            if not self.invalidate(registration.target, before=asked):
                raise
            return await self._resolve(registration, tables)

    async def _resolve(self, registration: Registration, tables: Sequence[str]) -> list[TableName]:
        overview = await self.overview(registration)
        return [names.resolve(overview, table, registration.dialect.quote) for table in tables]

    # -- for verdicts ------------------------------------------------------------------------------------------------

    async def acting_functions(self, registration: Registration) -> frozenset[str]:
        """The functions (and operators) that the database itself says may act."""
        catalog = registration.dialect.catalog
        return await self._acting.get(
            registration.target,
            "functions",
            lambda: self._read(registration, catalog.acting_functions, alone=catalog.describes_alone),
        )

    async def guard(self, registration: Registration) -> Guard:
        """The connection's policy over its database as it is now, or was some seconds ago."""
        catalog = registration.dialect.catalog

        async def read(on: AsyncConnection) -> Guard:
            overview = await catalog.overview(on)
            tables = await catalog.outlines(on, overview)
            routines = [Routine(name, text, tuple(signs.split())) for name, text, signs in await catalog.routines(on)]
            known = Catalog.of(overview, tables, parents=await catalog.parents(on), routines=routines)
            return Guard.of(registration.policy, known)

        return await self._schema(registration, f"guard of {registration.name}", read, ttl=_GUARD_SECONDS)

    async def _schema(
        self,
        registration: Registration,
        part: str,
        read: Callable[[AsyncConnection], Awaitable[T]],
        *,
        ttl: float | None = None,
    ) -> T:
        return await self._cache.get(registration.target, part, lambda: self._read(registration, read), ttl=ttl)
