"""A start's price: until the first list of tools, until the first rows; what is imported, and what stays in memory.

The first answers come before what serves calls is imported. Memory is that of a server that has imported it all.

The package is compiled first, as installing it does: it is a copy, for a checkout may be read-only or changing.
"""

import asyncio
import compileall
import json
import os
import re
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from benchmarks import items
from benchmarks.clients import MOST_BYTES
from benchmarks.lab import MANYDB, ROOT, Lab, environment
from benchmarks.measuring import Memory, Sample
from benchmarks.reporting import Figure

ROUNDS = 9
CALLS = 200
_MOST_MS = 700
_MOST_OF_AN_IMPORT = 0.7
"""Of FastMCP: who imports it before tools are listed takes more than one."""
_MOST_AT_REST_MB, _MOST_AFTERWARDS_MB = 110, 160
_END_SECONDS = 10.0
_SHOWN = 10
_TRIFLE_MICROS = 3_000
_MB = 1_048_576  # the goals were set in these

# What FastMCP's server, pydantic and SQLAlchemy import, and manydb itself. Whatever else turns up at a start is news:
# it costs every start, so it is imported later, or added here by somebody who thinks it is worth it.
KNOWN = frozenset(
    (
        "annotated_types", "anyio", "click",
        "cryptography", "dotenv", "fastmcp", "greenlet", "httpx2", "idna", "joserfc",
        "jsonref", "manydb", "mcp", "mcp_types", "opentelemetry", "orjson", "packaging", "platformdirs",
        "pydantic", "pydantic_core", "pydantic_settings", "python_multipart", "rich",
        "sqlalchemy", "sse_starlette", "starlette", "typing_extensions",
        "typing_inspection", "uncalled_for", "uvicorn", "watchfiles", "yaml",
    )
)  # fmt: skip


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    with _compiled() as variables, tempfile.TemporaryDirectory(prefix="manydb_bench_") as folder:
        database = URL.create("sqlite+aiosqlite", database=str(Path(folder, "items.db")))
        await items.fill(database, 1_000)
        environ = environment({"connections": {"db": {"url": f"sqlite:///{database.database}"}}}) | variables
        floors: list[float] = []
        starts: list[Start] = []
        for number in range((lab.rounds or ROUNDS) + 1):
            floor, start = await _floor(environ), await _start(environ, folder)
            if number:  # a first round reads files that nobody had read
                floors.append(floor)
                starts.append(start)
        for figure in _figures(starts, Sample(tuple(floors))):
            yield figure
        yield await _imports(environ, folder)


@dataclass(frozen=True, slots=True)
class Start:
    """One start: milliseconds until something was answered, of the clock and of the processor; bytes."""

    hello: float
    listed: float
    loaded: float
    rows: float
    cpu_listed: float
    cpu_rows: float
    listing: int
    at_rest: int
    at_rest_alone: int | None
    afterwards: int


def _figures(starts: Sequence[Start], floor: Sample) -> Iterator[Figure]:
    def sample(name: str, divisor: float = 1) -> Sample:
        return Sample(tuple(getattr(start, name) / divisor for start in starts))

    over_import = sample("listed").over(floor)
    yield Figure("", "start to first tools/list over importing FastMCP", over_import, "x", at_most=_MOST_OF_AN_IMPORT)
    yield Figure("", "start to first tools/list", sample("listed"), "ms", at_most=_MOST_MS)
    yield Figure("", "start to first answer (initialize)", sample("hello"), "ms")
    yield Figure("", "start to the first answer that takes the whole server (ping)", sample("loaded"), "ms")
    yield Figure("", "start to first rows", sample("rows"), "ms")
    yield Figure("", "start to first rows over importing FastMCP", sample("rows").over(floor), "x")
    yield Figure("", "importing FastMCP", floor, "ms")
    yield Figure("", "CPU until tools/list", sample("cpu_listed"), "ms")
    yield Figure("", "CPU until the first rows", sample("cpu_rows"), "ms")
    yield Figure("", "resident when tools are listed", sample("listing", _MB), "MB")
    yield Figure("", "resident at rest", sample("at_rest", _MB), "MB", at_most=_MOST_AT_REST_MB)
    if all(start.at_rest_alone is not None for start in starts):
        yield Figure("", "of that, its share where pages are shared", sample("at_rest_alone", _MB), "MB")
    yield Figure("", f"resident after {CALLS} calls", sample("afterwards", _MB), "MB", at_most=_MOST_AFTERWARDS_MB)


