"""`manydb demo` in a process of its own, as a newcomer runs it: what it shows and serves, and what it leaves behind."""

import asyncio
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from manydb.demo import shop
from manydb.errors import SettingsError, Unreachable
from tests.conftest import Databases
from tests.servers import free_port

SECONDS = 60
DEMO = [sys.executable, "-m", "manydb", "demo"]
SOURCE = str(Path(__file__).parents[2] / "src")

STOPS = [
    "1  Which databases are there?\n   > list_connections {}\n",
    '2  What does a table look like?\n   > get_table_schema {"table":"orders"}\n',
    "3  A question: which customers in Germany brought in most?\n   > execute_query {",
    "4  Many rows: the answer is cut, says so, and the rest is kept\n   > execute_query {",
    '5  Reading on where it was cut\n   > fetch_rows {"result_id":"r_',
    "6  A mistake: the error says what would have been right\n   > execute_query {",
    "7  A write: refused, and the database would refuse it too\n   > execute_query {",
    "Use the shop from your own client\n",
    "Then your own databases",
]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The user's environment without any of manydb's variables; temporary files go to *folder*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MANYDB_")}
    # Colours are decided by the terminal alone, whatever the tests run in.
    plain = {name: value for name, value in kept.items() if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    return plain | {"TMPDIR": str(folder), "PYTHONPATH": SOURCE, "PYTHONIOENCODING": "utf-8", **more}


def demo(*arguments: str, folder: Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments],
        cwd=cwd or folder,
        env=environment(folder, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def stop(text: str, number: int) -> str:
    """What the tour shows at its stop *number*, from 1."""
    end = text.index(STOPS[number]) if number < len(STOPS) else None
    return text[text.index(STOPS[number - 1]) : end]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tour's temporary files go."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def tour(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tour as it is piped, taken where the user's own settings would change everything."""
    cwd = tmp_path_factory.mktemp("project")
    (cwd / "manydb.toml").write_text('row_cap = 1\n[connections.own]\nurl = "sqlite:///own.db"\n')
    done = demo(folder=folder, cwd=cwd, MANYDB_TOOLS="[]", MANYDB_FORMAT="csv", DATABASE_URL="sqlite:///other.db")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- what is shown -------------------------------------------------------------------------------------------------


def test_the_tour_makes_its_stops_in_order(tour: str) -> None:
    places = [tour.find(heading) for heading in STOPS]
    assert -1 not in places
    assert places == sorted(places)


def test_the_shop_is_the_only_database(tour: str) -> None:
    assert re.search(r"shop +SQLite \S+ +aiosqlite +read_only +(superuser|could write) +ok", stop(tour, 1))
    assert "own" not in stop(tour, 1)


def test_the_schema_has_columns_keys_and_checks(tour: str) -> None:
    shown = stop(tour, 2)
    assert "customer_id  INTEGER not null -> customers.id" in shown
    assert "referenced by order_items.order_id, payments.order_id" in shown
    assert "check total >= shipping" in shown


def test_the_question_is_answered(tour: str) -> None:
    assert '"params":{"country":"DE"}}' in stop(tour, 3)
    assert re.search(r"Käthe Çelik +38 +9895\.4", stop(tour, 3))


def test_the_cut_answer_is_continued_where_it_was_cut(tour: str) -> None:
    first, second = stop(tour, 4), stop(tour, 5)
    numbers = [re.findall(r"^ +(2024-\d+) ", text, re.MULTILINE) for text in (first, second)]
    assert numbers == [[f"2024-{number:06}" for number in page] for page in ((1, 2, 3, 4), (5, 6, 7, 8))]
    kept = re.search(r"truncated max_rows, result_id (\S+)", first)
    assert kept
    assert f'> fetch_rows {{"result_id":"{kept[1]}"' in second


def test_the_mistake_gets_an_error_that_helps(tour: str) -> None:
    shown = stop(tour, 6)
    assert re.search(r"UNKNOWN_COLUMN +no such column: vat_rate", shown)
    assert re.search(r'suggestions +"VAT rate"', shown)
    assert re.search(r"categories has +id, name, parent_id, VAT rate", shown)
    assert "fix_sql" in shown


def test_the_write_is_refused(tour: str) -> None:
    assert "DELETE FROM orders" in stop(tour, 7)
    assert re.search(r"^ +READ_ONLY ", stop(tour, 7), re.MULTILINE)


def test_a_piped_tour_has_no_escape_codes_and_fits_80_columns(tour: str) -> None:
    assert "\x1b" not in tour
    before_the_lines_to_paste = tour[: tour.index(STOPS[7])].splitlines()
    # The command with the temporary file's path is in one piece, however long.
    assert [line for line in before_the_lines_to_paste if len(line) > 80 and "manydb serve" not in line] == []


def test_nothing_is_left_behind(tour: str, folder: Path) -> None:
    assert files(folder) == []


# ---- in a terminal -------------------------------------------------------------------------------------------------


def in_a_terminal(folder: Path, **more: str) -> str:
    """What the tour writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as screen:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen(
            DEMO, env=environment(folder, **more), cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        text = b"".join(written(screen)).decode()
        assert process.wait(SECONDS) == 0, text
    return text.replace("\r\n", "\n")


def written(screen: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = screen.read(65_536)
        except OSError:  # Linux says that the last process has left its terminal by EIO
            return
        if not chunk:
            return
        yield chunk


def test_a_terminal_gets_colours_and_the_same_words(tour: str, folder: Path) -> None:
    text = in_a_terminal(folder, TERM="xterm-256color")
    assert "\x1b[1m" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b" not in plain
    assert steady(plain) == steady(tour)


def steady(text: str) -> list[str]:
    """The lines without what differs from run to run."""
    same = re.sub(r"r_[\w-]{16}|manydb-demo-\w+", "*", text)
    return [line.rstrip() for line in same.splitlines()]


# ---- the lines to paste --------------------------------------------------------------------------------------------


def snippets(tour: str) -> list[dict[str, Any]]:
    """The JSON to paste, in the order it is shown."""
    return [json.loads(text) for text in re.findall(r"^    \{\n.*?^    \}$", tour, re.MULTILINE | re.DOTALL)]


def test_every_client_is_given_the_same_command(tour: str) -> None:
    desktop, code = snippets(tour)
    server = desktop["mcpServers"]["shop"]
    assert code == {"servers": {"shop": {"type": "stdio"} | server}}
    line = re.search(r"^ +(claude mcp add .*)$", tour, re.MULTILINE)
    assert line
    words = shlex.split(line[1])
    assert words == ["claude", "mcp", "add", "--transport", "stdio", "shop", "--", server["command"], *server["args"]]


async def test_the_pasted_command_serves_the_shop(tour: str, folder: Path) -> None:
    server = snippets(tour)[0]["mcpServers"]["shop"]
    transport = StdioTransport(server["command"], server["args"], env=environment(folder), keep_alive=False)
    async with Client(transport, timeout=SECONDS) as client:
        listed = await client.call_tool("list_connections")
        answer = await client.call_tool("execute_query", {"sql": "SELECT COUNT(*) AS orders FROM orders"})
        assert len(files(folder)) == 1
    (connection,) = json.loads(listed.content[0].text)["connections"]
    assert (connection["name"], connection["status"]) == ("shop", "ok")
    assert connection["description"].startswith("Demo: ")
    assert json.loads(answer.content[0].text)["rows"] == [[4000]]
    assert files(folder) == []


# ---- serving -------------------------------------------------------------------------------------------------------


def test_over_stdio_nothing_but_protocol_is_written_to_stdout(tmp_path: Path) -> None:
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "0"},
        },
    }
    with started("--serve", folder=tmp_path) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "manydb"
        rest, complaints = process.communicate(timeout=SECONDS)
    assert (rest, complaints, process.returncode) == ("", "", 0)
    assert files(tmp_path) == []


async def test_over_http_stderr_says_where_it_listens(tmp_path: Path) -> None:
    port = free_port()
    with started("--serve", "--transport", "http", "--port", str(port), folder=tmp_path) as process:
        assert process.stderr
        line = await asyncio.to_thread(process.stderr.readline)
        assert line == f"manydb: listening at http://127.0.0.1:{port}/mcp\n"
        async with Client(f"http://127.0.0.1:{port}/mcp", timeout=SECONDS) as client:
            listed = await client.call_tool("list_connections")
        assert json.loads(listed.content[0].text)["connections"][0]["name"] == "shop"
        process.terminate()
        output, _ = await asyncio.to_thread(process.communicate, timeout=SECONDS)
    assert (output, process.returncode) == ("", 0)
    assert files(tmp_path) == []


@contextmanager
def started(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*DEMO, *arguments],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [[], ["--serve"]])
def test_whoever_is_terminated_removes_the_temporary_folder(arguments: list[str], tmp_path: Path) -> None:
    with started(*arguments, folder=tmp_path) as process:
        deadline = time.monotonic() + SECONDS
        while not files(tmp_path):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert process.returncode in {0, 128 + signal.SIGTERM}
    assert files(tmp_path) == []


