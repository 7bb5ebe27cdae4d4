"""Connections that callers bring: admitted by policy, tried step by step, kept only where every step worked."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.client.elicitation import ElicitResult
from sqlalchemy import URL, make_url

from manydb.callers import PROCESS
from manydb.gateway import Gateway
from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases
from tests.observers import Observer, eventually, wired
from tests.servers import new_name
from tests.test_admission import ELSEWHERE, ENCODED, REJECTED, filled, make_database
from tests.test_admission import PASSWORD as CORPUS_PASSWORD
from tests.test_secrets import PASSWORD, emitted  # noqa: F401 - a fixture
from tests.tools import Desk

SERVER_STEPS = ["dns", "tcp", "tls", "auth", "version", "privileges", "latency"]
FILE_STEPS = ["file", "open", "version", "privileges", "latency"]


@dataclass(frozen=True, slots=True)
class Counter:
    """A desk, and a look behind it."""

    desk: Desk
    server: FastMCP[Any]

    @property
    def gateway(self) -> Gateway:
        lifespan: dict[str, Any] = self.server._lifespan_result or {}
        gateway = lifespan["gateway"]
        assert isinstance(gateway, Gateway)
        return gateway

    async def keeps_nothing(self) -> bool:
        return not (self.gateway.connections.count() or self.gateway.engines.stats())


@asynccontextmanager
async def counter(mode: str = "auto", user: Any = None, *, local: bool = True, **given: Any) -> AsyncGenerator[Counter]:
    """A client whose *user* fills in forms."""
    server = build_server(Settings.model_validate({"tools": ["core", "connect"]} | given), local=local)
    async with Client(server, mode=mode, elicitation_handler=user) as client:
        yield Counter(Desk(client), server)


def steps(told: dict[str, Any]) -> list[str]:
    return [each["step"] for each in told["steps"]]


def directories(url: str) -> dict[str, Any]:
    """The setting that admits *url*, where it is a file."""
    path = make_url(url).database or ""
    return {"registration_directories": [str(Path(path).parent)]} if url.startswith("sqlite") else {}


# -- what works ------------------------------------------------------------------------------------------------------


async def test_every_step_of_a_connection_that_works_is_told(database_url: str, mode: str) -> None:
    await Observer.of(database_url).run("CREATE TABLE t (a int)")
    async with counter(mode, **directories(database_url)) as at:
        told = await at.desk.ask("test_connection", url=database_url)
        assert told["ok"] is True
        assert steps(told) == (FILE_STEPS if database_url.startswith("sqlite") else SERVER_STEPS)
        assert all(each["ok"] for each in told["steps"])
        # Without TLS nobody sees where dialling ends and logging in begins.
        untimed = {each["step"] for each in told["steps"] if "ms" not in each}
        assert untimed == (set() if database_url.startswith("sqlite") else {"tcp", "tls"})
        version = next(each for each in told["steps"] if each["step"] == "version")
        assert version["detail"] == told["backend"]
        assert at.gateway.connections.count() == 0
        await eventually(at.keeps_nothing)


async def test_a_registered_connection_is_used_tested_and_removed(database_url: str, mode: str) -> None:
    await Observer.of(database_url).run("CREATE TABLE t (a int)")
    async with counter(mode, **directories(database_url), registration_ttl=1234) as at:
        desk = at.desk
        told = await desk.ask("register_connection", name="mine", url=database_url, description="for a while")
        backend = told.pop("backend")
        assert told.pop("login") in {"superuser", "could write"}
        assert told == {"name": "mine", "access": "read_only", "expires_in_seconds": 1234}

        (line,) = (await desk.ask("list_connections"))["connections"]
        assert 1200 < line.pop("expires_in_seconds") <= 1234
        line.pop("login")
        assert line == {
            "name": "mine", "backend": backend, "driver": make_url(database_url).get_driver_name(),
            "access": "read_only", "description": "for a while", "status": "ok",
        }  # fmt: skip
        assert await desk.rows("SELECT 1", connection="mine") == [[1]]
        assert (await desk.refusal("execute_query", sql="INSERT INTO t VALUES (1)"))["code"] == "READ_ONLY"

        tested = await desk.ask("test_connection", connection="mine")
        assert (tested["connection"], tested["ok"]) == ("mine", True)

        assert await desk.ask("remove_connection", connection="mine") == {"removed": "mine"}
        assert (await desk.refusal("execute_query", sql="SELECT 1"))["code"] == "UNKNOWN_CONNECTION"
        assert await desk.ask("list_connections") == {"connections": []}
        await eventually(at.keeps_nothing)
    assert await Observer.of(database_url).sessions() == 0


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "mysql+aiomysql"])
async def test_a_url_without_a_driver_takes_one_that_may_be_registered_and_the_list_says_which(
    databases: Databases, driver: str
) -> None:
    backend, _, name = driver.partition("+")
    async with databases.temporary(backend) as url, counter(registration_drivers=[driver]) as at:
        bare = make_url(url).set(drivername=backend).render_as_string(hide_password=False)
        await at.desk.ask("register_connection", name="mine", url=bare)
        (line,) = (await at.desk.ask("list_connections"))["connections"]
        assert (line["driver"], line["status"]) == (name, "ok")
        assert await at.desk.rows("SELECT 1", connection="mine") == [[1]]


async def test_fields_say_what_a_url_says(database_url: str) -> None:
    await Observer.of(database_url).run("CREATE TABLE t (a int)")
    url = make_url(database_url)
    bare = url.set(drivername=url.get_backend_name())
    parts = {"driver": bare.drivername, "host": url.host, "port": url.port, "user": url.username}
    fields = {name: part for name, part in parts.items() if part is not None}
    async with counter(**directories(database_url)) as at:
        await at.desk.ask("register_connection", name="a", url=bare.render_as_string(hide_password=False))
        await at.desk.ask("register_connection", name="b", **fields, password=url.password, database=url.database)
        first, second = (registration for _, registration, _ in at.gateway.connections.of(PROCESS))
        assert first.target == second.target


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "give url, or driver and database"),
        ({"driver": "postgresql"}, "give url, or driver and database"),
        ({"driver": "postgresql", "database": "d", "host": "h"}, "user is missing"),
        ({"driver": "postgresql", "database": "d"}, "this is not a URL that can be registered"),
        ({"driver": "postgresql://x", "database": "d"}, "driver is a URL's scheme"),
        ({"driver": "postgresql", "host": "h/x?", "user": "u", "database": "d"}, "host is a name or an address"),
        ({"driver": "postgresql", "host": "h", "user": "u", "database": "d", "port": 0}, "port: should be greater"),
        ({"url": "postgresql://u@h/d", "host": "h"}, "not both; url leaves out host"),
        ({"url": "postgresql://u:p@h/d", "password": PASSWORD}, "the url has a password already"),
        ({"url": "postgresql://u@127.0.0.1/d", "password": f"{PASSWORD}\0"}, "printable characters"),
        ({"url": "postgresql://u@127.0.0.1/d", "name": "a b"}, "name: a connection's name"),
    ],
)
async def test_what_is_given_must_make_sense(given: dict[str, Any], told: str) -> None:
    async with counter() as at:
        refused = await at.desk.refusal("register_connection", **({"name": "mine"} | given))
        assert (refused["code"], told in refused["message"]) == ("BAD_PARAMETER", True), refused
        assert PASSWORD not in json.dumps(refused)
        assert await at.keeps_nothing()


async def test_names_are_taken_once(sqlite_url: str) -> None:
    await Observer.of(sqlite_url).run("CREATE TABLE t (a int)")
    async with counter(**directories(sqlite_url), connections={"theirs": {"url": sqlite_url}}) as at:
        await at.desk.ask("register_connection", name="mine", url=sqlite_url)
        for name in ("mine", "theirs"):
            refused = await at.desk.refusal("register_connection", name=name, url=sqlite_url)
            assert (refused["code"], "already" in refused["message"]) == ("BAD_PARAMETER", True)
        refused = await at.desk.refusal("remove_connection", connection="theirs")
        assert (refused["code"], "the server's own" in refused["message"]) == ("BAD_PARAMETER", True)
        assert (await at.desk.ask("test_connection", connection="theirs"))["ok"] is True
        refused = await at.desk.refusal("test_connection", connection="theirs", url=sqlite_url)
        assert refused["code"] == "BAD_PARAMETER"


# -- what does not ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """A part of a URL that is wrong, and how that is told."""

    wrong: dict[str, Any]
    step: str
    code: str


FAILURES = {
    "a name that nobody knows": Failure({"host": "no-such-host.invalid", "password": PASSWORD}, "dns", "UNREACHABLE"),
    "a port where nobody listens": Failure({"port": 1025, "password": PASSWORD}, "tcp", "UNREACHABLE"),
    "TLS that the server has not": Failure({"query": {"sslmode": "require"}}, "tls", "TLS_FAILED"),
    "a user that is not there": Failure({"username": "nobody_we_know", "password": PASSWORD}, "auth", "AUTH_FAILED"),
    "a database that is not there": Failure({"database": "no_such_database"}, "auth", "UNREACHABLE"),
}


@pytest.mark.parametrize("failure", [pytest.param(each, id=name) for name, each in FAILURES.items()])
@pytest.mark.parametrize("backend", ["postgresql", "mysql"])
async def test_the_step_that_failed_is_named_and_nothing_is_kept(
    failure: Failure, backend: str, databases: Databases, mode: str
) -> None:
    async with databases.temporary(backend) as right, counter(mode) as at:
        url = make_url(right).set(**failure.wrong).render_as_string(hide_password=False)
        told = await at.desk.ask("test_connection", url=url)
        *before, last = told["steps"]
        assert (told["ok"], last["step"], last["ok"], told["code"]) == (False, failure.step, False, failure.code)
        assert [each["step"] for each in before] == SERVER_STEPS[: len(before)]
        assert all(each["ok"] for each in before)

        refused = await at.desk.refusal("register_connection", name="mine", url=url)
        assert (refused["code"], refused["step"]) == (failure.code, failure.step)
        assert refused["message"].startswith(f"{failure.step}: ")
        assert PASSWORD not in json.dumps([told, refused])
        assert await at.desk.ask("list_connections") == {"connections": []}
        await eventually(at.keeps_nothing)


async def test_a_server_that_stays_silent_is_given_up(postgresql_url: str) -> None:
    async with wired(postgresql_url) as (wire, url), counter(connect_timeout=0.3, read_retries=0) as at:
        wire.hold()
        told = await at.desk.ask("test_connection", url=url)
        assert (told["code"], told["steps"][-1]["step"]) == ("UNREACHABLE", "tcp")
        wire.release()
        assert (await at.desk.ask("test_connection", url=url))["ok"] is True


async def test_a_cancelled_registration_leaves_nothing(postgresql_url: str, mode: str) -> None:
    async with wired(postgresql_url) as (wire, url), counter(mode, connect_timeout=60) as at:
        wire.hold()
        asked = asyncio.create_task(at.desk.ask("register_connection", name="mine", url=url))
        await eventually(lambda: _is(wire.accepted > 0))
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await eventually(at.keeps_nothing)
        wire.release()
        assert await at.desk.ask("list_connections") == {"connections": []}
    await eventually(Observer.of(postgresql_url).is_left_alone)


async def _is(value: bool) -> bool:
    return value


async def test_a_configured_file_that_is_no_database_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    connections = {"text": {"url": f"sqlite:///{tmp_path}/text.db"}, "gone": {"url": f"sqlite:///{tmp_path}/gone.db"}}
    async with counter(connections=connections) as at:
        told = await at.desk.ask("test_connection", connection="text")
        assert (told["ok"], steps(told), told["code"]) == (False, ["file", "open"], "UNREACHABLE")
        told = await at.desk.ask("test_connection", connection="gone")
        assert (told["ok"], steps(told), told["code"]) == (False, ["file"], "UNREACHABLE")


# -- policy ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the corpus wants it."""
    allowed = tmp_path_factory.mktemp("policy") / "allowed"
    allowed.mkdir()
    make_database(allowed / "sec.db")
    make_database(allowed.parent / "outside.db")
    (allowed / "link-to-outside.db").symlink_to(allowed.parent / "outside.db")
    (allowed / "not-a-db.txt").write_text("not a database, although long enough for one" * 10)
    return allowed


