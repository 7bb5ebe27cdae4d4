"""What callers hold across calls, on shelves: swept, released with their caller, closed with the gateway."""

from typing import Any, Protocol, TypeVar

from manydb.callers import Caller


class Shelf(Protocol):
    """Things that callers hold: listed with their ids and the seconds they have left, and ended in time."""

    @property
    def noun(self) -> str: ...
    def of(self, owner: Caller) -> list[tuple[str, Any, float]]: ...
    async def release(self, owner: Caller) -> None: ...
    async def sweep(self) -> None: ...
    async def aclose(self) -> None: ...


S = TypeVar("S", bound=Shelf)


class Holdings:
    """All shelves of a gateway; the last one added goes first."""

    def __init__(self) -> None:
        self._shelves: list[Shelf] = []

    def add(self, shelf: S) -> S:
        """Sweep, release and close *shelf* from now on."""
        self._shelves.append(shelf)
        return shelf

    def of(self, caller: Caller) -> list[tuple[str, str, Any, float]]:
        """What *caller* holds: the kind of thing, its id, the thing, and the seconds left if nobody uses it."""
        return [(shelf.noun, *each) for shelf in self._shelves for each in shelf.of(caller)]

    async def release(self, caller: Caller) -> None:
        """End all that *caller* holds."""
        for shelf in reversed(self._shelves):
            await shelf.release(caller)

    async def sweep(self) -> None:
        """End what has expired."""
        for shelf in self._shelves:
            await shelf.sweep()

    async def aclose(self) -> None:
        for shelf in reversed(self._shelves):
            await shelf.aclose()
