"""The rows of a query in a file, however many they are: read slice by slice, written as they come, never half."""

import asyncio
import csv
import errno
import io
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, Protocol, TypeVar

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import admission, reads, statements
from manydb.callers import Caller
from manydb.dialects.rows import Rows
from manydb.errors import BadParameter, Expired, Forbidden, TooLarge, Unsupported
from manydb.formats import _plain, _unique
from manydb.gateway import Gateway
from manydb.handles import Handles
from manydb.policy import Verdict
from manydb.values import BYTES, from_base64

T = TypeVar("T")
ExportFormat = Literal["csv", "jsonl", "parquet"]
Told = Callable[[int], None]
"""Hears how many rows are written so far."""

PART_BYTES = 4 * 1024 * 1024
"""What reading a resource returns at once, about: an answer is in memory as a whole, several times over."""
MIME_TYPES: dict[ExportFormat, str] = {
    "csv": "text/csv",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}
_ROW_GROUP = 65_536
_ROW_GROUP_BYTES = 16 * 1024 * 1024
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Export:
    """A whole file. *parts* are the offsets at which its parts begin: of text, at the beginning of a row."""

    connection: str
    format: ExportFormat
    path: Path = field(repr=False)
    columns: Sequence[str]
    rows: int
    size: int
    parts: tuple[int, ...]
    elapsed_ms: int
    masked: Sequence[str] = ()


class Exports:
    """Writes exports, and holds those that wait to be read as resources; their files go with them."""

    noun: ClassVar[str] = "export"

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._folder: Path | None = None
        self._is_closed = False
        self._kept = Handles[Export](
            "e",
            "export",
            "run export_query again",
            idle_ttl=self._settings.export_ttl,
            per_owner=self._settings.max_exports,
            end=_remove,
        )
        gateway.holdings.add(self)

    # -- as the gateway asks for what callers hold -------------------------------------------------------------------

    def of(self, owner: Caller) -> list[tuple[str, Export, float]]:
        return self._kept.of(owner)

    async def release(self, owner: Caller) -> None:
        await self._kept.release(owner)

    async def sweep(self) -> None:
        await self._kept.sweep()

    async def aclose(self) -> None:
        self._is_closed = True
        await self._kept.aclose()
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    # -- writing -----------------------------------------------------------------------------------------------------

    async def export(
        self,
        caller: Caller,
        connection: str | None,
        sql: str,
        params: Any,
        name: ExportFormat,
        told: Told,
        *,
        path: str | None = None,
        transaction_id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> tuple[str | None, Export]:
        """All rows of a query in a file at *path*, or in one of ours with an id, of which only the caller reads.

        Raises ManydbError; then there is no file, whatever was written of it.
        """
        _require_writer(name)
        gateway = self._gateway
        place_of_file = _Target.of(self._directories(), path) if path is not None else None
        if place_of_file is None:
            self._kept.require_room(caller)
        async with gateway.on(caller, connection, transaction_id) as place:
            registration = place.registration
            statement = await reads.readable(gateway, registration, sql)
            verdict = await reads.judged(gateway, registration, statement)
            started = time.perf_counter()
            finished: list[Path] = []

            async def work(on: AsyncConnection) -> Export:
                # From the beginning each time: a read whose connection was lost is tried again.
                bound, args = statements.bind(statement, params, on.dialect.paramstyle)
                async with self._opened(place_of_file, name) as made:
                    slices = registration.dialect.stream(on, bound, args)
                    written = await _written(slices, made, name, verdict, told, self._settings.max_export_bytes)
                    finished.append(await _in_thread(made.finish))
                return Export(
                    registration.name,
                    name,
                    finished[-1],
                    written.columns,
                    written.rows,
                    written.size,
                    tuple(written.parts),
                    round((time.perf_counter() - started) * 1000),
                    [written.columns[place] for place in verdict.masked],
                )

            try:
                with gateway.recorded(caller, registration, sql) as record:
                    seconds = gateway.seconds(registration, timeout)
                    export: Export = await reads.taught(gateway, place, statement, params, work, seconds)
                    record.rows = export.rows
                return (self._kept.add(caller, export) if place_of_file is None else None), export
            except BaseException:
                # A file of ours that is whole, but of which nobody will ever hear.
                for file in finished if place_of_file is None else ():
                    file.unlink(missing_ok=True)
                raise

    async def read(self, caller: Caller, handle: str, part: int | None = None) -> tuple[Export, bytes]:
        """A part of an export that waits, from 0, or all of one that has but one. Raises Expired and BadParameter."""
        export = self._kept.get(caller, handle)
        last = len(export.parts) - 1
        if part is None and last > 0:
            raise TooLarge(f"the export is read in parts: export://{handle}/0 to export://{handle}/{last}")
        part = part or 0
        if not 0 <= part <= last:
            raise BadParameter(f"the export has parts 0 to {last}")
        start = export.parts[part]
        end = export.parts[part + 1] if part + 1 < len(export.parts) else export.size
        try:
            return export, await asyncio.to_thread(_bytes_of, export.path, start, end)
        except FileNotFoundError:
            raise Expired(f"the file of the export {handle!r} is gone; run export_query again") from None

    def _directories(self) -> list[Path]:
        if not self._gateway.local:
            raise Forbidden("path: files are written over stdio only; leave path out and read the export as a resource")
        named = self._settings.export_directories
        folders = [*admission.working_directory()] if named is None else [Path(each).expanduser() for each in named]
        if not folders:
            raise Forbidden("path: there is no directory to write to (export_directories); leave path out")
        return [each.resolve() for each in folders]

    def _own_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="manydb_"))  # for nobody but its owner
        return self._folder

    @asynccontextmanager
    async def _opened(self, target: "_Target | None", name: ExportFormat) -> AsyncGenerator["_File"]:
        """A new file; removed unless it is finished."""
        if self._is_closed:
            raise Expired("the server is closing")
        file = await _in_thread(target.open if target else lambda: _File.new(self._own_folder(), name))
        try:
            yield file
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                raise TooLarge("there is no room left for the file: select less, or write it elsewhere") from exc
            raise Unsupported(f"the file cannot be written: {exc.strerror or type(exc).__name__}") from exc
        finally:
            await _in_thread(file.drop)


