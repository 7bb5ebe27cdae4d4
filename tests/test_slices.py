"""Long work gives way to others, and short work does not."""

import asyncio
import gc
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

from manydb import slices
from manydb.slices import Sliced


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that is looked at every so many *seconds*."""
    times = itertools.count(0.0, seconds)
    return lambda: next(times)


class Neighbour:
    """Counts the turns that it has, until it is stopped."""

    def __init__(self) -> None:
        self.turns = 0

    async def __call__(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


async def turns_beside(work: Callable[[], Awaitable[object]]) -> int:
    neighbour = Neighbour()
    counting = asyncio.create_task(neighbour())
    await asyncio.sleep(0)
    before = neighbour.turns
    await work()
    counting.cancel()
    return neighbour.turns - before


def steps(number: int) -> Sliced[str]:
    for _ in range(number):
        yield
    return "done"


async def test_others_have_turns_while_long_work_goes_on() -> None:
    assert await slices.in_turn(steps(100), ticking(0.002)) == "done"
    assert await turns_beside(lambda: slices.in_turn(steps(100), ticking(0.002))) >= 100


async def test_short_work_is_done_at_once() -> None:
    assert await turns_beside(lambda: slices.in_turn(steps(100), ticking(0.000_001))) == 0


async def test_pieces_are_made_when_it_is_their_turn() -> None:
    neighbour = Neighbour()

    def made() -> Iterator[int]:
        for _ in range(10):
            yield neighbour.turns

    counting = asyncio.create_task(neighbour())
    await asyncio.sleep(0)
    found = await slices.gathered(made(), ticking(0.002))
    counting.cancel()
    assert len(set(found)) == 10


async def test_work_goes_on_when_nobody_else_has_anything_to_do() -> None:
    assert await slices.in_turn(steps(1_000), ticking(0.000_4)) == "done"


def test_the_loop_waits_less_for_the_interpreter_until_the_last_who_asked_for_it_ends() -> None:
    before = sys.getswitchinterval(), gc.get_threshold()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(slices.short_waits())
        second.enter_context(slices.short_waits())
        for each in (first, second):
            assert sys.getswitchinterval() < 0.001
            assert gc.get_threshold() == (*before[1][:2], 10 * before[1][2])
            each.close()
    assert (sys.getswitchinterval(), gc.get_threshold()) == before


def test_no_garbage_is_looked_for_while_many_objects_are_made() -> None:
    with slices.uncollected():
        with slices.uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_looks_for_no_garbage_is_left_alone() -> None:
    gc.disable()
    try:
        with slices.uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


async def test_records_are_let_go_of_while_they_are_read() -> None:
    records = list(range(5))
    left: list[int] = []

    def doubled(number: int) -> int:
        left.append(len(records))
        return 2 * number

    assert await slices.made_of(records, doubled) == [0, 2, 4, 6, 8]
    assert left == [4, 3, 2, 1, 0]


async def test_who_had_to_wait_gives_no_turns_for_that_time() -> None:
    seconds = 0.0
    turns = slices.Turns(lambda: seconds)
    seconds = 1.0
    assert turns.are_due()
    turns.renew()
    assert not turns.are_due()
