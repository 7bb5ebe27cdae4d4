"""The command line, as a person in a shell meets it."""

import contextlib
import csv
import io
import json
import os
import pty
import re
import select
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import pytest

import manydb
from manydb.cli import main
from manydb.formats import FORMATS
from manydb.settings import Format

PATIENCE_SECONDS = 30
SECRET = "hunter2-very-secret"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a database hr.db and a manydb.toml that names it."""
    with sqlite3.connect(tmp_path / "hr.db") as database:
        database.execute("CREATE TABLE people (id integer, name text, note text)")
        rows = [(1, "Ada", None), (2, "Bob, [bold]Jr[/]", "red \x1b[31malert\x07")]
        database.executemany("INSERT INTO people VALUES (?, ?, ?)", rows)
    database.close()
    (tmp_path / "manydb.toml").write_text("[connections.hr]\nurl = 'sqlite:///hr.db'\n")
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MANYDB_")}
    mine.pop("DATABASE_URL", None)
    # A terminal of known width; without colours and decorations that depend on who runs the tests.
    terminal = {"TERM": "xterm", "COLUMNS": "100", "LINES": "30", "NO_COLOR": "1"}
    return mine | terminal | {"PYTHONPATH": str(Path(manydb.__file__).parents[1])} | more


@dataclass(frozen=True, slots=True)
class Told:
    """How a command ended."""

    returncode: str | int | None
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str, **variables: str) -> Told:
    """Run a command in *folder*: in this process, as most of what a new one takes is its start."""
    with (
        contextlib.chdir(folder),
        patch.dict(os.environ, environment(**variables), clear=True),
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
        pytest.raises(SystemExit) as ended,
    ):
        main(arguments)
    return Told(ended.value.code, stdout.getvalue(), stderr.getvalue())


def run_in_terminal(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and what a terminal was sent."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "manydb", *arguments],
            cwd=folder,
            env=environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            shown = read_terminal(ours)
            return process.wait(PATIENCE_SECONDS), shown
    finally:
        os.close(ours)


def read_terminal(ours: int) -> str:
    """All that comes until the other end is closed, which Linux reports as an error."""
    shown = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
        try:
            data = os.read(ours, 65_536)
        except OSError:
            break
        if not data:
            break
        shown += data
    return shown.decode().replace("\r\n", "\n")


def without_style(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


# -- help ------------------------------------------------------------------------------------------------------------


def test_the_version_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "manydb", "--version"]
    told = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert told.stdout == f"manydb {manydb.__version__}\n"


def test_help_names_every_command(tmp_path: Path) -> None:
    told = run(tmp_path, "--help")
    assert told.returncode == 0
    assert re.findall(r"^    (\w+) ", told.stdout, re.MULTILINE) == ["serve", "query", "check", "demo"]


@pytest.mark.parametrize("command", ["serve", "query", "check"])
def test_the_help_of_a_command_says_where_connections_come_from(tmp_path: Path, command: str) -> None:
    told = run(tmp_path, command, "--help")
    assert told.returncode == 0
    for way in ("--connection", "MANYDB_CONNECTIONS", "manydb.toml", "DATABASE_URL"):
        assert way in told.stdout


def test_help_and_settings_know_the_same_formats(tmp_path: Path) -> None:
    told = run(tmp_path, "query", "--help")
    assert f"{{{','.join(FORMATS)}}}" in told.stdout
    assert get_args(Format) == tuple(FORMATS)


def test_version_and_help_import_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, manydb.cli; print(*{'pydantic', 'sqlalchemy', 'fastmcp', 'asyncio', 'rich'} & {*sys.modules})"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert told.stdout == "\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["sail"], "invalid choice: 'sail'"),
        (["query", "hr"], "required: sql"),
        (["query", "hr", "SELECT 1", "--rows", "0"], "a number from 1 on, not '0'"),
        (["query", "hr", "SELECT 1", "--format", "xml"], "invalid choice: 'xml'"),
        (["query", "hr", "SELECT 1", "--param", "x"], "--param takes NAME=VALUE"),
        (["query", "hr", "SELECT 1", "--param", "x=1", "--param", "x=2"], "--param x is given twice"),
        (["check", "--connection", f"sqlite://{SECRET}"], "--connection takes NAME=URL"),
        (["check", "--connection", f"hr=sqlite:///{SECRET}"], "connections.hr is already defined"),
        (["check", "--connection", f"x=dbase://u:{SECRET}@host/x"], "--connection x: connections.x.url: "),
        (["check", "--config", "gone.toml"], "gone.toml: cannot be read"),
        (["check", "--env-file", "gone.env"], "--env-file: cannot read gone.env"),
        (["serve", "--port", "70000"], "command line: port: "),
    ],
)
def test_wrong_arguments_are_told_in_a_line_without_secrets(here: Path, arguments: list[str], complaint: str) -> None:
    told = run(here, *arguments)
    assert (told.returncode, told.stdout) == (2, "")
    assert complaint in told.stderr
    assert SECRET not in told.stderr
    assert "Traceback" not in told.stderr


# -- query -----------------------------------------------------------------------------------------------------------


def test_rows_are_json_where_nobody_watches(here: Path) -> None:
    told = run(here, "query", "hr", "SELECT id, name FROM people ORDER BY id")
    assert (told.returncode, told.stderr) == (0, "")
    answer = json.loads(told.stdout)
    assert (answer["columns"], answer["rows"]) == (["id", "name"], [[1, "Ada"], [2, "Bob, [bold]Jr[/]"]])


def test_rows_are_a_table_in_a_terminal(here: Path) -> None:
    code, shown = run_in_terminal(here, "query", "hr", "SELECT id, name, note FROM people ORDER BY id")
    assert code == 0
    cells = [
        re.split(r"\s*[│┃]\s*", line.strip("│┃ "))
        for line in without_style(shown).splitlines()
        if line[:1] in {"│", "┃"}
    ]
    assert cells == [["id", "name", "note"], ["1", "Ada", "NULL"], ["2", "Bob, [bold]Jr[/]", r"red \x1b[31malert\x07"]]
    assert re.search(r"^2 rows, \d+ ms", without_style(shown), re.MULTILINE)


def test_no_cell_steers_the_terminal(here: Path) -> None:
    _, shown = run_in_terminal(here, "query", "hr", 'SELECT note AS "a\x1b[2Jb" FROM people')
    assert "\x1b[31m" not in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown


def test_a_table_that_was_cut_says_so(here: Path) -> None:
    _, shown = run_in_terminal(here, "query", "hr", "SELECT id FROM people", "--rows", "1")
    assert re.search(r"^1 row, \d+ ms; there are more: raise --rows", without_style(shown), re.MULTILINE)


def test_rows_come_in_every_format(here: Path) -> None:
    written = {
        name: run(here, "query", "hr", "SELECT id, name FROM people ORDER BY id", "--format", name).stdout
        for name in FORMATS
    }
    assert list(csv.reader(io.StringIO(written["csv"]))) == [["id", "name"], ["1", "Ada"], ["2", "Bob, [bold]Jr[/]"]]
    assert written["markdown"].splitlines()[2] == "| 1 | Ada |"
    assert json.loads(written["records"])["records"][0] == {"id": 1, "name": "Ada"}
    assert json.loads(written["json"])["row_count"] == 2


def test_parameters_are_values_not_sql(here: Path) -> None:
    sql = "SELECT name FROM people WHERE name = :name OR id = :id ORDER BY id"
    told = run(here, "query", "hr", sql, "--param", "name=x' OR 1=1 --", "--param", "id=2", "--format", "csv")
    assert told.stdout.splitlines() == ["name", '"Bob, [bold]Jr[/]"']


@pytest.mark.parametrize(
    ("name", "sql", "complaint"),
    [
        ("hr", "SELECT nam FROM people", "UNKNOWN_COLUMN: "),
        ("hr", "DELETE FROM people", "READ_ONLY: "),
        ("hrr", "SELECT 1", "UNKNOWN_CONNECTION: no connection named 'hrr'; known: hr"),
        ("away", "SELECT 1", "UNREACHABLE: "),
    ],
)
def test_a_query_that_fails_says_why_on_stderr(here: Path, name: str, sql: str, complaint: str) -> None:
    away = ["--connection", f"away=postgresql://u:{SECRET}@127.0.0.1:1/x"] if name == "away" else []
    told = run(here, "query", name, sql, *away)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith(f"manydb: {complaint}")
    assert "Traceback" not in told.stderr
    assert SECRET not in told.stderr


def test_a_failed_query_passes_on_what_the_error_teaches(here: Path) -> None:
    told = run(here, "query", "hr", "SELECT nam FROM people")
    assert re.search(r"^  suggestions: .*name", told.stderr, re.MULTILINE)


def test_a_reader_that_has_enough_is_no_error_message(here: Path) -> None:
    count = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) SELECT i FROM n"
    command = f'"{sys.executable}" -m manydb query hr "{count}" --rows 9000 --format csv | head -n 1'
    told = subprocess.run(
        ["sh", "-c", command], cwd=here, env=environment(), capture_output=True, text=True, check=True
    )
    assert (told.stdout, told.stderr) == ("i\n", "")


# -- settings and check ----------------------------------------------------------------------------------------------


def test_an_env_file_is_read_only_where_named_and_gives_way_to_the_environment(here: Path) -> None:
    (here / ".env").write_text("MANYDB_ROW_CAP=1\n")
    query = ("query", "hr", "SELECT id FROM people")
    assert json.loads(run(here, *query).stdout)["row_count"] == 2
    assert json.loads(run(here, *query, "--env-file", ".env").stdout)["row_count"] == 1
    assert json.loads(run(here, *query, "--env-file", ".env", MANYDB_ROW_CAP="2").stdout)["row_count"] == 2


def test_check_tells_every_connection_and_fails_where_one_does_not_answer(here: Path) -> None:
    away = ("--connection", f"away=postgresql://u:{SECRET}@127.0.0.1:1/x")
    well, ill = run(here, "check"), run(here, "check", *away)
    assert (well.returncode, ill.returncode) == (0, 1)
    assert re.search(r"hr\b.*SQLite.*read_only.*yes, in \d+ ms", well.stdout)
    assert re.search(r"away\b.*PostgreSQL.*read_only.*UNREACHABLE", ill.stdout)
    assert SECRET not in ill.stdout + ill.stderr


def test_check_without_connections_says_how_to_give_one(tmp_path: Path) -> None:
    told = run(tmp_path, "check")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "manydb: no connections: give --connection name=url, a manydb.toml or DATABASE_URL\n"


def test_a_mistake_in_the_settings_ends_serve_before_it_opens_anything(here: Path) -> None:
    (here / "manydb.toml").write_text(f"[connections.new]\nurl = 'sqlite:///new.db'\npasword = '{SECRET}'\n")
    told = run(here, "serve")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("manydb: manydb.toml: connections.new.pasword: no such key; known: ")
    assert SECRET not in told.stderr
    assert not (here / "new.db").exists()
