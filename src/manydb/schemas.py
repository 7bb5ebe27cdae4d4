"""What was read of each database's schema: read once however many ask, believed for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from manydb.leases import Target

P = TypeVar("P", bound=Hashable)
T = TypeVar("T")

_Key = tuple[Target, Hashable]


@dataclass(slots=True)
class _Reading:
    task: asyncio.Task[Any]
    started: float

    async def outcome(self) -> Any:
        # What has been read is told without a turn of the loop.
        return self.task.result() if self.task.done() else await asyncio.shield(self.task)


@dataclass
class SchemaCache:
    """Readings by database and part ("overview", "columns", a table …), the latest *most* of them; *ttl* is in seconds.

    A reading is a task of the cache's own: a caller that is cancelled leaves it to the others. One that fails is
    forgotten, so that the next caller tries again.
    """

    ttl: float
    clock: Callable[[], float] = time.monotonic
    most: int = 500
    _readings: dict[_Key, _Reading] = field(default_factory=dict)

    async def get(self, target: Target, part: str, read: Callable[[], Awaitable[T]], *, ttl: float | None = None) -> T:
        """The part of the schema, by *read* where it is not known or older than *ttl*."""
        key = (target, part)
        reading = self._believed(key, self.ttl if ttl is None else ttl)
        if reading is None:
            reading = self._start([key], read)
        return cast("T", await reading.outcome())

    async def get_each(
        self, target: Target, parts: Sequence[P], read: Callable[[Sequence[P]], Awaitable[Mapping[P, T]]]
    ) -> dict[P, T]:
        """Those of *parts* that there are; what is not known is read together, and what is missing not remembered."""
        readings = {part: known for part in parts if (known := self._believed((target, part), self.ttl))}
        missing = [part for part in dict.fromkeys(parts) if part not in readings]
        if missing:
            begun = self._start([(target, part) for part in missing], lambda: read(missing))
            readings |= dict.fromkeys(missing, begun)
        found = {}
        for part, reading in readings.items():
            together = cast("Mapping[P, T]", await reading.outcome())
            if part in together:
                found[part] = together[part]
            else:
                self._forget((target, part), reading)
        return found

    def _believed(self, key: _Key, ttl: float) -> _Reading | None:
        reading = self._readings.get(key)
        return None if reading is None or self.clock() - reading.started >= ttl else reading

    def invalidate(self, target: Target, *, before: float | None = None) -> bool:
        """Forget what was read of *target* (only what was begun *before*); whether there was any."""
        old = [
            key
            for key, reading in self._readings.items()
            if key[0] == target and (before is None or reading.started < before)
        ]
        for key in old:
            del self._readings[key]
        return bool(old)

    async def aclose(self) -> None:
        """Stop readings that nobody waits for any more."""
        tasks = {reading.task for reading in self._readings.values()}
        self._readings.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, keys: Sequence[_Key], read: Callable[[], Awaitable[Any]]) -> _Reading:
        """Read what *keys* stand for together."""

        async def work() -> Any:
            return await read()

        reading = _Reading(asyncio.create_task(work()), self.clock())
        for key in keys:
            self._readings.pop(key, None)  # so that they stand in the order in which they were begun
            self._readings[key] = reading
        self._leave_out(len(keys))

        def forget_failure(task: asyncio.Task[Any]) -> None:
            if task.cancelled() or task.exception() is not None:
                for key in keys:
                    self._forget(key, reading)

        reading.task.add_done_callback(forget_failure)
        return reading

    def _leave_out(self, begun: int) -> None:
        """Drop what nobody believes any more, and the oldest of too many; never the last *begun*."""
        while len(self._readings) > begun:
            key, oldest = next(iter(self._readings.items()))
            if len(self._readings) <= self.most and self.clock() - oldest.started < self.ttl:
                return
            del self._readings[key]

    def _forget(self, key: _Key, reading: _Reading) -> None:
        if self._readings.get(key) is reading:
            del self._readings[key]
