"""The command line: `python -m benchmarks [NAME …]` exits with 1 when a goal is missed.

With --compare it exits with 1 when a ratio has risen instead, further than it wavers by itself.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers import MySQL, PostgreSQL

from benchmarks import bulk, calls, comparing, distance, fairness, load, million, scale, schema, start, statements
from benchmarks.comparing import Found, Key, Measure, Move
from benchmarks.lab import Lab
from benchmarks.reporting import Figure, show

BENCHMARKS: Mapping[str, Callable[[Lab], AsyncGenerator[Figure]]] = {
    "statements": statements.run,
    "start": start.run,
    "calls": calls.run,
    "distance": distance.run,
    "load": load.run,
    "schema": schema.run,
    "million": million.run,
    "bulk": bulk.run,
    "fairness": fairness.run,
    "scale": scale.run,
}
QUICK = ("calls", "distance")
"""What --quick measures, in a minute: one call at a time against the floors.

Load is not among them: it takes every core, and its ratios are those of whatever else the machine has to do.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    given = {PostgreSQL.variable: chosen.postgresql_url, MySQL.variable: chosen.mysql_url}
    environ = os.environ | {variable: url for variable, url in given.items() if url}
    # Terminated as by Ctrl-C, which unwinds: a run that is cut short drops its databases too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = chosen.names or (QUICK if chosen.quick else list(BENCHMARKS))
    runs = [asyncio.run(_run(names, environ, chosen)) for _ in range(chosen.repeat)]
    lab, found = runs[0][0], comparing.pooled([found for _, found in runs])
    if chosen.json:
        chosen.json.write_text(json.dumps(_as_dict(lab, found), indent=1) + "\n")
    if chosen.save:
        comparing.save(chosen.save, _machine(lab), found)
    for reason in lab.missing.values():
        print(f"not measured: {reason}")
    if chosen.compare is None:
        return 0 if chosen.save else _judge(found)
    machine, before = comparing.load(chosen.compare)
    if machine != _machine(lab):
        print(f"the baseline is of another machine, where some ratios differ: {machine}")
    moved = _compare(before, found)
    if again := [name for name in found if any(move.key[0] == name for move in moved)]:
        print(f"{len(moved)} ratios seem to have moved; {', '.join(again)} once more, to be sure")
        _, second = asyncio.run(_run(again, environ, chosen))
        moved = comparing.confirmed(moved, _compare(before, second))
    return _tell(lab, before, found, moved)


def _compare(before: Mapping[Key, Measure], found: Found) -> list[Move]:
    return [*comparing.moves(before, comparing.measures(found))]


def _tell(lab: Lab, before: Mapping[Key, Measure], found: Found, moved: Sequence[Move]) -> int:
    now = comparing.measures(found)
    for name, database, what in sorted(before.keys() - now.keys()):
        if name in found and database in lab.servers:
            print(f"not measured any more: {name}, {database}: {what}")
    for move in moved:
        print(move)
    print(f"{len(moved)} of {len(before.keys() & now.keys())} ratios have moved beyond their spread")
    return 1 if any(move.is_rise for move in moved) else 0


def _judge(found: Found) -> int:
    missed = [(name, figure) for name, figures in found.items() for figure in figures if figure.is_missed]
    for name, figure in missed:
        print(f"missed: {name}, {figure.database}: {figure.what}: {figure.sample.median:.3g}, goal {figure.goal}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what manydb costs.")
    # Not by `choices`, which some versions of argparse hold against no names at all.
    parser.add_argument("names", nargs="*", type=_benchmark, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--postgresql-url", metavar="URL", help="whose user may create databases")
    parser.add_argument("--mysql-url", metavar="URL", help="likewise; without them, the servers that the tests find")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, and of these the short parts")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run all of it N times, and count it as one")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="say which ratio is not what it was in this file")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the ratios there, to compare with later")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def _benchmark(name: str) -> str:
    if name not in BENCHMARKS:
        raise argparse.ArgumentTypeError(f"no benchmark is called {name!r}; there are {', '.join(BENCHMARKS)}")
    return name


async def _run(
    names: Sequence[str], environ: Mapping[str, str], chosen: argparse.Namespace
) -> tuple[Lab, dict[str, list[Figure]]]:
    found: dict[str, list[Figure]] = {}
    async with Lab.open(environ, chosen.rounds, is_quick=chosen.quick) as lab:
        print(_machine(lab))
        for name in names:
            started = time.perf_counter()
            found[name] = [figure async for figure in BENCHMARKS[name](lab)]
            show(f"{name} ({time.perf_counter() - started:.0f} s, load {_load():.1f})", found[name])
    return lab, found


def _machine(lab: Lab) -> str:
    labels = [server.label for server in lab.servers.values()]
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return ", ".join([python, *labels])


def _load() -> float:
    """Processes that wanted a core, on average over the last minute; ours is one of them."""
    return os.getloadavg()[0]


def _as_dict(lab: Lab, found: Mapping[str, Sequence[Figure]]) -> dict[str, Any]:
    return {
        "machine": _machine(lab),
        "missing": [*lab.missing.values()],
        "figures": {name: [figure.as_dict() for figure in figures] for name, figures in found.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
