"""Transactions that stay open between calls, each on a connection of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.errors import BadParameter, Conflict, Expired, Internal, ManydbError, OutcomeUnknown, PoolBusy, Unreachable
from manydb.leases import Lease
from manydb.settings import Isolation
from manydb.transactions.calls import Call, Work, stoppable

_log = logging.getLogger(__name__)

T = TypeVar("T")

_CLOSE_SECONDS = 3.0
_MOST_SAVEPOINTS = 100
_STOPPED = "was rolled back, because a statement in it was stopped"


@dataclass(eq=False)
class Transaction:
    """A transaction that stays open between calls, on a connection of its own: `begin` makes it.

    One statement runs at a time. A statement that fails leaves the transaction as it was before; one that is stopped,
    a conflict and a lost connection end it.
    """

    lease: Lease
    read_only: bool
    connection: AsyncConnection = field(repr=False)
    _closing: Callable[[], Awaitable[None]] = field(repr=False)
    ended: str = ""
    """Why there is no transaction any more; empty while it is open."""
    savepoints: list[str] = field(default_factory=list)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _running: Call | None = field(default=None, repr=False)
    _close: asyncio.Task[None] | None = field(default=None, repr=False)

    async def run(
        self,
        work: Work[T],
        *,
        timeout: float,  # noqa: ASYNC109
        undo: Literal["never", "failed", "always"] = "never",
    ) -> T:
        """Do *work* in the transaction. Raises Expired where it has ended.

        *undo* says when the transaction becomes what it was before: for work that fails after it has changed something,
        or that only tries. What the database does by itself needs no word.
        """

        async def guarded(connection: AsyncConnection) -> T:
            if undo == "never" and not self.lease.dialect.aborts_on_error:
                return await work(connection)
            await connection.exec_driver_sql(f"SAVEPOINT {_GUARD}")
            try:
                answer = await work(connection)
            except Exception:  # whatever it was: the transaction goes on as if the statement had not been
                try:
                    await connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {_GUARD}")
                except Exception:  # noqa: BLE001 - what failed first is what its caller hears
                    if self._running is None or not self._running.is_stopped:
                        # Half a statement must not last, nor be committed with the others.
                        self._end("was rolled back, because a statement that failed could not be undone alone")
                raise
            if undo == "always":
                await connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {_GUARD}")
            await connection.exec_driver_sql(f"RELEASE SAVEPOINT {_GUARD}")
            return answer

        return await self._statement(guarded, timeout)

    async def commit(self, *, timeout: float) -> None:  # noqa: ASYNC109
        """Make it last. Raises Expired, Conflict, ConstraintViolated (deferred ones) and OutcomeUnknown."""
        try:
            await self._do(lambda call: call.commit(self.connection), timeout)
        except ManydbError as exc:
            self._end(f"could not be committed ({exc.code})")
            raise
        self.ended = "was committed"

    async def savepoint(self, *, timeout: float) -> str:  # noqa: ASYNC109
        """Set one; its name."""
        if len(self.savepoints) >= _MOST_SAVEPOINTS:
            raise BadParameter(f"a transaction has {_MOST_SAVEPOINTS} savepoints at most")
        name = f"s{len(self.savepoints) + 1}"
        await self._statement(lambda on: on.exec_driver_sql(f"SAVEPOINT {name}"), timeout)
        self.savepoints.append(name)
        return name

    async def roll_back_to(self, name: str, *, timeout: float) -> None:  # noqa: ASYNC109
        """Undo what came after the savepoint *name*, which stays. Raises BadParameter where there is none."""
        place = self._place(name)
        await self._statement(lambda on: on.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {name}"), timeout)
        del self.savepoints[place + 1 :]

    async def release(self, name: str, *, timeout: float) -> None:  # noqa: ASYNC109
        """Forget the savepoint *name* and those after it; what was done stays. Raises BadParameter."""
        place = self._place(name)
        await self._statement(lambda on: on.exec_driver_sql(f"RELEASE SAVEPOINT {name}"), timeout)
        del self.savepoints[place:]

    @property
    def is_busy(self) -> bool:
        """Whether a statement runs in it, or waits for its turn."""
        return self._turn.locked()

    async def close(self) -> None:
        """Roll back what was not committed, and give the connection back; in bounded time, once however often asked."""
        self._end("was rolled back")
        if self._close is None:
            self._close = asyncio.create_task(self._stop_and_give_back())
        with anyio.CancelScope(shield=True):
            await asyncio.wait({self._close}, timeout=_CLOSE_SECONDS)

    async def _stop_and_give_back(self) -> None:
        while (running := self._running) is not None:
            await running.stop()
            # However long it takes: a connection must not go back to its pool while it is being dropped.
            await asyncio.wait({running.task})
        try:
            async with self._turn:  # a statement that is about to begin sees that there is no transaction any more
                await self._closing()
        except Exception:  # noqa: BLE001 - best effort: the server notices a lost connection itself
            _log.debug("a transaction did not close cleanly", exc_info=True)

    def _place(self, name: str) -> int:
        if name not in self.savepoints:
            known = ", ".join(self.savepoints) or "none"
            raise BadParameter(f"the transaction has no savepoint {name[:40]!r}; it has: {known}")
        return self.savepoints.index(name)

    async def _do(self, step: Callable[[Call], Awaitable[T]], timeout: float) -> T:  # noqa: ASYNC109
        """One step of the transaction, when its turn comes; whatever leaves no transaction behind is remembered."""
        async with self._turn:
            self._require_open()
            try:
                return await stoppable(self.lease, lambda call: self._run(call, step), timeout)
            except BaseException as exc:
                if isinstance(exc, asyncio.CancelledError) or self.connection.invalidated:
                    self._end(_STOPPED)
                raise

    async def _run(self, call: Call, step: Callable[[Call], Awaitable[T]]) -> T:
        self._require_open()
        self._running = call
        try:
            async with call.using(self.connection):
                return await step(call)
        except ManydbError as exc:
            if call.is_stopped:
                self._end(_STOPPED)
            else:
                await self._look(exc)
            raise
        finally:
            self._running = None

    async def _statement(self, work: Work[T], timeout: float) -> T:  # noqa: ASYNC109
        async def step(call: Call) -> T:
            await self.lease.dialect.limit(self.connection, timeout)
            call.go_on()
            return await work(self.connection)

        return await self._do(step, timeout)

    def _require_open(self) -> None:
        if self.ended:
            raise Expired(f"the transaction {self.ended}; begin another")

    def _end(self, reason: str) -> None:
        """There is no transaction any more; what was found out first is the reason."""
        self.ended = self.ended or reason

    async def _look(self, error: ManydbError) -> None:
        """Does the transaction live on after *error*?"""
        if isinstance(error, Conflict):
            self.ended = "was rolled back, because it was in conflict with another"
        elif isinstance(error, Unreachable | OutcomeUnknown | Internal):
            self.ended = "was rolled back, because its connection was lost"
        elif self.connection.invalidated or not await self.lease.dialect.is_open(self.connection):
            self.ended = f"was rolled back by the database ({error.code})"


_GUARD = "manydb_guard"


async def begin(
    lease: Lease,
    closing: Callable[[], Awaitable[None]],
    *,
    read_only: bool,
    isolation: Isolation | None,
    timeout: float,  # noqa: ASYNC109
) -> Transaction:
    """Open a transaction that lasts until it is committed or closed; *closing* is awaited at its end.

    Of the lease's pool, transactions take half at most, so that they never starve statements. Raises PoolBusy.
    """
    size: int = lease.engine.pool.size()  # type: ignore[attr-defined]  # a QueuePool
    if lease.held >= size // 2:
        raise PoolBusy(
            f"{lease.held} transactions are open on this database; they may hold half of its {size} connections"
        )
    borrowed = lease.connect()

    async def give_back() -> None:
        try:
            await borrowed.__aexit__(None, None, None)
        finally:
            lease.held -= 1
            await closing()

    opened: list[Transaction] = []
    is_begun = False

    async def open_it(call: Call) -> None:
        nonlocal is_begun
        is_begun = True
        try:
            connection = await borrowed.__aenter__()
        except BaseException:
            lease.held -= 1
            await closing()
            raise
        transaction = Transaction(lease, read_only, connection, give_back)
        try:
            async with call.using(connection):
                await lease.dialect.begin(connection, read_only=read_only, timeout=timeout, isolation=isolation)
                call.go_on()
        except BaseException:
            # Here, and not by whoever waits: a connection must not go back to its pool while it is being dropped.
            await transaction.close()
            raise
        opened.append(transaction)

    lease.held += 1
    try:
        await stoppable(lease, open_it, timeout)
    except BaseException:
        for transaction in opened:
            await transaction.close()
        if not is_begun:
            lease.held -= 1
            await closing()
        raise
    return opened[0]