async def _remove(export: Export) -> None:
    with suppress(FileNotFoundError):
        await asyncio.to_thread(export.path.unlink)


def _bytes_of(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


async def _in_thread(work: Callable[[], T]) -> T:
    """*work* off the event loop; a caller who is cancelled waits for its end, so that nobody closes a file in use."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


@dataclass(slots=True)
class _Written:
    columns: list[str] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    parts: list[int] = field(default_factory=lambda: [0])


async def _written(
    slices: AsyncGenerator[Rows], file: "_File", name: ExportFormat, verdict: Verdict, told: Told, most: int
) -> _Written:
    """Write all *slices*, which are closed in any case. Raises TooLarge past *most* bytes."""
    written = _Written()
    writer: _Writer | None = None
    async with aclosing(slices):
        async for some in slices:
            if writer is None:
                written.columns = some.columns
                if not some.columns:
                    raise BadParameter("the statement returns no columns, so there is nothing to export")
                writer = WRITERS[name](file.stream, some.columns, some.types)
            rows = verdict.conceal(some.columns, some.rows) if verdict.masked else some.rows
            await _in_thread(lambda rows=rows, writer=writer: writer.write(rows))  # type: ignore[misc]  # bound now
            written.rows += len(rows)
            written.size = file.size()
            if written.size > most:
                raise TooLarge(f"the export is larger than {most:,} bytes (max_export_bytes): select less")
            if writer.is_splittable and written.size - written.parts[-1] >= PART_BYTES:
                written.parts.append(written.size)
            told(written.rows)
    if writer is not None:
        await _in_thread(writer.close)
        written.size = file.size()
        if not writer.is_splittable:
            written.parts = [*range(0, written.size, PART_BYTES)]
    if len(written.parts) > 1 and written.parts[-1] == written.size:
        written.parts.pop()
    return written


# -- files -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _File:
    """A file being written, under a name that is nobody's; *folder* is a descriptor of its directory or None."""

    stream: BinaryIO
    path: Path
    folder: int | None = None
    final: str = ""

    @classmethod
    def new(cls, folder: Path, name: ExportFormat) -> "_File":
        """In our own directory, where it keeps its name."""
        path = folder / f"{secrets.token_urlsafe(16)}.{name}"
        return cls(os.fdopen(os.open(path, _NEW, 0o600), "wb"), path)

    def size(self) -> int:
        return self.stream.tell()

    def finish(self) -> Path:
        """All is written: give it its name, unless somebody else has taken that. Raises BadParameter."""
        self.stream.close()
        if not self.final:
            path, self.path = self.path, Path()
            return path
        try:
            # A link, where a rename would overwrite what has come there since.
            os.link(self.path.name, self.final, src_dir_fd=self.folder, dst_dir_fd=self.folder, follow_symlinks=False)
        except FileExistsError:
            raise BadParameter(_EXISTS) from None
        return self.path.with_name(self.final)

    def drop(self) -> None:
        """Leave nothing unfinished, and no descriptor."""
        with suppress(OSError):
            self.stream.close()
        if self.path.name:
            with suppress(FileNotFoundError):
                os.unlink(self.path.name if self.folder is not None else self.path, dir_fd=self.folder)
        if self.folder is not None:
            os.close(self.folder)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_EXISTS = "path: there is something of that name already; it is never overwritten: take another name"


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a caller wants a file: *parts* beneath *root*, the last of them its name."""

    root: Path
    parts: tuple[str, ...]

    @classmethod
    def of(cls, roots: Sequence[Path], text: str) -> "_Target":
        """Raises BadParameter and Forbidden; looks at no file but the root's."""
        path = Path(text)
        if not text.strip() or not text.isprintable() or ".." in path.parts or not path.name or text.startswith("~"):
            raise BadParameter("path is the file's own, such as exports/orders.csv, without '..' and '~'")
        if os.open not in os.supports_dir_fd or os.link not in os.supports_dir_fd:
            raise Unsupported("files cannot be written safely on this system; leave path out")
        if not path.is_absolute():
            return cls(roots[0], path.parts)
        for root in roots:
            if path != root and path.is_relative_to(root):
                return cls(root, path.relative_to(root).parts)
        raise Forbidden(f"path: files are written beneath {', '.join(map(str, roots))}")

    def open(self) -> _File:
        """A new file beside the one that is to be. Every directory is opened by its parent's descriptor: no link is
        followed, and none that comes later leads elsewhere.
        """
        folder = os.open(self.root, _FOLDER)
        try:
            for part in self.parts[:-1]:
                inner = self._enter(folder, part)
                os.close(folder)
                folder = inner
            name = self.parts[-1]
            _require_new(name, folder)
            part_name = f".{secrets.token_urlsafe(8)}.part"
            stream = os.fdopen(os.open(part_name, _NEW, 0o600, dir_fd=folder), "wb")
        except BaseException:
            os.close(folder)
            raise
        return _File(stream, self.root.joinpath(*self.parts[:-1], part_name), folder, name)

    def _enter(self, folder: int, part: str) -> int:
        try:
            return os.open(part, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            raise BadParameter("path: there is no such directory; it must exist") from None
        except (NotADirectoryError, OSError) as exc:
            raise Forbidden("path: it leads through something that is no directory of its own") from exc


def _require_new(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        raise BadParameter(_EXISTS)


# -- formats ---------------------------------------------------------------------------------------------------------


class _Writer(Protocol):
    is_splittable: bool
    """Whether the file may be read in pieces that begin where a slice does."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None: ...
    def close(self) -> None: ...


class _Csv:
    is_splittable = True

    def __init__(self, file: BinaryIO, columns: Sequence[str], _types: Sequence[str]) -> None:
        self._file = file
        self._write([columns])

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._write(zip(*map(_cells, zip(*rows, strict=True)), strict=True))

    def _write(self, lines: Any) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        self._file.write(text.getvalue().encode())

    def close(self) -> None:
        self._file.flush()


def _cells(column: Sequence[Any]) -> Sequence[Any]:
    """As `formats` writes them; what csv writes the same by itself, it may."""
    return column if set(map(type, column)) <= {str, int, type(None)} else [_plain(cell) for cell in column]


class _JsonLines:
    is_splittable = True

    def __init__(self, file: BinaryIO, columns: Sequence[str], _types: Sequence[str]) -> None:
        self._file = file
        self._names = _unique(list(columns))

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        names = self._names
        self._file.write(
            b"".join(orjson.dumps(dict(zip(names, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        )

    def close(self) -> None:
        self._file.flush()


# Arrow's types by the databases' names, as far as every value of theirs fits; all others are text.
_ARROW = {
    **dict.fromkeys(("bigint", "integer", "int", "smallint", "tinyint", "mediumint", "year", "oid"), "int64"),
    **dict.fromkeys(("smallint unsigned", "tinyint unsigned", "mediumint unsigned", "int unsigned"), "int64"),
    **dict.fromkeys(("bigint unsigned", "xid8"), "uint64"),
    **dict.fromkeys(("real", "double precision", "float", "double"), "float64"),
    "boolean": "bool_",
    **dict.fromkeys(
        ("bytea", "blob", "tinyblob", "mediumblob", "longblob", "binary", "varbinary", "geometry"), "binary"
    ),
}


class _Parquet:
    """Row groups of their own size, whatever the slices' is. Types are those of the first slice."""

    is_splittable = False

    def __init__(self, file: BinaryIO, columns: Sequence[str], types: Sequence[str]) -> None:
        self._arrow = import_module("pyarrow")
        self._kinds = [_ARROW.get(kind, "string") for kind in types]
        self._schema = self._arrow.schema(
            [
                (name, getattr(self._arrow, kind)())
                for name, kind in zip(_unique(list(columns)), self._kinds, strict=True)
            ]
        )
        self._writer = import_module("pyarrow.parquet").ParquetWriter(file, self._schema)
        self._waiting: list[Any] = []
        self._rows = self._bytes = self._before = 0

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        arrays = [self._array(*each) for each in zip(range(len(self._kinds)), zip(*rows, strict=True), strict=True)]
        batch = self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _ROW_GROUP or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(self._arrow.Table.from_batches(self._waiting, schema=self._schema))
        self._waiting = []
        self._before += self._rows
        self._rows = self._bytes = 0

    def _array(self, place: int, column: Sequence[Any]) -> Any:
        kind, wanted = self._kinds[place], self._schema.field(place)
        try:
            return self._arrow.array(_FROM_JSON[kind](column), type=wanted.type)
        except (TypeError, ValueError, OverflowError):  # of pyarrow, too: its errors derive from these
            raise Unsupported(
                f"column {wanted.name} holds values of several types, and a Parquet column has one ({wanted.type}): "
                "cast it in the query, or take jsonl"
            ) from None


def _whole(column: Sequence[Any]) -> Sequence[Any]:
    return [int(cell) if isinstance(cell, str) else cell for cell in column]


def _real(column: Sequence[Any]) -> Sequence[Any]:
    return [float(cell) if isinstance(cell, str) else cell for cell in column]


def _binary(column: Sequence[Any]) -> Sequence[Any]:
    return [None if cell is None else from_base64(cell[BYTES]) for cell in column]


def _text(column: Sequence[Any]) -> Sequence[Any]:
    return [cell if cell is None or isinstance(cell, str) else _plain(cell) for cell in column]


_FROM_JSON: dict[str, Callable[[Sequence[Any]], Sequence[Any]]] = {
    "int64": _whole,
    "uint64": _whole,
    "float64": _real,
    "bool_": list,
    "binary": _binary,
    "string": _text,
}

WRITERS: dict[ExportFormat, Callable[[BinaryIO, Sequence[str], Sequence[str]], _Writer]] = {
    "csv": _Csv,
    "jsonl": _JsonLines,
    "parquet": _Parquet,
}


def _require_writer(name: ExportFormat) -> None:
    if name != "parquet":
        return
    try:
        import_module("pyarrow.parquet")
    except ImportError:
        raise Unsupported("parquet needs the extra manydb[parquet] on the server; take csv or jsonl") from None
