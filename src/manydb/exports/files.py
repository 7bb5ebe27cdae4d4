"""Files that are never half: written under a name of their own, and named at the end."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from manydb.errors import BadParameter, Forbidden, Unsupported
from manydb.exports.writers import ExportFormat


@dataclass(slots=True)
class File:
    """A file being written, under a name that is nobody's; *folder* is a descriptor of its directory or None."""

    stream: BinaryIO
    path: Path
    folder: int | None = None
    final: str = ""

    @classmethod
    def new(cls, folder: Path, name: ExportFormat) -> "File":
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
class Target:
    """Where a caller wants a file: *parts* beneath *root*, the last of them its name."""

    root: Path
    parts: tuple[str, ...]

    @classmethod
    def of(cls, roots: Sequence[Path], text: str) -> "Target":
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

    def open(self) -> File:
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
        return File(stream, self.root.joinpath(*self.parts[:-1], part_name), folder, name)

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
