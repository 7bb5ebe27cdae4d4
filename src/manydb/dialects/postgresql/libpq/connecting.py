"""A connection of psycopg's: its arguments, none of which the gateway's environment or home fills in; and its end."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

_NOWHERE = f"{os.devnull}/none"  # a file that libpq does not find, and does not complain about


def arguments(
    connect: Callable[..., Awaitable[Any]], query: Mapping[str, str], settings: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """For psycopg's *connect*: each that a PG* variable or a file of the home could otherwise fill in.

    *query* are a URL's options, *settings* those of the session.
    """
    escaped = {name: value.replace("\\", "\\\\").replace(" ", "\\ ") for name, value in settings.items()}
    mode, root = query["sslmode"], query.get("sslrootcert")
    return {
        "passfile": _NOWHERE,
        "hostaddr": "",
        "connect_timeout": max(1, round(seconds)),  # 0 would be for ever
        "application_name": settings["application_name"],
        "options": " ".join(f"-c {name}={value}" for name, value in escaped.items() if name != "application_name"),
        "client_encoding": "utf8",
        "sslmode": mode,
        "sslrootcert": _file(root) or (_system_roots(mode) if mode.startswith("verify") else _NOWHERE),
        "sslcertmode": "allow" if "sslcert" in query else "disable",
        "sslcert": _file(query.get("sslcert")),
        "sslkey": _file(query.get("sslkey")),
        "sslcrl": _NOWHERE,
        "sslnegotiation": "postgres",
        "channel_binding": "prefer",
        "gssencmode": "disable",
        "requirepeer": "",
        "require_auth": "",
        "target_session_attrs": query.get("target_session_attrs", "any"),
        "prepare_threshold": None,
        "async_creator_fn": _whole(connect),
    }


def _file(path: str | None) -> str:
    return str(Path(path).expanduser()) if path else ""


def _system_roots(mode: str) -> str:
    """The system's certificates: the libpq that psycopg brings would look where another system has them."""
    return ssl.get_default_verify_paths().cafile or ("system" if mode == "verify-full" else _NOWHERE)


def _whole(connect: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """*connect*, which leaves nothing open where it is cancelled: psycopg would, until the garbage is collected."""

    async def connected(*args: Any, **kwargs: Any) -> Any:
        connecting = asyncio.ensure_future(connect(*args, **kwargs))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close)
            raise

    return connected


def _close(connecting: asyncio.Future[Any]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().pgconn.finish()