# ---- databases of one's own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "named"), [("postgresql", "PostgreSQL"), ("mysql", r"(MariaDB|MySQL)")])
async def test_the_tour_goes_through_other_databases_too(
    databases: Databases, backend: str, named: str, folder: Path
) -> None:
    async with databases.temporary(backend) as url:
        done = await asyncio.to_thread(demo, "--url", url, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"shop +{named} \S+ +\S+ +read_only +(superuser|could write) +ok", stop(done.stdout, 1))
    assert re.search(r"Käthe Çelik +38 +9895\.40", stop(done.stdout, 3))
    assert re.search(r"UNKNOWN_COLUMN .*vat_rate", stop(done.stdout, 6))
    # A shop that lasts is served by its URL, not built anew.
    assert snippets(done.stdout)[0]["mcpServers"]["shop"]["args"][-3:-1] == ["serve", "--connection"]


async def test_a_file_that_is_named_is_kept(tmp_path: Path) -> None:
    with shop.shop_url(f"sqlite:///{tmp_path / 'shop.db'}") as url:
        await shop.build(url)
    assert files(tmp_path) == ["shop.db"]


def test_a_database_that_does_not_answer_is_named_in_a_line(folder: Path) -> None:
    done = demo("--url", "postgresql://u:hunter2@127.0.0.1:1/shop", folder=folder)
    assert (done.returncode, done.stderr) == (1, "manydb: UNREACHABLE: nobody listens at 127.0.0.1:1/shop\n")
    assert "hunter2" not in done.stdout


def test_an_option_out_of_its_bounds_is_named() -> None:
    with pytest.raises(SettingsError, match=r"--port: .* less than or equal to 65535"):
        shop.settings("sqlite:///shop.db", {"host": None, "port": 70_000})


@pytest.mark.parametrize("url", ["hunter2", "oracle://u:hunter2@host/shop", "postgresql://host/shop?pasword=hunter2"])
def test_a_url_that_cannot_be_used_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match="the demo's URL: ") as refused, shop.shop_url(url):
        pass
    assert "hunter2" not in refused.value.message


async def test_a_file_that_cannot_be_made_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="unable to open database file"):
        await shop.build(f"sqlite:///{tmp_path}/no/such/folder/shop.db")
