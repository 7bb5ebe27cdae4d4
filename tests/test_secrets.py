"""No password, no secret of a URL's query and no bound value is in anything that a run emits."""

import logging
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases
from tests.servers import WAYS
from tests.tools import MODES, Desk, serving

PASSWORD = "Pa55-s3cret"  # with nothing that a URL would have to escape
ESCAPED = "q%40uiet%2Fkey"
UNESCAPED = "q@uiet/key"
OPTION = "s3cret-option"
VALUE = "bound-s3cret-value"
QUOTED = "bound'quo\"ted\\s3cret"
NUMBER = 918_273_645
SECRETS = (PASSWORD, ESCAPED, UNESCAPED, OPTION, VALUE, "s3cret", str(NUMBER), "918273645")


class Emitted(logging.Handler):
    """All that leaves a run: log records of every logger with their tracebacks, and what the clients were sent."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def add(self, text: str) -> None:
        self.lines.append(text)

    def leaks(self) -> list[str]:
        return [line for line in self.lines if any(secret in line for secret in SECRETS)]


@pytest.fixture
def emitted(capfd: pytest.CaptureFixture[str]) -> Iterator[Emitted]:
    """Everything emitted while the test runs, checked when it ends; debug logging is on before the server starts."""
    handler = Emitted()
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("fastmcp", "manydb", "mcp", "sqlalchemy", "aiosqlite"))]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    root.addHandler(handler)
    logging.getLogger("fastmcp").addHandler(handler)  # which does not pass its records on
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        logging.getLogger("fastmcp").removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    out, err = capfd.readouterr()
    handler.add(out)
    handler.add(err)
    assert handler.leaks() == []


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def url(databases: Databases, way: str) -> AsyncGenerator[str]:
    async with databases.temporary(way) as url:
        yield url


async def tell(emitted: Emitted, desk: Desk, tool: str, **arguments: Any) -> str:
    """What the tool answers, success or error; kept for the search."""
    result = await desk.client.call_tool(tool, arguments, raise_on_error=False)
    emitted.add(repr(result))
    text = "".join(getattr(block, "text", "") for block in result.content)
    emitted.add(text)
    return text


async def test_a_connection_that_fails_keeps_its_password(emitted: Emitted, mode: str, tmp_path: Path) -> None:
    (tmp_path / "not-a-database.db").write_text("no database " * 100)
    connections = {
        "refused": f"postgresql://user:{PASSWORD}@127.0.0.1:1/x?application_name={OPTION}",
        "refused_too": f"mysql://user:{PASSWORD}@127.0.0.1:1/x?program_name={OPTION}",
        "escaped": f"postgresql://user:{ESCAPED}@127.0.0.1:1/x",
        "no_host": f"mysql://user:{PASSWORD}@no-such-host.invalid/x",
        "no_certificate": f"postgresql://user:{PASSWORD}@127.0.0.1:1/x?sslmode=verify-full&sslrootcert={tmp_path}/no.pem",
        "no_database": f"sqlite:///{tmp_path}/not-a-database.db",
        "no_file": f"sqlite:///{tmp_path}/no-file.db",
    }
    async with serving(mode, connections={name: {"url": url} for name, url in connections.items()}) as desk:
        for _ in range(10):  # it waits a second for who answers; drivers are imported meanwhile
            listing = await tell(emitted, desk, "list_connections")
            if '"unknown"' not in listing:
                break
        assert listing.count('"unreachable"') >= len(connections) - 2
        for name in connections:
            for tool, arguments in (
                ("execute_query", {"sql": "SELECT * FROM sqlite_master"}),
                ("list_tables", {}),
                ("get_table_schema", {"table": "x"}),
            ):
                text = await tell(emitted, desk, tool, connection=name, **arguments)
                assert '"code":"' in text, text
        await tell(emitted, desk, "execute_query", sql="SELECT 1", connection=f"{name}x")


@pytest.mark.parametrize("name", ["postgresql", "mysql"])
async def test_a_wrong_password_is_not_repeated(emitted: Emitted, databases: Databases, name: str) -> None:
    async with databases.temporary(name) as real:
        # A role that is not there: a server that trusts everybody else refuses it, too.
        wrong = make_url(real).set(username="nobody_we_know", password=PASSWORD).render_as_string(hide_password=False)
        tls = (
            make_url(real)
            .set(password=PASSWORD, query={"sslmode": "verify-full"})
            .render_as_string(hide_password=False)
        )
        async with serving(connections={"wrong": {"url": wrong}, "tls": {"url": tls}}) as desk:
            assert '"code":"AUTH_FAILED"' in await tell(
                emitted, desk, "execute_query", sql="SELECT 1", connection="wrong"
            )
            text = await tell(emitted, desk, "execute_query", sql="SELECT 1", connection="tls")
            assert '"code":"TLS_FAILED"' in text or '"code":"UNREACHABLE"' in text
            await tell(emitted, desk, "list_connections")


FAILING: dict[str, list[tuple[str, Any]]] = {
    "every": [
        ("SELECT * FROM no_table WHERE x = :v", VALUE),
        ("SELECT no_column FROM (SELECT 1 AS one) t WHERE one = :v", VALUE),
        ("SELECT FROM WHERE :v", VALUE),
        ("SELECT nofunction(:v)", VALUE),
        ("SELECT CAST(:v AS nonsense(x))", QUOTED),
        ("SELECT :v FROM", NUMBER),
        ("DELETE FROM t WHERE x = :v", VALUE),
        ("SELECT 1; SELECT :v", VALUE),
        ("SELECT :v, :missing", VALUE),
        ("SELECT 1", VALUE),
        ("SELECT :v", {"$bytes": VALUE}),
        ("SELECT :v", "\ud800" + VALUE),
    ],
    "postgresql": [
        ("SELECT CAST(CAST(:v AS text) AS integer)", VALUE),
        ("SELECT CAST(CAST(:v AS text) AS integer)", QUOTED),
        ("SELECT CAST(CAST(:v AS text) AS date)", VALUE),
        ("SELECT CAST(CAST(:v AS text) AS jsonb)", VALUE),
        ("SELECT CAST(CAST(:v AS text) AS uuid)", QUOTED),
        ("SELECT CAST(:v AS integer)", VALUE),
        ("SELECT CAST(:v AS smallint)", NUMBER),
        ("SELECT CAST(CAST(:v AS bigint) AS smallint)", NUMBER),
        ("SELECT CAST('1' AS integer) / CAST(CAST(:v AS text) AS regclass)::oid::int", VALUE),
    ],
    "mysql": [
        ("SELECT * FROM t1 WHERE CAST(:v AS nonsense)", VALUE),
        ("SELECT json_extract('{}', :v)", VALUE),
        ("SELECT 'a' REGEXP :v", f"({VALUE}"),
        ("SELECT extractvalue('<a/>', :v)", f"//{VALUE}["),
        ("SELECT (SELECT 1 UNION SELECT 2) = :v", QUOTED),
        ("SELECT exp(:v)", NUMBER),
    ],
    "sqlite": [
        ("SELECT json_extract(:v, '$.x')", VALUE),
        ("SELECT json_extract('{}', :v)", VALUE),
        ("SELECT 'a' REGEXP :v", VALUE),
        ("SELECT 1 WHERE 'a' MATCH :v", QUOTED),
        ("SELECT abs(-9223372036854775807 - 1 + :v * 0)", NUMBER),
    ],
}  # fmt: skip


async def test_bound_values_stay_out_of_what_a_database_says_about_them(
    emitted: Emitted, way: str, url: str, mode: str
) -> None:
    async with serving(mode, url=url) as desk:
        for sql, value in FAILING["every"] + FAILING[way.partition("+")[0]]:
            for tool in ("execute_query", "explain_query"):
                result = await desk.client.call_tool(tool, {"sql": sql, "params": {"v": value}}, raise_on_error=False)
                if result.is_error:  # a query that works may give its value back
                    emitted.add(repr(result))
        assert await desk.rows("SELECT 1") == [[1]]


async def test_wrong_arguments_are_not_echoed(emitted: Emitted, url: str, mode: str) -> None:
    async with serving(mode, url=url) as desk:
        for arguments in (
            {"sql": "SELECT 1", "params": VALUE},
            {"sql": {"password": VALUE}},
            {"sql": "SELECT 1", "row_cap": VALUE},
            {"sql": "SELECT 1", "format": VALUE},
            {"sql": "SELECT 1", "unknown": VALUE},
            {"params": {"v": VALUE}},
        ):
            assert "BAD_PARAMETER" in await tell(emitted, desk, "execute_query", **arguments)


async def test_what_breaks_inside_is_logged_without_its_values(
    emitted: Emitted, url: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"{PASSWORD} {VALUE}")

    async with serving(mode, url=url) as desk:
        assert await desk.rows("SELECT 1") == [[1]]
        for target in ("manydb.query.statements", "manydb.reads.queries", "manydb.tools.queries.caller"):
            with monkeypatch.context() as patch:
                patch.setattr(target, Broken())
                text = await tell(emitted, desk, "execute_query", sql="SELECT :v", params={"v": VALUE})
                assert '"code":"INTERNAL"' in text
                assert '"retry":"never"' in text
        assert await desk.rows("SELECT 1") == [[1]]


def test_settings_and_registrations_do_not_show_their_secrets(emitted: Emitted) -> None:
    settings = Settings.model_validate(
        {"connections": {"a": {"url": f"postgresql://u:{PASSWORD}@h/x?application_name={OPTION}"},
                         "b": {"driver": "mysql", "host": "h", "database": "x", "password": PASSWORD}}}
    )  # fmt: skip
    emitted.add(repr(settings))
    emitted.add(repr(settings.connections))
    emitted.add(repr(build_server(settings)))
