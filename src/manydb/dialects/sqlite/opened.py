"""A file that is open: when its statement must end, how long it waits for others' locks, and in which thread."""

import itertools
import math
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_OPCODES = 10_000
"""Virtual-machine steps between two looks at the clock: some tens of microseconds."""
_PAUSES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_LONG = 1_000
"""Characters; longer statements take their time to compile."""
_LONG_CELL = 10_000
"""Bytes; longer cells take their time to be read, compared and converted."""
_MOST_VIEWS = 50
_QUOTES = frozenset("\"'`[]")
# Steps of a program that read at most a row.
_STEPS = frozenset({
    "Init", "Goto", "Halt", "Noop", "Explain", "Transaction", "OpenRead", "Close", "ResultRow", "Once",
    "Integer", "Int64", "Real", "String", "String8", "Null", "Blob", "Variable", "Copy", "SCopy", "Move",
    "SeekRowid", "NotExists", "SeekGE", "SeekLE", "IdxGT", "IdxLT", "DeferredSeek", "NotFound", "Found", "NullRow",
    "Rowid", "IdxRowid", "Column", "MustBeInt", "Affinity", "RealAffinity", "Cast", "Add", "Subtract", "Multiply",
    "If", "IfNot", "IsNull", "NotNull", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "ZeroOrNull",
})  # fmt: skip


@dataclass(slots=True)
class Deadline:
    """When the statements of a connection must have ended; asked by its progress handler, in its thread."""

    moment: float = math.inf

    def is_over(self) -> bool:
        return time.monotonic() > self.moment


class Opened(sqlite3.Connection):
    """A connection that carries what sqlite3's own does not know of."""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.deadline = Deadline()
        self.set_progress_handler(self.deadline.is_over, _OPCODES)
        self.patience = 0.0
        """Seconds that `patiently` waits for a lock."""
        self.reads_alone = False
        """The next statement is a read without a transaction around it, which has one of its own."""
        self._known_schema: int | None = None
        """The version of the schema that has been read, which takes its time."""
        self._views: frozenset[str] = frozenset()
        """Their names there, in lower case."""

    def patiently(self, work: Callable[[], T]) -> T:
        """Do *work*, again while somebody else holds the file's lock. It must be done in the connection's thread."""
        end = min(time.monotonic() + self.patience, self.deadline.moment)
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            try:
                return work()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() + pause > end:
                    raise
            time.sleep(pause)
        raise AssertionError  # unreachable: pauses never end

    def learn(self) -> None:
        """Look at the schema, for `ends_at_once`; it must be done in the connection's thread."""
        with suppress(sqlite3.Error):  # somebody has locked the file, or the time is over: next time
            version = self._version()
            if version != self._known_schema:
                found = self.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchmany(_MOST_VIEWS + 1)
                self._views = frozenset(name.lower() for (name,) in found)
                # A quote in a name is written twice in a statement.
                is_plain = len(found) <= _MOST_VIEWS and _QUOTES.isdisjoint("".join(self._views))
                self._known_schema = version if is_plain else None

    def ends_at_once(self, sql: str, args: tuple[Any, ...]) -> bool:
        """Whether no step of what *sql* is compiled to runs twice, and none but reads a row; if its cells are short."""
        if len(sql) > _LONG or self._known_schema is None:
            return False
        # Each mention of a view or of a WITH query is compiled anew: the work may double with every few characters.
        text = sql.lower()
        if "with" in text or any(view in text for view in self._views):
            return False
        try:
            if self._known_schema != self._version():
                return False
            with closing(self.execute("EXPLAIN " + sql, args)) as steps:
                # Only jumps lead backwards here, and the last step's is how every program begins.
                return all(_leads_on(step) for step, _ in itertools.pairwise(steps))
        except sqlite3.Error:  # whoever runs it will be told
            return False

    def at_once(self, work: Callable[[], T]) -> T | None:
        """Do *work*, a statement that `ends_at_once`; None where it did not, for it met a lock or a long cell."""
        longest = self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONG_CELL)
        try:
            return work()
        except sqlite3.Error as error:
            if not is_busy(error) and _code(error) != sqlite3.SQLITE_TOOBIG:
                raise
            return None
        finally:
            self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)

    def _version(self) -> int:
        """Of the schema, which is not read for it."""
        version: int = self.execute("PRAGMA schema_version").fetchone()[0]
        return version


class Reader(Opened):
    """One that may be used in two threads, one after the other, for SQLite itself never waits in it."""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments | {"timeout": 0, "check_same_thread": False})
        self.patience = arguments["timeout"]


def _leads_on(step: tuple[Any, ...]) -> bool:
    number, name, _, to, *_ = step
    return name in _STEPS and (name != "Goto" or to > number)


def is_busy(error: sqlite3.Error) -> bool:
    return _code(error) == sqlite3.SQLITE_BUSY


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where Python's module found the fault."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
