"""Registrations: what stands behind a connection's name."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import URL, make_url

from manydb import dialects
from manydb.dialects import Dialect
from manydb.engines import Pool
from manydb.errors import BadParameter, SettingsError, UnknownConnection
from manydb.policy import Policy
from manydb.settings import Access, ConnectionSettings, Settings

_PARTS = ("driver", "host", "port", "user", "password", "database")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may cost, unless it asks for less."""

    row_cap: int
    byte_budget: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Registration:
    """A named database; *url* is normalised and holds the password, so it is never shown."""

    name: str
    dialect: Dialect
    url: URL = field(repr=False)
    access: Access
    policy: Policy
    description: str
    limits: Limits
    pool: Pool

    @property
    def location(self) -> str:
        """Where it is, without credentials."""
        return self.dialect.location(self.url)


class Connections:
    """The server's own registrations, by name, in the order they were given."""

    def __init__(self, registrations: list[Registration]) -> None:
        self._by_name = {registration.name: registration for registration in registrations}

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read every configured connection; opens nothing. Raises SettingsError naming file and key."""
        registrations = [_registration(settings, name, given) for name, given in settings.connections.items()]
        _require_one_pool_per_engine(settings, registrations)
        return cls(registrations)

    def __iter__(self) -> Iterator[Registration]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str | None) -> Registration:
        """The registration called *name*; where there is only one, it needs no name. Raises UnknownConnection."""
        if name is None and len(self._by_name) == 1:
            return next(iter(self._by_name.values()))
        if name is not None and (found := self._by_name.get(name)):
            return found
        known = ", ".join(self._by_name) or "none (start the server with --connection name=url)"
        if name is None:
            raise UnknownConnection(f"which connection? known: {known}", suggestions=list(self._by_name)[:10])
        near = difflib.get_close_matches(name, self._by_name, n=3, cutoff=0.5)
        raise UnknownConnection(f"no connection named {name!r}; known: {known}", suggestions=near)


def _registration(settings: Settings, name: str, given: ConnectionSettings) -> Registration:
    try:
        dialect, url = dialects.parse(_url(given))
    except BadParameter as exc:
        key = "url" if given.url is not None else "driver"
        raise SettingsError(f"{settings.place('connections', name, key)}: {exc.message}") from None
    except _Contradiction as exc:
        raise SettingsError(f"{settings.place('connections', name, exc.key)}: {exc}") from None
    return Registration(
        name=name,
        dialect=dialect,
        url=url,
        access=given.access,
        policy=_policy(settings, name, given, dialect),
        description=given.description,
        limits=Limits(
            row_cap=given.row_cap or settings.row_cap,
            byte_budget=given.byte_budget or settings.byte_budget,
            timeout_seconds=given.timeout_seconds or settings.timeout_seconds,
        ),
        pool=Pool(
            size=given.pool_size or settings.pool_size,
            recycle=given.pool_recycle or settings.pool_recycle,
            idle_ttl=given.engine_idle_ttl or settings.engine_idle_ttl,
        ),
    )


def _policy(settings: Settings, name: str, given: ConnectionSettings, dialect: Dialect) -> Policy:
    try:
        return Policy.of(
            given.access,
            allow=given.allow,
            deny=given.deny,
            mask=given.mask,
            case_sensitive=dialect.case_sensitive_names,
        )
    except BadParameter as exc:
        raise SettingsError(f"{settings.place('connections', name)}: {exc.message}") from None


class _Contradiction(Exception):  # noqa: N818 - private, and always turned into a SettingsError
    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _url(given: ConnectionSettings) -> str:
    """The URL text of *given*: its own, or one made of the parts; parts that repeat the URL must agree with it."""
    parts = {part: value for part in _PARTS if (value := getattr(given, part)) is not None}
    if given.url is None:
        if "driver" not in parts:
            raise _Contradiction("url", "a connection needs a url, or at least driver and database")
        made = URL.create(parts["driver"], given.user, given.password, given.host, given.port, given.database)
        return made.render_as_string(hide_password=False)
    if not parts:
        return given.url
    dialect, parsed = dialects.parse(given.url)
    if "driver" in parts and not _is_driver(parts["driver"], dialect, parsed):
        raise _Contradiction("driver", "disagrees with the url")
    url = make_url(given.url.strip())  # as it was written: a default port contradicts nothing
    # A password may stand beside a URL that has none: secrets live in files, URLs in configurations.
    for part, attribute in (
        ("host", "host"),
        ("port", "port"),
        ("user", "username"),
        ("password", "password"),
        ("database", "database"),
    ):
        if part not in parts:
            continue
        said = getattr(url, attribute)
        if said is not None and said != parts[part] and (part != "host" or said.lower() != parts[part].lower()):
            raise _Contradiction(part, "disagrees with the url")
        url = url.set(**{attribute: parts[part]})
    return url.render_as_string(hide_password=False)


def _is_driver(text: str, dialect: Dialect, url: URL) -> bool:
    """Whether *text*, a scheme with or without a driver, says what *url* does."""
    backend, _, driver = text.partition("+")
    return backend in (dialect.schemes or (url.get_backend_name(),)) and driver in {"", url.get_driver_name()}


def _require_one_pool_per_engine(settings: Settings, registrations: list[Registration]) -> None:
    """Registrations of one URL read through one engine, whatever their access, so they cannot want different pools."""
    first: dict[URL, Registration] = {}
    for registration in registrations:
        other = first.setdefault(registration.url, registration)
        if other.pool != registration.pool:
            raise SettingsError(
                f"{settings.place('connections', registration.name)}: names the same database as "
                f"connections.{other.name}, with another pool_size, pool_recycle or engine_idle_ttl"
            )
