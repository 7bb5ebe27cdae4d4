"""What a caller may register while the server runs: drivers, hosts, ports and files, checked as given and as connected.

No tool registers anything yet; this is the policy that the first one has to ask.

    policy = AdmissionPolicy.of(networks=["public", "loopback"], directories=["/data"])
    admission = policy.admit(text)     # touches no network; of the file system only what lies beneath a directory
    admission.guard(engine)            # every connection the engine makes is checked again, by address or by file

A URL is a program for the driver: nothing of the caller's text reaches it but parts that were checked one by one. The
operator's own connections do not come this way (see `manydb.dialects.parse`).
"""

import asyncio
import fnmatch
import os
import re
import socket
import sqlite3
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from manydb import dialects
from manydb.dialects import DIALECTS, Dialect
from manydb.dialects.base import causes
from manydb.errors import BadParameter, Forbidden, SettingsError

__all__ = ["Address", "Admission", "AdmissionPolicy", "Resolver", "working_directory"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""A host name and a port → its addresses now, as ``getaddrinfo`` does it. Raises OSError."""

_MAX_URL = 4_096
_RESOLVE_SECONDS = 5.0
_MOST_ADDRESSES = 4
"""How many addresses of a name are tried before it counts as unreachable."""

# One strict reading beside SQLAlchemy's lenient one, which takes an empty port, '#', and a second '@'.
_SERVER_URL = re.compile(
    r"(?P<scheme>[a-z0-9_+]+)://[^@/?#:]+(?::[^@/?#]*)?@(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"/[^@/?#]+(?:\?[^?#]*)?"
)
_FILE_URL = re.compile(r"(?P<scheme>[a-z0-9_+]+):///[^?#]+\??")
_EXAMPLE = (
    "postgresql://user:password@host:5432/database, with '@', '/', ':', '?', '#' and '%' percent-encoded in each part"
)
_FILE_EXAMPLE = "sqlite:////folder/file.db, with '?', '#' and '%' percent-encoded"

# Every spelling of an option that a caller may give, and the values it may take; whether the database has that option
# is the dialect's to say. What is missing reads local files, replaces checked parts, or undoes the gateway's limits.
_TLS_MODES = frozenset({"disable", "prefer", "require", "verify-ca", "verify-full"})
_OPTIONS: Mapping[str, Callable[[str], bool]] = {
    **dict.fromkeys(("ssl", "sslmode", "ssl-mode", "ssl_mode"), _TLS_MODES.__contains__),
    "prepared_statement_cache_size": lambda value: bool(re.fullmatch(r"[0-9]{1,4}", value)),
    "charset": {"utf8mb4"}.__contains__,
}

_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_PRIVATE = (
    IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"), IPv6Network("fc00::/7"),
)  # fmt: skip
# Special-purpose ranges without databases (IANA's registries): "public" does not mean them.
_SPECIAL = (
    IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv4Network("198.18.0.0/15"),
    IPv6Network("100::/64"), IPv6Network("2001::/23"), IPv6Network("5f00::/16"),
)  # fmt: skip
# Not even where the operator's own networks contain them.
_NEVER: tuple[tuple[str, tuple[Network, ...]], ...] = (
    ("a link-local address", (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"), IPv6Network("fec0::/10"))),
    (
        "a cloud's metadata service",
        (
            IPv4Network("100.100.100.200/32"),  # Alibaba
            IPv4Network("168.63.129.16/32"),  # Azure's host agent
            IPv4Network("192.0.0.192/32"),  # Oracle
            IPv6Network("fd00:ec2::/32"),  # AWS
            IPv6Network("fd20:ce::254/128"),  # Google
            IPv6Network("fd00:42::42/128"),  # Scaleway
        ),
    ),
    ("no address of a single host", (IPv4Network("0.0.0.0/8"), IPv4Network("224.0.0.0/3"), IPv6Network("ff00::/8"))),
    # Other spellings of IPv4 addresses, which tunnels and kernels turn back into what was refused; "::" is among them.
    (
        "an IPv4 address in disguise",
        (
            *IPv6Network("::/96").address_exclude(IPv6Network("::1/128")), IPv6Network("::ffff:0:0/96"),
            IPv6Network("::ffff:0:0:0/96"), IPv6Network("2002::/16"), IPv6Network("2001::/32"),
            IPv6Network("64:ff9b:1::/48"),
        ),
    ),
)  # fmt: skip
_NAT64 = IPv6Network("64:ff9b::/96")
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# What a resolver takes for a number, in whatever base.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NEVER_FOLDERS = tuple(Path(folder) for folder in ("/proc", "/dev", "/sys"))
_SMALLEST_DATABASE = 100
"""Bytes of the header of a SQLite file."""

_DRIVERS = frozenset(f"{dialect.name}+{dialect.default_driver}" for dialect in DIALECTS)


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """What the operator lets callers register. The default: public addresses, unprivileged ports, and no file.

    *drivers* are SQLAlchemy's ``backend+driver`` names. *hosts* are patterns (``*.example.com``) that a host must match
    as written, be it a name or an address. An address must be public, loopback or within *networks*. *directories* are
    where database files may lie, at any depth.
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
        private = _PRIVATE if "private" in words else ()
        return cls(
            drivers=frozenset(drivers),
            hosts=tuple(host.lower() for host in hosts),
            networks=(*private, *(_network(word) for word in words if word not in {"public", "private", "loopback"})),
            allow_public="public" in words,
            allow_loopback="loopback" in words,
            ports=tuple(_ports(entry) for entry in ports),
            directories=tuple(_directory(entry) for entry in directories),
        )

    def admit(self, text: str) -> "Admission":
        """The database that a caller's URL names. Raises BadParameter or Forbidden; neither quotes the URL.

        Names are not resolved and nothing is connected; a file is looked at only where it lies beneath a directory.
        """
        text = text.strip()
        _require_sound_text(text)
        dialect = self._dialect(text.partition("://")[0])
        is_file = dialect.default_port is None and text.partition("://")[2].startswith("/")
        shape = (_FILE_URL if is_file else _SERVER_URL).fullmatch(text)
        if not shape:
            raise BadParameter(
                f"this is not a URL that can be registered; write {_FILE_EXAMPLE if is_file else _EXAMPLE}"
            )
        try:
            given = make_url(text)
        except (ArgumentError, ValueError):
            # Not chained: SQLAlchemy's message may quote the text, password and all.
            raise BadParameter(f"this is not a database URL; write {_EXAMPLE}") from None
        _require_printable_parts(given)
        _require_allowed_options(given)
        if is_file:
            _require_plain_path(given.database or "")
            dialect, url = dialects.parse(text)
            file = self._file(Path(url.database or ""))
            return Admission(self, dialect, url.set(database=str(file.path)), file)
        dialect, url = dialects.parse(text)
        self._require_host(url.host or "")
        # As written, for 0 would become the default one.
        port = int(shape["port"] or url.port or 0)
        if not any(port in ports for ports in self.ports):
            raise Forbidden(f"the server's policy lets nobody register port {port}; allowed: {_spoken(self.ports)}")
        return Admission(self, dialect, url)

    def check_address(self, address: Address) -> None:
        """Raises Forbidden unless *address* is one that a connection may go to."""
        for what, networks in _NEVER:
            if _within(address, networks):
                raise Forbidden(f"the host is {what}, to which no connection goes")
        if isinstance(address, IPv6Address) and address in _NAT64:
            # How networks without IPv4 reach it: the address that counts is inside.
            self.check_address(IPv4Address(int(address) & 0xFFFF_FFFF))
        elif _within(address, self.networks):
            return
        elif _within(address, _LOOPBACK):
            if not self.allow_loopback:
                raise Forbidden("the host is this machine (loopback), which the server's policy lets nobody register")
        elif _within(address, _PRIVATE):
            raise Forbidden("the host is in a private network that the server's policy does not name")
        elif not self.allow_public or _within(address, _SPECIAL):
            raise Forbidden("the host is in none of the networks that the server's policy names")

    async def resolve(self, url: URL, resolver: Resolver | None = None) -> tuple[Address, ...]:
        """Where a connection to *url* may go now, every address checked: one that is refused refuses the name.

        Raises Forbidden, and OSError where the name is not known.
        """
        host = url.host or ""
        literal = _literal(host)
        if literal is not None:
            addresses: Sequence[Address] = (literal,)
        else:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                addresses = await (resolver or _getaddrinfo)(host, url.port or 0)
        for address in addresses:
            self.check_address(address)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return tuple(dict.fromkeys(addresses))[:_MOST_ADDRESSES]

    def _dialect(self, scheme: str) -> Dialect:
        """The dialect of an allowed scheme. Asked first: looking up an unknown driver would load code."""
        backend, _, driver = scheme.partition("+")
        for dialect in DIALECTS:
            if backend in dialect.schemes and f"{dialect.name}+{driver or dialect.default_driver}" in self.drivers:
                return dialect
        if scheme in self.drivers:
            return Dialect()
        raise Forbidden(f"what can be registered here: {', '.join(sorted(self.drivers)) or 'nothing'}; {_EXAMPLE}")

    def _require_host(self, host: str) -> None:
        literal = _literal(host)
        if literal is not None:
            self.check_address(literal)
        elif not _is_name(host):
            raise BadParameter(
                "the host is a name or an address in its usual notation, such as 192.0.2.1 or [2001:db8::1]"
            )
        elif host in _METADATA_NAMES:
            raise Forbidden("the host is a cloud's metadata service, to which no connection goes")
        elif host.rpartition(".")[2] == "localhost" and not self._reaches_loopback():
            raise Forbidden("the host is this machine (loopback), which the server's policy lets nobody register")
        if not any(fnmatch.fnmatchcase(host, pattern) for pattern in self.hosts):
            raise Forbidden(f"this server's policy does not name that host; allowed: {', '.join(self.hosts) or 'none'}")

    def _reaches_loopback(self) -> bool:
        return self.allow_loopback or _within(IPv4Address("127.0.0.1"), self.networks)

    def _file(self, path: Path) -> "_File":
        """The database file that *path* leads to. Raises Forbidden or BadParameter, which name no path."""
        # First as written, so that a path elsewhere is not even looked at: that could mount, block or tell what exists.
        if not _beneath(path, [*self.directories, *(_real(folder) for folder in self.directories)]):
            raise Forbidden(f"files are registered from {_folders(self.directories)}")
        real = _real(path)
        if not _beneath(real, [_real(folder) for folder in self.directories]):
            raise Forbidden("the file is a link that leads out of the directories whose files can be registered")
        file = _File.at(real)
        if file is None:
            raise BadParameter("there is no such database file; registering never makes one")
        _require_database(real)
        return file


@dataclass(frozen=True, slots=True)
class Admission:
    """A database that was admitted: *url* is canonical and holds the password.

    Part of what an engine is known by: the operator's own connection to the same URL is not guarded, and a caller must
    not be lent its engine.
    """

    policy: AdmissionPolicy = field(repr=False)
    dialect: Dialect
    url: URL = field(repr=False)
    file: "_File | None" = None

    def guard(self, engine: AsyncEngine, resolver: Resolver | None = None) -> None:
        """Check every connection that *engine* makes from now on, when it is made.

        A name is resolved once for each connection, and what is dialled is the address that was checked; TLS goes on
        verifying the name. A file must still be the one that was admitted.
        """

        # SQLAlchemy's own hook for "how to connect": it runs for the first connection and for every later one.
        @event.listens_for(engine.sync_engine, "do_connect")
        def connect(dialect: Any, _record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
            if self.file is not None:
                return _open(self.file, lambda: dialect.connect(*args, **parameters))
            addresses = await_only(self.policy.resolve(self.url, resolver))
            _expect(parameters.get("ssl"), self.url.host or "")
            return _first(addresses, lambda address: dialect.connect(*args, **_pinned(self.url, parameters, address)))


@dataclass(frozen=True, slots=True)
class _File:
    """A regular file: its real path, and the device and inode that it is."""

    path: Path = field(repr=False)
    device: int
    inode: int

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """None where there is no regular file. Never opens it: a fifo would block, a device might act."""
        try:
            status = path.lstat()
        except (OSError, ValueError):
            return None
        return cls(path, status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None

    def require_unchanged(self) -> None:
        if _real(self.path) != self.path or self.at(self.path) != self:
            raise Forbidden("the database file is no longer the one that was registered; register it again")


def _open(file: _File, connect: Callable[[], Any]) -> Any:
    """A connection to *file*: checked before, so that nothing else is opened, and after, so that nothing else was."""
    file.require_unchanged()
    connection = connect()
    try:
        file.require_unchanged()
    except Forbidden:
        connection.close()
        raise
    return connection


def working_directory() -> tuple[Path, ...]:
    """The directory that a local client's server runs in, as the only one to register files from.

    None where that would be everything: clients start servers in ``/``, and in the home directory, where browsers and
    mail programs keep their SQLite files.
    """
    folder, home = Path.cwd().resolve(), Path.home().resolve()
    return () if folder in {home, *home.parents} else (folder,)


# -- the text --------------------------------------------------------------------------------------------------------


def _require_sound_text(text: str) -> None:
    if not text or len(text) > _MAX_URL or not text.isprintable():
        raise BadParameter(f"a database URL has up to {_MAX_URL} printable characters, such as {_EXAMPLE}")
    try:
        decoded = unquote(text, errors="strict")
        decoded.encode()
    except UnicodeError:
        raise BadParameter("what is percent-encoded in a URL is UTF-8") from None


def _require_printable_parts(url: URL) -> None:
    parts = (url.username, url.password, url.database)
    # Wire protocols end a text at NUL; nothing else that is unseen has business in a name either.
    if not all(part.isprintable() for part in parts if part):
        raise BadParameter("user, password and database consist of printable characters")


def _require_allowed_options(url: URL) -> None:
    for option, value in url.query.items():
        allows = _OPTIONS.get(option)
        if allows is None or not isinstance(value, str) or not allows(value):
            raise Forbidden(
                "the options that a registered URL may have are sslmode (disable, prefer, require, verify-ca, "
                "verify-full), prepared_statement_cache_size and charset=utf8mb4, each where the database knows it"
            )


def _require_plain_path(path: str) -> None:
    if not path or path.startswith(("//", ":", "file:", "~")) or "\\" in path or ".." in Path(path).parts:
        raise BadParameter("a database file is named by its path, without '..', '~', 'file:' or a server's name")


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    """A host name that no resolver takes for an address in octal, hexadecimal or with parts left out."""
    labels = host.split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not _NUMBER.fullmatch(labels[-1])


# -- addresses -------------------------------------------------------------------------------------------------------


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


async def _getaddrinfo(host: str, port: int) -> list[Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(address[0]) for *_, address in found]


def _pinned(url: URL, parameters: Mapping[str, Any], address: Address) -> dict[str, Any]:
    # libpq dials hostaddr and verifies host; the other drivers have one parameter for both.
    name = "hostaddr" if url.get_driver_name().startswith("psycopg") else "host"
    return {**parameters, name: str(address)}


def _expect(context: Any, host: str) -> None:
    """Let *context* ask for and verify the certificate of *host*, whatever address the driver believes it talks to."""
    if not isinstance(context, ssl.SSLContext):
        return

    def wrap_bio(
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the signature is ssl's
        server_hostname: str | bytes | None = None,  # noqa: ARG001
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return ssl.SSLContext.wrap_bio(context, incoming, outgoing, server_side, host, session)

    context.wrap_bio = wrap_bio  # type: ignore[method-assign]  # of this context alone; asyncio and uvloop both call it


def _first(addresses: Sequence[Address], connect: Callable[[Address], Any]) -> Any:
    """The connection to the first of *addresses* that is reached; one that refuses us is not followed by another."""
    for address in addresses[:-1]:
        try:
            return connect(address)
        except Exception as exc:  # drivers wrap what the network says in errors of their own
            if not any(isinstance(cause, OSError) for cause in causes(exc)):
                raise
    return connect(addresses[-1])


# -- files -----------------------------------------------------------------------------------------------------------


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _beneath(path: Path, folders: Iterable[Path]) -> bool:
    if any(path.is_relative_to(folder) for folder in _NEVER_FOLDERS):
        return False
    return any(path != folder and path.is_relative_to(folder) for folder in folders)


def _require_database(path: Path) -> None:
    """Raises BadParameter unless *path* begins as a SQLite file does.

    Asks SQLite instead of reading the file: where this process has the database open, closing another descriptor of it
    would drop SQLite's locks (POSIX; "How To Corrupt An SQLite Database File", 2.2). As immutable, nothing is locked,
    recovered or created beside the file.
    """
    refusal = BadParameter("the file is not a SQLite database")
    if path.stat().st_size < _SMALLEST_DATABASE:
        raise refusal
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as file:
            file.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error:
        raise refusal from None


# -- settings --------------------------------------------------------------------------------------------------------


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        raise SettingsError(f"networks: {text!r} is neither CIDR nor one of public, private, loopback") from None


def _ports(entry: str | int) -> range:
    first, _, last = str(entry).partition("-")
    if first.isascii() and first.isdigit() and (last or first).isascii() and (last or first).isdigit():
        low, high = int(first), int(last or first)
        if 1 <= low <= high <= 65_535:
            return range(low, high + 1)
    raise SettingsError(f"ports: {entry!r} is neither a port nor a range such as 5432-5439")


def _directory(entry: str | Path) -> Path:
    folder = Path(entry).expanduser()
    if not folder.is_absolute() or ".." in folder.parts:
        raise SettingsError(f"directories: {str(entry)!r} is not an absolute path")
    return folder


def _spoken(ports: Iterable[range]) -> str:
    spoken = (f"{each[0]}" if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in ports)
    return ", ".join(spoken) or "none"


def _folders(directories: Sequence[Path]) -> str:
    return (
        "the directories that the server's policy names" if directories else "nowhere: the server's policy names none"
    )
