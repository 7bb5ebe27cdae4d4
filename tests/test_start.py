"""What a start may not cost: what only later calls need is imported by them."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import manydb
from manydb.server import build_server
from manydb.settings import Settings
from manydb.tools import TOOLS

PATIENCE_SECONDS = 60
GROUPS = ["core", "connect", "write", "analysis", "operations"]

AFTER_THE_LIST = (
    # what serves calls, and what it brings
    "fastmcp", "mcp", "mcp_types", "starlette", "uvicorn", "sse_starlette", "httpx2", "opentelemetry", "cryptography",
    "joserfc", "click", "rich", "yaml", "watchfiles", "anyio._backends",
    "manydb.server", "manydb.transports", "manydb.lane", "manydb.tools", "manydb.gateway", "manydb.reads",
    "manydb.rows", "manydb.exports", "manydb.jobs", "manydb.batches", "manydb.writes", "manydb.inserts",
    "manydb.criteria", "manydb.query", "manydb.formats", "manydb.relay", "manydb.workers",
)  # fmt: skip
LATER = (
    # drivers, which SQLAlchemy imports with the first connection, and SQLAlchemy's own part of them
    "asyncpg", "aiomysql", "pymysql", "asyncmy", "aiosqlite", "psycopg",
    "sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.mysql.aiomysql",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    # what reads statements a second time, and what few calls need
    "sqlglot", "pyarrow", "tenacity",
    # what only other commands need
    "alembic", "rich.table", "manydb.shell", "manydb.demo",
    # what FastMCP imports where it is let: state of sessions, parsers of docstrings, clients, other ways to start
    "key_value", "beartype", "griffe", "fastmcp.client", "fastmcp.cli", "fastmcp_tasks",
)  # fmt: skip

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
BEGINNING = [
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
]
QUESTION = {"name": "execute_query", "arguments": {"sql": "SELECT 1"}}


def imported(folder: Path, *messages: object) -> tuple[list[str], list[dict[str, object]]]:
    """The modules that a server imports to answer *messages*, and its answers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MANYDB_")}
    inherited.pop("DATABASE_URL", None)
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "manydb", "serve", "--connection", "db=sqlite:///db.sqlite"],
        cwd=folder,
        env=inherited
        | {"PYTHONPATH": str(Path(manydb.__file__).parents[1]), "MANYDB_TOOLS": json.dumps(GROUPS)}
        | {"XDG_CACHE_HOME": str(folder)},
        input="".join(json.dumps(message) + "\n" for message in messages),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    names = re.findall(r"^import time:.*\| +(\S+)$", ended.stderr, re.MULTILINE)
    return names, [json.loads(line) for line in ended.stdout.splitlines()]


def within(modules: list[str], packages: tuple[str, ...]) -> set[str]:
    return {package for package in packages for name in modules if f"{name}.".startswith(f"{package}.")}


def test_listing_tools_imports_nothing_that_serves_calls(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").touch()
    modules, answers = imported(tmp_path, *BEGINNING)
    assert [answer["id"] for answer in answers] == [1, 2]
    assert within(modules, AFTER_THE_LIST + LATER) == set()
    assert "manydb.reception" in modules


def test_a_server_that_was_not_asked_anything_has_imported_neither_drivers_nor_parsers_nor_clients(
    tmp_path: Path,
) -> None:
    (tmp_path / "db.sqlite").touch()
    modules, answers = imported(tmp_path, *BEGINNING, {"jsonrpc": "2.0", "id": 3, "method": "ping"})
    assert answers[-1] == {"jsonrpc": "2.0", "id": 3, "result": {}}
    assert within(modules, LATER) == set()
    assert "manydb.server" in modules


def test_the_first_query_imports_its_own_driver_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").touch()
    question = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": QUESTION}
    modules, answers = imported(tmp_path, *BEGINNING, question)
    assert "error" not in answers[-1]
    assert within(modules, LATER) <= {"aiosqlite", "sqlalchemy.dialects.sqlite.aiosqlite"}
    assert "aiosqlite" in modules


async def test_tools_are_described_by_their_docstrings_as_they_stand() -> None:
    server = build_server(Settings.model_validate({"tools": GROUPS, "registration_access": "admin"}))
    functions = {tool.name: tool.function for tool in TOOLS}
    for tool in await server.list_tools():
        if tool.name in functions:
            assert tool.description == inspect.getdoc(functions[tool.name])


async def test_nothing_is_kept_for_sessions() -> None:
    store = build_server(Settings.model_validate({}))._state_store
    assert await store.get(key="anything") is None
    with pytest.raises(AttributeError):
        await store.put(key="anything", value=None, ttl=1)  # type: ignore[arg-type]  # what it would be does not matter
