"""Commands that are sent together over psycopg's libpq, in one round trip, and their results as they come.

Each is a message of the extended protocol, which takes a single statement. When one fails, the server skips all that
follow it, so that nothing runs outside of a transaction that could not be opened before it.
https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from manydb.errors import SqlSyntax, Unsupported
from manydb.slices import Turns

_BAD = 1
"""The ConnStatusType of a connection that is lost."""


class Status(IntEnum):
    """libpq's ExecStatusType, as far as it is looked at."""

    COPY_OUT = 3
    COPY_IN = 4
    FATAL_ERROR = 7
    COPY_BOTH = 8
    PIPELINE_SYNC = 10


_COPIES = {Status.COPY_OUT, Status.COPY_IN, Status.COPY_BOTH}


class Result(Protocol):
    """psycopg's PGresult: some rows of one command, or what became of it."""

    status: int
    ntuples: int
    nfields: int
    nparams: int
    command_status: bytes | None

    def fname(self, column_number: int) -> bytes | None: ...
    def ftype(self, column_number: int) -> int: ...
    def fformat(self, column_number: int) -> int: ...
    def param_type(self, param_number: int) -> int: ...
    def get_value(self, row_number: int, column_number: int) -> bytes | None: ...
    def error_field(self, fieldcode: int) -> bytes | None: ...


class ServerError(Exception):
    """What the server says is wrong. *context* may quote values."""

    def __init__(self, result: Result) -> None:
        self.message = _field(result, "M") or "the server gave no reason"
        self.sqlstate = _field(result, "C")
        self.hint = _field(result, "H")
        self.context = _field(result, "W")
        super().__init__(self.message)


class LostError(Exception):
    """The connection is no more."""


def _field(result: Result, letter: str) -> str:
    return (result.error_field(ord(letter)) or b"").decode(errors="replace")


@dataclass(eq=False, slots=True)
class Pipeline:
    """Use `pipeline`. Put commands in, `send` them, and take the results of each in turn: `next` until it is None."""

    _pg: Any  # psycopg's PGconn
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _turns: Turns = field(default_factory=Turns)
    _waiter: asyncio.Future[None] | None = None
    _watched: int = -1
    is_abandoned: bool = False
    """The rest is left unread: whoever says so drops the connection."""

    def query(
        self, sql: str, args: Sequence[bytes | None] = (), types: Sequence[int] | None = None, *, binary: bool = False
    ) -> None:
        """Run *sql* with *args*, texts of these *types*; its rows come as text, or all of them *binary*."""
        self._pg.send_query_params(_encoded(sql), args or None, types, None, int(binary))

    def describe(self, sql: str) -> None:
        """Two commands, the second of which tells the types of parameters and columns."""
        self._pg.send_prepare(b"", _encoded(sql))
        self._pg.send_describe_prepared(b"")

    def flush(self) -> None:
        """Let the server answer what was put in so far without a look at what follows."""
        self._pg.send_flush_request()

    async def send(self) -> None:
        self._pg.pipeline_sync()
        await self.push()

    async def push(self) -> None:
        """Hand everything to the network."""
        while self._pg.flush():
            # The server may be unable to take more before we have taken what it says.
            self._loop.add_writer(self._pg.socket, self._wake)
            try:
                await self._wait()
            finally:
                self._loop.remove_writer(self._pg.socket)
            self._consume()

    async def next(self, chunk: int = 0) -> Result | None:
        """The next result of the command whose turn it is; None at its end. With *chunk*, so many rows at a time.

        *chunk* is for the first result of a command. Raises ServerError, and LostError.
        """
        if chunk:
            self._pg.set_chunked_rows_mode(chunk)
        result = await self.result()
        if result is not None and result.status == Status.FATAL_ERROR:
            raise ServerError(result)
        return result

    async def skip(self, commands: int) -> None:
        """Wait for the end of so many commands; raises ServerError where one of them fails."""
        for _ in range(commands):
            while await self.next() is not None:
                pass

    async def one(self) -> Result:
        """The one result of the command whose turn it is."""
        result = await self.next()
        await self.skip(1)
        if result is None:
            raise LostError
        return result

    async def end(self) -> None:
        """Read what is left, and leave the connection as it was."""
        while True:
            result = await self.result()
            if result is not None and result.status == Status.PIPELINE_SYNC:
                self._pg.exit_pipeline_mode()
                return

    def close(self) -> None:
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)

    async def result(self) -> Result | None:
        """The next result of all, errors among them."""
        while self._pg.is_busy():
            await self._wait()
            self._consume()
            self._turns.renew()
        if self._turns.are_due():  # of a large answer, much may be there at once
            await self._turns.give()
        result: Result | None = self._pg.get_result()
        if result is None:
            if self._pg.status == _BAD:
                raise LostError
        elif result.status in _COPIES:
            # Nothing in a pipeline can end it but the end of the connection.
            raise Unsupported("COPY moves no rows here")
        return result

    def _consume(self) -> None:
        try:
            self._pg.consume_input()
        except Exception as exc:  # psycopg's OperationalError, without a code
            raise LostError from exc

    async def _wait(self) -> None:
        if self._watched < 0:
            self._watched = self._pg.socket
            self._loop.add_reader(self._watched, self._wake)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@asynccontextmanager
async def pipeline(raw: Any) -> AsyncGenerator[Pipeline]:
    """A pipeline on psycopg's connection, read to its end when the context ends."""
    with _line(raw.pgconn) as line:
        raw.pgconn.enter_pipeline_mode()
        try:
            yield line
        except ServerError:
            await line.end()
            raise
        if not line.is_abandoned:
            await line.end()


async def script(raw: Any, sql: str) -> None:
    """Run statements of our own in one message of the simple protocol. Raises ServerError and LostError.

    As psycopg's own `execute`, which tries for seconds to end what is cut off.
    """
    failure: Result | None = None
    with _line(raw.pgconn) as line:
        raw.pgconn.send_query(sql.encode())
        await line.push()
        while (result := await line.result()) is not None:
            if result.status == Status.FATAL_ERROR:
                failure = result
    if failure is not None:
        raise ServerError(failure)


@contextmanager
def _line(pg: Any) -> Iterator[Pipeline]:
    """Where it is cut off, by a cancellation say, nobody knows what the server still has to say: *pg* is closed."""
    line = Pipeline(pg)
    try:
        yield line
    except ServerError:
        line.close()
        raise
    except BaseException:
        line.close()  # first, for another connection may have the file's number next
        pg.finish()
        raise
    line.close()


def is_alive(raw: Any) -> bool:
    """Whether the server has not closed the connection, as far as it has told; no round trip."""
    try:
        # Once for the server's last words, once more for the end.
        raw.pgconn.consume_input()
        raw.pgconn.consume_input()
    except Exception:  # noqa: BLE001 - psycopg's OperationalError
        return False
    return bool(raw.pgconn.status != _BAD)


def _encoded(sql: str) -> bytes:
    # libpq would send what stands before it.
    if "\0" in sql:
        raise SqlSyntax("a statement has no NUL character")
    return sql.encode()
