"""What a request is answered: written and sent in pieces where it is large, so that others are answered in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import orjson
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types import ErrorData, JSONRPCError, RequestId
from pydantic_core import to_json
from starlette.types import Send

from manydb import slices
from manydb.slices import Turns
from manydb.tools.parameters import PLACE


@dataclass(frozen=True, slots=True)
class Answer:
    """What the request *number* is answered: a message, written as JSON, and the HTTP status that goes with it."""

    number: RequestId
    body: bytes
    status: int = 200
    rest: Sequence[bytes] = ()
    """What follows *body*, in pieces that take no time to send."""

    @classmethod
    def result(cls, number: RequestId, result: Any) -> Self:
        # orjson writes a long text in a seventh of the time, but no number beyond 64 bits, which an id may be.
        body = b'{"jsonrpc":"2.0","id":' + to_json(number) + b',"result":' + orjson.dumps(result) + b"}"
        return cls(number, body)

    @classmethod
    async def of_pieces(cls, number: RequestId, result: Any, pieces: list[str]) -> Self:
        """*result* has PLACE where the text of all *pieces* is to stand; they are dropped on the way."""
        before, _, after = orjson.dumps(result).partition(PLACE.encode())
        head = b'{"jsonrpc":"2.0","id":' + to_json(number) + b',"result":' + before
        pieces.reverse()
        rest = await slices.gathered(orjson.dumps(pieces.pop())[1:-1] for _ in range(len(pieces)))
        return cls(number, head, rest=[*rest, after + b"}"])

    @property
    def whole(self) -> bytes:
        return b"".join((self.body, *self.rest))

    @classmethod
    def error(cls, number: RequestId, error: ErrorData) -> Self:
        message = JSONRPCError(jsonrpc="2.0", id=number, error=error)
        body = message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        return cls(number, body, ERROR_CODE_HTTP_STATUS.get(error.code, 200))

    async def send(self, send: Send, headers: Sequence[tuple[bytes, bytes]] = (), *, is_stream: bool) -> None:
        """Over HTTP, under *headers* too; as the last event where it *is_stream*, whose head has been sent."""
        if is_stream:
            await _send_pieces(send, [b"event: message\r\ndata: " + self.body, *self.rest], b"\r\n\r\n")
            return
        length = str(len(self.body) + sum(map(len, self.rest))).encode()
        told = [(b"content-length", length), (b"content-type", b"application/json"), *headers]
        await send({"type": "http.response.start", "status": self.status, "headers": told})
        await _send_pieces(send, [self.body, *self.rest])


async def _send_pieces(send: Send, pieces: Sequence[bytes], end: bytes = b"") -> None:
    turns = Turns()
    for piece in pieces[:-1]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await turns.give()
    await send({"type": "http.response.body", "body": pieces[-1] + end})