@pytest.fixture(scope="module")
async def refusing(folder: Path) -> AsyncGenerator[dict[bool, Counter]]:
    """Two servers for the whole corpus: one whose policy includes this machine, and one whose does not."""
    where: dict[str, Any] = {"registration": True, "registration_directories": [str(folder)]}
    async with (
        counter(**where) as local,
        counter(local=False, **where) as remote,
    ):
        yield {True: local, False: remote}


@pytest.mark.parametrize(
    "line", [pytest.param(line, id=name) for name, line in REJECTED.items() if "rebind" not in line["url"]]
)
async def test_hostile_urls_are_refused_and_not_told(
    line: dict[str, Any], refusing: dict[bool, Counter], folder: Path
) -> None:
    at = refusing[line.get("policy") != "loopback not allowed"]
    url = filled(line["url"], ELSEWHERE | {"SQLITE_DIR": str(folder)})
    for tool, more in (("register_connection", {"name": "mine"}), ("test_connection", {})):
        refused = await at.desk.refusal(tool, url=url, **more)
        assert refused["code"] in {"BAD_PARAMETER", "FORBIDDEN"}
        told = json.dumps(refused)
        assert not any(secret in told for secret in (CORPUS_PASSWORD, ENCODED, str(folder), "passwd", "u:p@"))
    assert await at.keeps_nothing()


