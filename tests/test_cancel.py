"""A call that is cancelled, given up or out of time ends in the database too, behind servers as people run them."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from mcp import MCPError

from tests.conftest import Databases
from tests.observers import POLL_SECONDS, Observer, eventually
from tests.servers import WAYS
from tests.test_transports import ERAS, Serving, Urls, clean_environment, command, over, serving
from tests.tools import Desk

STOPS_WITHIN = 1.0
CALL_SECONDS = 0.6
"""How long a call lasts whose time runs out: long enough to be seen in the database before."""
ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
    "SELECT count(*) FROM marks, n a, n b, n c, n d"
)
"""Counts to 10¹² and further, and reads a table: before somebody does, InnoDB and SQLite have begun no transaction."""
# Each connection's name, and how its database is reached.
PLACES = {way.replace("+", "."): way for way in WAYS}
# Of each session: its number, whether it runs a statement, whether it is in a transaction. What was told to end runs
# until it has ended; MariaDB calls it 'Killed' meanwhile.
SESSIONS = {
    "postgresql": "SELECT pid, state = 'active', xact_start IS NOT NULL FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    "mysql": "SELECT id, command <> 'Sleep', trx_id IS NOT NULL FROM information_schema.processlist LEFT JOIN "
    "information_schema.innodb_trx ON trx_mysql_thread_id = id WHERE db = database() AND id <> connection_id()",
}
# InnoDB repeats what it showed before to whoever asks again within a tenth of a second.
REFRESH_SECONDS = {"postgresql": 0.0, "mysql": 0.12}
SAMPLE_SECONDS = 0.1
PATIENCE_SECONDS = 5.0


@pytest.fixture(scope="module")
async def urls(databases: Databases) -> Urls:
    """A database for each of PLACES, by its name, that holds one mark."""
    made = {name: await databases.create(way) for name, way in PLACES.items()}
    for url in made.values():
        await Observer.of(url).run("CREATE TABLE marks (id integer)")
        await Observer.of(url).run("INSERT INTO marks VALUES (1)")
    return made


@pytest.fixture(scope="module")
async def http(urls: Urls, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Serving]:
    async with serving(tmp_path_factory.mktemp("http"), urls, "--transport", "http", "--port", "0") as server:
        await server.listening()
        yield server


@pytest.fixture(scope="module", params=[f"{transport}-{era}" for transport in ("stdio", "http") for era in ERAS])
async def served(
    request: pytest.FixtureRequest, urls: Urls, http: Serving, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator["Served"]:
    """A client of each transport in each era."""
    transport, era = request.param.split("-")
    if transport == "http":
        async with Client(http.url, mode=era) as client:
            yield await served_by(client, http.process.pid)
    else:
        # The client does not tell which process it started; the process does, in a file.
        told = tmp_path_factory.mktemp("stdio") / "pid"
        arguments = ["-c", 'echo $$ > "$0" && exec "$@"', str(told), *command(urls)]
        process = StdioTransport("sh", arguments, env=clean_environment(), cwd=str(told.parent), keep_alive=False)
        async with Client(process, mode=era) as client:
            yield await served_by(client, int(told.read_text()))


async def served_by(client: Client[Any], pid: int) -> "Served":
    """*client*, whose server has answered once: it has loaded its drivers, and a connection waits at each database."""
    desk = Desk(client)
    for name in PLACES:
        assert await desk.rows("SELECT 1", connection=name) == [[1]]
    return Served(desk, pid)


@pytest.fixture(params=[*PLACES])
def place(request: pytest.FixtureRequest, served: "Served", urls: Urls) -> "Place":
    """Each database behind each client's server in turn."""
    observer = Observer.of(urls[request.param])
    look = partial(sessions, observer)
    if observer.backend == "sqlite":
        if not Path("/proc/self/task").is_dir():
            pytest.skip("nothing but /proc shows what the threads of another process do")
        look = partial(threads, served.pid, str(observer.url.database))
    return Place(request.param, served.desk, observer, look)


# -- the client ends it ----------------------------------------------------------------------------------------------


async def test_cancelling_a_call_ends_its_statement_in_the_database(place: "Place") -> None:
    call = place.call()
    await place.until_busy()
    cancelled = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await place.assert_over(since=cancelled)


async def test_a_client_that_stops_waiting_ends_its_statement_in_the_database(place: "Place") -> None:
    started = time.monotonic()
    call = place.call(patience=CALL_SECONDS)
    await place.until_busy()
    with pytest.raises(MCPError, match=r"[Tt]imed out"):
        await call
    await place.assert_over(since=started + CALL_SECONDS)


