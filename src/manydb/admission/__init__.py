"""What a caller may register while the server runs: drivers, hosts, ports and files, checked as given and as connected.

    policy = AdmissionPolicy.of(networks=["public", "loopback"], directories=["/data"])
    admission = policy.admit(text)     # touches no network; of the file system only what lies beneath a directory
    admission.guard(engine)            # every connection the engine makes is checked again, by address or by file

A URL is a program for the driver: nothing of the caller's text reaches it but parts that were checked one by one. The
operator's own connections do not come this way (see `manydb.dialects.parse`).
"""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from itertools import chain
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from manydb import dialects
from manydb.admission import addresses, files, texts
from manydb.admission.addresses import Address, Network, Resolver
from manydb.admission.files import File, working_directory
from manydb.dialects import DIALECTS, Dialect
from manydb.errors import BadParameter, Forbidden, SettingsError
from manydb.settings import Settings

__all__ = ["Address", "Admission", "AdmissionPolicy", "Resolver", "working_directory"]


def _tried(dialect: Dialect) -> tuple[str, ...]:
    """SQLAlchemy's names of the drivers that hold what manydb promises; the one to prefer first."""
    return tuple(f"{dialect.name}+{driver}" for driver in (dialect.default_driver, *dialect.other_drivers))


_DRIVERS = frozenset(chain.from_iterable(map(_tried, DIALECTS)))


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """What the operator lets callers register. The default: public addresses, unprivileged ports, and no file.

    *drivers* are SQLAlchemy's ``backend+driver`` names; a URL that names none takes one of them. *hosts* are patterns
    (``*.example.com``) that a host must match as written, be it a name or an address. An address must be public,
    loopback or within *networks*. *directories* are where database files may lie, at any depth.
    """

    drivers: frozenset[str] = _DRIVERS
    hosts: tuple[str, ...] = ("*",)
    networks: tuple[Network, ...] = ()
    allow_public: bool = True
    allow_loopback: bool = False
    ports: tuple[range, ...] = (range(1024, 65_536),)
    directories: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        drivers: Iterable[str] = _DRIVERS,
        hosts: Iterable[str] = ("*",),
        networks: Iterable[str] = ("public",),
        ports: Iterable[str | int] = ("1024-65535",),
        directories: Iterable[str | Path] = (),
    ) -> Self:
        """From settings: *networks* are CIDR or ``public``, ``private``, ``loopback``; *ports* 5432 or ``5432-5439``.

        Raises SettingsError, which names the list and the entry.
        """
        words = list(networks)
        private = addresses.PRIVATE if "private" in words else ()
        named = (addresses.network(word) for word in words if word not in {"public", "private", "loopback"})
        return cls(
            drivers=frozenset(map(_driver, drivers)),
            hosts=tuple(host.lower() for host in hosts),
            networks=(*private, *named),
            allow_public="public" in words,
            allow_loopback="loopback" in words,
            ports=tuple(addresses.ports(entry) for entry in ports),
            directories=tuple(files.directory(entry) for entry in directories),
        )

    @classmethod
    def configured(cls, settings: Settings, *, local: bool) -> Self | None:
        """The policy of *settings*; None where nobody may register. *local*: one client on this machine is served.

        Raises SettingsError naming file and key.
        """
        if not (local if settings.registration is None else settings.registration):
            return None
        networks, directories = settings.registration_networks, settings.registration_directories
        try:
            return cls.of(
                drivers=_DRIVERS if settings.registration_drivers is None else settings.registration_drivers,
                hosts=settings.registration_hosts,
                networks=(["public", *(["loopback"] if local else [])]) if networks is None else networks,
                ports=settings.registration_ports,
                directories=(working_directory() if local else ()) if directories is None else directories,
            )
        except SettingsError as exc:
            name, _, rest = exc.message.partition(": ")
            raise SettingsError(f"{settings.place(f'registration_{name}')}: {rest}") from None

    def admit(self, text: str) -> "Admission":
        """The database that a caller's URL names. Raises BadParameter or Forbidden; neither quotes the URL.

        Names are not resolved and nothing is connected; a file is looked at only where it lies beneath a directory.
        """
        text = text.strip()
        texts.require_sound(text)
        scheme, separator, rest = text.partition("://")
        dialect, drivername = self._chosen(scheme)
        is_file = dialect.default_port is None and rest.startswith("/")
        text = f"{drivername}{separator}{rest}"
        given, written_port = texts.parsed(text, is_file=is_file)
        if is_file:
            spelling = given.database or ""
            texts.require_plain_path(spelling)
            dialect, url = dialects.parse(text)
            file = files.admitted(Path(url.database or ""), self.directories)
            return Admission(self, dialect, url.set(database=str(file.path)), file, spelling)
        dialect, url = dialects.parse(text)
        self._require_host(url.host or "")
        # As written, for 0 would become the default one.
        port = (url.port or 0) if written_port is None else written_port
        if not any(port in allowed for allowed in self.ports):
            raise Forbidden(
                f"the server's policy lets nobody register port {port}; allowed: {addresses.spoken(self.ports)}"
            )
        return Admission(self, dialect, url)

    def check_address(self, address: Address) -> None:
        """Raises Forbidden unless *address* is one that a connection may go to."""
        address = addresses.require_possible(address)
        if addresses.within(address, self.networks):
            return
        if addresses.within(address, addresses.LOOPBACK):
            if not self.allow_loopback:
                raise Forbidden("the host is this machine (loopback), which the server's policy lets nobody register")
        elif addresses.within(address, addresses.PRIVATE):
            raise Forbidden("the host is in a private network that the server's policy does not name")
        elif not self.allow_public or addresses.within(address, addresses.SPECIAL):
            raise Forbidden("the host is in none of the networks that the server's policy names")

    async def resolve(self, url: URL, resolver: Resolver | None = None) -> tuple[Address, ...]:
        """Where a connection to *url* may go now, every address checked: one that is refused refuses the name.

        Raises Forbidden, and OSError where the name is not known.
        """
        found = await addresses.resolved(url.host or "", url.port or 0, resolver)
        for address in found:
            self.check_address(address)
        return tuple(dict.fromkeys(found))[: addresses.MOST_ADDRESSES]

    def _chosen(self, scheme: str) -> tuple[Dialect, str]:
        """The dialect of an allowed scheme, and its ``backend+driver``: one that is named, or the first tried one.

        Asked before anything else: looking up an unknown driver would load code.
        """
        backend, _, driver = scheme.partition("+")
        for dialect in DIALECTS:
            if backend in dialect.schemes:
                named = (f"{dialect.name}+{driver}",) if driver else _tried(dialect)
                if allowed := [each for each in named if each in self.drivers]:
                    return dialect, allowed[0]
        if scheme in self.drivers:
            return Dialect(), scheme
        raise Forbidden(f"what can be registered here: {', '.join(sorted(self.drivers)) or 'nothing'}; {texts.EXAMPLE}")

    def _require_host(self, host: str) -> None:
        literal = addresses.literal(host)
        if literal is not None:
            self.check_address(literal)
        elif not addresses.is_name(host):
            raise BadParameter(
                "the host is a name or an address in its usual notation, such as 192.0.2.1 or [2001:db8::1]"
            )
        elif host in addresses.METADATA_NAMES:
            raise Forbidden("the host is a cloud's metadata service, to which no connection goes")
        elif host.rpartition(".")[2] == "localhost" and not self._reaches_loopback():
            raise Forbidden("the host is this machine (loopback), which the server's policy lets nobody register")
        if not any(fnmatch.fnmatchcase(host, pattern) for pattern in self.hosts):
            raise Forbidden(f"this server's policy does not name that host; allowed: {', '.join(self.hosts) or 'none'}")

    def _reaches_loopback(self) -> bool:
        return self.allow_loopback or addresses.within(IPv4Address("127.0.0.1"), self.networks)


