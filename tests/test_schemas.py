"""What was read of a schema is read once, believed for a while, and kept within bounds."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from sqlalchemy import make_url

from manydb.dialects.sqlite import SQLite
from manydb.leases import Target
from manydb.schemas import SchemaCache

SALES, STAFF = (Target(SQLite(), make_url(f"sqlite:///{name}.db")) for name in ("sales", "staff"))


@dataclass
class Reader:
    """Counts what is read of it; *there* are the parts that there are."""

    there: set[str] = field(default_factory=lambda: {"a", "b", "c"})
    asked: list[list[str]] = field(default_factory=list)

    async def __call__(self, parts: Sequence[str]) -> dict[str, int]:
        self.asked.append(list(parts))
        await asyncio.sleep(0)
        return {part: len(self.asked) for part in parts if part in self.there}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_what_is_not_known_is_read_together(clock: Clock) -> None:
    cache, read = SchemaCache(60, clock), Reader()
    assert await cache.get_each(SALES, ["a"], read) == {"a": 1}
    assert await cache.get_each(SALES, ["b", "a", "c", "b"], read) == {"b": 2, "a": 1, "c": 2}
    assert read.asked == [["a"], ["b", "c"]]


async def test_who_asks_at_once_waits_for_the_same_reading(clock: Clock) -> None:
    cache, read = SchemaCache(60, clock), Reader()
    found = await asyncio.gather(*(cache.get_each(SALES, ["a", "b"], read) for _ in range(5)))
    assert (found, read.asked) == ([{"a": 1, "b": 1}] * 5, [["a", "b"]])


async def test_that_something_is_missing_is_not_remembered(clock: Clock) -> None:
    cache, read = SchemaCache(60, clock), Reader(set())
    assert await cache.get_each(SALES, ["a"], read) == {}
    read.there.add("a")
    assert await cache.get_each(SALES, ["a"], read) == {"a": 2}


async def test_databases_share_nothing(clock: Clock) -> None:
    cache, read = SchemaCache(60, clock), Reader()
    await cache.get_each(SALES, ["a"], read)
    assert await cache.get_each(STAFF, ["a"], read) == {"a": 2}
    assert cache.invalidate(SALES)
    assert await cache.get_each(STAFF, ["a"], read) == {"a": 2}
    assert await cache.get_each(SALES, ["a"], read) == {"a": 3}


async def test_what_is_too_old_is_read_anew(clock: Clock) -> None:
    cache, read = SchemaCache(60, clock), Reader()
    await cache.get_each(SALES, ["a"], read)
    clock.now = 59.9
    assert await cache.get_each(SALES, ["a"], read) == {"a": 1}
    clock.now = 60
    assert await cache.get_each(SALES, ["a"], read) == {"a": 2}


async def test_the_oldest_of_too_many_are_forgotten(clock: Clock) -> None:
    cache, read = SchemaCache(60, clock, most=2), Reader()
    for part in ("a", "b", "c"):
        await cache.get_each(SALES, [part], read)
    assert await cache.get_each(SALES, ["c", "b"], read) == {"c": 3, "b": 2}
    assert await cache.get_each(SALES, ["a"], read) == {"a": 4}
    assert await cache.get_each(SALES, ["a", "b", "c"], read) == {"a": 4, "b": 5, "c": 3}


async def test_what_nobody_believes_takes_no_room(clock: Clock) -> None:
    cache, read = SchemaCache(60, clock), Reader()
    await cache.get_each(SALES, ["a", "b"], read)
    clock.now = 60
    await cache.get_each(SALES, ["c"], read)
    assert not cache.invalidate(SALES, before=60)


async def test_a_reading_that_failed_is_tried_again(clock: Clock) -> None:
    cache, read = SchemaCache(60, clock), Reader()

    async def fail(_: Sequence[str]) -> dict[str, int]:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - of our own making
        await cache.get_each(SALES, ["a", "b"], fail)
    assert await cache.get_each(SALES, ["a"], read) == {"a": 1}
