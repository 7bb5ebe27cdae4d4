"""One transaction around a call's work: begun with its limits, stopped in the database on cancel."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.execution import driver
from manydb.errors import (
    Cancelled,
    Internal,
    ManydbError,
    OutcomeUnknown,
    StatementTimeout,
    Unreachable,
)
from manydb.leases import Lease

_log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

_GRACE_SECONDS = 2.0
"""What a call may take beyond the statement's time: to connect, and for the database's own time-out to come first."""
_BEGIN_SECONDS = 2.5
"""Longer than a writer waits for its turn; nothing else makes the beginning of a transaction wait."""
_STOP_SECONDS = 1.0


async def read(lease: Lease, work: Work[T], *, timeout: float, alone: bool = False) -> T:  # noqa: ASYNC109
    """Do *work* on a connection inside a read-only transaction of at most *timeout* seconds, which is never committed.

    With *alone*, the work is a single `Dialect.fetch`. Cancelling the caller, or taking longer than the time and its
    grace, stops the statement in the database and drops the connection. Raises ManydbError.
    """
    return await _once(lease, work, read_only=True, timeout=timeout, alone=alone)


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
    alone: bool = False,
) -> T:
    async def once(call: Call) -> T:
        async with lease.connect() as connection, call.using(connection):
            try:
                # A connection that was lent without being asked whether it lives may be dead, or silent.
                async with asyncio.timeout(_BEGIN_SECONDS):
                    await lease.dialect.begin(connection, read_only=read_only, timeout=timeout, alone=alone)
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

    async def run(call: Call) -> T:
        try:
            return await once(call)
        except _StaleError:  # nothing was done on it
            lease.pings.distrust()
        try:
            return await once(call)
        except _StaleError as exc:
            raise lease.dialect.error(exc.__cause__ or exc) from exc

    return await stoppable(lease, run, timeout)


class _StaleError(ManydbError):
    """A connection of the pool that had died in the meantime."""


async def stoppable(lease: Lease, run: Callable[["Call"], Awaitable[T]], timeout: float) -> T:  # noqa: ASYNC109
    call = Call(lease)

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

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    task.add_done_callback(end)
    timer = loop.call_later(seconds, end, context=Context())
    try:
        await over
        return task.done()
    finally:
        timer.cancel()
        task.remove_done_callback(end)


@dataclass(eq=False, slots=True)
class Call:
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


_UNKNOWN = (
    "the connection was lost while the commit was under way: nobody can tell whether the change lasts; "
    "look at the data before you do it again"
)


def _forget(task: asyncio.Task[Any]) -> None:
    """Retrieve how *task* ended: nobody is left to hear it."""
    if not task.cancelled():
        task.exception()
