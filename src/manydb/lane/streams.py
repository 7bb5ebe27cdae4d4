"""The lane beside a stream of messages, as over stdio."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import (
    CONNECTION_CLOSED,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from manydb.answers import Answer
from manydb.lane.calls import Call, Lane

_LAST_WORD_SECONDS = 1.0


@dataclass(eq=False)
class Talk:
    """What one client says over a stream; the calls taken from it run until `aclose`, and *say* their answers.

    The first request decides the stream's era and is never taken, for FastMCP must see it too; in the era of the
    handshake calls are taken once that is answered.
    """

    lane: Lane
    say: Callable[[Answer], Awaitable[None]]
    _is_modern: bool | None = None
    _greeting: RequestId | None = None
    _version: str = ""
    _under_way: dict[RequestId, asyncio.Task[None]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def takes(self, message: JSONRPCMessage) -> bool:
        """Whether *message* is answered here. A notice that cancels is heeded here, and passes on as well."""
        if isinstance(message, JSONRPCRequest):
            if (call := self._take(message)) is None:
                return False
            # No task group's task, which costs three times as much as all that is done with the message.
            task = self._under_way[coerce_request_id(message.id)] = asyncio.create_task(self._answer(message.id, call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return True
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            number = cancelled_request_id_from_params(message.params)
            under_way = self._under_way.pop(coerce_request_id(number), None) if number is not None else None
            if under_way is not None:
                under_way.cancel()
        return False

    async def aclose(self) -> None:
        """Stop what is under way; whoever asked for it is told."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*tasks, return_exceptions=True)

    def answered(self, message: JSONRPCMessage) -> None:
        """FastMCP says *message*: the answer to a handshake names the version."""
        if isinstance(message, JSONRPCResponse) and message.id == self._greeting:
            self._greeting, self._version = None, str(message.result.get("protocolVersion", ""))

    def _take(self, request: JSONRPCRequest) -> Call | None:
        meta = (request.params or {}).get("_meta")
        has_envelope = isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta
        if request.method == "initialize":
            self._greeting, self._version = request.id, ""
        if self._is_modern is None:
            self._is_modern = has_envelope and request.method != "initialize"
            return None
        if not self._is_modern:
            return self.lane.take(request, self._version) if self._version and not has_envelope else None
        route = classify_inbound_request({"method": request.method, "params": request.params})
        return self.lane.take(request, route.protocol_version) if isinstance(route, InboundModernRoute) else None

    async def _answer(self, number: RequestId, call: Call) -> None:
        """Run *call*. A client that cancels it hears nothing more of it."""
        try:
            answer = await call()
        except asyncio.CancelledError:
            if self._forget(number):
                with anyio.move_on_after(_LAST_WORD_SECONDS, shield=True):
                    error = ErrorData(code=CONNECTION_CLOSED, message="Connection closed")
                    await self.say(Answer.error(number, error))
            raise
        if self._forget(number):
            await self.say(answer)

    def _forget(self, number: RequestId) -> bool:
        """Whether this task's call was still wanted."""
        key = coerce_request_id(number)
        return self._under_way.get(key) is asyncio.current_task() and bool(self._under_way.pop(key))
