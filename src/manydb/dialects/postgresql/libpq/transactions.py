"""What stands around a statement over psycopg: the transaction, and the way back to the pool."""

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.execution import driver
from manydb.dialects.postgresql.libpq.pipeline import LostError, Pipeline, ServerError, is_alive, pipeline, script

_OPENING = "postgresql opening"  # key in AsyncConnection.info, which lives as long as the driver's connection
_BEGIN_SECONDS = 2.0
"""Nothing makes the beginning of a read wait: the network is silent, or the server."""


async def begin(connection: AsyncConnection, steps: Sequence[str], *, alone: bool) -> None:
    """Open a transaction by *steps*, in one round trip; *alone*, in none: the `fetch` that follows takes them along.

    Raises LostError where the server has closed the connection meanwhile.
    """
    raw = driver(connection)
    if not is_alive(raw):
        raise LostError
    if alone:
        connection.info[_OPENING] = tuple(steps)
        return
    async with pipeline(raw) as line:
        for step in steps:
            line.query(step)
        await line.send()
        await line.skip(len(steps))


async def scrub(raw: Any, info: dict[str, Any], sql: str) -> None:
    """Undo by *sql* what the last user did; what was to be sent in front of a statement is not sent any more."""
    info.pop(_OPENING, None)
    await script(raw, sql)


async def ping(raw: Any) -> bool:
    """Whether the server answers."""
    try:
        await script(raw, ";")
    except (LostError, ServerError):
        return False
    return True


async def commit(connection: AsyncConnection) -> str:
    """The tag of what became of the transaction: COMMIT, or ROLLBACK."""
    async with pipeline(driver(connection)) as line:
        line.query("COMMIT")
        await line.send()
        return ((await line.one()).command_status or b"").decode()


def put(line: Pipeline, steps: Sequence[str]) -> None:
    """Send *steps* in front of what follows."""
    for step in steps:
        line.query(step)
    if steps:
        # Their answer is not to wait for that of the statement: who hears nothing knows that nobody is there.
        line.flush()


async def opened(line: Pipeline, steps: Sequence[str]) -> None:
    """Wait until the *steps* that were `put` are done. Raises LostError where nobody answers."""
    if not steps:
        return
    try:
        async with asyncio.timeout(_BEGIN_SECONDS):
            await line.skip(len(steps))
    except TimeoutError as exc:
        raise LostError from exc


def taken(connection: AsyncConnection) -> Sequence[str]:
    """What is still to be sent in front of the next statement; whoever asks sends it."""
    steps: Sequence[str] = connection.info.pop(_OPENING, ())
    return steps
