"""Who is asking. The protocol has no sessions any more, so state belongs to a caller."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fastmcp import Context


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
    # The shell has a gateway too, and should not wait a second for FastMCP.
    from fastmcp.server.dependencies import get_access_token  # noqa: PLC0415
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS  # noqa: PLC0415

    if token := get_access_token():
        claims = token.claims or {}
        return Caller(
            "principal",
            "\x00".join(str(part or "") for part in (claims.get("iss"), token.client_id, claims.get("sub"))),
        )
    if ctx.transport in {None, "stdio"}:
        # In memory and over stdio one client owns the process.
        return PROCESS
    request = ctx.request_context
    if request is not None and request.protocol_version not in MODERN_PROTOCOL_VERSIONS and ctx.session_id:
        return Caller("session", ctx.session_id)
    return NOBODY
