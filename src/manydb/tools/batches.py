"""Several questions in one call."""

from typing import Annotated, Any

import orjson
from fastmcp import Context
from fastmcp.tools import ToolResult
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from manydb import formats
from manydb.batches import Query
from manydb.errors import ManydbError
from manydb.query import Page
from manydb.tools.parameters import (
    AsJson,
    Connection,
    Nothing,
    Params,
    RowCap,
    Seconds,
    answer,
    batches,
    caller,
    gateway,
)


def _without_nulls(schema: dict[str, Any]) -> None:
    """A default of null is no news to anybody, and no value of the type beside it."""
    for each in schema["properties"].values():
        if each.get("default", ...) is None:
            del each["default"]


class BatchQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, json_schema_extra=_without_nulls)

    sql: str = Field(validation_alias=AliasChoices("sql", "query"))
    connection: str | Nothing = None
    params: Params = None
    row_cap: RowCap = None


def _query(value: Any) -> Any:
    """A query that is nothing but its SQL."""
    return {"sql": value} if isinstance(value, str) else value


async def batch_query(
    ctx: Context,
    queries: Annotated[
        list[Annotated[BatchQuery, BeforeValidator(_query), AsJson]],
        AsJson,
        Field(description="Up to 20, each with its own sql, and connection, params, row_cap where needed"),
    ],
    connection: Connection = None,
    timeout_seconds: Seconds = None,
) -> ToolResult:
    """Run several read-only queries side by side, on one or many connections; results come in the same order.

    Each result is as of execute_query, or an `error`; all together are as large as one answer of it may be.
    """
    asked = [Query(each.sql, each.connection or connection, each.params, each.row_cap) for each in queries]
    found = await batches(ctx).run(caller(ctx), asked, timeout=timeout_seconds)
    return answer(gateway(ctx), orjson.dumps({"results": [_told(each) for each in found]}).decode())


def _told(found: Page | ManydbError) -> Any:
    if isinstance(found, ManydbError):
        return {"error": found.as_dict()}
    return orjson.Fragment(formats.text("json", found))
