"""Writes that can be trusted: looked at before they happen, counted when they do, confirmed where they destroy."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import query, reads, statements
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.dialects.schema import Table
from manydb.errors import (
    BadParameter,
    ConfirmationNeeded,
    Conflict,
    Expired,
    Forbidden,
    Unsupported,
)
from manydb.gateway import Gateway, Place
from manydb.handles import Handles
from manydb.query import QueryResult
from manydb.statements import Statement

_SAMPLE_ROWS = 5
_SAMPLE = "manydb_sample"

Sampler = Callable[[AsyncConnection], Awaitable[QueryResult | None]]


@dataclass(frozen=True, slots=True)
class Change:
    """A write that is about to happen.

    *statement* is what errors teach with; *digest* is of all that decides what the write does, and *names* are all that
    it names in the database. *work* does it in an open transaction; *before*, and *after*, which is given the rows of
    *before*, read some of the rows it is about.
    """

    statement: Statement
    params: Any
    digest: str
    work: Callable[[AsyncConnection], Awaitable[QueryResult]]
    destroys: str = ""
    """Why it is destructive whatever it affects; empty where the number of rows decides."""
    names: frozenset[str] = frozenset()
    before: Sampler | None = None
    after: Callable[[AsyncConnection, QueryResult], Awaitable[QueryResult | None]] | None = None

    @property
    def is_ddl(self) -> bool:
        return self.statement.kind == "ddl"


@dataclass(frozen=True, slots=True)
class Preview:
    """What a write would do. *confirm* is a token for doing exactly that; *note* says what could not be tried."""

    connection: str
    sql: str
    confirm: str
    affected: int | None = None
    before: QueryResult | None = None
    after: QueryResult | None = None
    note: str = ""
    destroys: str = ""


@dataclass(frozen=True, slots=True)
class _Confirmation:
    registration: Registration
    digest: str
    affected: int | None


class Writes:
    """What may be written, and how; confirm tokens are good once, for their caller alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._confirmations = gateway.holdings.add(
            Handles[_Confirmation](
                "c",
                "confirmation",
                "preview the write again",
                idle_ttl=self._settings.confirm_ttl,
                per_owner=_MOST_CONFIRMATIONS,
                end=_nothing,
                mark=self._settings.mark,
            )
        )

    # -- SQL ---------------------------------------------------------------------------------------------------------

    async def change(self, registration: Registration, sql: str, params: Any, *, limit: int) -> Change:
        """The write that *sql* is; RETURNING gives at most *limit* rows. Raises ReadOnly, Forbidden, SqlSyntax …"""
        statement = statements.parse(sql, registration.dialect.grammar)
        statements.require_safe(statement)
        registration.policy.require(statement)
        if not registration.policy.is_open:
            raise Forbidden(
                "this connection hides or masks data, so nothing is written to it in SQL",
                suggestions=["use insert_rows, update_rows or delete_rows"],
            )
        may_act = statement.functions or registration.dialect.catalog.operators_may_act
        if may_act and registration.access != "admin":
            acting = await self._gateway.catalogs.acting_functions(registration)
            statements.check_functions(statement, acting)

        async def work(on: AsyncConnection) -> QueryResult:
            done = await query.run(
                on, registration.dialect, registration.name, statement, params, limit=limit, writes=True
            )
            return replace(
                done,
                # What drivers count for other statements means nothing.
                affected=None if statement.kind == "ddl" else done.affected,
                generated=done.generated if statement.verb in ("INSERT", "REPLACE") else None,
            )

        chosen = statements.condition(statement)
        rows = _Rows(self._gateway, registration, chosen, params) if chosen else None
        return Change(
            statement,
            params,
            digest(statement.sql, params),
            work,
            _destroys(statement),
            statements.names(statement),
            rows.before if rows else None,
            rows.after if rows and statement.verb == "UPDATE" else None,
        )

    # -- any write ---------------------------------------------------------------------------------------------------

    async def perform(
        self,
        caller: Caller,
        connection: str | None,
        make: Callable[[Registration], Awaitable[Change]],
        *,
        confirm: str | None = None,
        transaction_id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> QueryResult:
        """Do what *make* says, and make it last; inside an open transaction, as a part of that.

        Raises ConfirmationNeeded where somebody should look first, and Conflict where a confirmed write affects other
        rows than it did when it was previewed: then nothing is changed.
        """
        async with self._gateway.writing_on(caller, connection, transaction_id) as place:
            registration = place.registration
            change = await make(registration)
            self._require_fitting(place, change)
            confirmation = await self._confirmed(caller, registration, change, confirm) if confirm else None
            if confirmation is None:
                self._require_unconfirmed(change)

            async def work(on: AsyncConnection) -> QueryResult:
                result = await change.work(on)
                self._judge(change, result, confirmation)
                return result

            with self._gateway.recorded(caller, registration, change.statement.sql) as record:
                seconds = self._gateway.seconds(registration, timeout)
                result = await reads.taught(self._gateway, place, change.statement, change.params, work, seconds)
                record.affected, record.rows = result.affected, len(result.rows) or None
        if change.is_ddl:
            self._gateway.catalogs.invalidate(registration.target)
        return result

    async def preview(
        self,
        caller: Caller,
        connection: str | None,
        make: Callable[[Registration], Awaitable[Change]],
        *,
        transaction_id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Preview:
        """Do what *make* says, look, and roll it back; where that cannot be done, say so and change nothing."""
        async with self._gateway.writing_on(caller, connection, transaction_id, tries=True) as place:
            registration = place.registration
            change = await make(registration)
            self._require_fitting(place, change)
            seen: dict[str, Any] = {}
            if change.is_ddl and registration.dialect.commits_ddl:
                seen["note"] = f"{registration.dialect.title} commits a change of the schema at once: it was not tried"
            else:
                work = _trying(registration, change, seen)
                seconds = self._gateway.seconds(registration, timeout)
                with self._gateway.recorded(caller, registration, f"-- preview\n{change.statement.sql}") as record:
                    await reads.taught(self._gateway, place, change.statement, change.params, work, seconds)
                    record.affected = seen.get("affected")
            confirmation = _Confirmation(registration, change.digest, seen.get("affected"))
            confirm = self._confirmations.add(caller, confirmation)
            return Preview(
                registration.name,
                change.statement.sql,
                confirm,
                **seen,
                destroys=self._objection(change, seen.get("affected")),
            )

    def _require_fitting(self, place: Place, change: Change) -> None:
        if change.is_ddl and place.goes_on and place.registration.dialect.commits_ddl:
            raise Unsupported(
                f"{place.registration.dialect.title} commits the transaction with every change of the schema; "
                "commit it first, and run this without transaction_id"
            )

    def _objection(self, change: Change, affected: int | None) -> str:
        """Why the write needs a confirmation; "" where it needs none."""
        if self._settings.confirm_writes == "never":
            return ""
        if change.destroys:
            return change.destroys
        if self._settings.confirm_writes == "always":
            return "writes are confirmed on this server"
        if affected is not None and affected > self._settings.confirm_rows:
            return f"it affects {affected:,} rows, more than {self._settings.confirm_rows:,} (confirm_rows)"
        return ""

    def _require_unconfirmed(self, change: Change) -> None:
        if reason := self._objection(change, None):
            raise _confirmation_needed(reason)

    def _judge(self, change: Change, result: QueryResult, confirmation: _Confirmation | None) -> None:
        """In the transaction, after the write: what is raised here undoes it."""
        if confirmation is None:
            if reason := self._objection(change, result.affected):
                raise _confirmation_needed(reason)
        elif confirmation.affected is not None and result.affected != confirmation.affected:
            raise Conflict(
                f"the write would affect {result.affected} rows now, and {confirmation.affected} when it was "
                "previewed; nothing was changed: preview it again"
            )

    async def _confirmed(
        self, caller: Caller, registration: Registration, change: Change, confirm: str
    ) -> _Confirmation:
        """What *confirm* stands for, used up by this. Raises Expired, and BadParameter where it is of another write."""
        found = self._confirmations.get(caller, confirm)
        if found.registration is not registration or found.digest != change.digest:
            raise BadParameter("confirm is of another write: connection, statement and params must be those previewed")
        await self._confirmations.remove(confirm, "was used")
        return found


_MOST_CONFIRMATIONS = 100


def digest(*parts: Any) -> str:
    """Of everything that decides what a write does, JSON values and text."""
    return hashlib.sha256(orjson.dumps(parts, default=repr, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _confirmation_needed(reason: str) -> ConfirmationNeeded:
    return ConfirmationNeeded(
        f"not done: {reason}",
        suggestions=["preview_statement shows what it would do and gives a confirm token; let the user decide"],
    )


def _destroys(statement: Statement) -> str:
    if statement.kind == "ddl":
        return f"{statement.verb} changes the schema" if statement.verb != "TRUNCATE" else "TRUNCATE empties the table"
    return f"{statement.verb} has no WHERE: it is about every row" if statement.sweeping else ""


def _trying(
    registration: Registration, change: Change, seen: dict[str, Any]
) -> Callable[[AsyncConnection], Awaitable[None]]:
    """Work that does *change*, and puts what it saw into *seen*; who runs it rolls it back."""

    async def work(on: AsyncConnection) -> None:
        if reason := await registration.dialect.lasting(on, change.names):
            seen["note"] = f"not tried: {reason}"
            return
        before = await _sampled(on, change.before) if change.before else None
        result = await change.work(on)
        seen.update(affected=result.affected, before=before)
        if change.after and before and before.rows:
            seen["after"] = await _sampled(on, lambda on: change.after(on, before) if change.after else _none())

    return work


async def _none() -> None:
    return None


async def _sampled(on: AsyncConnection, read: Sampler) -> QueryResult | None:
    """Rows for people to look at; where they cannot be had, the preview goes on without."""
    await on.exec_driver_sql(f"SAVEPOINT {_SAMPLE}")
    rows = None
    try:
        rows = await read(on)
    except Exception as exc:  # noqa: BLE001 - whatever a driver says of a sample: the write is judged by itself
        try:
            await on.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {_SAMPLE}")
        except Exception:  # noqa: BLE001 - the transaction is gone, and with it what would undo the write
            raise exc from None
    await on.exec_driver_sql(f"RELEASE SAVEPOINT {_SAMPLE}")
    return rows


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that an UPDATE or DELETE is about."""

    gateway: Gateway
    registration: Registration
    chosen: statements.Condition
    params: Any

    async def before(self, on: AsyncConnection) -> QueryResult | None:
        wanted = statements.parse(self.chosen.sql, self.registration.dialect.grammar)
        return await self._read(on, wanted, self.chosen.params(self.params, wanted))

    async def after(self, on: AsyncConnection, before: QueryResult) -> QueryResult | None:
        """The same rows by their primary key; None where it has none."""
        wanted = statements.parse(f"SELECT * FROM {self.chosen.table}", self.registration.dialect.grammar)
        if len(wanted.tables) != 1:
            return None
        schema, name = wanted.tables[0]
        (table,) = await self.gateway.catalogs.describe(self.registration, [f"{schema}.{name}" if schema else name])
        found = by_key(table, before, self.registration.dialect.quote)
        if found is None:
            return None
        condition, params = found
        sql = f"SELECT * FROM {self.chosen.table} WHERE {condition}"
        return await self._read(on, statements.parse(sql, self.registration.dialect.grammar), params)

    async def _read(self, on: AsyncConnection, wanted: Statement, params: Any) -> QueryResult:
        dialect, name = self.registration.dialect, self.registration.name
        return await query.run(on, dialect, name, wanted, params, limit=_SAMPLE_ROWS, goes_on=True)


def by_key(table: Table, rows: QueryResult, quote: Callable[[str], str]) -> tuple[str, dict[str, Any]] | None:
    """A condition, with params, for the primary keys of *rows*; None where the table has no such key among them."""
    key = table.primary_key
    if not key or any(rows.columns.count(name) != 1 for name in key):
        return None
    places = [rows.columns.index(name) for name in key]
    params: dict[str, Any] = {}
    alternatives = []
    for number, row in enumerate(rows.rows):
        terms = []
        for column, place in zip(key, places, strict=True):
            params[f"k{number}_{place}"] = row[place]
            terms.append(f"{quote(column)} = :k{number}_{place}")
        alternatives.append(f"({' AND '.join(terms)})")
    return " OR ".join(alternatives), params


async def _nothing(_confirmation: _Confirmation) -> None:
    pass


__all__ = ["Change", "Expired", "Preview", "Writes", "by_key", "digest"]
