"""Parameters that several tools share, spelled once; and how a tool answers."""

import secrets
from collections.abc import Iterable
from typing import Annotated, Any, cast

import orjson
from fastmcp import Context
from fastmcp.tools import ToolResult
from mcp_types import TextContent
from pydantic import BeforeValidator, Field, PrivateAttr
from pydantic.json_schema import SkipJsonSchema

from manydb import callers, slices
from manydb.batches import Batches
from manydb.callers import Caller
from manydb.exports import Exports
from manydb.gateway import Gateway
from manydb.jobs import Jobs
from manydb.registrations import Registrations
from manydb.rows import Rows
from manydb.writes import Writes

# A parameter that is left out may also come as null; its schema need not say so in every tool.
Nothing = SkipJsonSchema[None]


def _parsed(value: Any) -> Any:
    """JSON that a client sent as a string, where an object or a list is meant; blank text and "null" are nothing."""
    if not isinstance(value, str):
        return value
    if value.strip() in {"", "null"}:
        return None
    if value.lstrip()[0] in "{[":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _listed(value: Any) -> Any:
    """Several tables in one text, as JSON or between commas; a quoted name may hold a comma."""
    parsed = _parsed(value)
    if isinstance(parsed, str) and "," in parsed and not _QUOTES.intersection(parsed):
        return [name.strip() for name in parsed.split(",") if name.strip()]
    return parsed


_QUOTES = frozenset("\"'`[")

AsJson = BeforeValidator(_parsed)

Connection = Annotated[str | Nothing, Field(description="Name from list_connections; optional if there is one")]
Schema = Annotated[str | Nothing, Field(description="Only this schema")]
Limit = Annotated[int, Field(ge=1, le=1000)]
Params = Annotated[
    dict[str, Any] | list[Any] | Nothing,
    BeforeValidator(_parsed),
    Field(description='Object for :name, list for ? placeholders; dates as ISO text, bytes as {"$bytes": base64}'),
]
# The bounds stand inside the union: around it they would be asked of a null as well.
RowCap = Annotated[Annotated[int, Field(ge=1)] | Nothing, Field(description="Most rows to return (usually 100)")]
Seconds = Annotated[float, Field(gt=0)] | Nothing
Offset = Annotated[
    Annotated[int, Field(ge=0)] | Nothing, Field(description="First row, from 0; default: where the first page ended")
]
TransactionId = Annotated[str | Nothing, Field(description="Inside this open transaction")]
Confirm = Annotated[str | Nothing, Field(description="Token of the preview")]
Tables = Annotated[
    Annotated[str, Field(max_length=500)] | list[str],
    BeforeValidator(_listed),
    Field(description="schema.table or table; up to 10 as a list"),
]


def gateway(ctx: Context) -> Gateway:
    """The gateway of the running server."""
    return cast("Gateway", ctx.lifespan_context["gateway"])


def caller(ctx: Context) -> Caller:
    """Who is asking. What a session holds is released when it ends, so every tool asks here."""
    found = callers.resolve(ctx)
    callers.watch(ctx, found, gateway(ctx).release)
    return found


def registrations(ctx: Context) -> Registrations:
    """What callers may register with the running server."""
    return cast("Registrations", ctx.lifespan_context["registrations"])


def writes(ctx: Context) -> Writes:
    """What may be written through the running server."""
    return cast("Writes", ctx.lifespan_context["writes"])


def batches(ctx: Context) -> Batches:
    """The batches of the running server."""
    return cast("Batches", ctx.lifespan_context["batches"])


def jobs(ctx: Context) -> Jobs:
    """The jobs of the running server."""
    return cast("Jobs", ctx.lifespan_context["jobs"])


def exports(ctx: Context) -> Exports:
    """The exports of the running server."""
    return cast("Exports", ctx.lifespan_context["exports"])


def rows(ctx: Context) -> Rows:
    """The rows of the running server's tables."""
    return cast("Rows", ctx.lifespan_context["rows"])


def answer(found: Gateway, text: str | dict[str, Any]) -> ToolResult:
    """One compact text block; a structured copy only where the settings ask for it."""
    content = text if isinstance(text, str) else orjson.dumps(text).decode()
    structured = None
    if found.settings.structured:
        try:
            structured = orjson.loads(content) if isinstance(text, str) else text
        except orjson.JSONDecodeError:
            structured = {"text": content}
    return _reply(content, structured)


class LongReply(ToolResult):
    """One text block in *pieces*, none of which takes long to write; `to_mcp_result` joins them.

    Until then *content* has PLACE where the text is to stand.
    """

    _pieces: list[str] = PrivateAttr()

    def __init__(self, pieces: list[str]) -> None:
        super().__init__(content=[TextContent(type="text", text=PLACE)])
        self._pieces = pieces

    @property
    def pieces(self) -> list[str]:
        return self._pieces

    def to_mcp_result(self) -> Any:
        return [TextContent(type="text", text="".join(self._pieces))]


PLACE = secrets.token_hex(16)
_LONG = 256 * 1024
"""Characters; a reply of fewer is written at once."""


async def answer_pieces(found: Gateway, pieces: Iterable[str]) -> ToolResult:
    """As `answer`, of a text of any length."""
    made = await slices.gathered(pieces)
    if len(made) == 1 or found.settings.structured or sum(map(len, made)) < _LONG:
        return answer(found, "".join(made))
    return LongReply(made)


def _reply(content: str, structured: Any) -> ToolResult:
    # A block of ours: FastMCP would look for what else the text might be.
    return ToolResult(content=[TextContent(type="text", text=content)], structured_content=structured)
