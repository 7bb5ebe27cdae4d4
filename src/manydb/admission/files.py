"""Database files that a caller may name: beneath a directory, regular, and still the ones that were admitted."""

import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from manydb.errors import BadParameter, Forbidden, SettingsError

_NEVER = tuple(Path(folder) for folder in ("/proc", "/dev", "/sys"))
_SMALLEST_DATABASE = 100
"""Bytes of the header of a SQLite file."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file: its real path, and the device and inode that it is."""

    path: Path = field(repr=False)
    device: int
    inode: int

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """None where there is no regular file. Never opens it: a fifo would block, a device might act."""
        try:
            status = path.lstat()
        except (OSError, ValueError):
            return None
        return cls(path, status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None

    def require_unchanged(self) -> None:
        if _real(self.path) != self.path or self.at(self.path) != self:
            raise Forbidden("the database file is no longer the one that was registered; register it again")


def admitted(path: Path, directories: Sequence[Path]) -> File:
    """The database file that *path* leads to. Raises Forbidden or BadParameter, which name no path."""
    real_directories = [_real(folder) for folder in directories]
    # First as written, so that a path elsewhere is not even looked at: that could mount, block or tell what exists.
    if not _beneath(path, [*directories, *real_directories]):
        raise Forbidden(f"files are registered from {_folders(directories)}")
    real = _real(path)
    if not _beneath(real, real_directories):
        raise Forbidden("the file is a link that leads out of the directories whose files can be registered")
    file = File.at(real)
    if file is None:
        raise BadParameter("there is no such database file; registering never makes one")
    _require_database(real)
    return file


def opened(file: File, connect: Callable[[], Any]) -> Any:
    """A connection to *file*: checked before, so that nothing else is opened, and after, so that nothing else was."""
    file.require_unchanged()
    connection = connect()
    try:
        file.require_unchanged()
    except Forbidden:
        connection.close()
        raise
    return connection


def working_directory() -> tuple[Path, ...]:
    """The directory that a local client's server runs in, as the only one to register files from.

    None where that would be everything: clients start servers in ``/``, and in the home directory, where browsers and
    mail programs keep their SQLite files.
    """
    folder, home = Path.cwd().resolve(), Path.home().resolve()
    return () if folder in {home, *home.parents} else (folder,)


def directory(entry: str | Path) -> Path:
    """Raises SettingsError."""
    folder = Path(entry).expanduser()
    if not folder.is_absolute() or ".." in folder.parts:
        raise SettingsError(f"directories: {str(entry)!r} is not an absolute path")
    return folder


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _beneath(path: Path, folders: Iterable[Path]) -> bool:
    if any(path.is_relative_to(folder) for folder in _NEVER):
        return False
    return any(path != folder and path.is_relative_to(folder) for folder in folders)


def _require_database(path: Path) -> None:
    """Raises BadParameter unless *path* begins as a SQLite file does.

    Asks SQLite instead of reading the file: where this process has the database open, closing another descriptor of it
    would drop SQLite's locks (POSIX; "How To Corrupt An SQLite Database File", 2.2). As immutable, nothing is locked,
    recovered or created beside the file.
    """
    refusal = BadParameter("the file is not a SQLite database")
    if path.stat().st_size < _SMALLEST_DATABASE:
        raise refusal
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as file:
            file.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error:
        raise refusal from None


def _folders(directories: Sequence[Path]) -> str:
    return (
        "the directories that the server's policy names" if directories else "nowhere: the server's policy names none"
    )
