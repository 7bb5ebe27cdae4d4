"""Handles: what outlives a call, behind an unguessable id; bounded, expiring, owned by a caller."""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from manydb.callers import Caller
from manydb.errors import Expired, TooMany

T = TypeVar("T")

_REMEMBERED = 10_000
"""Ended handles whose reason is still known; the oldest are forgotten."""


@dataclass(eq=False, slots=True)
class _Held(Generic[T]):
    owner: Caller
    thing: T
    created: float
    last_used: float


@dataclass
class Handles(Generic[T]):
    """Things of one kind by id. Times are seconds.

    A known caller's are its own: to everybody else they do not exist. What belongs to nobody known is a capability:
    who has the id may use it, and nobody sees it listed. *noun* and *advice* speak in errors: "transaction", "begin
    another". *end* is awaited once for each thing that goes, whatever the reason.
    """

    prefix: str
    noun: str
    advice: str
    idle_ttl: float
    per_owner: int
    end: Callable[[T], Awaitable[None]]
    max_age: float = float("inf")
    total: int = 100_000
    in_use: Callable[[T], bool] = lambda _: False
    """Whether a thing works at this moment: then it is not idle, however long that takes."""
    mark: str = ""
    """What ids begin with, behind the prefix: Settings.mark."""
    clock: Callable[[], float] = time.monotonic
    _held: OrderedDict[str, _Held[T]] = field(default_factory=OrderedDict)
    _gone: OrderedDict[str, tuple[Caller, str]] = field(default_factory=OrderedDict)

    def require_room(self, owner: Caller) -> None:
        """Raises TooMany where *owner*, or everybody together, has as many as there may be."""
        if owner.is_known:
            mine = sum(held.owner == owner for held in self._held.values())
            if mine >= self.per_owner:
                raise TooMany(f"you have {mine} {self.noun}s, which is the most; end one first")
        elif sum(not held.owner.is_known for held in self._held.values()) >= self.total // 2:
            raise TooMany(
                f"callers without a session or a login hold {self.total // 2} {self.noun}s, which is the most"
            )
        if len(self._held) >= self.total:
            raise TooMany(f"this server holds {self.total} {self.noun}s, which is the most; try again later")

    def add(self, owner: Caller, thing: T, handle: str | None = None) -> str:
        """Hold *thing*; its id, *handle* or a new one. Raises TooMany."""
        self.require_room(owner)
        now = self.clock()
        handle = handle or f"{self.prefix}_{self.mark}{secrets.token_urlsafe(12)}"
        self._held[handle] = _Held(owner, thing, now, now)
        return handle

    def get(self, owner: Caller, handle: str) -> T:
        """The thing, used now. Raises Expired: unknown, another caller's and ended ones get one kind of answer."""
        held = self._of(owner, handle)
        if held is None or self._overdue(held):
            raise Expired(self._said(owner, handle, held))
        held.last_used = self.clock()
        self._held.move_to_end(handle)
        return held.thing

    def find(self, owner: Caller, handle: str) -> T | None:
        """The thing, used now; None where there is none."""
        held = self._of(owner, handle)
        return self.get(owner, handle) if held is not None and not self._overdue(held) else None

    def touch(self, handle: str) -> None:
        """It was in use until now."""
        if held := self._held.get(handle):
            held.last_used = self.clock()
            self._held.move_to_end(handle)

    def of(self, owner: Caller) -> list[tuple[str, T, float]]:
        """What *owner* holds: id, thing and the seconds it has left if nobody uses it. Nothing for nobody known."""
        if not owner.is_known:
            return []
        return [(handle, held.thing, self._left(held)) for handle, held in self._held.items() if held.owner == owner]

    def everything(self) -> list[tuple[str, T]]:
        """All that is held, whoever owns it, by id."""
        return [(handle, held.thing) for handle, held in self._held.items()]

    async def remove(self, handle: str, reason: str) -> None:
        """End what stands behind *handle*; *reason* is what its owner hears from now on. Does nothing twice."""
        held = self._held.pop(handle, None)
        if held is None:
            return
        self._gone[handle] = (held.owner, reason)
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)
        await self.end(held.thing)

    async def release(self, owner: Caller) -> None:
        """End all that *owner* holds."""
        await self._remove_all([handle for handle, held in self._held.items() if held.owner == owner], "was released")

    async def sweep(self) -> None:
        """End what has not been used, or has lived, for too long."""
        overdue: dict[str, str] = {}
        for handle, held in self._held.items():  # in order of last use
            if reason := self._overdue(held):
                overdue[handle] = reason
            elif self.max_age == float("inf"):
                break
        await asyncio.gather(*(self.remove(handle, reason) for handle, reason in overdue.items()))

    async def aclose(self) -> None:
        await self._remove_all(list(self._held), "ended with the server")

    def __len__(self) -> int:
        return len(self._held)

    def _of(self, owner: Caller, handle: str) -> _Held[T] | None:
        held = self._held.get(handle)
        return held if held is not None and (not held.owner.is_known or held.owner == owner) else None

    def _overdue(self, held: _Held[T]) -> str:
        now = self.clock()
        if now - held.last_used >= self.idle_ttl and not self.in_use(held.thing):
            return f"was not used for {self.idle_ttl:g} s"
        return f"was open for {self.max_age:g} s" if now - held.created >= self.max_age else ""

    def _left(self, held: _Held[T]) -> float:
        now = self.clock()
        return max(0.0, min(self.idle_ttl - (now - held.last_used), self.max_age - (now - held.created)))

    def _said(self, owner: Caller, handle: str, held: _Held[T] | None) -> str:
        reason = self._overdue(held) if held else ""
        if not reason:
            ended_for, told = self._gone.get(handle, (None, ""))
            reason = told if ended_for is not None and (not ended_for.is_known or ended_for == owner) else ""
        what = f"the {self.noun} {handle[:40]!r}"
        return f"{what} {reason}; {self.advice}" if reason else f"there is no {what[4:]}; {self.advice}"

    async def _remove_all(self, handles: list[str], reason: str) -> None:
        await asyncio.gather(*(self.remove(handle, reason) for handle in handles))