async def test_over_http_nobody_registers_unless_the_operator_says_so(sqlite_url: str) -> None:
    async def offered(**given: Any) -> set[str]:
        async with counter(**given) as at:
            return {tool.name for tool in await at.desk.client.list_tools()}

    tools = {"register_connection", "test_connection", "remove_connection"}
    assert tools & await offered(local=True) == tools
    assert tools & await offered(local=False) == {"test_connection"}
    assert tools & await offered(local=False, registration=True) == tools
    assert tools & await offered(local=True, registration=False) == {"test_connection"}
    async with counter(local=False, connections={"db": {"url": sqlite_url}}) as at:
        assert (await at.desk.ask("test_connection"))["ok"] is True
        refused = await at.desk.refusal("test_connection", url="postgresql://u@h/d")
        assert (refused["code"], "registration = true" in refused["message"]) == ("FORBIDDEN", True)
        assert (await at.desk.refusal("register_connection", name="x", url=sqlite_url))["code"] == "UNSUPPORTED"


async def test_over_http_this_machine_is_not_registered_unless_the_operator_says_so(postgresql_url: str) -> None:
    async with counter(local=False, registration=True) as at:
        refused = await at.desk.refusal("register_connection", name="mine", url=postgresql_url)
        assert (refused["code"], "loopback" in refused["message"]) == ("FORBIDDEN", True)
    async with counter(local=False, registration=True, registration_networks=["127.0.0.0/8"]) as at:
        await at.desk.ask("register_connection", name="mine", url=postgresql_url)


