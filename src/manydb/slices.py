"""Long work on the event loop, in slices: everybody else has a turn in between."""

import asyncio
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Sliced = Generator[None, None, T]
"""Work that stops about every tenth of a millisecond; what it returns is what it was for."""

_SLICE_SECONDS = 0.001
_QUIET_SECONDS = 0.0002
"""A turn of the loop that takes less was nobody's."""
_MOST_TURNS = 10
_SWITCH_SECONDS = 0.0005


# The interpreter has one interval, whoever asks; several servers may live in a process, and end in any order.
_found: list[float] = []


class Turns:
    """The turns of others, in between the slices of one work."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()

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
        self._began = self._clock()


@contextmanager
def between_threads() -> Iterator[None]:
    """Let threads that compute give way to the event loop sooner than Python has it, which is after 5 ms.

    The loop waits for the interpreter each time that it has waited for the network: a dozen times for a small answer.
    """
    _found.append(sys.getswitchinterval())
    sys.setswitchinterval(min(_found[0], _SWITCH_SECONDS))
    try:
        yield
    finally:
        first = _found[0]
        _found.pop()
        if not _found:
            sys.setswitchinterval(first)


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
