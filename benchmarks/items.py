"""A table of rows such as applications have them: a key, a text, an amount, a moment."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import URL, BigInteger, Column, DateTime, MetaData, NullPool, Numeric, Table, Text, insert, select
from sqlalchemy.ext.asyncio import create_async_engine

ITEMS = Table(
    "items",
    MetaData(),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("label", Text, nullable=False),
    Column("amount", Numeric(12, 2), nullable=False),
    Column("moment", DateTime, nullable=False),
)
_FIRST = 1_000
_BEGIN = datetime(2026, 1, 1)  # noqa: DTZ001 - the column knows no zones


async def fill(url: URL, rows: int) -> None:
    """Make the table, with ids from 1 to *rows*."""
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(ITEMS.metadata.create_all)
        have = min(_FIRST, rows)
        await connection.execute(insert(ITEMS), [_item(number) for number in range(1, have + 1)])
        while have < rows:
            # The database doubles what it has: sending a million rows would take minutes.
            id_, *others = ITEMS.c
            further = select(id_ + have, *others).where(id_ <= rows - have)
            await connection.execute(insert(ITEMS).from_select(list(ITEMS.c), further))
            have = min(2 * have, rows)


def _item(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "label": f"article {number} of the spring catalogue",
        "amount": Decimal(number * 37 % 100_000) / 100,
        "moment": _BEGIN + timedelta(minutes=number * 7),
    }
