"""The rows of a query in a file, however many they are: read slice by slice, written as they come, never half."""

import asyncio
import errno
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import admission, reads, statements
from manydb.callers import Caller
from manydb.dialects.rows import Rows
from manydb.errors import BadParameter, Expired, Forbidden, TooLarge, Unsupported
from manydb.exports.files import File, Target
from manydb.exports.writers import WRITERS, ExportFormat, Writer, require_writer
from manydb.gateway import Gateway
from manydb.handles import Handles
from manydb.policy import Verdict

T = TypeVar("T")
Told = Callable[[int], None]
"""Hears how many rows are written so far."""

PART_BYTES = 4 * 1024 * 1024
"""What reading a resource returns at once, about: an answer is in memory as a whole, several times over."""
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
            mark=self._settings.mark,
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
        require_writer(name)
        gateway = self._gateway
        place_of_file = Target.of(self._directories(), path) if path is not None else None
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
    async def _opened(self, target: Target | None, name: ExportFormat) -> AsyncGenerator[File]:
        """A new file; removed unless it is finished."""
        if self._is_closed:
            raise Expired("the server is closing")
        file = await _in_thread(target.open if target else lambda: File.new(self._own_folder(), name))
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
    slices: AsyncGenerator[Rows], file: File, name: ExportFormat, verdict: Verdict, told: Told, most: int
) -> _Written:
    """Write all *slices*, which are closed in any case. Raises TooLarge past *most* bytes."""
    written = _Written()
    writer: Writer | None = None
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
