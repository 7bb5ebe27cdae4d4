"""The backends manydb knows, and how a URL leads to one of them."""

import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from manydb.dialects.base import Dialect
from manydb.dialects.mysql import MySQL
from manydb.dialects.postgresql import PostgreSQL
from manydb.dialects.sqlite import SQLite
from manydb.errors import BadParameter

__all__ = ["DIALECTS", "Dialect", "parse"]

DIALECTS: tuple[Dialect, ...] = (PostgreSQL(), MySQL(), SQLite())

_MAX_URL = 4_096
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]|%0[0-9a-fA-F]|%1[0-9a-fA-F]")


def parse(text: str) -> tuple[Dialect, URL]:
    """The dialect of the URL *text*, and its one spelling: async driver named, options canonical.

    Raises BadParameter, whose message never quotes the URL.
    """
    text = text.strip()
    if not text or len(text) > _MAX_URL or _UNPRINTABLE.search(text):
        raise BadParameter(f"a database URL has up to {_MAX_URL} printable characters: {_examples()}")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Not chained: SQLAlchemy's message may quote the text, password and all.
        raise BadParameter(f"not a database URL; it looks like {_examples()}") from None
    backend, _, driver = url.drivername.partition("+")
    for dialect in DIALECTS:
        if backend in dialect.schemes:
            url = url.set(drivername=f"{dialect.name}+{driver or dialect.default_driver}")
            _require_async(url)
            return dialect, dialect.normalise(url)
    _require_async(url)
    return Dialect(), url


def _require_async(url: URL) -> None:
    backend, _, driver = url.drivername.partition("+")
    # Ours are dependencies: nothing is imported to ask.
    if any(backend == each.name and driver in (each.default_driver, *each.other_drivers) for each in DIALECTS):
        return
    try:
        # Some dialects have an async half under one name: what is asked is what create_async_engine will use.
        found = url.get_dialect(_is_async=True)
        found.import_dbapi()
    except (NoSuchModuleError, ImportError):
        raise BadParameter(f"the driver {url.drivername} is not installed or not known; {_what_works()}") from None
    if not found.is_async:
        raise BadParameter(f"{url.drivername} is not an async driver; {_what_works()}")


def _what_works() -> str:
    names = ", ".join(f"{dialect.name}+{dialect.default_driver}" for dialect in DIALECTS)
    return f"what works: {names}, and installed async drivers of SQLAlchemy such as postgresql+psycopg or mysql+asyncmy"


def _examples() -> str:
    return "postgresql://user:password@host/database, mysql://…, sqlite:///file.db"
