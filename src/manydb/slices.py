"""Long work on the event loop, in slices: everybody else has a turn in between."""

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

R = TypeVar("R")
T = TypeVar("T")
Sliced = Generator[None, None, T]
"""Work that stops about every tenth of a millisecond; what it returns is what it was for."""

_SLICE_SECONDS = 0.001
_QUIET_SECONDS = 0.00003
"""A turn of the loop that takes less was nobody's."""
_MOST_TURNS = 20
_SWITCH_SECONDS = 0.0003
_SELDOM = 10


# The interpreter has one of each, whoever asks; several servers may live in a process, and end in any order.
_found: list[tuple[float, tuple[int, int, int]]] = []


class Turns:
    """The turns of others, in between the slices of one work."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()

    def renew(self) -> None:
        """The work had to wait: others have had their turns, as this has one now."""
        self._began = self._clock()

    def are_due(self) -> bool:
        """Whether this work has gone on for long enough."""
        return self._clock() - self._began >= _SLICE_SECONDS

    async def give(self) -> None:
        """Where they are due: let the others go on until none of them has anything to do.

        A small answer takes a dozen turns of the loop: with one after each slice, it would wait for a dozen slices.
        """
        if not self.are_due():
            return
        for _ in range(_MOST_TURNS):
            before = self._clock()
            await asyncio.sleep(0)
            if self._clock() - before < _QUIET_SECONDS:
                break
        self.renew()


@contextmanager
def short_waits() -> Iterator[None]:
    """Let the event loop wait less for the interpreter.

    Threads that compute give way to it sooner than Python has it, which is after 5 ms: it waits for them each time that
    it has waited for the network, a dozen times for a small answer. And what has lived for long is looked through for
    garbage a tenth as often: with some large schemas in memory, that takes 30 ms, in which nobody has a turn.
    """
    _found.append((sys.getswitchinterval(), gc.get_threshold()))
    switch, (young, middle, old) = _found[0]
    sys.setswitchinterval(min(switch, _SWITCH_SECONDS))
    gc.set_threshold(young, middle, old * _SELDOM)
    try:
        yield
    finally:
        _found.pop()
        if not _found:
            sys.setswitchinterval(switch)
            gc.set_threshold(young, middle, old)


@contextmanager
def uncollected() -> Iterator[None]:
    """Put off the search for garbage, for short work that makes many objects and no garbage that refers to itself.

    The search would look through all of them time and again, several times as long as the work itself takes.
    """
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:  # else somebody else does so
            gc.enable()


async def in_turn(work: Sliced[T], clock: Callable[[], float] = time.perf_counter) -> T:
    """Do *work*; what ends within a slice does so at once."""
    turns = Turns(clock)
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: T = done.value
            return found
        await turns.give()


async def made_of(records: list[R], make: Callable[[R], T]) -> list[T]:
    """What *make* makes of each of *records*, which are let go of on the way: all at once takes its time, too."""
    records.reverse()
    return await gathered(make(records.pop()) for _ in range(len(records)))


async def gathered(pieces: Iterable[T], clock: Callable[[], float] = time.perf_counter) -> list[T]:
    """All *pieces*, each of which is made when it is asked for."""
    turns, found = Turns(clock), list[T]()
    for piece in pieces:
        found.append(piece)
        if turns.are_due():
            await turns.give()
    return found


def at_once(work: Sliced[T]) -> T:
    """Do *work* where nobody else waits, or it is known to be short."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: T = done.value
            return found
