"""The fixtures every test may ask for: databases of its own, on servers that tests.servers finds or starts."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import NoReturn, Self

import pytest
from sqlalchemy import make_url

from tests.servers import BACKENDS, MissingServerError, Server

DATABASES = pytest.StashKey["Databases"]()


class Databases:
    """The databases of one test run; use as an async context manager.

    A server is opened when a database of its kind is first asked for. Where there is none the test is skipped, or
    with ``CI=true`` failed, and the reason says how to provide one.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._opening = asyncio.Lock()
        self._lifetime = AsyncExitStack()
        self._servers: dict[str, Server] = {}
        self._missing: dict[str, str] = {}
        self._tested: set[str] = set()
        self._owners: dict[str, Server] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # On the stack, so that each is dropped although another cannot be.
        for url, server in self._owners.items():
            self._lifetime.push_async_callback(server.drop, make_url(url))
        self._owners.clear()
        await self._lifetime.aclose()

    async def server(self, backend: str) -> Server:
        """The server of *backend*, one of BACKENDS; skips or fails the test where there is none."""
        async with self._opening:
            if backend not in self._servers and backend not in self._missing:
                try:
                    self._servers[backend] = await self._lifetime.enter_async_context(
                        BACKENDS[backend].open(self._environ)
                    )
                except MissingServerError as missing:
                    self._missing[backend] = f"no {BACKENDS[backend].title}: {missing}; {BACKENDS[backend].advice}"
        if backend in self._missing:
            self.refuse(self._missing[backend])
        return self._servers[backend]

    async def create(self, way: str) -> str:
        """The URL of a new, empty database, one of WAYS to it; dropped at the end of the run or by *drop*."""
        backend, _, driver = way.partition("+")
        server = await self.server(backend)
        if driver and find_spec(driver) is None:
            self.refuse(f"{driver} is not installed: it comes with manydb[fast]")
        made = await server.create()
        url = (made.set(drivername=way) if driver else made).render_as_string(hide_password=False)
        self._owners[url] = server
        self._tested.add(backend)
        return url

    async def drop(self, url: str) -> None:
        await self._owners.pop(url).drop(make_url(url))

    @asynccontextmanager
    async def temporary(self, way: str) -> AsyncGenerator[str]:
        """The URL of a new, empty database, one of WAYS to it, that lasts as long as the context."""
        url = await self.create(way)
        try:
            yield url
        finally:
            await self.drop(url)

    def refuse(self, reason: str) -> NoReturn:
        if self._environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

    def summary(self) -> Iterator[str]:
        """Lines for people: the databases that tests really used, and those that they asked for in vain."""
        tested = [self._servers[backend].label for backend in BACKENDS if backend in self._tested]
        yield f"databases tested: {', '.join(tested) or 'none'}"
        for backend in BACKENDS:
            if reason := self._missing.get(backend):
                yield f"databases missing: {reason}"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[DATABASES] = Databases(os.environ)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[DATABASES].summary():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
async def databases(pytestconfig: pytest.Config) -> AsyncGenerator[Databases]:
    async with pytestconfig.stash[DATABASES] as databases:
        yield databases


@pytest.fixture(scope="session")
async def postgresql_server(databases: Databases) -> Server:
    return await databases.server("postgresql")


@pytest.fixture(scope="session")
async def mysql_server(databases: Databases) -> Server:
    return await databases.server("mysql")


@pytest.fixture
async def postgresql_url(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("postgresql") as url:
        yield url


@pytest.fixture
async def mysql_url(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("mysql") as url:
        yield url


@pytest.fixture
async def sqlite_url(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("sqlite") as url:
        yield url


@pytest.fixture(params=[*BACKENDS])
async def database_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    """An empty database of each backend in turn."""
    async with databases.temporary(request.param) as url:
        yield url
