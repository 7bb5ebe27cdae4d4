"""Registrations: what stands behind a connection's name."""

import difflib
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from sqlalchemy import URL, make_url

from manydb import dialects
from manydb.admission import Admission
from manydb.callers import Caller
from manydb.dialects import Dialect
from manydb.engines import Pool
from manydb.errors import BadParameter, SettingsError, UnknownConnection
from manydb.handles import Handles
from manydb.leases import Target
from manydb.policy import Policy
from manydb.settings import NAME_RULE, Access, ConnectionSettings, Settings, is_name

_PARTS = ("driver", "host", "port", "user", "password", "database")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may cost, unless it asks for less."""

    row_cap: int
    byte_budget: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Registration:
    """A named database. *owner* is the caller who registered it, None for the server's own."""

    name: str
    target: Target
    access: Access
    policy: Policy
    description: str
    limits: Limits
    pool: Pool
    owner: Caller | None = None

    @property
    def dialect(self) -> Dialect:
        return self.target.dialect

    @property
    def location(self) -> str:
        """Where it is, without credentials."""
        return self.target.location


class Connections:
    """The server's own registrations, by name, in the order they were given; and each caller's, which expire.

    *left* is awaited for every registration of a caller that goes, with whether it was the last one of its target.
    """

    def __init__(
        self,
        settings: Settings,
        registrations: list[Registration],
        left: Callable[[Registration, bool], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._left = left
        self._by_name = {registration.name: registration for registration in registrations}
        self._targets = Counter[Target]()
        self._registered = Handles[Registration](
            "connection",
            "connection",
            "see list_connections, or register it again",
            idle_ttl=settings.registration_ttl,
            per_owner=settings.max_registrations,
            total=settings.max_all_registrations,
            end=self._end,
        )

    @classmethod
    def configured(
        cls, settings: Settings, left: Callable[[Registration, bool], Awaitable[None]] | None = None
    ) -> Self:
        """Read every configured connection; opens nothing. Raises SettingsError naming file and key."""
        registrations = [_registration(settings, name, given) for name, given in settings.connections.items()]
        _require_one_pool_per_engine(settings, registrations)
        return cls(settings, registrations, left or _nothing)

    def __iter__(self) -> Iterator[Registration]:
        """The server's own."""
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def visible(self, caller: Caller) -> list[Registration]:
        """All that *caller* may be told of: the server's own, then its own."""
        return [*self, *(registration for _, registration, _ in self._registered.of(caller))]

    def get(self, caller: Caller, name: str | None) -> Registration:
        """*caller*'s connection called *name*; where there is only one, it needs no name. Raises UnknownConnection."""
        if name is not None and (found := self._by_name.get(name) or self._registered.find(caller, _key(caller, name))):
            return found
        visible = {registration.name: registration for registration in self.visible(caller)}
        if name is None and len(visible) == 1:
            return self.get(caller, next(iter(visible)))
        known = ", ".join(visible) or "none (start the server with --connection name=url)"
        if name is None:
            raise UnknownConnection(f"which connection? known: {known}", suggestions=list(visible)[:10])
        near = difflib.get_close_matches(name, visible, n=3, cutoff=0.5)
        raise UnknownConnection(f"no connection named {name!r}; known: {known}", suggestions=near)

    # -- callers' own ------------------------------------------------------------------------------------------------

    def prepare(
        self, caller: Caller, name: str, admission: Admission, access: Access, description: str
    ) -> Registration:
        """What `register` would keep, checked but not kept yet. Raises BadParameter and TooMany.

        Nobody known gets a name that nobody guesses: it is all that leads back to the connection.
        """
        if not is_name(name):
            raise BadParameter(f"name: {NAME_RULE}")
        if name in self._by_name or self._registered.find(caller, _key(caller, name)):
            raise BadParameter(f"there is a connection named {name!r} already; take another name, or remove it first")
        self._registered.require_room(caller)
        own = name if caller.is_known else f"{name[:40]}-{self._settings.mark}{secrets.token_urlsafe(12)}"
        return self.candidate(caller, own, admission, access, description)

    def candidate(
        self, caller: Caller, name: str, admission: Admission, access: Access = "read_only", description: str = ""
    ) -> Registration:
        """A registration to try *admission* with, whatever *caller* has already."""
        settings = self._settings
        return Registration(
            name=name,
            target=Target(admission.dialect, admission.url, admission, admission.spelling),
            access=access,
            policy=Policy.of(access, case_sensitive=admission.dialect.case_sensitive_names),
            description=description,
            limits=Limits(settings.row_cap, settings.byte_budget, settings.timeout_seconds),
            pool=Pool(settings.pool_size, settings.pool_recycle, settings.engine_idle_ttl),
            owner=caller,
        )

    def register(self, owner: Caller, registration: Registration) -> None:
        """Keep *owner*'s registration, of `prepare`. Raises TooMany, and BadParameter where the name was taken."""
        key = _key(owner, registration.name)
        if self._registered.find(owner, key):
            raise BadParameter(f"there is a connection named {registration.name!r} already")
        self._registered.add(owner, registration, key)
        self._targets[registration.target] += 1

    async def remove(self, caller: Caller, name: str) -> Registration:
        """Forget *caller*'s own connection. Raises UnknownConnection, and BadParameter for the server's own."""
        registration = self.get(caller, name)
        if registration.owner is None:
            raise BadParameter(f"{name!r} is the server's own connection; only what you registered can be removed")
        await self._registered.remove(_key(caller, name), "was removed")
        return registration

    def is_needed(self, target: Target) -> bool:
        """Does any registration lead to *target*?"""
        return self._targets[target] > 0

    def count(self) -> int:
        """Registrations of all callers together."""
        return len(self._registered)

    noun: ClassVar[str] = "connection"

    def of(self, caller: Caller) -> list[tuple[str, Registration, float]]:
        """What *caller* registered: name, registration, and the seconds left if nobody uses it."""
        return [(registration.name, registration, left) for _, registration, left in self._registered.of(caller)]

    async def release(self, caller: Caller) -> None:
        await self._registered.release(caller)

    async def sweep(self) -> None:
        await self._registered.sweep()

    async def aclose(self) -> None:
        await self._registered.aclose()

    async def _end(self, registration: Registration) -> None:
        self._targets[registration.target] -= 1
        is_last = not self.is_needed(registration.target)
        if is_last:
            del self._targets[registration.target]
        await self._left(registration, is_last)


async def _nothing(_registration: Registration, _is_last: bool) -> None:  # noqa: FBT001
    pass


def _key(caller: Caller, name: str) -> str:
    return f"{caller.kind}\x00{caller.key}\x00{name}" if caller.is_known else name


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
        target=Target(dialect, url),
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
    first: dict[Target, Registration] = {}
    for registration in registrations:
        other = first.setdefault(registration.target, registration)
        if other.pool != registration.pool:
            raise SettingsError(
                f"{settings.place('connections', registration.name)}: names the same database as "
                f"connections.{other.name}, with another pool_size, pool_recycle or engine_idle_ttl"
            )
