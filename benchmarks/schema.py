"""A database of 1,000 tables: how soon it can be listed, searched and described, and how much there is to read."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from fastmcp import Client
from sqlalchemy import (
    URL,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    NullPool,
    Numeric,
    String,
    Table,
    Text,
)
from sqlalchemy.ext.asyncio import create_async_engine
from tests.tools import Desk

from benchmarks.lab import Lab, plain
from benchmarks.measuring import Sample, Timed, milliseconds, taking_turns
from benchmarks.reporting import Figure
from manydb.gateway import Gateway
from manydb.server import build_server
from manydb.settings import Settings

ROUNDS = 12
STARTS = 5
MOST_TIME = 300.0  # ms

AREAS = ("sales", "stock", "billing", "staff", "web", "fleet", "legal", "plant", "care", "audit")
THINGS = ("order", "invoice", "product", "customer", "supplier", "contract", "visit", "ticket", "payment", "asset")
ASPECTS = ("head", "line", "note", "event", "price", "state", "label", "file", "owner", "plan")

Call = tuple[str, Mapping[str, Any]]
CALLS: Mapping[str, Call] = {
    "list_tables": ("list_tables", {}),
    "list_tables, summary": ("list_tables", {"detail": "summary"}),
    "search_schema, few hits": ("search_schema", {"pattern": "invoice_line"}),
    "search_schema, 100 hits": ("search_schema", {"pattern": "invoice", "limit": 200}),
    "search_schema, 1,000 hits": ("search_schema", {"pattern": "amount"}),
    "get_table_schema": ("get_table_schema", {"table": "stock_invoice_line"}),
}
_WITH_GOAL = ("list_tables", "search_schema")


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    for backend in lab.servers:
        async with lab.database(backend) as url:
            await _create(url)
            for name, call in CALLS.items():
                for figure in await _measure(backend, url, name, call, lab.rounds):
                    yield figure
            yield await _measure_strangers(backend, url, lab.rounds)


async def _create(url: URL) -> None:
    """1,000 tables of 8 columns, two indexes and a foreign key to the table before."""
    metadata = MetaData()
    before: Table | None = None
    for area, thing, aspect in product(AREAS, THINGS, ASPECTS):
        before = _table(metadata, f"{area}_{thing}_{aspect}", before)
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all, checkfirst=False)


def _table(metadata: MetaData, name: str, before: Table | None) -> Table:
    reference = [] if before is None else [ForeignKey(before.c.id)]
    return Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True),
        Column("parent_id", Integer, *reference),
        Column("code", String(40), nullable=False),
        Column("title", String(200), nullable=False),
        Column("state", String(20), nullable=False, server_default="new"),
        Column("amount", Numeric(12, 2)),
        Column("created_at", DateTime, nullable=False),
        Column("remark", Text),
        Index(f"{name}_parent", "parent_id"),
        Index(f"{name}_state", "state", "created_at"),
        comment=f"One {name.replace('_', ' ')} each",
    )


async def _measure(backend: str, url: URL, name: str, call: Call, rounds: int | None) -> list[Figure]:
    async with _serving(url) as served:
        desk = served.desk
        reply = await _ask(desk, call)
        times = await taking_turns(
            {
                "cold": Timed(lambda: _ask(desk, call), before=served.forget_schemas),
                # In front of it, so that what is remembered is what this call needs.
                "warm": Timed(lambda: _ask(desk, call), before=lambda: _ask(desk, call)),
            },
            rounds or ROUNDS,
        )
    at_most = MOST_TIME if call[0] in _WITH_GOAL else None
    return [
        Figure(backend, f"{name}, cold over warm", times["cold"].over(times["warm"]), "x"),
        Figure(backend, f"{name}, first call of a server", await _first(url, call, rounds or STARTS), "ms", at_most),
        Figure(backend, f"{name}, schema not read yet", times["cold"], "ms", at_most),
        Figure(backend, f"{name}, schema remembered", times["warm"], "ms", at_most),
        Figure(backend, f"{name}, reply", Sample((len(reply) / 4,)), "tokens"),
    ]


async def _measure_strangers(backend: str, url: URL, rounds: int | None) -> Figure:
    """What a table costs that was not described before, where the list of tables is remembered."""
    names = ["_".join(words) for words in product(AREAS, THINGS, ASPECTS)]
    strangers = iter([names[number * 37 % len(names)] for number in range(len(names))])
    async with _serving(url) as served:
        work = Timed(lambda: _ask(served.desk, ("get_table_schema", {"table": next(strangers)})), times=STARTS)
        times = await taking_turns({"stranger": work}, rounds or ROUNDS)
    return Figure(backend, "get_table_schema, another table each call", times["stranger"], "ms")


async def _first(url: URL, call: Call, rounds: int) -> Sample:
    """Connecting to the database included."""
    times = []
    for _ in range(rounds):
        async with _serving(url) as served:
            times.append(await milliseconds(partial(_ask, served.desk, call)))
    return Sample(tuple(times))


@dataclass(frozen=True, slots=True)
class _Served:
    """A server in this process, and the client in front of it."""

    desk: Desk
    gateway: Gateway

    async def forget_schemas(self) -> None:
        """As if the schema cache's time had run out."""
        for registration in self.gateway.connections:
            self.gateway.catalogs.invalidate(registration.target)


@asynccontextmanager
async def _serving(url: URL) -> AsyncGenerator[_Served]:
    """As tests.tools.serving, with a way to what clients do not see."""
    server = build_server(Settings.model_validate({"connections": {"db": {"url": plain(url)}}}))
    async with Client(server) as client:
        result = server._lifespan_result  # FastMCP shows it to tools only
        if result is None:
            raise RuntimeError("the server did not enter its lifespan")
        yield _Served(Desk(client), result["gateway"])


async def _ask(desk: Desk, call: Call) -> str:
    tool, arguments = call
    return await desk.text(tool, **arguments)
