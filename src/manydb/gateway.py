"""Caller and connection's name in, a place to run statements out: the one place where the parts meet.

What callers hold across calls (registrations, results, transactions, and what the modules above add) ends here. How
statements are read, judged and answered is the business of those modules: reads, writes, rows, inserts, exports, jobs.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import transactions
from manydb.callers import Caller
from manydb.catalogs import Catalogs
from manydb.connections import Connections, Registration
from manydb.engines import EngineRegistry
from manydb.errors import (
    AuthFailed,
    BadParameter,
    Cancelled,
    ManydbError,
    ReadOnly,
    TlsFailed,
    TooMany,
    Unreachable,
    Unsupported,
)
from manydb.handles import Handles
from manydb.history import History
from manydb.holdings import Holdings
from manydb.leases import Lease
from manydb.results import Results
from manydb.settings import Isolation, Settings
from manydb.standings import Standings
from manydb.transactions import Transaction

T = TypeVar("T")
Run = Callable[[Callable[[AsyncConnection], Awaitable[Any]], float], Awaitable[Any]]
"""Does work within so many seconds."""

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0
_READING_SCHEMAS_SECONDS = 30.0
_ASKING_SECONDS = 10.0
_LONG_STATEMENT = 10_000
"""Characters; reading more takes long enough to make other callers wait, so a thread does it."""
_GUARD_SECONDS = 5.0
"""How long a connection with hidden or masked data believes what it knows of views and functions."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a statement runs. *run* does work there; *fetch* does work that is one `Dialect.fetch` and nothing else.

    The *transaction* goes on after it.
    """

    registration: Registration
    run: Run
    fetch: Run
    transaction: Transaction | None = None

    @property
    def goes_on(self) -> bool:
        return self.transaction is not None

    @property
    def open(self) -> Transaction:
        """The transaction, where one was named."""
        if self.transaction is None:
            raise BadParameter("transaction_id is missing")
        return self.transaction


@dataclass(slots=True)
class Record:
    """What history will tell of a statement besides how it ended."""

    rows: int | None = None
    affected: int | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """A transaction across calls, and the connection that it is on."""

    registration: Registration
    transaction: Transaction


class Gateway:
    """Everything a running server holds. Use `Gateway.open`."""

    def __init__(self, settings: Settings, engines: EngineRegistry, *, local: bool) -> None:
        self.settings = settings
        self.local = local
        """Whether one client on this machine owns the process: stdio."""
        self.engines = engines
        self.catalogs = Catalogs(
            settings.schema_cache_ttl,
            lambda registration, work, *, alone=False: self.read(
                registration, work, timeout=_READING_SCHEMAS_SECONDS, alone=alone
            ),
        )
        self.history = History(settings.history_size, settings.caller_idle_ttl)
        self.standings = Standings(lambda registration, work: self.read(registration, work, timeout=_ASKING_SECONDS))
        self.holdings = Holdings()
        self.transactions = self.holdings.add(
            Handles[Open](
                "t",
                "transaction",
                "begin another",
                idle_ttl=settings.transaction_idle_ttl,
                max_age=settings.transaction_max_age,
                per_owner=settings.max_transactions,
                end=lambda held: held.transaction.close(),
                in_use=lambda held: held.transaction.is_busy,
                mark=settings.mark,
            )
        )
        self.results = self.holdings.add(Results(settings))
        self.connections = self.holdings.add(Connections.configured(settings, self._left))

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, local: bool = True) -> AsyncGenerator[Self]:
        """A gateway to the settings' connections; nothing is connected before it is used."""
        async with EngineRegistry(settings) as engines:
            gateway = cls(settings, engines, local=local)
            watch = asyncio.create_task(gateway._watch())
            try:
                yield gateway
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
                await gateway._aclose()

    async def _aclose(self) -> None:
        await self.holdings.aclose()
        await self.standings.aclose()
        await self.catalogs.aclose()

    # -- what callers hold -------------------------------------------------------------------------------------------

    async def release(self, caller: Caller) -> None:
        """*caller* is gone: end all that it holds."""
        await self.holdings.release(caller)
        self.history.forget(caller)

    async def sweep(self) -> None:
        """End what has expired."""
        await self.holdings.sweep()
        self.history.sweep()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                await self.sweep()
            except Exception as exc:  # noqa: BLE001 - one bad round must not end the watch
                # The kind alone: a driver's message may hold what must not be logged.
                _log.error("the gateway's watch failed with %s; it goes on", type(exc).__qualname__)

    async def _left(self, registration: Registration, is_last: bool) -> None:  # noqa: FBT001
        """A caller's registration is gone, and with it what was open on it."""
        gone = [handle for handle, held in self.transactions.everything() if held.registration is registration]
        for handle in gone:
            await self.transactions.remove(handle, f"was rolled back: {registration.name} was removed")
        if is_last:
            self.engines.retire(registration.target)
            self.catalogs.invalidate(registration.target)

    # -- transactions ------------------------------------------------------------------------------------------------

    async def read(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        timeout: float,  # noqa: ASYNC109
        alone: bool = False,
    ) -> T:
        """Do *work* in a read-only transaction on *registration*'s database; again where the connection was lost.

        With *alone*, the work is a single `Dialect.fetch`, or begins as one: see `Catalog.describes_alone`. Raises
        ManydbError.
        """
        started = time.monotonic()
        # Sent together with what opens the transaction, a statement may meet a connection that has died in its pool.
        alone = alone and self.settings.read_retries > 0
        try:
            return await self._read_once(registration, work, timeout, alone=alone)
        except Unreachable:
            if not self.settings.read_retries or time.monotonic() - started > timeout:
                raise
            return await self._read_again(registration, work, timeout)

    async def _read_once(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        timeout: float,  # noqa: ASYNC109
        *,
        alone: bool = False,
    ) -> T:
        # Whatever the connection permits, reads run on an engine that cannot write: they never share connections.
        async with (
            self._heard(registration),
            self.engines.lease(registration.target, "read_only", registration.pool) as lease,
        ):
            try:
                return await transactions.read(lease, work, timeout=timeout, alone=alone)
            except Unreachable:
                lease.pings.distrust()
                raise

    async def _read_again(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        timeout: float,  # noqa: ASYNC109
    ) -> T:
        import tenacity  # noqa: PLC0415 - only where a connection was lost

        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            stop=tenacity.stop_after_attempt(self.settings.read_retries),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
            reraise=True,
        )
        await asyncio.sleep(0.05 * random.random())  # noqa: S311 - spreads callers, guards nothing
        return await again(self._read_once, registration, work, timeout)

    async def write(
        self,
        registration: Registration,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        timeout: float,  # noqa: ASYNC109
        commit: bool = True,
    ) -> T:
        """Do *work* in a transaction that may write and, with *commit*, lasts. Never tried again."""
        async with self._heard(registration), self._writing(registration) as lease:
            return await transactions.write(lease, work, timeout=timeout, commit=commit)

    async def begin(
        self, caller: Caller, registration: Registration, *, read_only: bool, isolation: Isolation | None
    ) -> str:
        """Open a transaction that lasts across calls; its id. Raises TooMany and PoolBusy."""
        self.transactions.require_room(caller)
        leasing = AsyncExitStack()
        async with self._heard(registration):
            engine = (
                self.engines.lease(registration.target, "read_only", registration.pool)
                if read_only
                else self._writing(registration)
            )
            transaction = await transactions.begin(
                await leasing.enter_async_context(engine),
                leasing.aclose,
                read_only=read_only,
                isolation=isolation,
                timeout=registration.limits.timeout_seconds,
            )
        try:
            return self.transactions.add(caller, Open(registration, transaction))
        except TooMany:
            await transaction.close()
            raise

    @asynccontextmanager
    async def _writing(self, registration: Registration) -> AsyncGenerator[Lease]:
        if registration.access == "read_only":
            raise ReadOnly(f"{registration.name} has access read_only: nothing is written through it")
        if not registration.dialect.is_shared(registration.target.url):
            raise Unsupported("a database in memory is a different one for each engine: register a file to write to")
        async with self.engines.lease(registration.target, registration.access, registration.pool) as lease:
            yield lease

    @asynccontextmanager
    async def _heard(self, registration: Registration) -> AsyncGenerator[None]:
        """Remember whether the database answered."""
        try:
            yield
        except (Unreachable, AuthFailed, TlsFailed) as exc:
            self.standings.heard(registration, exc)
            raise
        self.standings.heard(registration)

    # -- where statements run ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def on(
        self, caller: Caller, connection: str | None, transaction_id: str | None = None
    ) -> AsyncGenerator["Place"]:
        """Where a statement runs: in *caller*'s open transaction, or in one of its own on *connection*."""
        if transaction_id is None:
            registration = self.connections.get(caller, connection)
            yield Place(
                registration,
                lambda work, timeout: self.read(registration, work, timeout=timeout),
                lambda work, timeout: self.read(registration, work, timeout=timeout, alone=True),
            )
            return
        found = self.transactions.get(caller, transaction_id)
        transaction = found.transaction
        if connection is not None and found.registration.name != connection:
            raise BadParameter(f"the transaction is on {found.registration.name}; leave connection out, or name that")

        def run(work: Callable[[AsyncConnection], Awaitable[T]], timeout: float) -> Awaitable[T]:
            return transaction.run(work, timeout=timeout)

        try:
            yield Place(found.registration, run, run, transaction)
        finally:
            self.transactions.touch(transaction_id)
            if transaction.ended:
                with anyio.CancelScope(shield=True):
                    await self.transactions.remove(transaction_id, transaction.ended)

    @asynccontextmanager
    async def writing_on(
        self, caller: Caller, connection: str | None, transaction_id: str | None = None, *, tries: bool = False
    ) -> AsyncGenerator["Place"]:
        """Where a write runs, as `on`: committed by itself, or part of an open transaction; undone if it only *tries*.

        Raises ReadOnly where the connection, or the transaction, is.
        """
        async with self.on(caller, connection, transaction_id) as place:
            registration, transaction = place.registration, place.transaction
            if transaction is None:

                def write(work: Callable[[AsyncConnection], Awaitable[T]], timeout: float) -> Awaitable[T]:
                    return self.write(registration, work, timeout=timeout, commit=not tries)

                yield Place(registration, write, write)
            elif transaction.read_only:
                raise ReadOnly("the transaction was begun read-only; begin another to write")
            else:
                undo: Literal["always", "failed"] = "always" if tries else "failed"

                def run(work: Callable[[AsyncConnection], Awaitable[T]], timeout: float) -> Awaitable[T]:
                    return transaction.run(work, timeout=timeout, undo=undo)

                yield Place(registration, run, run, transaction)

    @contextmanager
    def recorded(self, caller: Caller, registration: Registration, sql: str) -> Generator["Record"]:
        """Remember what *caller* runs, and how it ended."""
        record, started, outcome = Record(), time.perf_counter(), "ok"
        try:
            yield record
        except ManydbError as exc:
            outcome = exc.code
            raise
        except asyncio.CancelledError:
            outcome = Cancelled.code
            raise
        finally:
            elapsed = round((time.perf_counter() - started) * 1000)
            self.history.add(
                caller, registration.name, sql, elapsed, outcome, rows=record.rows, affected=record.affected
            )

    def seconds(self, registration: Registration, asked: float | None) -> float:
        """How long a statement may take, where *asked* were asked for."""
        return min(asked or registration.limits.timeout_seconds, self.settings.max_timeout_seconds)