async def test_a_cancellation_ends_no_other_call_of_its_client(served: "Served", urls: Urls) -> None:
    await assert_only_one_of_two_ends(urls["postgresql"], served.desk, served.desk)


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancellation_ends_no_call_of_another_client(http: Serving, urls: Urls, era: str) -> None:
    # The two are alike in everything; their requests have the same numbers.
    async with Client(http.url, mode=era) as one, Client(http.url, mode=era) as other:
        await assert_only_one_of_two_ends(urls["postgresql"], Desk(one), Desk(other))


async def assert_only_one_of_two_ends(url: str, one: Desk, other: Desk) -> None:
    observer = Observer.of(url)
    here = Place("postgresql", one, observer, partial(sessions, observer))
    there = replace(here, desk=other)
    mine = here.call()
    stopped = await here.until_busy()
    others = there.call()
    try:
        left = await here.until_busy(2) - stopped
        await over(mine)
        assert await here.until_busy(1) == left
        # A moment later, after calls of both, it still is the right one.
        await here.marks()
        await there.marks()
        assert await here.busy() == left
        assert not others.done()
    finally:
        await over(mine)
        await over(others)
    await there.assert_over(since=time.monotonic())


# -- the database ends it --------------------------------------------------------------------------------------------


async def test_the_database_ends_a_statement_at_its_time_and_the_connection_lives_on(place: "Place") -> None:
    started = time.monotonic()
    call = place.call(timeout_seconds=CALL_SECONDS)
    at_work = await place.until_busy()
    answer = await call
    assert answer.is_error
    assert '"TIMEOUT"' in answer.content[0].text
    await place.assert_over(since=started + CALL_SECONDS)
    assert at_work <= {each.number for each in await place.look()}


# -- what a database shows from outside ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Served:
    """A client, and the process of its server."""

    desk: Desk
    pid: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A session of the database, or a thread of the server: whether it runs a statement, and is in a transaction."""

    number: int
    runs: bool
    is_open: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A database, with who asks it through manydb and who looks on."""

    connection: str
    desk: Desk
    observer: Observer
    look: Callable[[], Awaitable[list[Worker]]]

    def call(self, patience: float | None = None, **arguments: Any) -> asyncio.Task[Any]:
        """A call that does not end by itself; the client waits for *patience* seconds."""
        arguments |= {"connection": self.connection, "sql": ENDLESS}
        return asyncio.create_task(
            self.desk.client.call_tool("execute_query", arguments, timeout=patience, raise_on_error=False)
        )

    async def busy(self) -> set[int]:
        """Those who run a statement in a transaction."""
        return {each.number for each in await self.look() if each.runs and each.is_open}

    async def until_busy(self, number: int = 1) -> set[int]:
        """Those, once they are as many as *number*."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(found := await self.busy()) != number:  # noqa: ASYNC110 - nothing outside tells us
                await asyncio.sleep(POLL_SECONDS)
        return found

    async def is_free(self) -> bool:
        """No statement runs, and no transaction is open."""
        return not any(each.runs or each.is_open for each in await self.look())

    async def marks(self) -> int:
        """How many marks the client's next call finds."""
        ((count,),) = await self.desk.rows("SELECT count(*) FROM marks", connection=self.connection)
        return int(count)

    async def assert_over(self, since: float) -> None:
        """Within a second of *since* nothing runs and nothing is open; then others write, and the client sees it."""
        await eventually(self.is_free, since + STOPS_WITHIN - time.monotonic())
        found = await self.marks()
        await self.observer.run("INSERT INTO marks VALUES (1)")
        assert await self.marks() == found + 1


async def sessions(observer: Observer) -> list[Worker]:
    await asyncio.sleep(REFRESH_SECONDS[observer.backend])
    return [Worker(*each) for each in await observer.run(SESSIONS[observer.backend])]


async def threads(pid: int, path: str) -> list[Worker]:
    """SQLite has no list: a statement keeps a thread of the server busy, a transaction that has read locks the file.

    The first thread is the event loop's, and runs no statements.
    """
    before = processor_time(pid)
    await asyncio.sleep(SAMPLE_SECONDS)
    is_open = is_locked(path)
    return [
        Worker(thread, thread != pid and spent > before.get(thread, 0), is_open)
        for thread, spent in processor_time(pid).items()
    ]


def processor_time(pid: int) -> dict[int, int]:
    """What each thread has used so far, in clock ticks."""
    spent: dict[int, int] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            fields = (thread / "stat").read_text().rpartition(")")[2].split()
            spent[int(thread.name)] = int(fields[11]) + int(fields[12])
    return spent


def is_locked(path: str) -> bool:
    """Whether somebody is in a transaction that has read or written *path*."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as exc:
            assert exc.sqlite_errorcode == sqlite3.SQLITE_BUSY  # noqa: PT017 - other errors are errors
            return True
    return False
