"""Where a server's time goes: `python -m benchmarks.profiling "point lookup"` writes it as a text.

The server is a process of its own, and only its calls are in the profile: neither its start nor a client. With cProfile
on, every function call costs more, so what is made of many small ones looks larger than it is.
"""

import argparse
import asyncio
import cProfile
import io
import os
import pstats
import signal
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import items
from benchmarks.calls import ITEMS, Item
from benchmarks.lab import ROOT, Lab, piped, plain

CALLS = 200
WARM_UP = 20
LINES = 40
_FILE = "BENCH_PROFILE"
PROFILED = ("-m", "benchmarks.profiling", "--serve")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiling", description="Profile one kind of call.")
    names = {item.name: item for item in ITEMS}
    parser.add_argument("item", nargs="?", default="point lookup", choices=list(names))
    parser.add_argument("--database", default="sqlite", choices=("postgresql", "mysql", "sqlite"))
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default build/profile-ITEM-DATABASE.txt")
    chosen = parser.parse_args()
    item = names[chosen.item]
    name = item.name.replace(" ", "-").replace(",", "").lower()
    out = (chosen.out or ROOT / "build" / f"profile-{name}-{chosen.database}.txt").absolute()
    out.parent.mkdir(exist_ok=True)
    stats = out.with_suffix(".pstats")
    asyncio.run(_call(item, chosen.database, chosen.calls, stats))
    out.write_text(f"{chosen.calls} calls: {item.name}, {chosen.database}\n\n{text(stats)}")
    stats.unlink()
    print(f"written to {out}")


async def _call(item: Item, backend: str, calls: int, stats: Path) -> None:
    async with Lab.open(os.environ) as lab:
        if backend not in lab.servers:
            raise SystemExit(lab.missing[backend])
        async with lab.database(backend) as url:
            await items.fill(url, max(each.rows for each in ITEMS))
            settings: dict[str, Any] = {"connections": {"db": {"url": plain(url)}}, "max_row_cap": item.rows}
            os.environ[_FILE] = str(stats)
            async with piped(PROFILED, byte_budget=64_000_000, **settings) as server:
                for number in range(WARM_UP + calls):
                    if number == WARM_UP:
                        server.client.process.send_signal(signal.SIGUSR1)
                    await server.client.text("execute_query", **item.arguments)


# -- the server's end ------------------------------------------------------------------------------------------------


def serve() -> None:
    """Serve, and from SIGUSR1 on count where the time goes; written when the server ends."""
    from manydb.cli import main as manydb  # noqa: PLC0415 - the other end needs none of it

    profile = cProfile.Profile()
    signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
    try:
        manydb(["serve"])
    finally:
        profile.disable()
        profile.dump_stats(os.environ[_FILE])


# -- the text --------------------------------------------------------------------------------------------------------


def text(stats: Path) -> str:
    """Whose code took the time, then the functions that took the most: by themselves, and with what they called."""
    written = io.StringIO()
    found = pstats.Stats(str(stats), stream=written)
    written.writelines(_by_package(found))
    found.strip_dirs()
    for order in ("tottime", "cumulative"):
        found.sort_stats(order).print_stats(LINES)
    return written.getvalue()


def _by_package(found: pstats.Stats) -> Iterator[str]:
    took: defaultdict[str, float] = defaultdict(float)
    for (file, _, function), (_, _, own, _, _) in found.stats.items():  # type: ignore[attr-defined]  # what Stats is about
        took[_package(file, function)] += own
    whole = sum(took.values())
    yield "   own time     %  package\n"
    for name, own in sorted(took.items(), key=lambda each: -each[1])[:20]:
        yield f"{own * 1000:8.1f} ms {own / whole:5.1%}  {name}\n"


_PLACES = [*(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")), ROOT / "src"]


def _package(file: str, function: str) -> str:
    if not file.endswith(".py"):
        return "(waiting for messages)" if "poll" in function else "(built in)"
    path = Path(file)
    for place in _PLACES:
        if path.is_relative_to(place):
            return path.relative_to(place).parts[0]
    return path.parent.name if path.parent.name == "asyncio" else "(standard library)"


if __name__ == "__main__":
    serve() if sys.argv[1:2] == ["--serve"] else main()
