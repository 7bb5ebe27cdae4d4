"""Times of works that take turns, and the memory of a process."""

import asyncio
import gc
import math
import os
import random
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)

Work = Callable[[], Awaitable[Any]]
Clock = Callable[[], float]  # in seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured, each time."""

    each: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    @property
    def least(self) -> float:
        return min(self.each)

    @property
    def most(self) -> float:
        return max(self.each)

    @property
    def middle(self) -> tuple[float, float]:
        """Between what the middle half lies."""
        if len(self.each) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.each, n=4, method="inclusive")
        return low, high

    def percentile(self, percent: int) -> float:
        """What *percent* of a hundred do not exceed."""
        return sorted(self.each)[max(0, math.ceil(len(self.each) * percent / 100) - 1)]

    def over(self, other: "Sample") -> "Sample":
        """The ratio to *other*, round by round: what slows one round down is in both."""
        return Sample(tuple(mine / theirs for mine, theirs in zip(self.each, other.each, strict=True)))

    def plus(self, other: "Sample") -> "Sample":
        return Sample(tuple(mine + theirs for mine, theirs in zip(self.each, other.each, strict=True)))


async def _nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Timed:
    """*work*, which is timed, and what comes *before* each time, which is not.

    Short work is done several *times* in a row, and its time is the average: a single one would say more of the moment
    than of the work.
    """

    work: Work
    before: Work = _nothing
    times: int = 1


async def taking_turns(works: Mapping[K, Timed], rounds: int, clock: Clock = time.perf_counter) -> dict[K, Sample]:
    """Milliseconds of each work, a turn each round and in another order each round; a first round does not count."""
    found: dict[K, list[float]] = {key: [] for key in works}
    order = list(works)
    shuffle = random.Random(0).shuffle  # the same orders in every run
    gc.collect()  # what others left behind is not for these to clear away
    for number in range(rounds + 1):
        shuffle(order)
        await asyncio.sleep(0)  # works that never wait would leave no moment to end the run
        for key in order:
            took = await _turn(works[key], clock)
            if number:
                found[key].append(took)
    return {key: Sample(tuple(times)) for key, times in found.items()}


async def _turn(timed: Timed, clock: Clock) -> float:
    took = 0.0
    for _ in range(timed.times):
        await timed.before()
        took += await milliseconds(timed.work, clock)
    return took / timed.times


async def milliseconds(work: Work, clock: Clock = time.perf_counter) -> float:
    started = clock()
    await work()
    return (clock() - started) * 1000


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds of the machine's memory; bytes."""

    pid: int

    def resident(self) -> int:
        statm = Path(f"/proc/{self.pid}/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, text=True, check=True)
        return int(told.stdout) * 1024

    def forget_peak(self) -> None:
        """From now on `peak` tells the most since now."""
        if self._status.exists():
            self._status.with_name("clear_refs").write_text("5")

    def peak(self) -> int | None:
        """The most it has held; None where the system does not tell."""
        if not self._status.exists():
            return None
        line = next(line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    @property
    def _status(self) -> Path:
        return Path(f"/proc/{self.pid}/status")
