"""Where HTTP is listened for: addresses that strangers cannot reach, unless the operator says so, and their sockets."""

import errno
import ipaddress
import socket
import sys
from collections.abc import Sequence
from typing import Any

from manydb.errors import SettingsError
from manydb.settings import Settings

_BACKLOG = 2_048


def require_private_address(settings: Settings) -> None:
    """Raise SettingsError where others on the network could ask our databases without saying who they are."""
    if settings.allow_unauthenticated_network or _is_loopback(settings.host):
        return
    raise SettingsError(
        f"{settings.place('host')}: {settings.host} is open to the network, and manydb asks nobody who they are. "
        "Listen on 127.0.0.1, or set allow_unauthenticated_network = true (MANYDB_ALLOW_UNAUTHENTICATED_NETWORK) "
        "where something else in front of it keeps strangers out"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address that *host* has, all on one port. Raises SettingsError where one is taken."""
    listening: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            chosen = port or (listening[0].getsockname()[1] if listening else 0)
            made = socket.create_server((str(address[0]), chosen), family=family, backlog=_BACKLOG)
            listening.append(made)
            # Connections inherit it. Without it an answer's body waits 40 ms for the client to acknowledge its head;
            # asyncio sets it on sockets that say that they are TCP, and these do not.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as exc:
        for each in listening:
            each.close()
        reason = "the port is taken" if exc.errno == errno.EADDRINUSE else exc.strerror
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}; see --host and --port") from None
    return listening


def private_socket(path: str) -> socket.socket:
    """A Unix socket at *path*, in a folder that is nobody else's."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    made.listen(_BACKLOG)
    return made


class Handed(socket.socket):
    """Stands for a listening socket, to event loops: another process accepts the connections, and hands them through.

    Its own end is a stream with a byte for each; see `hand`.
    """

    def listen(self, backlog: int = 0, /) -> None:
        """Somebody else does."""

    def accept(self) -> tuple[socket.socket, Any]:
        _, files, _, _ = socket.recv_fds(self, 1, 1)
        if not files:
            raise BlockingIOError  # nobody hands anything through any more
        connection = socket.socket(fileno=files[0])
        try:
            return connection, connection.getpeername()
        except OSError as exc:  # the client has left already
            connection.close()
            raise ConnectionAbortedError from exc


def hand(connection: socket.socket, end: socket.socket) -> bool:
    """Hand *connection* to the process at the other *end*; False where that takes none."""
    try:
        return socket.send_fds(end, [b"c"], [connection.fileno()]) == 1
    except OSError:
        return False


def say(settings: Settings, listening: Sequence[socket.socket]) -> None:
    """Tell where clients find us, now that they do."""
    host, port = settings.host, listening[0].getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{settings.path}"
    # For people, at every log level; stderr, as everything that is not an answer.
    print(f"manydb: listening at {url}", file=sys.stderr, flush=True)  # noqa: T201
