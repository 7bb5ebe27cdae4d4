"""The first answers over stdio, while the server that they speak for is still to be imported.

Clients shake hands and list the tools at their own start; both answers are known beforehand (see `manydb.manifest`).
The server is loaded when the client falls silent or wants anything else. It hears all that was said but the requests
that were answered here; the first of these it hears too, for it decides the era of the protocol, and that answer is not
sent again.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeGuard, cast

from manydb import pipes
from manydb.manifest import Manifest
from manydb.pipes import Client

Serve = Callable[[Client], Awaitable[None]]

_QUIET_SECONDS = 0.1
"""Clients say their first words one right after the other; loading in between would slow down the answers."""
_DEEPEST = 5
_IDENTITY = {"name", "version", "title", "description", "websiteUrl"}
_VERSION, _CLIENT, _CAPABILITIES = (
    f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientInfo", "clientCapabilities")
)


async def serve(manifest: Manifest, load: Callable[[], Serve]) -> None:
    """Serve one client over standard input and output, until input ends or a signal comes.

    *load* is called in a thread; what it returns takes over.
    """
    async with pipes.standard() as client:
        reception = Reception(client, manifest)
        if take_over := await reception.attend(load):
            await take_over(Client(reception, reception.send, client.stop))


class Reception:
    """Hears a client first. Whoever takes over reads its lines here, and sends through `send`."""

    def __init__(self, client: Client, manifest: Manifest) -> None:
        self._client = client
        self._manifest = manifest
        self._kept: deque[bytes | ValueError] = deque()
        """What the server is to hear."""
        self._next: asyncio.Task[bytes] | None = None
        self._opening: str | int | None = None
        """The number of the first request, if it was answered here, until the server has answered it too."""
        self._is_modern = False
        self._is_wanted = False
        self._has_ended = False

    async def attend(self, load: Callable[[], Serve]) -> Serve | None:
        """Answer what is known until *load* is done; None where all was answered when the input ended."""
        stopped = asyncio.create_task(self._client.stop.wait())
        loading: asyncio.Task[Serve] | None = None
        is_quiet = False
        try:
            while not stopped.done() and (self._is_wanted or not self._has_ended):
                if loading is None and (self._is_wanted or is_quiet):
                    loading = asyncio.create_task(asyncio.to_thread(load))
                done = await self._first_of(stopped, loading, seconds=None if loading else _QUIET_SECONDS)
                is_quiet = not done
                if self._next in done:
                    await self._hear()
                if loading in done:
                    return await loading
        finally:
            stopped.cancel()
        return None

    async def _first_of(self, *others: asyncio.Task[Any] | None, seconds: float | None) -> set[asyncio.Task[Any]]:
        """What is done of the next line and *others*; nothing after so many seconds."""
        if self._next is None and not self._has_ended:
            self._next = asyncio.create_task(self._client.lines.readline())
        awaited = {each for each in (self._next, *others) if each is not None}
        done, _ = await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return done

    async def readline(self) -> bytes:
        """As `Lines` has it: what was kept here first, then the rest."""
        if self._kept:
            kept = self._kept.popleft()
            if isinstance(kept, ValueError):
                raise kept
            return kept
        if self._next is not None:
            begun, self._next = self._next, None
            return await begun
        return await self._client.lines.readline()

    async def send(self, line: bytes) -> None:
        """Send *line*, unless it is the first answer once more. An error is sent: it is news."""
        if self._opening is not None:
            said = json.loads(line)
            if said.get("id") == self._opening and "result" in said:
                self._opening = None
                return
        await self._client.send(line)

    async def _hear(self) -> None:
        begun, self._next = cast("asyncio.Task[bytes]", self._next), None
        try:
            line = begun.result()
        except ConnectionError:
            line = b""
        except ValueError as exc:  # a line that is too long; the server words it
            self._kept.append(exc)
            self._is_wanted = True
            return
        if not line:
            self._has_ended = True
            return
        message = _message(line)
        is_first = self._opening is None
        answer = self._answer(message)
        if answer is None or is_first:
            self._kept.append(line)
        if answer is not None:
            await self._say({"jsonrpc": "2.0", "id": message["id"], "result": answer})
        elif "id" in message or "method" not in message:  # not merely a notice
            self._is_wanted = True

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """What is known of the answer to *message*; None where the server must be asked."""
        number, method, params = message.get("id"), message.get("method"), message.get("params", {})
        if not _is_number(number) or not isinstance(params, dict):
            return None
        if self._opening is None:
            if self._kept:  # something else was first
                return None
            self._is_modern = method != "initialize"
        if self._is_modern:
            answer = self._modern_answer(method, params)
        elif self._opening is None:
            known = _is_plain_greeting(params) and params["protocolVersion"] in self._manifest.versions
            answer = {"protocolVersion": params["protocolVersion"], **self._manifest.greeting} if known else None
        else:
            answer = {"tools": self._manifest.tools} if method == "tools/list" and _is_plain_list(params) else None
        if answer is not None and self._opening is None:
            self._opening = number
        return answer

    def _modern_answer(self, method: Any, params: dict[str, Any]) -> dict[str, Any] | None:
        """Without a handshake: every request says who asks."""
        if self._manifest.discovery is None or not _is_plain_envelope(params):
            return None
        if params["_meta"][_VERSION] not in self._manifest.discovery["supportedVersions"]:
            return None
        return {"server/discover": self._manifest.discovery, "tools/list": self._manifest.page}.get(method)

    async def _say(self, answer: dict[str, Any]) -> None:
        try:
            await self._client.send(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        except OSError:
            self._client.stop.set()  # nobody reads any more


def _message(line: bytes) -> dict[str, Any]:
    """The message that *line* is; empty where it is none, or not one that is known here."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    is_known = isinstance(message, dict) and message.get("jsonrpc") == "2.0" and isinstance(message.get("method"), str)
    return message if is_known else {}


