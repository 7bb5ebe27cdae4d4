"""Who is asking. The protocol has no sessions any more, so state belongs to a caller."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fastmcp import Context
    from mcp.server.connection import Connection

_WATCHED = "manydb watches its end"  # key in a protocol connection's state


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of results and other handles; two requests of one caller make equal callers."""

    kind: Literal["principal", "process", "session", "nobody"]
    key: str

    @property
    def is_known(self) -> bool:
        """Whether a later request can be recognised as the same caller's."""
        return self.kind != "nobody"


PROCESS = Caller("process", "")
NOBODY = Caller("nobody", "")


def resolve(ctx: "Context") -> Caller:
    """The authenticated principal, else this process (stdio), else the handshake era's session, else nobody known."""
    if ctx.transport in {None, "stdio"}:
        # In memory and over stdio one client owns the process, and nobody logs in.
        return PROCESS
    # The shell has a gateway too, and should not wait a second for FastMCP.
    from fastmcp.server.dependencies import get_access_token  # noqa: PLC0415
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS  # noqa: PLC0415

    if token := get_access_token():
        claims = token.claims or {}
        return Caller(
            "principal",
            "\x00".join(str(part or "") for part in (claims.get("iss"), token.client_id, claims.get("sub"))),
        )
    request = ctx.request_context
    # The id that the server gave the session: a header may name anybody's.
    if request is not None and request.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        session_id = _connection(ctx).session_id
        if session_id:
            return Caller("session", session_id)
    return NOBODY


def watch(ctx: "Context", caller: Caller, ended: Callable[[Caller], Awaitable[None]]) -> None:
    """Await *ended*, once, when *caller*'s session ends: its client took leave, or was silent for too long.

    Other callers have no session to end, or one of many. The protocol library gives the end five seconds.
    """
    if caller.kind != "session":
        return
    connection = _connection(ctx)
    if _WATCHED not in connection.state:
        connection.state[_WATCHED] = True
        connection.exit_stack.push_async_callback(ended, caller)


def _connection(ctx: "Context") -> "Connection":
    # There is no public way to a session's end; see pyproject on fastmcp's version.
    return ctx.session._connection  # noqa: SLF001
