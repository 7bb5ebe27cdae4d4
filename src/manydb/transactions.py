"""Transactions around work: one for a call, or one held open across calls; stopped in the database on cancel."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.execution import driver
from manydb.engines import Lease
from manydb.errors import (
    BadParameter,
    Cancelled,
    Conflict,
    Expired,
    Internal,
    ManydbError,
    OutcomeUnknown,
    PoolBusy,
    StatementTimeout,
    Unreachable,
)
from manydb.settings import Isolation

_log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

_GRACE_SECONDS = 2.0
"""What a call may take beyond the statement's time: to connect, and for the database's own time-out to come first."""
_BEGIN_SECONDS = 2.5
"""Longer than a writer waits for its turn; nothing else makes the beginning of a transaction wait."""
_STOP_SECONDS = 1.0
_CLOSE_SECONDS = 3.0
_MOST_SAVEPOINTS = 100


# -- one call --------------------------------------------------------------------------------------------------------


async def read(lease: Lease, work: Work[T], *, timeout: float) -> T:  # noqa: ASYNC109
    """Do *work* on a connection inside a read-only transaction of at most *timeout* seconds, which is never committed.

    Cancelling the caller, or taking longer than the time and its grace, stops the statement in the database and drops
    the connection. Raises ManydbError.
    """
    return await _once(lease, work, read_only=True, timeout=timeout)


async def write(lease: Lease, work: Work[T], *, timeout: float, commit: bool = True) -> T:  # noqa: ASYNC109
    """Do *work* in a transaction that may write, and commit it if *commit* and the work succeeded.

    Raises OutcomeUnknown where the connection is lost, or the time is over, while the commit is under way.
    """
    return await _once(lease, work, read_only=False, timeout=timeout, commit=commit)


async def _once(
    lease: Lease,
    work: Work[T],
    *,
    read_only: bool,
    timeout: float,  # noqa: ASYNC109
    commit: bool = False,
) -> T:
    async def once(call: _Call) -> T:
        async with lease.connect() as connection, call.using(connection):
            try:
                # A connection that was lent without being asked whether it lives may be dead, or silent.
                async with asyncio.timeout(_BEGIN_SECONDS):
                    await lease.dialect.begin(connection, read_only=read_only, timeout=timeout)
            except Exception as exc:
                if call.is_stopped or not (
                    isinstance(exc, TimeoutError) or isinstance(lease.dialect.error(exc), Unreachable)
                ):
                    raise
                await connection.invalidate()
                raise _StaleError("") from exc
            call.go_on()
            answer = await work(connection)
            if commit:
                await call.commit(connection)
            return answer

    async def run(call: _Call) -> T:
        try:
            return await once(call)
        except _StaleError:  # nothing was done on it
            lease.pings.distrust()
        try:
            return await once(call)
        except _StaleError as exc:
            raise lease.dialect.error(exc.__cause__ or exc) from exc

    return await _stoppable(lease, run, timeout)


class _StaleError(ManydbError):
    """A connection of the pool that had died in the meantime."""


async def _stoppable(lease: Lease, run: Callable[["_Call"], Awaitable[T]], timeout: float) -> T:  # noqa: ASYNC109
    call = _Call(lease)

    async def work() -> T:
        return await run(call)

    # A task of its own: the level-triggered cancellation of MCP requests would also cancel the driver's own cancelling.
    call.task = asyncio.create_task(work())
    lease.calls.add(call)
    try:
        if await _ends_within(call.task, timeout + _GRACE_SECONDS):
            if call.task.cancelled():  # by somebody else: a CancelledError of ours would end the client's connection
                raise Cancelled("the statement was stopped: its transaction or its engine was closed")
            answer: T = call.task.result()
            return answer
        await call.stop()
        raise call.overdue(timeout)
    except asyncio.CancelledError:
        await call.stop()
        raise
    finally:
        call.forget()


async def _ends_within(task: asyncio.Task[Any], seconds: float) -> bool:
    """Whether *task* ends in time.

    Not by `asyncio.wait` and its time-out: the loop keeps a timer until its time has come, cancelled or not, and with
    it the context that it was made in, which is the request's with all its arguments.
    """
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    timer = loop.call_later(seconds, over.cancel, context=Context())
    try:
        await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
        return task.done()
    finally:
        timer.cancel()


@dataclass(eq=False, slots=True)
class _Call:
    """What a call and whoever stops it know of each other: the driver's connection, and that it is to stop."""

    lease: Lease
    raw: Any = field(default=None, repr=False)
    is_stopped: bool = False
    is_committing: bool = False
    task: asyncio.Task[Any] = field(init=False, repr=False)
    stopping: asyncio.Task[None] | None = field(default=None, repr=False)

    @asynccontextmanager
    async def using(self, connection: AsyncConnection) -> AsyncGenerator[None]:
        """Let the call be stopped while it works on *connection*, with errors that are ours."""
        try:
            self.raw = driver(connection)
            yield
        except ManydbError:
            raise
        except Exception as exc:  # the other of the two places where driver errors become ours
            raise self.lease.dialect.error(exc) from exc
        finally:
            # What is about to be stopped may be stopped a moment later, so nobody else gets this connection; nor
            # does anybody know in which state a driver leaves one whose call was cut off.
            self.raw = None
            if self.is_stopped:
                await connection.invalidate()

    def go_on(self) -> None:
        """Raises CancelledError where the call is to stop.

        asyncio.wait_for, with which drivers connect, loses a cancellation that comes at the same moment as what it
        waits for (before Python 3.12).
        """
        if self.is_stopped:
            raise asyncio.CancelledError

    async def commit(self, connection: AsyncConnection) -> None:
        """From here on nobody can tell what a lost connection meant. Raises OutcomeUnknown and Conflict."""
        self.is_committing = True
        try:
            await self.lease.dialect.commit(connection)
        except ManydbError:
            raise
        except Exception as exc:
            error = self.lease.dialect.error(exc)
            if isinstance(error, Unreachable | Internal):
                raise OutcomeUnknown(_UNKNOWN) from exc
            raise error from exc
        self.is_committing = False

    def overdue(self, seconds: float) -> ManydbError:
        if self.is_committing:
            return OutcomeUnknown(_UNKNOWN)
        return StatementTimeout(f"no answer within {seconds:g} s", seconds=seconds)

    async def stop(self) -> None:
        """End the call and its statement in the database; in bounded time, whatever the network is.

        In a task of its own, which goes on where whoever waits for it is cancelled once more.
        """
        if self.stopping is None:
            self.stopping = asyncio.create_task(self._stop())
        with anyio.CancelScope(shield=True):
            await asyncio.wait({self.stopping})

    def forget(self) -> None:
        """Take the call off its lease's list, once nothing of it is left to stop."""
        if self.stopping is None:
            self.lease.calls.discard(self)
        else:
            self.stopping.add_done_callback(lambda _: self.lease.calls.discard(self))

    async def _stop(self) -> None:
        if self.is_committing:
            # What is nearly done is better finished than left in doubt.
            await asyncio.wait({self.task}, timeout=_STOP_SECONDS)
        self.is_stopped = True
        if self.raw is not None:
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await self.lease.dialect.stop(self.raw, self.lease.side)
            except Exception:  # noqa: BLE001 - the database's own time-out is the net below this
                _log.debug("a statement could not be stopped", exc_info=True)
        self.task.cancel()
        self.task.add_done_callback(_forget)
        await asyncio.wait({self.task}, timeout=_STOP_SECONDS)


