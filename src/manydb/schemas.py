"""What was read of each database's schema: read once however many ask, believed for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from manydb.engines import Target

T = TypeVar("T")

_Key = tuple[Target, str]

_MAX_KEPT = 500


@dataclass(slots=True)
class _Reading:
    task: asyncio.Task[Any]
    started: float


@dataclass
class SchemaCache:
    """Readings by database and part ("overview", "columns" …); *ttl* is in seconds.

    A reading is a task of the cache's own: a caller that is cancelled leaves it to the others. One that fails is
    forgotten, so that the next caller tries again.
    """

    ttl: float
    clock: Callable[[], float] = time.monotonic
    _readings: dict[_Key, _Reading] = field(default_factory=dict)

    async def get(self, target: Target, part: str, read: Callable[[], Awaitable[T]], *, ttl: float | None = None) -> T:
        """The part of the schema, by *read* where it is not known or older than *ttl*."""
        key = (target, part)
        reading = self._readings.get(key)
        if reading is None or self.clock() - reading.started >= (self.ttl if ttl is None else ttl):
            reading = self._start(key, read)
        return cast("T", await asyncio.shield(reading.task))

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
        tasks = [reading.task for reading in self._readings.values()]
        self._readings.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: _Key, read: Callable[[], Awaitable[Any]]) -> _Reading:
        async def work() -> Any:
            return await read()

        reading = _Reading(asyncio.create_task(work()), self.clock())
        if len(self._readings) >= _MAX_KEPT:
            self._readings.pop(next(iter(self._readings)))
        self._readings[key] = reading

        def forget_failure(task: asyncio.Task[Any]) -> None:
            failed = task.cancelled() or task.exception() is not None
            if failed and (current := self._readings.get(key)) is not None and current.task is task:
                del self._readings[key]

        reading.task.add_done_callback(forget_failure)
        return reading
