"""How Alembic reaches the database: the caller's connection, or an async engine of its own.

`manydb.demo.shop.build` hands its connection over in `config.attributes["connection"]`. The command line has none:
there the URL is MANYDB_DEMO_URL, by default the SQLite file manydb-demo.db in the current directory.
The history is written by hand, so there is no metadata to compare with and `alembic check` does not apply.
"""

import asyncio
import os
from logging.config import fileConfig

from alembic import context
from alembic.util import CommandError
from sqlalchemy import URL, Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

from manydb.demo import shop


def migrate(connection: Connection) -> None:
    """Run the revisions that the command asked for, and commit: all at once where DDL is transactional, else each."""
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_url(url: URL) -> None:
    """Run the revisions on a connection that lasts as long as the command."""
    engine = create_async_engine(url, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


def main() -> None:
    config = context.config
    if config.config_file_name is not None:
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    if context.is_offline_mode():
        raise CommandError(
            "no SQL script of the shop: SQLite changes a column by copying the table, which needs it there"
        )
    connection = config.attributes.get("connection")
    if connection is not None:
        migrate(connection)
    else:
        asyncio.run(migrate_url(shop.with_driver(os.environ.get("MANYDB_DEMO_URL", shop.DEFAULT_URL))))


main()
