"""What a caller wrote: one strict shape of URL, and the options that cannot reach beyond the connection."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from manydb.errors import BadParameter, Forbidden

_MAX_URL = 4_096

# One strict reading beside SQLAlchemy's lenient one, which takes an empty port, '#', and a second '@'.
_SERVER_URL = re.compile(
    r"(?P<scheme>[a-z0-9_+]+)://[^@/?#:]+(?::[^@/?#]*)?@(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"/[^@/?#]+(?:\?[^?#]*)?"
)
_FILE_URL = re.compile(r"(?P<scheme>[a-z0-9_+]+):///[^?#]+\??")
EXAMPLE = (
    "postgresql://user:password@host:5432/database, with '@', '/', ':', '?', '#' and '%' percent-encoded in each part"
)
_FILE_EXAMPLE = "sqlite:////folder/file.db, with '?', '#' and '%' percent-encoded"

# Every spelling of an option that a caller may give, and the values it may take; whether the database has that option
# is the dialect's to say. What is missing reads local files, replaces checked parts, or undoes the gateway's limits.
_TLS_MODES = frozenset({"disable", "prefer", "require", "verify-ca", "verify-full"})
_OPTIONS: Mapping[str, Callable[[str], bool]] = {
    **dict.fromkeys(("ssl", "sslmode", "ssl-mode", "ssl_mode"), _TLS_MODES.__contains__),
    "prepared_statement_cache_size": lambda value: bool(re.fullmatch(r"[0-9]{1,4}", value)),
    "charset": {"utf8mb4"}.__contains__,
}


def require_sound(text: str) -> None:
    """Raises BadParameter for what is too long, unprintable, or percent-encodes anything but UTF-8."""
    if not text or len(text) > _MAX_URL or not text.isprintable():
        raise BadParameter(f"a database URL has up to {_MAX_URL} printable characters, such as {EXAMPLE}")
    try:
        decoded = unquote(text, errors="strict")
        decoded.encode()
    except UnicodeError:
        raise BadParameter("what is percent-encoded in a URL is UTF-8") from None


def parsed(text: str, *, is_file: bool) -> tuple[URL, int | None]:
    """The URL, and the port as written. Raises BadParameter or Forbidden, which never quote the text."""
    shape = (_FILE_URL if is_file else _SERVER_URL).fullmatch(text)
    if not shape:
        raise BadParameter(f"this is not a URL that can be registered; write {_FILE_EXAMPLE if is_file else EXAMPLE}")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Not chained: SQLAlchemy's message may quote the text, password and all.
        raise BadParameter(f"this is not a database URL; write {EXAMPLE}") from None
    _require_printable_parts(url)
    _require_allowed_options(url)
    port = None if is_file else shape["port"]
    return url, int(port) if port else None


def _require_printable_parts(url: URL) -> None:
    for part in (url.username, url.password, url.database):
        require_printable(part or "")


def require_printable(part: str) -> None:
    # Wire protocols end a text at NUL; nothing else that is unseen has business in a name either.
    if not part.isprintable():
        raise BadParameter("user, password and database consist of printable characters")


def _require_allowed_options(url: URL) -> None:
    for option, value in url.query.items():
        allows = _OPTIONS.get(option)
        if allows is None or not isinstance(value, str) or not allows(value):
            raise Forbidden(
                "the options that a registered URL may have are sslmode (disable, prefer, require, verify-ca, "
                "verify-full), prepared_statement_cache_size and charset=utf8mb4, each where the database knows it"
            )


def require_plain_path(path: str) -> None:
    """Raises BadParameter unless *path* names a file and nothing but a file."""
    if not path or path.startswith(("//", ":", "file:", "~")) or "\\" in path or ".." in Path(path).parts:
        raise BadParameter("a database file is named by its path, without '..', '~', 'file:' or a server's name")
