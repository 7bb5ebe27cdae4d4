"""The corpus' databases, loaded: a Bench is one of them, with an administrator's connection to look at it."""

import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastmcp import Client
from mcp_types import TextContent
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases

CORPUS = Path(__file__).parent / "corpus"
BACKENDS = ("postgresql", "mysql", "sqlite")
LOGINS = ("owner", "reader")
_STATEMENT_SECONDS = 1.5


def lines(name: str, backend: str) -> list[dict[str, Any]]:
    """The lines of a corpus file for *backend*, as the server of the tests has it."""
    found = [json.loads(line) for line in (CORPUS / f"{name}.jsonl").read_text().splitlines()]
    return [line for line in found if line["dialect"] == backend and line.get("engine") != "mysql8"]


def text_of(line: dict[str, Any]) -> str:
    """The statement of a corpus line; long ones are written there as parts and how often each is repeated."""
    return str(line["sql"]) if "sql" in line else "".join(text * times for text, times in line["sql_parts"])


@dataclass
class Bench:
    """One loaded database: an administrator's connection, and the gateway's client for each login, if it has any."""

    url: URL
    admin: AsyncConnection
    clients: dict[str, Client[Any]] = field(default_factory=dict)

    @property
    def backend(self) -> str:
        return self.url.get_backend_name()

    def named(self, sql: str) -> str:
        """*sql* with the corpus' names for the database replaced by this one's."""
        database = self.url.database or ""
        sql = sql.replace("{DB_PATH}", database).replace("LIKE 'sec%'", "LIKE 'manydb%'")
        return re.sub(r"`sec`(?=\.)|\bsec(?=\.)", database, sql) if self.backend == "mysql" else sql

    def url_of(self, login: str) -> URL:
        """How *login* reaches the database. A file knows no logins."""
        if login == "owner" or self.backend == "sqlite":
            return self.url
        return self.url.set(username="sec_reader", password="sec_reader")

    async def ask(self, login: str, sql: str, **arguments: Any) -> tuple[bool, dict[str, Any]]:
        """(was it refused, the reply)"""
        call = {"sql": self.named(sql), "timeout_seconds": _STATEMENT_SECONDS, **arguments}
        result = await self.clients[login].call_tool("execute_query", call, raise_on_error=False)
        (block,) = result.content
        assert isinstance(block, TextContent)
        reply: dict[str, Any] = json.loads(block.text)
        return bool(result.is_error), reply

    async def proof(self, sql: str) -> list[tuple[Any, ...]]:
        found = await self.admin.exec_driver_sql(self.named(sql).replace("%", "%%") if "%" in sql else self.named(sql))
        return [tuple(row) for row in found]


async def send(connection: AsyncConnection, script: str) -> None:
    """Run *script* past everything that guards statements: one message, as many statements as it holds."""
    raw: Any = (await connection.get_raw_connection()).driver_connection
    match connection.dialect.name:
        case "postgresql":
            await raw.execute(script)
        case "sqlite":
            await raw.executescript(script)
        case _:
            cursor = await raw.cursor()
            await cursor.execute(script)
            while await cursor.nextset():
                pass
            await cursor.close()


async def load(url: URL) -> None:
    """Fill the empty database behind *url*."""
    script = (CORPUS / f"schema_{url.get_backend_name()}.sql").read_text().replace("{database}", url.database or "")
    async with entered(url) as connection:
        await send(connection, script)


@asynccontextmanager
async def entered(url: URL) -> AsyncGenerator[AsyncConnection]:
    """A connection as the driver makes it, none of the gateway's walls around it; every statement is committed."""
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def loaded(databases: Databases, backend: str) -> AsyncGenerator[Bench]:
    """A bench without clients."""
    async with AsyncExitStack() as stack:
        url = make_url(await stack.enter_async_context(databases.temporary(backend)))
        await load(url)
        admin = await stack.enter_async_context(entered(url))
        yield Bench(url, admin)
        await _drop_logins(admin, backend)


@asynccontextmanager
async def with_clients(databases: Databases, backend: str) -> AsyncGenerator[Bench]:
    """A bench with a client for each login, of a server that holds one connection."""
    async with loaded(databases, backend) as bench, AsyncExitStack() as stack:
        for login in LOGINS:
            settings = Settings.load(
                connections={"sec": bench.url_of(login).render_as_string(hide_password=False)},
                overrides={
                    "pool_size": 1,
                    "max_row_cap": 1_000_000,
                    "byte_budget": 10_000_000,
                    "cell_chars": 10_000_000,
                },
            )
            bench.clients[login] = await stack.enter_async_context(Client(build_server(settings)))
        yield bench


async def _drop_logins(admin: AsyncConnection, backend: str) -> None:
    for statement in _dropping(backend):
        with suppress(DBAPIError):  # another run may be using the logins in a database of its own
            await admin.exec_driver_sql(statement)


def _dropping(backend: str) -> Iterator[str]:
    for login in ("sec_reader", "sec_writer"):
        if backend == "postgresql":
            yield f"DROP OWNED BY {login}"
            yield f"DROP ROLE {login}"
        elif backend == "mysql":
            yield f"DROP USER IF EXISTS '{login}'@'%%'"
