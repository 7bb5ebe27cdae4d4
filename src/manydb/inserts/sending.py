"""Rows on their way: in one transaction or batch by batch, and what came of them."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import redaction, statements, writes
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.dialects.loading import Loaded, Part, Told
from manydb.errors import BadParameter, ConfirmationNeeded, ConstraintViolated, ManydbError
from manydb.gateway import Gateway
from manydb.inserts.fitting import Ready, prepare
from manydb.inserts.request import Request
from manydb.query import QueryResult
from manydb.writes import Change, Preview, Writes

Mode = Literal["all", "batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows from *first* to *last*, and how their transaction ended: *error* is why they are not there."""

    first: int
    last: int
    error: ManydbError | None = None


@dataclass(slots=True)
class Outcome:
    """Numbers of rows; None where the database does not tell. *batches* only where there was more than one try."""

    connection: str
    table: str
    inserted: int | None = None
    updated: int | None = None
    skipped: int | None = None
    written: int | None = None
    batches: list[Batch] = field(default_factory=list)

    def add(self, loaded: Loaded) -> None:
        for name in ("inserted", "updated", "skipped", "written"):
            if (count := getattr(loaded, name)) is not None:
                setattr(self, name, (getattr(self, name) or 0) + count)


async def insert(
    gateway: Gateway,
    consent: Writes,
    caller: Caller,
    connection: str | None,
    request: Request,
    told: Told,
    *,
    mode: Mode = "all",
    batch_rows: int = 10_000,
    confirm: str | None = None,
    transaction_id: str | None = None,
    timeout: float | None = None,  # noqa: ASYNC109
) -> Outcome:
    """Insert all rows in one transaction, or as *mode* says each batch in its own. Raises ManydbError.

    With batches, one that fails does not keep the others from lasting; that raises only where none lasts.
    """
    if mode == "batches" and (transaction_id is not None or confirm is not None):
        raise BadParameter("batches have transactions of their own: leave mode out for transaction_id or confirm")
    ready = await prepare(gateway, caller, connection, request, transaction_id, timeout)
    outcome = Outcome(ready.registration.name, ready.name)
    size = batch_rows if mode == "batches" else max(1, len(ready.rows))
    for first in range(0, len(ready.rows), size):
        some = ready.parts(first, first + size)
        batch = _Run(ready, some, told, told_apart=confirm is not None)
        try:
            await consent.perform(
                caller,
                connection,
                batch.change,
                confirm=confirm,
                transaction_id=transaction_id,
                timeout=timeout,
            )
        except ManydbError as exc:
            if mode == "all" or isinstance(exc, ConfirmationNeeded):
                raise
            outcome.batches.append(Batch(first, some[-1].first + some[-1].count - 1, exc))
            if not isinstance(exc, BadParameter | ConstraintViolated):
                break  # it would happen to the next one as well
        else:
            outcome.add(batch.loaded)
            outcome.batches.append(Batch(first, some[-1].first + some[-1].count - 1))
    errors = [batch.error for batch in outcome.batches if batch.error]
    if errors and len(errors) == len(outcome.batches):
        raise errors[0]
    return outcome


async def preview(
    gateway: Gateway,
    consent: Writes,
    caller: Caller,
    connection: str | None,
    request: Request,
    *,
    transaction_id: str | None = None,
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[Preview, Outcome]:
    """Insert all rows and roll that back: what it would do, and a token to confirm it with."""
    ready = await prepare(gateway, caller, connection, request, transaction_id, timeout)
    run = _Run(ready, ready.parts(0, len(ready.rows)), lambda _: None, told_apart=True)
    found = await consent.preview(caller, connection, run.change, transaction_id=transaction_id, timeout=timeout)
    outcome = Outcome(ready.registration.name, ready.name)
    outcome.add(run.loaded)
    return found, outcome


@dataclass(slots=True)
class _Run:
    """One transaction's rows on their way; *loaded* is what came of it. *told_apart*: it can be confirmed."""

    ready: Ready
    parts: Sequence[Part]
    told: Told
    told_apart: bool
    loaded: Loaded = field(default_factory=Loaded)

    async def change(self, registration: Registration) -> Change:
        load, rows = self.ready.load, self.ready.rows
        identity = ""
        if self.told_apart:  # reading all values once more takes as long as making them ready
            given = ("insert_rows", registration.name, self.ready.name, load.names, load.on_conflict, load.key, rows)
            identity = await asyncio.to_thread(writes.digest, *given)
        return Change(self.ready.statement, None, identity, self._send, names=statements.names(self.ready.statement))

    async def _send(self, on: AsyncConnection) -> QueryResult:
        try:
            self.loaded = await self.ready.loader.send(on, self.parts, self.told)
        except ManydbError as exc:
            self._explain(exc)
            raise
        # New rows destroy nothing, however many they are; rows that are overwritten do.
        overwritten = self.loaded.updated if self.loaded.written is None else self.loaded.written
        return QueryResult(self.ready.registration.name, [], [], [], more=False, elapsed_ms=0, affected=overwritten)

    def _explain(self, error: ManydbError) -> None:
        """Say which row it was, and keep the values out of what the database says."""
        row = error.details.get("row")
        if row is None:
            # Strings in what it quotes may be anybody's.
            error.message = re.sub(r"'[^']*'", "<value>", error.message) if error.__cause__ else error.message
        elif not error.message.startswith(f"row {row}"):
            error.message = f"row {row}: {redaction.without_values(error.message, list(self.ready.rows[row]))}"