@contextmanager
def _compiled() -> Iterator[dict[str, str]]:
    """Variables for a Python that imports a compiled copy of this checkout, and keeps no files elsewhere."""
    with tempfile.TemporaryDirectory(prefix="manydb_bench_") as folder:
        shutil.copytree(ROOT / "src" / "manydb", Path(folder, "manydb"), ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(folder, quiet=2)
        yield {"PYTHONPATH": folder}


async def _floor(environ: Mapping[str, str]) -> float:
    started = time.perf_counter()
    # Without what manydb spares itself: collections, FastMCP's log, and the end, which is in none of the other times.
    code = "import gc, os; gc.disable(); import fastmcp.server.server; os._exit(0)"
    quiet = {**environ, "FASTMCP_LOG_ENABLED": "false"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=quiet)
    if await process.wait():
        raise RuntimeError("FastMCP could not be imported")
    return (time.perf_counter() - started) * 1000


async def _start(environ: Mapping[str, str], folder: str) -> Start:
    async with _serving(environ, folder) as client:
        hello = await client.greet()
        cpu_listed = client.cpu_ms()
        listed = client.elapsed_ms()
        memory = Memory(client.process.pid)
        listing = memory.resident()
        await client.ask("ping", {})
        loaded = client.elapsed_ms()
        at_rest, alone = memory.resident(), _proportional(client.process.pid)
        await client.rows()
        rows, cpu_rows = client.elapsed_ms(), client.cpu_ms()
        for _ in range(CALLS):
            await client.rows()
        afterwards = memory.resident()
    return Start(hello, listed, loaded, rows, cpu_listed, cpu_rows, listing, at_rest, alone, afterwards)


def _proportional(pid: int) -> int | None:
    """Memory of the process, where pages that several share count for each in part; None where nobody tells."""
    file = Path(f"/proc/{pid}/smaps_rollup")
    if not file.exists():
        return None
    found = re.search(r"^Pss:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


@dataclass(eq=False, slots=True)
class _Client:
    """As most clients of today are: a handshake first."""

    process: asyncio.subprocess.Process
    started: float
    _asked: int = 0

    async def greet(self) -> float:
        """Shake hands and list the tools; milliseconds until the first answer."""
        me = {"name": "benchmarks", "version": "1"}
        await self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": me})
        answered = self.elapsed_ms()
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        await self.ask("tools/list", {})
        return answered

    async def rows(self) -> None:
        sql = f"SELECT * FROM {items.ITEMS.name} LIMIT 100"
        found = await self.ask("tools/call", {"name": "execute_query", "arguments": {"sql": sql}})
        if found.get("isError"):
            raise RuntimeError(json.dumps(found))

    async def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        self._asked += 1
        self._send({"jsonrpc": "2.0", "id": self._asked, "method": method, "params": params})
        assert self.process.stdout is not None
        message = json.loads(await self.process.stdout.readline() or '{"error": "the server has ended"}')
        if "result" not in message:
            raise RuntimeError(json.dumps(message))
        return message["result"]

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000

    def cpu_ms(self) -> float:
        """Of the processor so far; the system counts in hundredths of a second."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        if not stat.exists():
            return 0.0
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) * 1000 / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def _serving(
    environ: Mapping[str, str], folder: str, *options: str, errors: int = DEVNULL
) -> AsyncGenerator[_Client]:
    """A server that has just been started, ended by the end of its input. *errors* as asyncio takes it."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *options, *MANYDB), stdin=PIPE, stdout=PIPE, stderr=errors, env=environ, cwd=folder,
        limit=MOST_BYTES,
    )  # fmt: skip
    try:
        yield _Client(process, started)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


# -- imports ---------------------------------------------------------------------------------------------------------

_IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


async def _imports(environ: Mapping[str, str], folder: str) -> Figure:
    """What is imported until the tools are listed, then until calls are served; the goal is no news."""
    with tempfile.TemporaryFile() as log:
        async with _serving(environ, folder, "-X", "importtime", errors=log.fileno()) as client:
            await client.greet()
            listed = os.fstat(log.fileno()).st_size
            await client.ask("ping", {})
        log.seek(0)
        told = log.read()
    before, after = _taken(told[:listed]), _taken(told[listed:])
    both = before + after
    news = {name: us / 1000 for name, us in both.items() if us >= _TRIFLE_MICROS and not _is_known(name)}
    lines = [*_heaviest("until the tools are listed", before), *_heaviest("until calls are served", after)]
    lines += [f"{ms:7.1f} ms  {name}: new" for name, ms in news.items()]
    return Figure(
        "", "imports of packages that no start had before", Sample((sum(news.values()),)), "ms", at_most=0,
        detail=tuple(lines),
    )  # fmt: skip


def _taken(told: bytes) -> Counter[str]:
    """Microseconds that each package's own modules took; while that is measured, everything takes twice as long."""
    taken: Counter[str] = Counter()
    for micros, module in _IMPORTED.findall(told.decode(errors="replace")):
        taken[module.partition(".")[0]] += int(micros)
    return taken


def _heaviest(until: str, taken: Counter[str]) -> Iterator[str]:
    distributions: Counter[str] = Counter()
    for package, micros in taken.items():
        distributions[_distribution(package)] += micros
    yield f"{taken.total() / 1000:7.1f} ms  {until}"
    for name, micros in distributions.most_common(_SHOWN):
        yield f"{micros / 1000:7.1f} ms    {name}"


def _distribution(package: str) -> str:
    """What is installed to have *package*."""
    if package in sys.stdlib_module_names or package.startswith("_"):
        return "Python itself"
    return _DISTRIBUTIONS.get(package, [package])[0]


_DISTRIBUTIONS = packages_distributions()


def _is_known(package: str) -> bool:
    return package in KNOWN or package in sys.stdlib_module_names or package.startswith("_")
