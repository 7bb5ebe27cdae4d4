"""What each caller ran: the statement as it was written, never a bound value; bounded, and forgotten in time."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from manydb.callers import Caller

_MAX_CHARACTERS = 2_000
_MAX_CALLERS = 10_000


@dataclass(slots=True)
class Entry:
    """One statement: when it began, its milliseconds, its rows or those it affected, "ok" or an error's code."""

    at: float
    """Seconds since 1970."""
    connection: str
    sql: str
    elapsed_ms: int
    outcome: str
    rows: int | None = None
    affected: int | None = None

    def as_dict(self) -> dict[str, Any]:
        entry = {
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "connection": self.connection,
            "sql": self.sql,
            "elapsed_ms": self.elapsed_ms,
            "rows": self.rows,
            "affected": self.affected,
            "outcome": self.outcome,
        }
        return {key: value for key, value in entry.items() if value is not None}


@dataclass(slots=True)
class _Past:
    entries: deque[Entry]
    last_used: float


@dataclass
class History:
    """The last *size* statements of each known caller, for *ttl* seconds after the last one."""

    size: int
    ttl: float
    clock: Callable[[], float] = time.monotonic
    _pasts: OrderedDict[Caller, _Past] = field(default_factory=OrderedDict)

    def add(
        self,
        caller: Caller,
        connection: str,
        sql: str,
        elapsed_ms: int,
        outcome: str,
        *,
        rows: int | None = None,
        affected: int | None = None,
    ) -> None:
        """Remember a statement that just ended; of nobody known, nothing is."""
        if not caller.is_known:
            return
        at = time.time() - elapsed_ms / 1000
        text = sql if len(sql) <= _MAX_CHARACTERS else f"{sql[:_MAX_CHARACTERS]}…"
        past = self._pasts.get(caller)
        if past is None:
            past = self._pasts[caller] = _Past(deque(maxlen=self.size), 0)
        past.entries.append(Entry(at, connection, text, elapsed_ms, outcome, rows, affected))
        past.last_used = self.clock()
        self._pasts.move_to_end(caller)
        if len(self._pasts) > _MAX_CALLERS:
            self._pasts.popitem(last=False)

    def of(self, caller: Caller) -> list[Entry]:
        """The latest first."""
        past = self._pasts.get(caller)
        return [] if past is None else list(reversed(past.entries))

    def forget(self, caller: Caller) -> None:
        self._pasts.pop(caller, None)

    def sweep(self) -> None:
        """Forget callers that were not heard of for too long."""
        for caller, past in list(self._pasts.items()):
            if self.clock() - past.last_used < self.ttl:
                break  # in order of last use
            del self._pasts[caller]
