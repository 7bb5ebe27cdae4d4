"""Rows kept behind a result_id: bounded, expiring, owned by their caller."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from manydb.errors import Expired
from manydb.query import QueryResult
from manydb.settings import Settings


@dataclass(slots=True)
class _Kept:
    owner: object | None
    result: QueryResult
    shown: int
    size: int
    last_used: float


@dataclass
class Results:
    """Kept results, the least recently used first.

    An owner of None makes the id a capability: whoever knows it may read. Sizes are estimates in bytes.
    """

    settings: Settings
    clock: Callable[[], float] = time.monotonic
    noun: ClassVar[str] = "result"
    _kept: OrderedDict[str, _Kept] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def keep(self, owner: object | None, result: QueryResult, *, shown: int, size: int) -> str | None:
        """Keep *result*, of which *shown* rows were sent; None where it is larger than all that may be kept."""
        if size > self.settings.max_result_bytes:
            return None
        result_id = f"r_{self.settings.mark}{secrets.token_urlsafe(12)}"
        self._kept[result_id] = _Kept(owner, result, shown, size, self.clock())
        self._bytes += size
        self._make_room(owner)
        return result_id

    def get(self, owner: object | None, result_id: str) -> tuple[QueryResult, int]:
        """The kept result, and how many of its rows the first page showed.

        Raises Expired for an id that is unknown, another caller's, or too old: one answer for all.
        """
        self._forget_expired()
        kept = self._kept.get(result_id)
        if kept is None or kept.owner not in {None, owner}:
            raise Expired(
                f"no rows are kept as {result_id[:40]!r}: kept rows expire {self.settings.result_ttl:g} s after their "
                "last use; run execute_query again to get a new result_id"
            )
        kept.last_used = self.clock()
        self._kept.move_to_end(result_id)
        return kept.result, kept.shown

    def of(self, owner: object | None) -> list[tuple[str, QueryResult, float]]:
        """What *owner* keeps: id, rows, and the seconds left if nobody reads on."""
        if owner is None:
            return []
        ends = self.settings.result_ttl - self.clock()
        kept = self._kept.items()
        return [(handle, each.result, max(0.0, each.last_used + ends)) for handle, each in kept if each.owner == owner]

    async def release(self, owner: object) -> None:
        """Forget what *owner* keeps."""
        for result_id in [result_id for result_id, kept in self._kept.items() if kept.owner == owner]:
            self._drop(result_id)

    async def sweep(self) -> None:
        self._forget_expired()

    async def aclose(self) -> None:
        self._kept.clear()
        self._bytes = 0

    def _forget_expired(self) -> None:
        oldest_allowed = self.clock() - self.settings.result_ttl
        for result_id, kept in list(self._kept.items()):
            if kept.last_used > oldest_allowed:
                break  # in order of last use
            self._drop(result_id)

    def __len__(self) -> int:
        return len(self._kept)

    def _make_room(self, owner: object | None) -> None:
        mine = [result_id for result_id, kept in self._kept.items() if kept.owner == owner]
        for result_id in mine[: max(0, len(mine) - self.settings.max_results)]:
            self._drop(result_id)
        while self._bytes > self.settings.max_result_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, result_id: str) -> None:
        self._bytes -= self._kept.pop(result_id).size