_STOPPED = "was rolled back, because a statement in it was stopped"
_UNKNOWN = (
    "the connection was lost while the commit was under way: nobody can tell whether the change lasts; "
    "look at the data before you do it again"
)


def _forget(task: asyncio.Task[Any]) -> None:
    """Retrieve how *task* ended: nobody is left to hear it."""
    if not task.cancelled():
        task.exception()


# -- across calls ----------------------------------------------------------------------------------------------------


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
    _running: _Call | None = field(default=None, repr=False)
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
                with suppress(Exception):  # there may be no connection any more, which the first error tells
                    await connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {_GUARD}")
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

    async def _do(self, step: Callable[[_Call], Awaitable[T]], timeout: float) -> T:  # noqa: ASYNC109
        """One step of the transaction, when its turn comes; whatever leaves no transaction behind is remembered."""
        async with self._turn:
            self._require_open()
            try:
                return await _stoppable(self.lease, lambda call: self._run(call, step), timeout)
            except BaseException as exc:
                if isinstance(exc, asyncio.CancelledError) or self.connection.invalidated:
                    self._end(_STOPPED)
                raise

    async def _run(self, call: _Call, step: Callable[[_Call], Awaitable[T]]) -> T:
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
        async def step(call: _Call) -> T:
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

    async def open_it(call: _Call) -> None:
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
        await _stoppable(lease, open_it, timeout)
    except BaseException:
        for transaction in opened:
            await transaction.close()
        if not is_begun:
            lease.held -= 1
            await closing()
        raise
    return opened[0]
