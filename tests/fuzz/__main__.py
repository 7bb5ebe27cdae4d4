# ruff: noqa: T201 - a command line talks
"""The command line: `python -m tests.fuzz` exits with 1 when a statement passed as a read and changed something."""

import argparse
import asyncio
import secrets
import sys
import time
import warnings
from collections.abc import Sequence
from random import Random

from tests.corpus_bench import BACKENDS
from tests.fuzz.campaign import Miss, Tally, search
from tests.fuzz.grounds import ground
from tests.fuzz.hostile import Hostile
from tests.servers import MissingServerError


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")  # the drivers', about statements that are odd on purpose
    print(f"seed {chosen.seed}, {chosen.seconds:g} s")
    found = asyncio.run(_run(chosen.databases or BACKENDS, chosen.seed, chosen.seconds))
    return 1 if any(found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Look for statements that pass as reads.")
    parser.add_argument("databases", nargs="*", choices=[[], *BACKENDS], metavar="DATABASE", help=", ".join(BACKENDS))
    parser.add_argument("--seconds", type=float, default=60, help="how long to look (default: 60)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="the same seed, the same statements")
    return parser


async def _run(backends: Sequence[str], seed: int, seconds: float) -> list[Miss | None]:
    return await asyncio.gather(*(_searched(backend, seed, seconds) for backend in backends))


async def _searched(backend: str, seed: int, seconds: float) -> Miss | None:
    try:
        async with ground(backend) as place:
            hostile = Hostile(backend, str(place.folder), Random(seed))
            end = time.monotonic() + seconds
            tally, miss = await search(place, hostile.statement, goes_on=lambda: time.monotonic() < end)
    except MissingServerError as missing:
        print(f"{backend}: not searched, {missing}")
        return None
    _report(backend, tally, miss)
    return miss


def _report(backend: str, tally: Tally, miss: Miss | None) -> None:
    counts = f"{tally.generated:,} generated, {tally.accepted:,} accepted, {tally.executed:,} executed without error"
    print(f"{backend}: {counts}; {'nothing changed' if miss is None else 'MISSED'}")
    if miss is not None:
        print(f"  changed: {', '.join(miss.changed)}")
        for statement in miss.statements:
            print(f"  {statement!r}")


if __name__ == "__main__":
    sys.exit(main())