async def test_access_goes_as_far_as_the_operator_says(postgresql_url: str) -> None:
    await Observer.of(postgresql_url).run("CREATE TABLE t (a int)")
    groups: dict[str, Any] = {"tools": ["core", "connect", "write"]}
    async with counter(**groups) as at:
        refused = await at.desk.refusal("register_connection", name="mine", url=postgresql_url, access="read_write")
        assert (refused["code"], "read_only" in refused["message"]) == ("FORBIDDEN", True)
        assert "execute_statement" not in {tool.name for tool in await at.desk.client.list_tools()}
    async with counter(**groups, registration_access="read_write") as at:
        for access, code in (("admin", "FORBIDDEN"), ("read_write", None)):
            given = {"name": "mine", "url": postgresql_url, "access": access}
            if code:
                assert (await at.desk.refusal("register_connection", **given))["code"] == code
            else:
                assert (await at.desk.ask("register_connection", **given))["access"] == access
        assert (await at.desk.ask("execute_statement", sql="INSERT INTO t VALUES (1)"))["affected"] == 1


async def test_an_admitted_file_is_told_as_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_database(tmp_path / "real.db")
    (tmp_path / "link.db").symlink_to("real.db")
    monkeypatch.chdir(tmp_path)
    async with counter(engine_idle_ttl=1000) as at:
        for name, url in (("link", "sqlite:///link.db"), ("file", "sqlite:///real.db")):
            await at.desk.ask("register_connection", name=name, url=url)
        assert not any(str(tmp_path) in each.location for each in at.gateway.engines.stats())
        (tmp_path / "real.db").unlink()
        for target in [registration.target for _, registration, _ in at.gateway.connections.of(PROCESS)]:
            at.gateway.engines.retire(target)
        told = [await at.desk.text("list_connections")]
        for name in ("link", "file"):
            told.append(json.dumps(await at.desk.refusal("execute_query", sql="SELECT 1", connection=name)))
            told.append(await at.desk.text("test_connection", connection=name))
    assert not any(str(tmp_path) in text for text in told)
    for text in told[1:3]:
        assert "there is no database file link.db" in text
        assert "real.db" not in text
    assert all("there is no database file real.db" in text for text in told[3:])


async def test_an_admitted_file_that_was_replaced_is_not_opened(tmp_path: Path) -> None:
    file = make_database(tmp_path / "a.db")
    async with counter(registration_directories=[str(tmp_path)]) as at:
        await at.desk.ask("register_connection", name="mine", url=f"sqlite:///{file}")
        file.rename(tmp_path / "b.db")
        with closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE t (a)")
        told = await at.desk.ask("test_connection", connection="mine")
        assert (told["ok"], told["code"], steps(told)) == (False, "FORBIDDEN", ["file", "open"])


