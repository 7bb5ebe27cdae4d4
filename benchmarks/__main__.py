"""The command line: `python -m benchmarks [NAME …]` exits with 1 when a goal is missed."""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers import MySQL, PostgreSQL

from benchmarks import bulk, calls, million, schema, statements
from benchmarks.lab import Lab
from benchmarks.reporting import Figure, show

BENCHMARKS: Mapping[str, Callable[[Lab], AsyncGenerator[Figure]]] = {
    "statements": statements.run,
    "calls": calls.run,
    "schema": schema.run,
    "million": million.run,
    "bulk": bulk.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    given = {PostgreSQL.variable: chosen.postgresql_url, MySQL.variable: chosen.mysql_url}
    environ = os.environ | {variable: url for variable, url in given.items() if url}
    # Terminated as by Ctrl-C, which unwinds: a run that is cut short drops its databases too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab, found = asyncio.run(_run(chosen.names or list(BENCHMARKS), environ, chosen.rounds))
    if chosen.json:
        chosen.json.write_text(json.dumps(_as_dict(lab, found), indent=1) + "\n")
    for reason in lab.missing.values():
        print(f"not measured: {reason}")
    missed = [(name, figure) for name, figures in found.items() for figure in figures if figure.is_missed]
    for name, figure in missed:
        print(f"missed: {name}, {figure.database}: {figure.what}: {figure.sample.median:.3g}, goal {figure.goal}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what manydb costs.")
    parser.add_argument("names", nargs="*", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--postgresql-url", metavar="URL", help="whose user may create databases")
    parser.add_argument("--mysql-url", metavar="URL", help="likewise; without them, the servers that the tests find")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


async def _run(
    names: Sequence[str], environ: Mapping[str, str], rounds: int | None
) -> tuple[Lab, dict[str, list[Figure]]]:
    found: dict[str, list[Figure]] = {}
    async with Lab.open(environ, rounds) as lab:
        print(_machine(lab))
        for name in names:
            found[name] = [figure async for figure in BENCHMARKS[name](lab)]
            show(f"{name} (load {_load():.1f})", found[name])
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
