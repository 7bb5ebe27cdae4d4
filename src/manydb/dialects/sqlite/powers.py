"""What this process could do to a SQLite file: the operating system's account is the login."""

import os
import pwd
import shlex
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.powers import Powers


async def powers(connection: AsyncConnection) -> Powers:
    """What the account of this process could do to the connection's file; a database in memory harms nobody."""
    # Of file names only the one given to SQLite counts; the URL may be its URI form.
    rows = await connection.exec_driver_sql("SELECT file FROM pragma_database_list WHERE name = 'main'")
    name = rows.scalar_one_or_none()
    return of_file(Path(name)) if name else Powers(_account(), superuser=False, can_write=False, reasons=(), remedy="")


def of_file(path: Path) -> Powers:
    """The same of the file *path*, without opening it."""
    root = os.geteuid() == 0
    reasons = [
        *(["the server runs as root, whom file permissions do not bind"] if root else []),
        *(["the file is writable"] if _may_write(path) else []),
        # Where the folder is writable, the file can be replaced by another.
        *(["its folder is writable"] if _may_write(path.parent) else []),
    ]
    return Powers(
        _account(), superuser=root, can_write=root or bool(reasons), reasons=tuple(reasons), remedy=_remedy(path)
    )


def _may_write(path: Path) -> bool:
    # Effective, since a server may have given up rights that it was started with.
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _remedy(path: Path) -> str:
    # "--" and quotes: a file may be called anything.
    file, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
    return "\n".join(
        [
            "# as the owner of the file, who should not be the account that runs the server",
            f"sqlite3 {file} 'PRAGMA journal_mode = DELETE'  # readers of a WAL database write files beside it",
            f"chmod a-w,a+r -- {file}",
            f"chmod go-w -- {folder}",
        ]
    )