# -- passwords -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class User:
    """Fills in the form with *answers*, one after the other; None declines."""

    answers: list[str | None]
    questions: list[str] = field(default_factory=list)

    async def __call__(self, message: str, _type: Any, params: Any, _context: Any) -> ElicitResult[Any]:
        self.questions.append(f"{message} {params}")
        answer = self.answers.pop(0)
        if answer is None:
            return ElicitResult(action="decline")
        (field_name,) = params.requested_schema["properties"]
        return ElicitResult(action="accept", content={field_name: answer})


@dataclass(frozen=True, slots=True)
class Account:
    """A login with PASSWORD: its URL, without it."""

    url: URL

    @property
    def text(self) -> str:
        return self.url.render_as_string(hide_password=False)


@pytest.fixture
async def account(databases: Databases) -> AsyncGenerator[Account]:
    async with databases.temporary("mysql") as text:
        observer, name = Observer.of(text), new_name()
        await observer.run(f"CREATE USER {name} IDENTIFIED BY '{PASSWORD}'")
        await observer.run(f"GRANT SELECT ON {observer.url.database}.* TO {name}")
        try:
            yield Account(observer.url.set(username=name, password=None))
        finally:
            await observer.run(f"DROP USER {name}")


@pytest.fixture
def searched(account: Account, request: pytest.FixtureRequest) -> None:
    """Once the account is made, which may be logged, nothing that is emitted may hold its password."""
    request.getfixturevalue("emitted")


@pytest.mark.usefixtures("searched")
@pytest.mark.parametrize("ask_password", [False, True])
async def test_the_user_may_type_the_password(account: Account, mode: str, ask_password: bool) -> None:
    user = User([PASSWORD])
    async with counter(mode, user) as at:
        told = await at.desk.ask("register_connection", name="mine", url=account.text, ask_password=ask_password)
        assert (told["name"], told["login"]) == ("mine", "reads only")
        assert await at.desk.rows("SELECT 1", connection="mine") == [[1]]
        everything = [told, await at.desk.ask("list_connections"), await at.desk.ask("test_connection")]
        assert PASSWORD not in json.dumps(everything)
    (question,) = user.questions
    assert account.url.username is not None
    assert account.url.username in question
    assert PASSWORD not in question


@pytest.mark.usefixtures("searched")
@pytest.mark.parametrize("ask_password", [False, True])
@pytest.mark.parametrize("answer", [None, "", f"{PASSWORD}x"])
async def test_without_the_right_password_nothing_is_kept(
    account: Account, mode: str, ask_password: bool, answer: str | None
) -> None:
    user = User([answer])
    async with counter(mode, user) as at:
        given = {"name": "mine", "url": account.text, "ask_password": ask_password}
        refused = await at.desk.refusal("register_connection", **given)
        assert refused["code"] == ("AUTH_FAILED" if answer else "BAD_PARAMETER")
        assert PASSWORD not in json.dumps(refused)
        assert len(user.questions) == 1
        await eventually(at.keeps_nothing)


async def test_who_cannot_be_asked_is_told(account: Account, mode: str) -> None:
    async with counter(mode) as at:
        refused = await at.desk.refusal("register_connection", name="mine", url=account.text)
        assert (refused["code"], refused["step"]) == ("AUTH_FAILED", "auth")
        refused = await at.desk.refusal("register_connection", name="mine", url=account.text, ask_password=True)
        assert (refused["code"], "give password" in refused["message"]) == ("BAD_PARAMETER", True)
        assert (await at.desk.ask("register_connection", name="mine", url=account.text, password=PASSWORD))["name"]


async def test_the_user_is_not_asked_for_what_cannot_be_registered(account: Account, mode: str) -> None:
    user = User([])
    async with counter(mode, user) as at:
        given = {"name": "mine", "ask_password": True}
        for wrong in ({"access": "admin"}, {"name": "-"}, {"url": account.url.set(port=22).render_as_string()}):
            refused = await at.desk.refusal("register_connection", **({"url": account.text} | given | wrong))
            assert refused["code"] in {"FORBIDDEN", "BAD_PARAMETER"}
        # Nor where a password was given, and is wrong.
        refused = await at.desk.refusal("register_connection", name="mine", url=account.text, password="x")
        assert refused["code"] == "AUTH_FAILED"
    assert user.questions == []
