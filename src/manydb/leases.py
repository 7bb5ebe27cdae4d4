"""Connections on loan: an engine that is held for a call, and what happens to a connection that comes back."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from manydb.admission import Admission
from manydb.dialects import Dialect
from manydb.dialects.execution import driver
from manydb.errors import ManydbError, PoolBusy
from manydb.settings import Access

_FRESH_SECONDS = 1.0
"""A connection that was in use so recently is believed to live."""
_SPARE = 2
"""Connections of an engine whose caller asks one thing right after the other."""


@dataclass(frozen=True, slots=True)
class Target:
    """A database that engines lead to. What a caller registered (*admission*) is guarded, and never the operator's.

    *spelling* is how a caller named its file: the path that it leads to is the server's own business. Who spells it
    otherwise gets another engine, so that errors tell nobody another's words.
    """

    dialect: Dialect
    url: URL = field(repr=False)
    admission: Admission | None = None
    spelling: str = ""
    _hash: int = field(init=False, repr=False, compare=False)
    """Of the others: every call looks an engine up, and a URL writes itself out to be hashed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.dialect, self.url, self.admission, self.spelling)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def location(self) -> str:
        """Where it is, without credentials."""
        return self.dialect.location(self.told)

    @property
    def told(self) -> URL:
        """*url* as errors may tell it."""
        return self.url.set(database=self.spelling) if self.spelling else self.url


@dataclass(frozen=True, slots=True)
class Health:
    """What the last attempt to reach a database told; *error* is None where it answered."""

    checked_at: float
    error: ManydbError | None = None


class Stoppable(Protocol):
    """A call that is under way."""

    async def stop(self) -> None: ...


class Pings:
    """Whether a pooled connection lives, asked before it is lent unless it was in use a moment ago."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._used: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # by the driver's connection
        self._distrusted = 0.0
        event.listen(engine.sync_engine, "checkin", self._returned)
        # SQLAlchemy offers no event for its ping.
        self._ping = engine.sync_engine.dialect.do_ping
        engine.sync_engine.dialect.do_ping = self  # type: ignore[method-assign, assignment]

    def distrust(self) -> None:
        """A connection was found dead: the others are asked, too, however young their last use is."""
        self._distrusted = time.monotonic()

    def _returned(self, dbapi: Any, _record: Any) -> None:
        if dbapi is not None:
            self._used[dbapi.driver_connection] = time.monotonic()

    def __call__(self, dbapi: Any) -> bool:
        used = self._used.get(dbapi.driver_connection, 0.0)
        if used > self._distrusted and time.monotonic() - used < _FRESH_SECONDS:
            return True
        return self._ping(dbapi)


@dataclass(eq=False, slots=True)
class Lease:
    """An engine, held: it is neither idle nor disposed while the lease lasts."""

    engine: AsyncEngine
    target: Target
    pings: Pings
    access: Access
    side: Callable[[], AsyncEngine]
    """Makes an engine without a pool to the same database; whoever calls it disposes it."""
    health: Health | None = None
    calls: set[Stoppable] = field(default_factory=set)
    """What runs on its connections now; stopped in the database when the registry closes."""
    returning: set[asyncio.Task[None]] = field(default_factory=set)
    """Connections on their way back to the pool, where they are cleaned first; nobody waits for them."""
    held: int = 0
    """Connections that transactions across calls keep: never more than half of the pool."""
    is_closed: bool = False
    """The registry has closed: a connection that is still out is dropped when it comes back."""

    @property
    def dialect(self) -> Dialect:
        return self.target.dialect

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[AsyncConnection]:
        """Borrow a connection; one of the two places where driver errors become ours. Raises ManydbError."""
        pool = self.engine.pool
        if self.returning and isinstance(pool, AsyncAdaptedQueuePool) and not pool.checkedin():
            if pool.checkedout() < min(pool.size(), _SPARE):
                # Who asks again at once need not wait next time.
                start(self.returning, self._make_spare())
            # Sooner than a new one would be made.
            await asyncio.wait(self.returning, return_when=asyncio.FIRST_COMPLETED)
        try:
            connection = await self.engine.connect()
        except PoolTimeoutError as exc:
            raise PoolBusy(
                f"all {self.engine.pool.size()} connections to this database are busy"  # type: ignore[attr-defined]  # a QueuePool
            ) from exc
        except ManydbError:
            raise
        except Exception as exc:  # whatever a driver raises while connecting
            raise self.dialect.connect_error(exc, self.target.told) from exc
        is_cut = False
        try:
            yield connection
            is_cut = connection.invalidated  # an answer was too large; the database is well
        finally:
            if self._is_clean(connection):
                cast("Connection", connection.sync_connection).close()  # waits for nothing, so it needs no greenlet
            else:
                # In a task of its own: the answer need not wait for it, and a cancelled caller must not leave the pool
                # one connection short.
                start(self.returning, self._replace(connection) if is_cut else self._give_back(connection))

    async def _replace(self, connection: AsyncConnection) -> None:
        """Give back one that is lost, and connect in its place: whoever asks next need not wait for that."""
        await self._give_back(connection)
        await self._make_spare()

    async def _make_spare(self) -> None:
        """Connect once more, for the pool."""
        with suppress(Exception):  # whoever needs the connection will be told
            await self._give_back(await self.engine.connect())

    def _is_clean(self, connection: AsyncConnection) -> bool:
        return not (self.is_closed or connection.invalidated) and self.dialect.is_clean(driver(connection), self.access)

    async def _give_back(self, connection: AsyncConnection) -> None:
        if self.is_closed or (not connection.invalidated and self.dialect.is_gone(driver(connection))):
            await connection.invalidate()
        await connection.close()


def start(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    """Run *work* beside us, held in *tasks* until it is done."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