# What follows asks whether something is sound beyond doubt, so that the server will accept what was accepted here.


def _is_number(value: Any) -> TypeGuard[str | int]:
    # JSON can escape what UTF-8 cannot write: half a surrogate pair.
    return value.isascii() if isinstance(value, str) else isinstance(value, int) and not isinstance(value, bool)


def _is_plain_greeting(params: dict[str, Any]) -> bool:
    return (
        params.keys() == {"protocolVersion", "capabilities", "clientInfo"}
        and isinstance(params["protocolVersion"], str)
        and _is_plain_client(params["clientInfo"])
        and _is_plain(params["capabilities"])
    )


def _is_plain_list(params: dict[str, Any]) -> bool:
    meta = params.get("_meta", {})
    return params.keys() <= {"_meta"} and isinstance(meta, dict) and _are_plain_extras(meta)


def _is_plain_envelope(params: dict[str, Any]) -> bool:
    meta = params.get("_meta")
    if params.keys() != {"_meta"} or not isinstance(meta, dict):
        return False
    parts = {name: meta[name] for name in (_VERSION, _CLIENT, _CAPABILITIES) if name in meta}
    return (
        len(parts) == 3
        and isinstance(parts[_VERSION], str)
        and _is_plain_client(parts[_CLIENT])
        and _is_plain(parts[_CAPABILITIES])
        and _are_plain_extras({name: value for name, value in meta.items() if name not in parts})
    )


def _are_plain_extras(meta: dict[str, Any]) -> bool:
    return meta.keys() <= {"progressToken"} and all(map(_is_number, meta.values()))


def _is_plain_client(client: Any) -> bool:
    return (
        isinstance(client, dict)
        and {"name", "version"} <= client.keys() <= _IDENTITY
        and all(isinstance(text, str) for text in client.values())
    )


def _is_plain(capabilities: Any, deepest: int = _DEEPEST) -> bool:
    """Whether it is objects all the way down, and truth values where the protocol has them."""
    return (
        isinstance(capabilities, dict)
        and deepest > 0
        and all(
            isinstance(told, bool) if key == "listChanged" else _is_plain(told, deepest - 1)
            for key, told in capabilities.items()
        )
    )
