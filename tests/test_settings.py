"""Where settings come from, which of them wins, and what is said about a mistake."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from manydb.connections import Connections
from manydb.errors import SettingsError
from manydb.settings import Settings

SECRET = "hunter2-very-secret"
URL = f"postgresql://app:{SECRET}@db.example/sales"

WriteToml = Callable[..., Path]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to start in, and no setting from outside."""
    import os  # noqa: PLC0415 - the loop below is all that needs it

    for name in list(os.environ):
        if name.startswith("MANYDB_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toml(here: Path) -> WriteToml:
    def write(text: str, name: str = "manydb.toml") -> Path:
        file = here / name
        file.write_text(text)
        return file

    return write


def message_of(load: Callable[[], object]) -> str:
    """The start-up error of *load*: it keeps the secret, whatever else it says."""
    with pytest.raises(SettingsError) as caught:
        load()
    assert SECRET not in caught.value.message
    assert caught.value.__cause__ is None  # a chained error would print what it quotes
    return caught.value.message


def connect() -> Connections:
    """All that happens before a server opens anything."""
    return Connections.configured(Settings.load())


# -- sources and precedence ------------------------------------------------------------------------------------------


def test_without_any_source_the_defaults_hold() -> None:
    settings = Settings.load()
    assert (settings.row_cap, settings.host, settings.port, settings.connections) == (100, "127.0.0.1", 8000, {})
    assert settings.allow_unauthenticated_network is False


def test_manydb_toml_of_the_folder_is_read(toml: WriteToml) -> None:
    toml("row_cap = 7\n[connections.hr]\nurl = 'sqlite:///hr.db'\ndescription = 'people'\n")
    settings = Settings.load()
    assert settings.row_cap == 7
    assert settings.connections["hr"].description == "people"


def test_the_command_line_wins_over_the_environment_which_wins_over_the_file(
    toml: WriteToml, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml("port = 1\nrow_cap = 1\nmax_row_cap = 1\n")
    monkeypatch.setenv("MANYDB_PORT", "2")
    monkeypatch.setenv("MANYDB_ROW_CAP", "2")
    settings = Settings.load(overrides={"port": 3})
    assert (settings.port, settings.row_cap, settings.max_row_cap) == (3, 2, 1)


def test_a_named_file_wins_over_manydb_config_which_wins_over_the_folder(
    toml: WriteToml, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml("row_cap = 1")
    assert Settings.load().row_cap == 1
    monkeypatch.setenv("MANYDB_CONFIG", str(toml("row_cap = 2", "named-by-variable.toml")))
    assert Settings.load().row_cap == 2
    assert Settings.load(toml("row_cap = 3", "named.toml")).row_cap == 3


def test_a_dot_env_that_nobody_named_is_not_read(here: Path) -> None:
    (here / ".env").write_text("MANYDB_ROW_CAP=5\nDATABASE_URL=sqlite:///x.db\n")
    settings = Settings.load()
    assert (settings.row_cap, settings.connections) == (100, {})


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYDB_ROW_CAP", "")
    assert Settings.load().row_cap == 100


def test_variables_hold_lists_and_tables_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYDB_TOOLS", '["core"]')
    monkeypatch.setenv("MANYDB_CONNECTIONS", '{"hr": {"url": "sqlite:///hr.db", "row_cap": 9}}')
    settings = Settings.load()
    assert (settings.tools, settings.connections["hr"].row_cap) == (["core"], 9)


def test_connections_of_every_source_stand_side_by_side(toml: WriteToml, monkeypatch: pytest.MonkeyPatch) -> None:
    toml("[connections.one]\nurl = 'sqlite:///1.db'\n")
    monkeypatch.setenv("MANYDB_CONNECTIONS", '{"two": {"url": "sqlite:///2.db"}}')
    assert list(Settings.load(connections={"three": "sqlite:///3.db"}).connections) == ["one", "two", "three"]


def test_database_url_becomes_the_default_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    assert [each.name for each in connect()] == ["default"]


@pytest.mark.parametrize("source", ["file", "variable", "command line"])
def test_database_url_is_ignored_where_anything_else_names_a_connection(
    toml: WriteToml, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    if source == "file":
        toml("[connections.hr]\nurl = 'sqlite:///hr.db'\n")
    if source == "variable":
        monkeypatch.setenv("MANYDB_CONNECTIONS", '{"hr": {"url": "sqlite:///hr.db"}}')
    pairs = {"hr": "sqlite:///hr.db"} if source == "command line" else {}
    assert list(Settings.load(connections=pairs).connections) == ["hr"]


# -- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("${WORD}", "word"),
        ("a ${WORD} and ${WORD}", "a word and word"),
        ("${WORD:-other}", "word"),
        ("${UNSET:-other}", "other"),
        ("${UNSET:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${REFERENCE}", "${WORD}"),
        ("$${WORD}", "${WORD}"),
        ("$WORD costs $5", "$WORD costs $5"),
        ("file:note.txt", "from ${WORD}"),
        ("file:${WORD}.txt", "by name"),
        ("a file:note.txt", "a file:note.txt"),
    ],
)
def test_references_are_resolved_once(
    here: Path, toml: WriteToml, monkeypatch: pytest.MonkeyPatch, text: str, wanted: str
) -> None:
    for name, value in {"WORD": "word", "EMPTY": "", "REFERENCE": "${WORD}"}.items():
        monkeypatch.setenv(name, value)
    (here / "note.txt").write_text("from ${WORD}\n")
    (here / "word.txt").write_text("by name\r\n")
    toml(f"[connections.hr]\nurl = 'sqlite:///hr.db'\ndescription = '{text}'\n")
    assert Settings.load().connections["hr"].description == wanted


def test_references_work_in_variables_numbers_and_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBER", "17")
    monkeypatch.setenv("MANYDB_ROW_CAP", "${NUMBER}")
    settings = Settings.load(connections={"hr": "sqlite:///${NUMBER}.db"})
    assert (settings.row_cap, settings.connections["hr"].url) == (17, "sqlite:///17.db")


def test_an_unset_variable_is_named_with_its_place(toml: WriteToml) -> None:
    toml("[connections.hr]\nurl = 'postgresql://app:${HR_PASSWORD}@db.example/hr'\n")
    assert message_of(Settings.load) == "manydb.toml: connections.hr.url: the variable HR_PASSWORD is not set"


def test_a_secret_file_that_is_missing_is_named_with_its_place(toml: WriteToml) -> None:
    toml("[connections.hr]\nurl = 'mysql://db.example/hr'\npassword = 'file:secrets/hr'\n")
    assert message_of(Settings.load) == "manydb.toml: connections.hr.password: cannot read secrets/hr"


# -- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "an unknown key": ("rowcap = 5", r"manydb\.toml: rowcap: no such key; known: .*\brow_cap\b"),
    "an unknown key of a connection": (
        f"[connections.hr]\nurl = '{URL}'\npasword = '{SECRET}'",
        r"manydb\.toml: connections\.hr\.pasword: no such key; known: .*\bpassword\b",
    ),
    "a wrong type": ("row_cap = 'many'", r"manydb\.toml: row_cap: .*integer"),
    "a number out of range": ("port = 70000", r"manydb\.toml: port: .*65535"),
    "an unknown access": (
        f"[connections.hr]\nurl = '{URL}'\naccess = 'all'",
        r"manydb\.toml: connections\.hr\.access: .*'read_only'",
    ),
    "a URL where a table belongs": (f"[connections]\nhr = '{URL}'", r"manydb\.toml: connections\.hr: "),
    "a strange name": (f"[connections.'h r']\nurl = '{URL}'", r"manydb\.toml: connections: 'h r': .*letters"),
    "no database": ("[connections.hr]\ndescription = 'people'", r"manydb\.toml: connections\.hr.*needs a url"),
    "not a URL": (f"[connections.hr]\nurl = '{SECRET}'", r"manydb\.toml: connections\.hr\.url: not a database URL"),
    "an unknown driver": (
        f"[connections.hr]\nurl = 'dbase://app:{SECRET}@db.example/x'",
        r"manydb\.toml: connections\.hr\.url: .*dbase.*what works",
    ),
    "a driver that waits": (
        f"[connections.hr]\nurl = 'sqlite+pysqlite:///{SECRET}.db'",
        r"manydb\.toml: connections\.hr\.url: .*pysqlite.*what works",
    ),
    "an unknown driver in parts": (
        f"[connections.hr]\ndriver = 'dbase'\ndatabase = 'x'\npassword = '{SECRET}'",
        r"manydb\.toml: connections\.hr\.driver: .*dbase.*what works",
    ),
    "not TOML": ("row_cap = = 5", r"manydb\.toml: not valid TOML: .*line 1"),
    "one name twice": (f"[connections.hr]\nurl = '{URL}'\n[connections.hr]\nurl = '{URL}'", r"manydb\.toml: not valid"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_is_told_with_file_and_key(toml: WriteToml, mistake: str) -> None:
    text, wanted = MISTAKES[mistake]
    toml(text)
    assert re.match(wanted, message_of(connect))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("MANYDB_ROWCAP", "5", r"MANYDB_ROWCAP: no such setting; known: .*row_cap"),
        ("MANYDB_ROW_CAP", "many", r"MANYDB_ROW_CAP: row_cap: .*integer"),
        ("MANYDB_CONNECTIONS", SECRET, r"MANYDB_CONNECTIONS: must be JSON"),
        ("MANYDB_CONNECTIONS", '{"hr": {"uri": "x"}}', r"MANYDB_CONNECTIONS: connections\.hr\.uri: no such key"),
        ("MANYDB_CONFIG", "gone.toml", r"gone\.toml: cannot be read"),
        ("DATABASE_URL", f"dbase://app:{SECRET}@db.example/x", r"DATABASE_URL: connections\.default\.url: .*dbase"),
        ("DATABASE_URL", SECRET, r"DATABASE_URL: connections\.default\.url: not a database URL"),
    ],
)
def test_a_mistake_in_a_variable_is_told_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: str
) -> None:
    monkeypatch.setenv(name, value)
    assert re.match(wanted, message_of(connect))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("driver", "'mysql'"),
        ("driver", "'postgresql+psycopg'"),
        ("host", "'other.example'"),
        ("port", "5433"),
        ("user", "'root'"),
        ("password", "'another'"),
        ("database", "'hr'"),
    ],
)
def test_a_url_and_a_part_that_disagree_are_a_contradiction(toml: WriteToml, key: str, value: str) -> None:
    url = f"postgresql+asyncpg://app:{SECRET}@db.example:5432/sales"
    toml(f"[connections.sales]\nurl = '{url}'\n{key} = {value}\n")
    assert message_of(connect) == f"manydb.toml: connections.sales.{key}: disagrees with the url"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("driver", "'postgresql'"),
        ("driver", "'postgres'"),
        ("host", "'DB.example'"),
        ("port", "5432"),
        ("user", "'app'"),
        ("password", f"'{SECRET}'"),
        ("database", "'sales'"),
    ],
)
def test_a_url_and_a_part_that_agree_are_fine(toml: WriteToml, key: str, value: str) -> None:
    toml(f"[connections.sales]\nurl = 'postgres://app:{SECRET}@DB.example:5432/sales'\n{key} = {value}\n")
    (found,) = connect()
    assert (found.target.url.host, found.target.url.password) == ("db.example", SECRET)


