"""A statement's answer, read from what a driver has received: one loop over the rows that are there, no converters.

Both drivers can only be asked for a packet at a time, by coroutines. Here every packet that is complete in the driver's
buffer is read at once; the driver itself is asked for what is not: the packet that has not arrived yet, errors (it
raises its own), packets out of order, and rows of 16 MB and more.
"""

import struct
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.execution import driver
from manydb.errors import Internal
from manydb.slices import Turns

Convert = Callable[[bytes], Any]
"""From the bytes that the text protocol carries. NULL does not reach it."""

_COM_QUERY = 0x03
_OK, _LOCAL_FILE, _END = 0x00, 0xFB, 0xFE
_NULL, _TWO, _THREE = 0xFB, 0xFC, 0xFD  # what a length begins with that is not the length itself; else eight bytes
_HEAD = 4
_JUMBO = 0xFFFFFF
_LONGEST_END = 8
_MORE_RESULTS = 0x0008
_COLUMN = struct.Struct("<xHIBHB")
_COUNTS = struct.Struct("<HH")
_CLIENTS_OWN = range(2000, 3000)
"""Error numbers that drivers give; all others are a server's, which ends its answer with them."""
_CELLS = 2_000
"""Cells that are read at a time, in a millisecond or so, where rows can be counted before."""
_WINDOW = 65_536
"""Bytes that are read at a time where rows cannot be counted before."""
_ANY = 2**63
_DROPPED = 1_000
"""Rows that are read in vain at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A column of a result, as the server describes it; *length* is in bytes. One described alike is the same."""

    name: str
    type_code: int
    charsetnr: int
    length: int
    scale: int
    flags: int


class Wire(Protocol):
    """What a driver's connection has received and nobody has read yet."""

    raw: Any

    @property
    def ends_with_ok(self) -> bool:
        """Whether a result ends with an OK packet, and its columns with nothing: the newer of two protocols."""

    def taken(self) -> bytes | None:
        """The next packet, without its head; None where the driver is to be asked for it."""

    async def packet(self) -> bytes:
        """The same of the driver. Raises its error for one that the server sent."""

    def rows(self, converters: Sequence[Convert], records: list[Sequence[Any]], wanted: int) -> int:
        """Append rows that are there to *records*, about until it has *wanted* of them; bytes that they had."""

    def pause(self) -> None:
        """Let the server wait while nobody reads, where the driver would fill the memory with what it sends."""

    def resume(self) -> None:
        """Undo `pause`."""


@asynccontextmanager
async def asked(connection: AsyncConnection, sql: str) -> AsyncGenerator["Answer"]:
    """The answer to *sql*, sent as it is. Errors are the driver's own.

    A connection whose answer is left unread, for whatever reason, is dropped: the next would take it for its own.
    """
    answer = Answer(driver(connection))
    try:
        await answer.open(sql)
        yield answer
    finally:
        if answer.is_open:
            await connection.invalidate()


async def run(connection: AsyncConnection, sql: str) -> None:
    """Do *sql*, which returns no rows."""
    async with asked(connection, sql):
        pass


async def rows(raw: Any, sql: str) -> list[Sequence[Any]]:
    """All rows of *sql*, in bytes. Where it fails, *raw*, the driver's connection, is of no more use."""
    answer = Answer(raw)
    await answer.open(sql)
    return await answer.rows([bytes] * len(answer.fields), _ANY)


