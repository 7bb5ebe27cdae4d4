"""A file that is open: when its statement must end, how long it waits for others' locks, and in which thread."""

import itertools
import math
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_OPCODES = 10_000
"""Virtual-machine steps between two looks at the clock: some tens of microseconds."""
_PAUSES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_LONG = 1_000
"""Characters; longer statements take their time to compile."""
# Steps of a program that read at most a row, and never many pages of the file.
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
        self.is_warm = False
        """The schema has been read, which the first statement does, however short it is."""

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

    def ends_at_once(self, sql: str, args: tuple[Any, ...]) -> bool:
        """Whether no step of what *sql* is compiled to runs twice, and none but reads a row."""
        if not self.is_warm or len(sql) > _LONG:
            return False
        try:
            steps = self.execute("EXPLAIN " + sql, args).fetchall()
        except sqlite3.Error:  # whoever runs it will be told
            return False
        # Only jumps lead backwards here, and the last step's is how every program begins.
        return all(name in _STEPS and (name != "Goto" or to > number) for number, name, _, to, *_ in steps[:-1])


class Reader(Opened):
    """One that may be used in two threads, one after the other, for SQLite itself never waits in it."""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments | {"timeout": 0, "check_same_thread": False})
        self.patience = arguments["timeout"]


def is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