@dataclass(frozen=True, slots=True)
class Admission:
    """A database that was admitted: *url* is canonical and holds the password. *spelling* is a file's path as written.

    Part of what an engine is known by: the operator's own connection to the same URL is not guarded, and a caller must
    not be lent its engine.
    """

    policy: AdmissionPolicy = field(repr=False)
    dialect: Dialect
    url: URL = field(repr=False)
    file: File | None = None
    spelling: str = field(default="", compare=False)

    def with_password(self, password: str) -> Self:
        """The same database for who has *password*. Raises BadParameter."""
        texts.require_printable(password)
        return replace(self, url=self.url.set(password=password))

    def guard(self, engine: AsyncEngine, resolver: Resolver | None = None) -> None:
        """Check every connection that *engine* makes from now on, when it is made.

        A name is resolved once for each connection, and what is dialled is the address that was checked; TLS goes on
        verifying the name. A file must still be the one that was admitted.
        """

        # SQLAlchemy's own hook for "how to connect": it runs for the first connection and for every later one.
        @event.listens_for(engine.sync_engine, "do_connect")
        def connect(dialect: Any, _record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
            if self.file is not None:
                return files.opened(self.file, lambda: dialect.connect(*args, **parameters))
            found = await_only(self.policy.resolve(self.url, resolver))
            addresses.expect(parameters.get("ssl"), self.url.host or "")
            return addresses.first(
                found, lambda address: dialect.connect(*args, **addresses.pinned(self.url, parameters, address))
            )


def _driver(name: str) -> str:
    """Raises SettingsError unless *name* is one that URLs can lead to."""
    try:
        _, url = dialects.parse(f"{name}:///x")
    except BadParameter as exc:
        raise SettingsError(f"drivers: {name!r}: {exc.message}") from None
    if url.drivername != name:
        raise SettingsError(f"drivers: {name!r} is written in full: {url.drivername}")
    return name
