"""Which calls the lane takes, and how it answers them."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastmcp import Context, FastMCP
from fastmcp.server.dependencies import without_injected_parameters
from fastmcp.server.middleware.dereference import DereferenceRefsMiddleware
from fastmcp.tools import FunctionTool, ToolResult
from fastmcp.utilities.types import get_cached_typeadapter
from mcp.server.runner import modern_error_data
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
    CallToolRequestParams,
    CallToolResult,
    JSONRPCRequest,
    RequestId,
)
from mcp_types.methods import serialize_server_result, validate_client_request
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
from pydantic import TypeAdapter

from manydb.answers import Answer
from manydb.server import Arguments, kindly
from manydb.settings import Settings
from manydb.tools import TOOLS
from manydb.tools.parameters import LongReply

Call = Callable[[], Coroutine[Any, Any, Answer]]
"""A call that was taken: awaited, it runs and is answered."""

CALL = "tools/call"
_GROUP = "core"
"""Its tools need nothing but the caller and their arguments: they neither ask back nor report progress."""
_PARAMS = {"name", "arguments", "_meta"}
_META = {PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY, "progressToken"}


@dataclass(frozen=True, slots=True)
class _Tool:
    function: Callable[..., Awaitable[ToolResult]]
    parameters: list[str]
    arguments: TypeAdapter[dict[str, Any]]
    """Reads arguments as FastMCP does before it calls the function."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Takes calls that *server* need not see: plain ones, of *tools*, with arguments in order."""

    server: FastMCP[Any]
    tools: Mapping[str, _Tool]

    def take(self, request: JSONRPCRequest, version: str) -> Call | None:
        """The call that *request* of protocol *version* is; None where FastMCP must see it."""
        params = request.params or {}
        name = params.get("name")
        tool = self.tools.get(name) if request.method == CALL and isinstance(name, str) else None
        if tool is None or not params.keys() <= _PARAMS or not self._is_plain(params.get("_meta", {})):
            return None
        try:
            validate_client_request(CALL, version, params)
            given = CallToolRequestParams.model_validate(params, by_name=False).arguments or {}
            arguments = tool.arguments.validate_python(kindly(given, tool.parameters))
        except (ValueError, KeyError):  # FastMCP words the error, and logs it
            return None
        return partial(self._answer, request.id, version, tool.function, arguments)

    def _is_plain(self, meta: Any) -> bool:
        """Whether *meta* asks nothing of anybody but the tool, and nobody records spans."""
        if not isinstance(meta, dict) or not meta.keys() <= _META:
            return False
        capabilities = meta.get(CLIENT_CAPABILITIES_META_KEY)
        # The server's extensions may answer the calls of clients that speak them.
        if isinstance(capabilities, dict) and capabilities.get("extensions") and self.server._extensions:  # noqa: SLF001 - see pyproject on fastmcp's version
            return False
        return isinstance(get_tracer_provider(), ProxyTracerProvider)

    async def _answer(
        self,
        number: RequestId,
        version: str,
        function: Callable[..., Awaitable[ToolResult]],
        arguments: dict[str, Any],
    ) -> Answer:
        try:
            reply = await function(Context(self.server), **arguments)
            result = CallToolResult(
                content=reply.content, structured_content=reply.structured_content, is_error=reply.is_error
            ).model_dump(by_alias=True, mode="json", exclude_none=True)
            written = serialize_server_result(CALL, version, result)
        except Exception as exc:  # noqa: BLE001 - the boundary: one call's failure must not end its neighbours
            return Answer.error(number, modern_error_data(exc))
        if version in MODERN_PROTOCOL_VERSIONS:
            written["_meta"] = {SERVER_INFO_META_KEY: self.server._mcp_server.server_info_stamp}  # noqa: SLF001
        if isinstance(reply, LongReply):
            return await Answer.of_pieces(number, written, reply.pieces)
        return Answer.result(number, written)


async def beside(server: FastMCP[Any], settings: Settings) -> Lane | None:
    """The lane beside *server*; None where it is switched off, or where something else has a say in every call."""
    known = (Arguments, DereferenceRefsMiddleware)
    if not settings.fast_lane or not all(isinstance(each, known) for each in server.middleware):
        return None
    names = {tool.name for tool in TOOLS if tool.group == _GROUP}
    offered = [tool for tool in await server.list_tools() if isinstance(tool, FunctionTool)]
    return Lane(server, {tool.name: _tool(tool) for tool in offered if tool.name in names})


def _tool(tool: FunctionTool) -> _Tool:
    public = without_injected_parameters(tool.fn)

    def read(**arguments: Any) -> dict[str, Any]:
        return arguments

    read.__signature__ = inspect.signature(public)  # type: ignore[attr-defined]  # pydantic reads it
    read.__annotations__ = public.__annotations__
    arguments: Any = get_cached_typeadapter(read)  # of what the function returns: the arguments
    return _Tool(tool.fn, list(tool.parameters["properties"]), arguments)
