"""One AsyncEngine per target and access: made on first use, leased for a call, disposed after an idle TTL."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import anyio
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from manydb.errors import ManydbError, PoolBusy
from manydb.leases import Health, Lease, Pings, Target, start
from manydb.settings import Access, Settings

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 1.5
"""How long closing an engine's connections may take before they are left to the operating system."""


@dataclass(frozen=True, slots=True)
class Pool:
    """How many database connections an engine keeps, and for how long (seconds)."""

    size: int
    recycle: float
    idle_ttl: float


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One engine: its pool, in connections, and its age in seconds."""

    location: str
    access: Access
    size: int
    idle: int
    in_use: int
    leases: int
    age: float
    health: Health | None


@dataclass(eq=False, slots=True)
class _Entry:
    lease: Lease
    pool: Pool
    created: float
    last_used: float
    leases: int = 0
    is_checked: bool = False
    """A health check holds a connection; it keeps the engine from being disposed, but is no use of it."""

    @property
    def is_held(self) -> bool:
        return self.leases > 0 or self.is_checked or bool(self.lease.returning)


_Key = tuple[Target, Access]


@dataclass(eq=False)
class EngineRegistry:
    """Use as an async context manager; the sweep and the health check run while it is open."""

    settings: Settings
    clock: Callable[[], float] = time.monotonic
    _entries: dict[_Key, _Entry] = field(default_factory=dict)
    _retired: set[_Entry] = field(default_factory=set)
    _watches: set[asyncio.Task[None]] = field(default_factory=set)
    _disposals: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        start(self._watches, _forever(self.settings.sweep_interval, self.sweep))
        start(self._watches, _forever(self.settings.health_check_interval, self.check))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            watches = list(self._watches)
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            entries = [*self._entries.values(), *self._retired]
            self._entries.clear()
            self._retired.clear()
            for entry in entries:
                entry.lease.is_closed = True
            # Whoever waits for these calls may be cancelled with the loop, sooner than their statements are stopped.
            await asyncio.gather(*(call.stop() for entry in entries for call in list(entry.lease.calls)))
            returning = [task for entry in entries for task in entry.lease.returning]
            if returning:
                await asyncio.wait(returning, timeout=_CLOSE_SECONDS)
            await asyncio.gather(*self._disposals, *(_dispose(entry) for entry in entries))

    @asynccontextmanager
    async def lease(self, target: Target, access: Access, pool: Pool | None = None) -> AsyncGenerator[Lease]:
        """Hold the engine of *target* and *access*, made from *pool* if it is new.

        Raises PoolBusy where `max_engines` are alive and all of them leased. An engine past its lifetime makes room at
        once, and lives on beside its successor until its last lease ends.
        """
        # No await between look-up and insert: two hundred callers at once find or make one engine without a lock.
        key = (target, access)
        entry = self._entries.get(key)
        if entry is not None and self._is_old(entry):
            self._retire(key)
            entry = None
        if entry is None:
            entry = self._add(key, pool or self.default_pool())
        entry.leases += 1
        try:
            yield entry.lease
        finally:
            entry.leases -= 1
            entry.last_used = self.clock()
            self._dispose_if_retired(entry)

    def default_pool(self) -> Pool:
        return Pool(self.settings.pool_size, self.settings.pool_recycle, self.settings.engine_idle_ttl)

    def stats(self) -> list[EngineStats]:
        """The live engines, in the order they were made."""
        return [self._stats(key, entry) for key, entry in self._entries.items()]

    def health(self, target: Target, access: Access) -> Health | None:
        """What the last check or call of that engine told; None where there is no engine or nothing is known."""
        entry = self._entries.get((target, access))
        return entry.lease.health if entry else None

    def retire(self, target: Target) -> None:
        """Nobody needs engines to *target* any more: each is disposed when its last lease ends."""
        for key in [key for key in self._entries if key[0] == target]:
            self._retire(key)

    async def sweep(self) -> None:
        """Dispose engines that are idle for longer than their TTL, retire those past their lifetime."""
        now = self.clock()
        for key, entry in list(self._entries.items()):
            if entry.leases == 0 and now - entry.last_used >= entry.pool.idle_ttl:
                _log.info("engine of %s is idle: disposed", entry.lease.target.location)
                self._retire(key)
            elif self._is_old(entry):
                self._retire(key)
        await asyncio.sleep(0)

    async def check(self) -> None:
        """Ask every live engine that has a connection to spare whether its database answers."""
        await asyncio.gather(*(self._check(entry) for entry in list(self._entries.values())))

    async def _check(self, entry: _Entry) -> None:
        pool = entry.lease.engine.pool
        if entry.is_checked or (isinstance(pool, AsyncAdaptedQueuePool) and pool.checkedout() >= pool.size()):
            return
        entry.is_checked = True
        try:
            error = await self._ask(entry.lease)
        except PoolBusy:
            return  # others were faster, and will learn it
        finally:
            entry.is_checked = False
            self._dispose_if_retired(entry)
        entry.lease.health = Health(self.clock(), error)

    async def _ask(self, lease: Lease) -> ManydbError | None:
        """What keeps us from the lease's database; None where it answers. Raises PoolBusy."""
        lease.pings.distrust()
        try:
            async with asyncio.timeout(self.settings.connect_timeout), lease.connect():
                return None  # the pool pings before it lends
        except TimeoutError as exc:
            return lease.dialect.connect_error(exc, lease.target.told)
        except PoolBusy:
            raise
        except ManydbError as exc:
            return exc

    def _add(self, key: _Key, pool: Pool) -> _Entry:
        target, access = key
        dialect, url, admission = target.dialect, target.url, target.admission
        # First, for it may fail, and nobody's engine should go for that.
        arguments = dialect.connect_args(target.told, access, self.settings.connect_timeout)
        if len(self._entries) >= self.settings.max_engines:
            self._evict()
        driver_url = dialect.driver_url(url, access)

        def side() -> AsyncEngine:
            beside = create_async_engine(
                driver_url,
                poolclass=NullPool,
                connect_args=arguments,
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
            )
            if admission is not None:
                admission.guard(beside)
            return beside

        engine = create_async_engine(
            driver_url,
            connect_args=arguments,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            **{
                "pool_pre_ping": True,
                "pool_recycle": pool.recycle,
                "pool_size": pool.size,
                "max_overflow": 0,
                "pool_timeout": self.settings.pool_timeout,
                "pool_reset_on_return": None,  # the dialect's scrub does it
                "pool_use_lifo": True,  # connections that a quiet hour does not need grow old and go
            }
            | dialect.engine_options(url, access),
        )
        dialect.prepare(engine, access)
        if admission is not None:
            admission.guard(engine)
        now = self.clock()
        entry = _Entry(Lease(engine, target, Pings(engine), access, side), pool, created=now, last_used=now)
        self._entries[key] = entry
        return entry

    def _evict(self) -> None:
        idle = [(entry.last_used, key) for key, entry in self._entries.items() if entry.leases == 0]
        if not idle:
            raise PoolBusy(f"all {self.settings.max_engines} engines of this server are in use (max_engines)")
        self._retire(min(idle, key=lambda pair: pair[0])[1])

    def _retire(self, key: _Key) -> None:
        """Take the engine out of use: disposed at once, or when its last lease ends."""
        entry = self._entries.pop(key)
        self._retired.add(entry)
        self._dispose_if_retired(entry)

    def _dispose_if_retired(self, entry: _Entry) -> None:
        if entry not in self._retired:
            return
        if not entry.is_held:
            self._retired.discard(entry)
            start(self._disposals, _dispose(entry))
            return
        for task in entry.lease.returning:
            task.add_done_callback(lambda _: self._dispose_if_retired(entry))

    def _is_old(self, entry: _Entry) -> bool:
        return self.clock() - entry.created >= self.settings.engine_max_lifetime

    def _stats(self, key: _Key, entry: _Entry) -> EngineStats:
        pool = entry.lease.engine.pool
        queue = pool if isinstance(pool, AsyncAdaptedQueuePool) else None
        return EngineStats(
            location=entry.lease.target.location,
            access=key[1],
            size=queue.size() if queue else 0,
            idle=queue.checkedin() + len(entry.lease.returning) if queue else 0,
            in_use=queue.checkedout() - len(entry.lease.returning) if queue else 0,
            leases=entry.leases,
            age=self.clock() - entry.created,
            health=entry.lease.health,
        )


async def _forever(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception as exc:  # noqa: BLE001 - one bad round must not end the watch
            # The kind alone: a driver's message may hold what must not be logged.
            _log.error("the engine registry's watch failed with %s; it goes on", type(exc).__qualname__)


async def _dispose(entry: _Entry) -> None:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await entry.lease.engine.dispose()
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - best effort: the server notices a lost connection itself
        _log.debug("an engine did not close cleanly", exc_info=True)