class Answer:
    """Columns (*fields*) and rows, or without columns what a change did (*affected* rows, *key*).

    It *is_open* while something of it is still to come.
    """

    def __init__(self, raw: Any) -> None:
        self._wire = _WIRES[type(raw).__module__.partition(".")[0]](raw)
        self.fields: tuple[Field, ...] = ()
        self.affected = 0
        self.key = 0
        self.is_open = False
        self.received = 0
        """Bytes of rows so far."""
        self.turns = Turns()
        """Of others, while much of the answer is there at once."""

    async def open(self, sql: str) -> None:
        text = sql.encode()
        self.is_open = True
        await self._wire.raw._execute_command(_COM_QUERY, text)  # noqa: SLF001 - the drivers have no public way
        first = await self._packet()
        if first[0] == _OK:
            self.affected, self.key, status = _done(first)
            await self._finish(status)
        else:
            self.fields = await self._columns(first)

    async def rows(self, converters: Sequence[Convert], wanted: int, room: int = _ANY) -> list[Sequence[Any]]:
        """The next rows, *wanted* or a few more; fewer at the end, or once they are larger than *room* (bytes)."""
        records: list[Sequence[Any]] = []
        full, turns = self.received + room, self.turns
        while self.is_open:
            while self.received <= full and (taken := self._wire.rows(converters, records, wanted)):
                self.received += taken
                if turns.are_due():
                    with self.waiting():
                        await turns.give()
            if records and (len(records) >= wanted or self.received > full):
                break
            packet = await self._packet()
            if (status := self._ending(packet)) is None:
                records.append(_row(packet, 0, converters))
                self.received += len(packet)
            else:
                await self._finish(status)
        return records

    async def drop(self) -> int:
        """Read what is left; how many rows that were."""
        count = 0
        while self.is_open:
            count += len(await self.rows((), _DROPPED))
        return count

    @contextmanager
    def waiting(self) -> Generator[None]:
        """While somebody else is waited for."""
        self._wire.pause()
        try:
            yield
        finally:
            self._wire.resume()

    async def _packet(self) -> bytes:
        if (there := self._wire.taken()) is not None:
            return there
        try:
            packet = await self._wire.packet()
        except Exception as exc:  # the drivers' error classes cannot be named here; their numbers can
            number = exc.args[0] if exc.args else None
            self.is_open = not isinstance(number, int) or not number or number in _CLIENTS_OWN
            raise
        self.turns.renew()
        return packet

    async def _columns(self, first: bytes) -> tuple[Field, ...]:
        if first[0] == _LOCAL_FILE:
            raise Internal("the server asks for a file of the gateway's, which it was told not to do")
        count, _ = _number(first, 0)
        taken = self._wire.taken
        fields = tuple([_field(taken() or await self._packet()) for _ in range(count)])
        if not self._wire.ends_with_ok:
            await self._packet()
        return fields

    def _ending(self, packet: bytes) -> int | None:
        """The server's status where *packet* is no row, but the end of all rows."""
        if packet[0] != _END or len(packet) > (_JUMBO if self._wire.ends_with_ok else _LONGEST_END):
            return None
        if self._wire.ends_with_ok:
            *_, status = _done(packet)
            return status
        return int(_COUNTS.unpack_from(packet, 1)[1])

    async def _finish(self, status: int) -> None:
        """Close the answer. A procedure's further results are read and dropped: nobody asked for them."""
        while status & _MORE_RESULTS:
            first = await self._packet()
            if first[0] == _OK:
                *_, status = _done(first)
            else:
                await self._columns(first)
                status = await self._skip()
        self._wire.raw.server_status = status
        self.is_open = False

    async def _skip(self) -> int:
        while True:
            while self._wire.rows((), [], _DROPPED):
                pass
            if (status := self._ending(await self._packet())) is not None:
                return status


# ---- the drivers' buffers -------------------------------------------------------------------------------------------


