"""One transaction around a piece of work: begun with its limits, never committed, stopped in the database on cancel."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
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
    started: list[Any] = []

    async def body() -> T:
        async with lease.connect() as connection:
            try:
                started.append((await connection.get_raw_connection()).driver_connection)
                await lease.dialect.begin(connection, read_only=True, timeout=timeout)
                return await work(connection)
            except ManydbError:
                raise
            except asyncio.CancelledError:
                # Nobody knows in which state a driver leaves a connection whose call was cut off.
                await connection.invalidate()
                raise
            except Exception as exc:  # the other of the two places where driver errors become ours
                raise lease.dialect.error(exc) from exc

    # A task of its own: the level-triggered cancellation of MCP requests would also cancel the driver's own cancelling.
    task = asyncio.create_task(body())
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout + _GRACE_SECONDS)
    except asyncio.CancelledError:
        await _stop(lease, task, started)
        raise
    if done:
        return task.result()
    await _stop(lease, task, started)
    raise StatementTimeout(f"no answer within {timeout:g} s", seconds=timeout)


async def _stop(lease: Lease, task: asyncio.Task[Any], started: list[Any]) -> None:
    with anyio.CancelScope(shield=True):
        if started and not task.done():
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await lease.dialect.stop(started[0], lease.side)
            except Exception:  # noqa: BLE001 - the statement's own time-out in the database is the net below this
                _log.debug("a statement could not be stopped", exc_info=True)
        task.cancel()
        await asyncio.wait({task}, timeout=_STOP_SECONDS)
        if task.done() and not task.cancelled():
            task.exception()  # retrieved: nobody is left to hear it
