"""Settings: command line over MANYDB_* variables over manydb.toml over defaults; checked before anything is opened."""

import hmac
import os
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from manydb.errors import SettingsError

Access = Literal["read_only", "read_write", "admin"]
Format = Literal["json", "csv", "markdown", "records"]
Group = Literal["core", "connect", "write", "analysis", "jobs", "operations"]
Isolation = Literal["read committed", "repeatable read", "serializable"]
Confirm = Literal["never", "destructive", "always"]

_REFERENCE = re.compile(r"(?P<escape>\$)\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_FILE = "file:"
_OTHER_VARIABLES = {"MANYDB_CONFIG", "MANYDB_DEMO_URL"}

NAME_RULE = "a connection's name is up to 64 letters, digits, '_', '-' and '.', and begins with none of the last two"

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


def is_name(text: str) -> bool:
    """Whether a connection may be called *text*."""
    return bool(_NAME.fullmatch(text))


class ConnectionSettings(BaseModel):
    """One registered database: a URL, or its parts; what it permits and its limits (the server's where left out)."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str | None = Field(None, repr=False)
    driver: str | None = Field(None, description="scheme of the URL when it is given in parts, such as postgresql")
    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    user: str | None = None
    password: str | None = Field(None, repr=False)
    database: str | None = None
    access: Access = "read_only"
    allow: list[str] = Field(default_factory=list, description="only these tables: hr.*, orders, public.prod_*")
    deny: list[str] = Field(default_factory=list, description="never these tables: hr.salaries, secret_*")
    mask: list[str] = Field(default_factory=list, description="columns never shown in clear: customers.email")
    description: str = ""
    row_cap: Count | None = None
    byte_budget: Annotated[int, Field(ge=1024)] | None = None
    timeout_seconds: Seconds | None = None
    pool_size: Count | None = None
    pool_recycle: Seconds | None = None
    engine_idle_ttl: Seconds | None = None


class Settings(BaseSettings):
    """Everything that can be set, with its default; times are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(
        env_prefix="MANYDB_",
        extra="forbid",
        hide_input_in_errors=True,
        env_ignore_empty=True,
        nested_model_default_partial_update=False,
    )

    connections: dict[str, ConnectionSettings] = Field(default_factory=dict, description="the databases, by name")
    tools: list[Group] = Field(default=["core"], description="groups of tools that clients see")

    row_cap: Count = Field(100, description="rows of a reply, where the call asks for no other number")
    max_row_cap: Count = Field(10_000, description="the most rows that a call may ask for")
    kept_rows: Annotated[int, Field(ge=0)] = Field(400, description="rows read beyond the cap and kept for fetch_rows")
    byte_budget: Annotated[int, Field(ge=1024)] = Field(65_536, description="bytes of rows in a reply")
    cell_chars: Annotated[int, Field(ge=16)] = Field(
        4_096, description="characters of a cell; longer ones are clipped and named"
    )
    timeout_seconds: Seconds = Field(30, description="a statement's time, where the call asks for no other")
    max_timeout_seconds: Seconds = Field(300, description="the most seconds that a call may ask for")
    format: Format = Field("json", description="how execute_query writes rows unless told otherwise")
    structured: bool = Field(
        default=False, description="send replies as structured content too: a second copy, for programs"
    )

    result_ttl: Seconds = Field(600, description="how long kept rows wait for fetch_rows after their last use")
    max_results: Count = Field(100, description="kept results of one caller; the oldest goes first")
    max_result_bytes: Count = Field(64 * 1024 * 1024, description="bytes of all kept results together")

    max_engines: Count = Field(100, description="engines alive at once; the least recently used idle one goes first")
    engine_idle_ttl: Seconds = Field(300, description="an engine that nobody used for so long is disposed")
    engine_max_lifetime: Seconds = Field(3_600, description="an engine older than this is replaced")
    health_check_interval: Seconds = Field(60, description="how often live engines are asked whether they answer")
    sweep_interval: Seconds = Field(30, description="how often idle and old engines are looked for")
    pool_size: Count = Field(10, description="connections of one engine, the most at once")
    pool_recycle: Seconds = Field(1_800, description="a database connection older than this is replaced when next lent")
    pool_timeout: Seconds = Field(5, description="how long a call waits for a free connection")
    connect_timeout: Seconds = Field(5, description="how long a database may take to let us in")

    schema_cache_ttl: Seconds = Field(60, description="how long a schema that was read is believed")

    confirm_writes: Confirm = Field(
        "destructive", description="which writes must be confirmed: never, destructive or always"
    )
    confirm_rows: Count = Field(1_000, description="a write that affects more rows than this is destructive")
    confirm_ttl: Seconds = Field(600, description="how long the confirm token of a preview is good for")
    transaction_idle_ttl: Seconds = Field(60, description="an open transaction unused for so long is rolled back")
    transaction_max_age: Seconds = Field(600, description="an open transaction older than this is rolled back")
    max_transactions: Count = Field(5, description="open transactions of one caller; of a pool, they take half at most")

    registration: bool | None = Field(
        None, description="let callers register connections; left out: over stdio yes, over HTTP no"
    )
    registration_access: Access = Field("read_only", description="the most access that a caller may register with")
    registration_drivers: list[str] | None = Field(
        None, description="drivers that may be registered, such as postgresql+asyncpg; left out: the built-in ones"
    )
    registration_hosts: list[str] = Field(default=["*"], description="host patterns that may be registered")
    registration_networks: list[str] | None = Field(
        None,
        description="where hosts may be: CIDR, public, private, loopback; left out: public, over stdio loopback too",
    )
    registration_ports: list[str | int] = Field(default=["1024-65535"], description="ports that may be registered")
    registration_directories: list[str] | None = Field(
        None, description="where SQLite files may be; left out: over stdio the working directory, over HTTP nowhere"
    )
    registration_ttl: Seconds = Field(3_600, description="a caller's connection unused for so long is removed")
    max_registrations: Count = Field(20, description="connections that one caller may register")
    max_all_registrations: Count = Field(10_000, description="connections that all callers together may register")

    max_insert_rows: Count = Field(1_000_000, description="rows of one insert_rows call")
    export_directories: list[str] | None = Field(
        None, description="where export_query may write; left out: over stdio the working directory, over HTTP nowhere"
    )
    export_ttl: Seconds = Field(3_600, description="how long an export waits to be read as a resource")
    max_exports: Count = Field(20, description="exports that one caller may keep")
    max_export_bytes: Count = Field(10 * 1024**3, description="bytes of one export")

    max_batch: Count = Field(20, description="queries of one batch_query")
    max_jobs: Count = Field(20, description="jobs of one caller, running or kept")
    job_workers: Count = Field(4, description="jobs that run at once; others wait their turn")
    job_queue: Count = Field(100, description="jobs of all callers that may wait")
    job_timeout_seconds: Seconds = Field(3_600, description="the most seconds that a job's query may take")
    job_ttl: Seconds = Field(3_600, description="how long a finished job's result waits for get_job")

    history_size: Count = Field(100, description="statements remembered of one caller")
    caller_idle_ttl: Seconds = Field(3_600, description="a caller not heard of for so long is forgotten")
    read_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2, description="how often a read is tried again after its connection was lost"
    )

    workers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="processes that the HTTP transport serves with")
    host: str = Field("127.0.0.1", description="where the HTTP transport listens")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="its port")
    path: str = Field("/mcp", description="its path")
    fast_lane: bool = Field(default=True, description="answer plain calls of the core tools beside FastMCP")
    allow_unauthenticated_network: bool = Field(
        default=False, description="let the HTTP transport listen where others on the network can reach it"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="what goes to stderr")

    @field_validator("connections")
    @classmethod
    def _names_are_plain(cls, connections: dict[str, ConnectionSettings]) -> dict[str, ConnectionSettings]:
        for name in connections:
            if not is_name(name):
                raise ValueError(f"{name!r}: {NAME_RULE}")
        return connections

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` gathered: it reads the sources one by one, so that an error can name its place."""
        return (init_settings,)

    @classmethod
    def load(
        cls,
        config: Path | None = None,
        *,
        connections: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read *config* (else MANYDB_CONFIG, else ./manydb.toml), the environment and the command line's *overrides*.

        *connections* are the command line's NAME=URL pairs. DATABASE_URL becomes the connection ``default``
        where nothing else names a connection. Raises SettingsError, which names file or variable, and key.
        """
        path = config or _configured_path()
        layers = [
            *([_Layer(str(path), _read_toml(path))] if path else []),
            *_variables(),
            _Layer("command line", dict(overrides or {})),
            *(
                _Layer(f"--connection {name}", {"connections": {name: {"url": url}}})
                for name, url in (connections or {}).items()
            ),
        ]
        merged: dict[str, Any] = {}
        for layer in layers:
            _merge(merged, cast("dict[str, Any]", _resolved(layer.values, layer.place, ())), layer.place, layers)
        if not merged.get("connections") and (url := os.environ.get("DATABASE_URL")):
            layers.append(_Layer("DATABASE_URL", {"connections": {"default": {"url": url}}}))
            merged["connections"] = {"default": {"url": url}}
        try:
            settings = cls(**merged)
        except ValidationError as exc:
            raise SettingsError(
                "; ".join(_sentence(error, layers) for error in exc.errors(include_input=False))
            ) from None
        settings._layers = layers
        return settings

    _layers: list["_Layer"] = []
    _mark: str = ""
    _secret: bytes = PrivateAttr(default_factory=lambda: secrets.token_bytes(32))

    def marked(self, mark: str) -> Self:
        """The same for one of several processes, whose handles begin with *mark*; they all have the same keys."""
        settings = self.model_copy()
        settings._mark = mark  # noqa: SLF001 - its own
        return settings

    @property
    def mark(self) -> str:
        """What handles begin with, so that the process that holds the thing is found again; empty where it is alone."""
        return self._mark

    def key(self, purpose: str) -> bytes:
        """32 bytes that nobody guesses, for one *purpose*; the same in all processes of this server."""
        return hmac.digest(self._secret, purpose.encode(), "sha256")

    def place(self, *keys: str) -> str:
        """Where *keys* were set, for an error message: ``manydb.toml: connections.sales.url``."""
        return _place(keys, self._layers)


class _Layer:
    """Some settings and where they come from."""

    def __init__(self, place: str, values: dict[str, Any]) -> None:
        self.place = place
        self.values = values


def _configured_path() -> Path | None:
    if named := os.environ.get("MANYDB_CONFIG"):
        return Path(named)
    default = Path("manydb.toml")
    return default if default.is_file() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read ({exc.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        # The parser's message gives the line; it never quotes more than a character of it.
        raise SettingsError(f"{path}: not valid TOML: {exc}") from None


def _variables() -> Iterable[_Layer]:
    """A layer for each MANYDB_* variable that is a setting; lists and tables are JSON."""
    names = {name for name in os.environ if name.startswith("MANYDB_") and name not in _OTHER_VARIABLES}
    for name in sorted(names):
        if name.removeprefix("MANYDB_").lower() not in Settings.model_fields and not name.startswith("MANYDB_TEST_"):
            raise SettingsError(f"{name}: no such setting; known: {_known(Settings.model_fields)}")
    try:
        values = EnvSettingsSource(Settings)()
    except SourceError as exc:
        raise SettingsError(f"{_variable(exc)}: must be JSON") from None
    return [_Layer(f"MANYDB_{key.upper()}", {key: value}) for key, value in values.items()]


def _variable(exc: SourceError) -> str:
    """The variable that pydantic-settings could not parse; its message names the field and nothing else of use."""
    field = re.search(r'field "(\w+)"', str(exc))
    return f"MANYDB_{field[1].upper()}" if field else "MANYDB_*"


def _resolved(value: Any, place: str, keys: tuple[str, ...]) -> Any:
    """*value* with ${VAR}, ${VAR:-default} and file:/path replaced in every string; $${ stands for ${ itself."""
    if isinstance(value, dict):
        return {key: _resolved(item, place, (*keys, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, place, keys) for item in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        if match["escape"]:
            return "${"
        found = os.environ.get(match["name"])
        if found or (found is not None and match["default"] is None):
            return found
        if match["default"] is None:
            raise SettingsError(f"{place}: {'.'.join(keys)}: the variable {match['name']} is not set")
        return match["default"]

    text = _REFERENCE.sub(variable, value)
    if not value.startswith(_FILE):
        return text
    path = Path(text.removeprefix(_FILE))
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"{place}: {'.'.join(keys)}: cannot read {path}") from None


def _merge(into: dict[str, Any], values: dict[str, Any], place: str, layers: list[_Layer]) -> None:
    """Later layers win key by key; two places that define one connection are a contradiction."""
    for key, value in values.items():
        if key == "connections" and isinstance(value, dict) and isinstance(into.get(key), dict):
            for name in value.keys() & into[key].keys():
                first = _place(("connections", name), [layer for layer in layers if layer.place != place])
                raise SettingsError(f"{place}: connections.{name} is already defined ({first})")
            into[key] |= value
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _place(keys: tuple[str, ...], layers: Iterable[_Layer]) -> str:
    dotted = ".".join(keys)
    for layer in reversed(list(layers)):
        value: Any = layer.values
        for depth, key in enumerate(keys):
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
            if depth >= min(1, len(keys) - 1):
                return f"{layer.place}: {dotted}"
    return dotted


def _sentence(error: Any, layers: list[_Layer]) -> str:
    keys = tuple(str(key) for key in error["loc"])
    if error["type"] == "extra_forbidden":
        known = ConnectionSettings.model_fields if keys[0] == "connections" else Settings.model_fields
        return f"{_place(keys, layers)}: no such key; known: {_known(known)}"
    return f"{_place(keys, layers)}: {error['msg'].removeprefix('Value error, ')}"


def _known(fields: Iterable[str]) -> str:
    return ", ".join(sorted(fields))
