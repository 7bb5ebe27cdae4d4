"""One transaction around a piece of work: begun with its limits, never committed, stopped in the database on cancel."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.engines import Lease
from manydb.errors import ManydbError, StatementTimeout

_log = logging.getLogger(__name__)

T = TypeVar("T")

_GRACE_SECONDS = 2.0
"""What a call may take beyond the statement's time: to connect, and for the database's own time-out to come first."""
_STOP_SECONDS = 1.0


async def read(lease: Lease, work: Callable[[AsyncConnection], Awaitable[T]], *, timeout: float) -> T:  # noqa: ASYNC109
    """Do *work* on a connection inside a read-only transaction of at most *timeout* seconds, which is never committed.

    Cancelling the caller, or taking longer than the time and its grace, stops the statement in the database and drops
    the connection. Raises ManydbError.
    """
    call = _Call(lease)
    # A task of its own: the level-triggered cancellation of MCP requests would also cancel the driver's own cancelling.
    call.task = asyncio.create_task(call.run(work, timeout))
    lease.calls.add(call)
    try:
        done, _ = await asyncio.wait({call.task}, timeout=timeout + _GRACE_SECONDS)
        if done:
            answer: T = call.task.result()
            return answer
        await call.stop()
        raise StatementTimeout(f"no answer within {timeout:g} s", seconds=timeout)
    except asyncio.CancelledError:
        await call.stop()
        raise
    finally:
        call.forget()


@dataclass(eq=False, slots=True)
class _Call:
    """What a call and whoever stops it know of each other: the driver's connection, and that it is to stop."""

    lease: Lease
    raw: Any = field(default=None, repr=False)
    is_stopped: bool = False
    task: asyncio.Task[Any] = field(init=False, repr=False)
    stopping: asyncio.Task[None] | None = field(default=None, repr=False)

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]], timeout: float) -> T:  # noqa: ASYNC109
        dialect = self.lease.dialect
        async with self.lease.connect() as connection:
            try:
                self.raw = (await connection.get_raw_connection()).driver_connection
                await dialect.begin(connection, read_only=True, timeout=timeout)
                if self.is_stopped:
                    # asyncio.wait_for, with which drivers connect, loses a cancellation that comes at the same moment
                    # as what it waits for (before Python 3.12).
                    raise asyncio.CancelledError  # noqa: TRY301 - on the way that a cancellation takes
                return await work(connection)
            except ManydbError:
                raise
            except Exception as exc:  # the other of the two places where driver errors become ours
                raise dialect.error(exc) from exc
            finally:
                # What is about to be stopped may be stopped a moment later, so nobody else gets this connection; nor
                # does anybody know in which state a driver leaves one whose call was cut off.
                self.raw = None
                if self.is_stopped:
                    await connection.invalidate()

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


def _forget(task: asyncio.Task[Any]) -> None:
    """Retrieve how *task* ended: nobody is left to hear it."""
    if not task.cancelled():
        task.exception()