class _Aiomysql:
    """Its connection reads from asyncio's StreamReader, which looks after its flow control when it is asked again."""

    ends_with_ok = False

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self._reader = raw._reader  # noqa: SLF001 - None once somebody closed the connection

    async def packet(self) -> bytes:
        return bytes((await self.raw._read_packet()).get_all_data())  # noqa: SLF001

    def taken(self) -> bytes | None:
        buffer = self._reader._buffer  # noqa: SLF001
        stop = _whole(buffer, 0, len(buffer), self.raw._next_seq_id)  # noqa: SLF001
        if not stop:
            return None
        payload = bytes(buffer[_HEAD:stop])
        del buffer[:stop]
        self.raw._next_seq_id = (self.raw._next_seq_id + 1) & 0xFF  # noqa: SLF001
        return payload

    def rows(self, converters: Sequence[Convert], records: list[Sequence[Any]], wanted: int) -> int:
        buffer = self._reader._buffer  # noqa: SLF001
        missing = min(wanted - len(records), max(1, _CELLS // max(1, len(converters))))
        if missing <= 0 or len(buffer) <= _HEAD:
            return 0
        found, taken, self.raw._next_seq_id = _rows(  # noqa: SLF001
            bytes(buffer), converters, self.raw._next_seq_id, missing  # noqa: SLF001
        )  # fmt: skip
        records += found
        del buffer[:taken]
        return taken

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class _Asyncmy:
    """Its connection has a buffer of its own, and a compiled reader of the rows in it."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self._received = raw._proto  # noqa: SLF001
        self.ends_with_ok = bool(raw._deprecate_eof)  # noqa: SLF001

    async def packet(self) -> bytes:
        return bytes((await self.raw.read_packet()).get_all_data())

    def taken(self) -> bytes | None:
        received = self._received
        start = received.pos
        stop = _whole(received.buffer, start, received.length, self.raw._next_seq_id)  # noqa: SLF001
        if not stop:
            return None
        received.pos = stop
        self.raw._next_seq_id = (self.raw._next_seq_id + 1) & 0xFF  # noqa: SLF001
        return bytes(received.buffer[start + _HEAD : stop])

    def rows(self, converters: Sequence[Convert], records: list[Sequence[Any]], wanted: int) -> int:
        received = self._received
        if len(records) >= wanted:
            return 0
        before = received.pos
        end = min(received.length, before + _WINDOW)
        plan = tuple([(0, None, convert) for convert in converters])  # 0: bytes, not text
        received.pos, self.raw._next_seq_id = _compiled()(  # noqa: SLF001
            received.buffer, before, end, plan, self.raw._next_seq_id, records, self.ends_with_ok  # noqa: SLF001
        )  # fmt: skip
        return int(received.pos - before)

    def pause(self) -> None:
        self._flow("pause_reading")

    def resume(self) -> None:
        self._flow("resume_reading")

    def _flow(self, change: str) -> None:
        transport = self.raw._transport  # noqa: SLF001 - None once somebody closed the connection
        if transport is not None and not transport.is_closing():
            getattr(transport, change)()


_WIRES: dict[str, Callable[[Any], Wire]] = {"aiomysql": _Aiomysql, "asyncmy": _Asyncmy}


@cache
def _compiled() -> Callable[..., tuple[int, int]]:
    found: Callable[..., tuple[int, int]] = import_module("asyncmy.protocol").parse_rows_from_buffer
    return found


# ---- packets --------------------------------------------------------------------------------------------------------


def _whole(buffer: bytes | bytearray, start: int, end: int, number: int) -> int:
    """Where the packet at *start* stops; 0 if the driver is to be asked for it: not all there, an error, out of order.

    Each answer numbers its packets, so that none is taken for one of another answer.
    """
    if end - start <= _HEAD or buffer[start + 3] != number or buffer[start + _HEAD] == 0xFF:
        return 0
    size = buffer[start] | buffer[start + 1] << 8 | buffer[start + 2] << 16
    stop = start + _HEAD + size
    return stop if 0 < size < _JUMBO and stop <= end else 0


def _rows(data: bytes, converters: Sequence[Convert], number: int, most: int) -> tuple[list[Sequence[Any]], int, int]:
    """Rows at the beginning of *data*, up to *most* of them, the bytes that they take, and the next packet's number."""
    records: list[Sequence[Any]] = []
    start, end = 0, len(data)
    while len(records) < most and end - start > _HEAD:
        stop = start + _HEAD + (data[start] | data[start + 1] << 8 | data[start + 2] << 16)
        # A first byte this high is an error, the end, or a cell that fills packets of its own.
        if stop > end or data[start + 3] != number or data[start + _HEAD] >= _END or stop - start == _HEAD:
            break
        records.append(_row(data, start + _HEAD, converters))
        start, number = stop, (number + 1) & 0xFF
    return records, start, number


def _row(data: bytes, at: int, converters: Sequence[Convert]) -> tuple[Any, ...]:
    row: list[Any] = []
    for convert in converters:
        length = data[at]
        start = at + 1
        if length >= _NULL:
            if length == _NULL:
                row.append(None)
                at = start
                continue
            length, start = _number(data, at)
        at = start + length
        row.append(convert(data[start:at]))
    return tuple(row)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The number of variable size at *at*, and where it stops."""
    first = data[at]
    if first < _NULL:
        return first, at + 1
    stop = at + (3 if first == _TWO else 4 if first == _THREE else 9)
    return int.from_bytes(data[at + 1 : stop], "little"), stop


def _done(packet: bytes) -> tuple[int, int, int]:
    """Affected rows, the key that was made, and the server's status."""
    affected, at = _number(packet, 1)
    key, at = _number(packet, at)
    return affected, key, _COUNTS.unpack_from(packet, at)[0]


@lru_cache(maxsize=1_000)
def _field(packet: bytes) -> Field:
    at = 0
    texts = []
    for _ in range(6):  # catalog, schema, table, its own name, the column's, its own name
        length, start = _number(packet, at)
        at = start + length
        texts.append(packet[start:at])
    charset, length, code, flags, scale = _COLUMN.unpack_from(packet, at)
    return Field(texts[4].decode(), code, charset, length, scale, flags)
