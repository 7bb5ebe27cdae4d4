"""Where a connection may go: names and addresses, checked as written and again as resolved; TLS that knows the name."""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from sqlalchemy import URL

from manydb.dialects.base import causes
from manydb.errors import Forbidden, SettingsError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""A host name and a port → its addresses now, as ``getaddrinfo`` does it. Raises OSError."""

_RESOLVE_SECONDS = 5.0
MOST_ADDRESSES = 4
"""How many addresses of a name are tried before it counts as unreachable."""

LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
PRIVATE = (
    IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"), IPv6Network("fc00::/7"),
)  # fmt: skip
# Special-purpose ranges without databases (IANA's registries): "public" does not mean them.
SPECIAL = (
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
METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# What a resolver takes for a number, in whatever base.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def literal(host: str) -> Address | None:
    """The address that *host* is, in its usual notation; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_name(host: str) -> bool:
    """A host name that no resolver takes for an address in octal, hexadecimal or with parts left out."""
    labels = host.split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not _NUMBER.fullmatch(labels[-1])


def require_possible(address: Address) -> Address:
    """The address that counts, which NAT64 hides in another. Raises Forbidden for what no policy can allow."""
    for what, networks in _NEVER:
        if within(address, networks):
            raise Forbidden(f"the host is {what}, to which no connection goes")
    if isinstance(address, IPv6Address) and address in _NAT64:
        # How networks without IPv4 reach it.
        return require_possible(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address


async def resolved(host: str, port: int, resolver: Resolver | None = None) -> Sequence[Address]:
    """The addresses of *host* now; a literal is its own. Raises OSError where the name is not known."""
    address = literal(host)
    if address is not None:
        return (address,)
    async with asyncio.timeout(_RESOLVE_SECONDS):
        found = await (resolver or _getaddrinfo)(host, port)
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    return found


async def _getaddrinfo(host: str, port: int) -> list[Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(address[0]) for *_, address in found]


# -- dialling --------------------------------------------------------------------------------------------------------


def pinned(url: URL, parameters: Mapping[str, Any], address: Address) -> dict[str, Any]:
    """The driver's *parameters*, with *address* in the place of the host's name."""
    # libpq dials hostaddr and verifies host; the other drivers have one parameter for both.
    name = "hostaddr" if url.get_driver_name().startswith("psycopg") else "host"
    return {**parameters, name: str(address)}


def expect(context: Any, host: str) -> None:
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


def first(addresses: Sequence[Address], connect: Callable[[Address], Any]) -> Any:
    """The connection to the first of *addresses* that is reached; one that refuses us is not followed by another."""
    for address in addresses[:-1]:
        try:
            return connect(address)
        except Exception as exc:  # drivers wrap what the network says in errors of their own
            if not any(isinstance(cause, OSError) for cause in causes(exc)):
                raise
    return connect(addresses[-1])


# -- settings --------------------------------------------------------------------------------------------------------


def network(text: str) -> Network:
    """Raises SettingsError."""
    try:
        return ip_network(text)
    except ValueError:
        raise SettingsError(f"networks: {text!r} is neither CIDR nor one of public, private, loopback") from None


def ports(entry: str | int) -> range:
    """Raises SettingsError."""
    low, _, high = str(entry).partition("-")
    high = high or low
    if low.isascii() and low.isdigit() and high.isascii() and high.isdigit() and 1 <= int(low) <= int(high) <= 65_535:
        return range(int(low), int(high) + 1)
    raise SettingsError(f"ports: {entry!r} is neither a port nor a range such as 5432-5439")


def spoken(allowed: Iterable[range]) -> str:
    """Ports as people write them."""
    texts = (f"{each[0]}" if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in allowed)
    return ", ".join(texts) or "none"