def test_a_password_may_stand_beside_a_url_without_one(toml: WriteToml) -> None:
    toml("[connections.sales]\nurl = 'postgresql://app@db.example/sales'\npassword = 'p@ss/word'\n")
    (found,) = connect()
    assert found.target.url.password == "p@ss/word"


def test_parts_make_a_url(toml: WriteToml) -> None:
    toml("[connections.s]\ndriver = 'mysql'\nhost = 'db.example'\nuser = 'a@b'\npassword = ':/@'\ndatabase = 'shop'\n")
    (found,) = connect()
    url = found.target.url
    assert (url.get_backend_name(), url.host, url.username, url.password) == ("mysql", "db.example", "a@b", ":/@")


def test_two_sources_that_name_one_connection_are_a_contradiction(
    toml: WriteToml, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml(f"[connections.hr]\nurl = '{URL}'\n")
    monkeypatch.setenv("MANYDB_CONNECTIONS", f'{{"hr": {{"url": "{URL}"}}}}')
    assert message_of(Settings.load) == (
        "MANYDB_CONNECTIONS: connections.hr is already defined (manydb.toml: connections.hr)"
    )


def test_two_connections_of_one_database_cannot_want_different_pools(toml: WriteToml) -> None:
    toml(f"[connections.a]\nurl = '{URL}'\n[connections.b]\nurl = '{URL}'\npool_size = 3\n")
    assert message_of(connect).startswith(
        "manydb.toml: connections.b: names the same database as connections.a, with another pool_size"
    )


def test_two_connections_of_one_database_may_differ_in_limits_and_access(toml: WriteToml) -> None:
    toml(f"[connections.a]\nurl = '{URL}'\nrow_cap = 5\n[connections.b]\nurl = '{URL}'\naccess = 'read_write'\n")
    assert [(each.limits.row_cap, each.access) for each in connect()] == [(5, "read_only"), (100, "read_write")]


def test_nothing_that_is_shown_of_a_registration_holds_its_password(toml: WriteToml) -> None:
    toml(f"[connections.sales]\nurl = '{URL}'\n")
    settings = Settings.load()
    (found,) = Connections.configured(settings)
    assert SECRET not in repr(found) + found.location + repr(settings)
